"""From any exception to one of ours."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final, NoReturn

from imgstore import errors

_UNAVAILABLE: Final = (
    "EIO ESTALE ENOTCONN ECONNREFUSED ECONNRESET ECONNABORTED EHOSTDOWN EHOSTUNREACH ENETDOWN "
    "ENETUNREACH EPIPE ESHUTDOWN EREMOTEIO EMFILE ENFILE ENOMEM EAGAIN EINTR ENODEV ENXIO ENOLCK"
)
_ERRNO: Final[dict[int, type[errors.StoreError]]] = {
    errno.ENOENT: errors.NotFound,
    errno.EEXIST: errors.AlreadyExists,
    errno.EACCES: errors.PermissionDenied,
    errno.EPERM: errors.PermissionDenied,
    errno.EROFS: errors.PermissionDenied,
    errno.ENOSPC: errors.StorageFull,
    errno.EDQUOT: errors.StorageFull,
    errno.EFBIG: errors.StorageFull,
    errno.EBUSY: errors.InUse,
    errno.ETXTBSY: errors.InUse,
    errno.EOPNOTSUPP: errors.Unsupported,
    errno.ENOSYS: errors.Unsupported,
    errno.ETIMEDOUT: errors.TimedOut,
    **{getattr(errno, name): errors.Unavailable for name in _UNAVAILABLE.split()},
}


# RFC 9110, RFC 6585 (429), RFC 4918 (507); a backend that means something else says so itself.
_STATUS: Final[dict[int, type[errors.ImgStoreError]]] = {
    HTTPStatus.UNAUTHORIZED: errors.PermissionDenied,
    HTTPStatus.FORBIDDEN: errors.PermissionDenied,
    HTTPStatus.NOT_FOUND: errors.NotFound,
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: errors.PermissionDenied,
    HTTPStatus.REQUEST_TIMEOUT: errors.Unavailable,
    HTTPStatus.GONE: errors.NotFound,
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: errors.InvalidRange,
    HTTPStatus.TOO_MANY_REQUESTS: errors.Throttled,
    HTTPStatus.NOT_IMPLEMENTED: errors.Unsupported,
    HTTPStatus.INSUFFICIENT_STORAGE: errors.StorageFull,
}

_UNFILLED: Final = re.compile(r"%\((\w+)\)[a-z]")  # in the template of a message


class ClosedError(ValueError):
    """A verb of a closed store or manager was called."""


def error_class(exc: Exception) -> type[errors.ImgStoreError]:
    """Return the class for an exception that its driver does not know."""
    if not isinstance(exc, OSError):
        return errors.StoreError
    if isinstance(exc, TimeoutError):
        return errors.TimedOut
    return _ERRNO.get(exc.errno or 0, errors.StoreError)


def status_class(
    status: int, own: Mapping[int, type[errors.ImgStoreError]] | None = None
) -> type[errors.ImgStoreError]:
    """Return the class for the status of an HTTP answer, ``own`` meanings of a backend first."""
    known = (own or {}).get(status) or _STATUS.get(status)
    return known or (errors.Unavailable if status >= 500 else errors.StoreError)


def describe(exc: BaseException) -> str:
    """Return one line about an exception of another library."""
    if isinstance(exc, OSError) and exc.strerror:
        name = errno.errorcode.get(exc.errno or 0, "")
        return f"{exc.strerror} ({name})" if name else exc.strerror
    text = " ".join(_filled(exc).split())
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def _filled(exc: BaseException) -> str:
    """Return an exception's text; OpenStack's show their template where they lack a value."""
    given = getattr(exc, "kwargs", None)
    if not isinstance(given, Mapping):
        return str(exc)
    return _UNFILLED.sub(lambda found: str(given.get(found[1], "(unknown)")), str(exc))


def raise_for(error: BaseException, exc: BaseException) -> NoReturn:
    """Raise an error whose cause is set in place of ``exc``, which may be the same one."""
    try:
        raise error
    finally:
        if error is not exc:  # the cause may be a stand-in for it
            error.__context__ = error.__cause__
