"""What the drivers that log in to Keystone have in common."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

from imgstore.boundary.redaction import Redaction
from imgstore.boundary.translation import describe
from imgstore.drivers._http.errors import classify as classify_transport
from imgstore.drivers._http.errors import peer_of
from imgstore.drivers._told import told
from imgstore.errors import (
    ConfigError,
    ImgStoreError,
    IntegrityError,
    PermissionDenied,
    StoreError,
    Unavailable,
)
from imgstore.process import lazy
from imgstore.secret import Secret

_OLD_PATH: Final = re.compile(r"/v2\.0$")
_V3: Final = re.compile(r"/v3$")
# What keystoneauth1 says of requests and answers, at DEBUG.
SDK_LOGGERS: Final = (
    "keystoneauth",
    "keystoneauth.discover",
    "keystoneauth.identity",
    "keystoneauth.session",
    "urllib3.connectionpool",
)
# https://service-types.openstack.org lacks a name, and has one of an API that is gone.
_OTHER_TYPES: Final = {"object-storage": "object-store"}
_GONE: Final = frozenset({"volumev2"})
# Statuses that may pass; 498 is the rate limit of Swift.
PASSING: Final = frozenset({408, 429, 498, 500, 502, 503, 504})


def v3_of(address: str) -> str:
    """Return the URL of version 3 of Keystone's API, whichever version an address names, or none.

    The others are gone; what is configured for them has v3 beside it.
    """
    url = _OLD_PATH.sub("", address.rstrip("/"))
    return url if _V3.search(url) else f"{url}/v3"


def session(
    *,
    verify: bool | str,
    timeouts: tuple[float, float],
    redaction: Redaction,
    install: str,
    is_logged: bool = True,
) -> Any:
    """Return a session of keystoneauth1 whose tokens a redaction learns.

    ``timeouts`` are the seconds to connect and to wait for an answer. Without ``is_logged`` it
    logs neither what is sent nor what is answered.
    """
    made = lazy.load_apart("keystoneauth1.session", install=install).Session
    # A redirect would take the password, or the token, to another host.
    found = (made if is_logged else _silent(made))(verify=verify, redirect=False)
    found.timeout = timeouts

    def learn(answer: Any, *_: Any, **__: Any) -> None:
        redaction.learn(answer.headers.get("X-Subject-Token"))

    found.session.hooks["response"].append(learn)
    return found


def _silent(base: Any) -> Any:
    class Session(base):  # type: ignore[misc]
        def request(self, *args: Any, **named: Any) -> Any:
            return super().request(*args, **named | {"log": False})

    return Session


def plugin(address: str, options: Mapping[str, str | Secret], *, install: str) -> Any:
    """Return what logs in at an address: with an application credential, or else a password.

    ``options`` have the names that keystoneauth1 gives them.
    """
    v3 = lazy.load_apart("keystoneauth1.identity.v3", install=install)
    kind = v3.ApplicationCredential if "application_credential_id" in options else v3.Password
    plain = {name: Secret(value).reveal() for name, value in options.items()}
    return kind(v3_of(address), **plain)


def no_keystone(what: str, *, remedy: str) -> ConfigError:
    """Return the error for an address that is another one's, or redirects."""
    return ConfigError(f"the auth_address {what}: there is no Keystone with API v3", remedy=remedy)


def check_sendable(*values: str) -> None:
    """Raise PermissionDenied for a key or token that no header can hold."""
    if not all(value.isprintable() and value == value.strip() for value in values):
        raise PermissionDenied(
            "the user, its key or token holds characters that HTTP cannot send",
            remedy="check where they come from",
        )


def explain(exc: Exception, *, ca_option: str, remedy: str, install: str) -> ImgStoreError:
    """Return what an error of keystoneauth1 means; ``remedy`` is for an address that is wrong."""
    exceptions = lazy.load("keystoneauth1.exceptions", install=install)
    status = int(getattr(exc, "http_status", 0) or 0)
    if isinstance(exc, exceptions.ConnectionError):
        cause: Any = exc.__cause__ or exc.__context__ or exc
        found = classify_transport(cause, ca_option=ca_option)
        if isinstance(found, IntegrityError):  # what ended early is no image
            found = Unavailable(f"the answer of {peer_of(cause)} broke off")
        return found or Unavailable("the server cannot be connected to")
    # It says of an application credential that was deleted that it "could not find" it.
    is_unknown = status == HTTPStatus.NOT_FOUND and "could not find" in str(exc).lower()
    if is_unknown or status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return PermissionDenied(
            f"Keystone answers {status} {HTTPStatus(status).phrase}",
            remedy="check the user, its key or application credential, and its project",
        )
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in PASSING:
        return Unavailable(f"Keystone answers {status}")
    if status >= HTTPStatus.BAD_REQUEST:
        return no_keystone(f"answers {status}", remedy=remedy)
    if isinstance(exc, exceptions.DiscoveryFailure | exceptions.InvalidResponse):
        return no_keystone("answers something else", remedy=remedy)
    return StoreError(f"Keystone: {describe(exc)}")


def endpoint_in(
    catalogue: Iterable[Mapping[str, Any]],
    service_type: str,
    interface: str,
    *,
    region: str | None = None,
    name: str | None = None,
    install: str,
) -> str | None:
    """Return an endpoint in a catalogue of Keystone's form v3 or v2, None if it is not there.

    Its service may be listed by any alias of the type that is asked for, which itself comes first.
    """
    services = list(catalogue)
    for alias in _names_of(service_type, install):
        for service in services:
            if service.get("type") != alias or name not in {None, service.get("name")}:
                continue
            found = _endpoint_of(service, interface, region)
            if found is not None:
                return found
    return None


def _endpoint_of(service: Mapping[str, Any], interface: str, region: str | None) -> str | None:
    for endpoint in service.get("endpoints") or ():
        if region not in {None, endpoint.get("region"), endpoint.get("region_id")}:
            continue
        if endpoint.get("interface") in {interface, f"{interface}URL"}:
            return str(told(endpoint, "url", service="Keystone")).rstrip("/")
        if endpoint.get(f"{interface}URL"):
            return str(endpoint[f"{interface}URL"]).rstrip("/")
    return None


@functools.lru_cache
def _names_of(service_type: str, install: str) -> tuple[str, ...]:
    """Return a type of service and its aliases, as keystoneauth1 takes them."""
    known = lazy.load_apart("os_service_types", install=install).ServiceTypes()
    aliases = known.get_all_types(_OTHER_TYPES.get(service_type, service_type))
    more = [name for name, official in _OTHER_TYPES.items() if official in aliases]
    return (service_type, *(name for name in aliases if name not in _GONE), *more)
