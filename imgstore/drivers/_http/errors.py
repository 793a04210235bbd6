"""What statuses, and failures of requests, urllib3 and connections, mean."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from imgstore.boundary.translation import status_class
from imgstore.drivers._http.urls import INSTALL
from imgstore.errors import (
    ImgStoreError,
    IntegrityError,
    InvalidLocation,
    PermissionDenied,
    StoreError,
    TimedOut,
    Unavailable,
)
from imgstore.process import lazy


def status_error(status: int) -> ImgStoreError:
    """Return the error for an HTTP status that is not a success."""
    try:
        phrase = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        phrase = str(status)
    reason = f"the server answers {phrase}"
    return status_class(status)(reason)


def classify(
    exc: Exception, *, ca_option: str = "https_ca_certificates_file"
) -> ImgStoreError | None:
    """Map what requests and urllib3 raise to one of our errors; None for everything else."""
    urllib3 = lazy.load("urllib3.exceptions", install=INSTALL)
    requests = lazy.load("requests", install=INSTALL)
    if not isinstance(exc, requests.RequestException | urllib3.HTTPError):
        return None
    return explain(exc, ca_option=ca_option)


def explain(exc: Exception, *, ca_option: str) -> ImgStoreError:
    """Map what went wrong with a connection to one of our errors."""
    urllib3 = lazy.load("urllib3.exceptions", install=INSTALL)
    requests = lazy.load("requests", install=INSTALL)
    causes = list(causes_of(exc))

    def cause(*kinds: Any) -> BaseException | None:
        return next((found for found in reversed(causes) if isinstance(found, kinds)), None)

    peer = peer_of(exc)
    if untrusted := cause(ssl.SSLCertVerificationError):
        return PermissionDenied(
            f"the certificate of {peer} is not trusted: {_certificate_fault(untrusted)}",
            remedy=f"name the bundle of its authority in {ca_option}",
        )
    failed = cause(OSError)
    text = getattr(failed, "strerror", None) or type(failed or exc).__name__
    broken = Unavailable(f"the connection to {peer} failed: {text}")
    faults: list[tuple[tuple[Any, ...], ImgStoreError]] = [
        ((http.client.IncompleteRead,), IntegrityError("the data ended early", retryable=True)),
        (
            (urllib3.ProxyError,),
            Unavailable(f"the proxy {peer} cannot be reached or refuses: {text}"),
        ),
        ((socket.gaierror,), Unavailable(f"the host of {peer} cannot be resolved: {text}")),
        ((ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError), broken),
        ((TimeoutError, urllib3.TimeoutError), TimedOut(f"{peer} does not answer in time")),
        (
            (http.client.HTTPException,),
            StoreError(f"the answer of {peer} is not sound HTTP"),
        ),
        (
            (ssl.SSLError,),
            StoreError(f"TLS failed at {peer}: {getattr(failed, 'reason', None) or text}"),
        ),
        ((urllib3.LocationValueError,), InvalidLocation("requests cannot use the URL")),
        ((requests.exceptions.InvalidURL,), InvalidLocation("requests cannot use the URL")),
    ]
    return next((error for kinds, error in faults if cause(*kinds)), broken)


def peer_of(exc: Exception) -> str:
    """Return the other end of a connection that failed, as far as the exception tells.

    A redirect or a proxy may have led elsewhere than the location says.
    """
    request = getattr(exc, "request", None)
    parts = urlsplit(getattr(request, "url", None) or "")
    known = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else "the server"
    return str(getattr(request, "peer", known))


def _certificate_fault(exc: BaseException) -> str:
    return str(getattr(exc, "verify_message", "") or type(exc).__name__)


def causes_of(exc: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those inside it, outermost first, at most twenty."""
    todo, seen = [exc], 0
    while todo and seen < 20:
        current = todo.pop(0)
        seen += 1
        yield current
        inside = [*current.args, getattr(current, "reason", None), current.__cause__]
        todo += [cause for cause in inside if isinstance(cause, BaseException)]
