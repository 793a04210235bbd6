"""What the errors of Swift, of Keystone and of their SDKs mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

from imgstore.boundary.translation import status_class
from imgstore.drivers import _keystone
from imgstore.drivers._http.errors import classify as classify_transport
from imgstore.errors import (
    ConfigError,
    ImgStoreError,
    IntegrityError,
    PermissionDenied,
    StorageFull,
    Throttled,
    TimedOut,
    Unavailable,
    Unsupported,
)
from imgstore.process import lazy

INSTALL: Final = "imgstore[swift]"
_CA: Final = "swift_store_cacert"
_NO_KEYSTONE: Final = (
    "correct the auth_address, by the URL that it redirects to if it does; set auth_version to 1 "
    "for tempauth"
)
# Where Swift means something else than HTTP does; 498 is its rate limit.
_OWN: Final[dict[int, type[ImgStoreError]]] = {
    405: Unsupported,
    408: TimedOut,
    409: Unavailable,
    412: IntegrityError,
    413: StorageFull,
    422: IntegrityError,
    498: Throttled,
}


class AnswerError(Exception):
    """An answer of Swift that is no success."""

    def __init__(self, status: int, text: str) -> None:
        """Keep its status, and what it says."""
        super().__init__(status, text)
        self.status = status
        self.text = text


class CutError(Exception):
    """An answer that broke off before its end, or that no server of Swift gives."""


def status_of(exc: BaseException) -> int:
    """Return the HTTP status of an answer of Swift, 0 for other exceptions."""
    return exc.status if isinstance(exc, AnswerError) else 0


@contextmanager
def missing_ok() -> Iterator[None]:
    """Go on where Swift answers that there is no such object or container."""
    try:
        yield
    except AnswerError as exc:
        if exc.status != HTTPStatus.NOT_FOUND:
            raise


def classify(exc: Exception) -> ImgStoreError | None:
    """Map what Swift and Keystone answer, and their SDKs raise; None for all else."""
    if isinstance(exc, AnswerError):
        return _answered(exc.status, exc.text)
    if isinstance(exc, CutError):
        return Unavailable(str(exc))
    if _is_of(exc, "keystoneauth1"):
        return _keystone.explain(exc, ca_option=_CA, remedy=_NO_KEYSTONE, install=INSTALL)
    return classify_transport(exc, ca_option=_CA)


def may_pass(exc: Exception) -> bool:
    """Return whether the same request may succeed later."""
    if isinstance(exc, AnswerError):
        return exc.status in _keystone.PASSING
    if isinstance(exc, CutError):
        return True
    is_known = _is_of(exc, "keystoneauth1") or _is_of(exc, "requests")
    return is_known and isinstance(classify(exc), Unavailable)


def may_be_done(exc: Exception) -> bool:
    """Return whether a request that failed may have been carried out all the same."""
    if isinstance(exc, AnswerError):
        # A majority of replicas may be missing, or a load balancer have given up.
        return exc.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    if not _is_of(exc, "requests"):
        return False
    requests = lazy.load("requests", install=INSTALL)
    urllib3 = lazy.load("urllib3.exceptions", install=INSTALL)
    inner = getattr(exc.args[0] if exc.args else None, "reason", None)
    is_unsent = isinstance(exc, requests.ConnectTimeout) or isinstance(
        inner, urllib3.NewConnectionError
    )
    return not (is_unsent or isinstance(classify(exc), PermissionDenied))


def no_keystone(what: str) -> ConfigError:
    """Return the error for an auth_address that has no Keystone."""
    return _keystone.no_keystone(what, remedy=_NO_KEYSTONE)


def no_tempauth(what: str) -> ConfigError:
    """Return the error for an auth_address that has no version 1."""
    return ConfigError(
        f"the auth_address {what}",
        remedy="correct the auth_address (http://host/auth/v1.0), or set auth_version to 3",
    )


def _is_of(exc: BaseException, package: str) -> bool:
    return type(exc).__module__.partition(".")[0] == package


def _answered(status: int, text: str) -> ImgStoreError:
    if status == HTTPStatus.PRECONDITION_FAILED:
        return IntegrityError("the image changed while it was read")
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        return IntegrityError("the server received other bytes than were sent", retryable=True)
    try:
        phrase = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        phrase = str(status)
    reason = f"Swift answers {phrase}"
    if text and text not in phrase:
        reason += f": {text}"
    return status_class(status, _OWN)(reason)
