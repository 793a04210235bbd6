"""From any exception to one of ours."""

from __future__ import annotations

import errno
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


class ClosedError(ValueError):
    """A verb of a closed store or manager was called."""


def error_class(exc: Exception) -> type[errors.ImgStoreError]:
    """Return the class for an exception that its driver does not know."""
    if not isinstance(exc, OSError):
        return errors.StoreError
    if isinstance(exc, TimeoutError):
        return errors.TimedOut
    return _ERRNO.get(exc.errno or 0, errors.StoreError)


def describe(exc: BaseException) -> str:
    """Return one line about an exception of another library."""
    if isinstance(exc, OSError) and exc.strerror:
        name = errno.errorcode.get(exc.errno or 0, "")
        return f"{exc.strerror} ({name})" if name else exc.strerror
    text = " ".join(str(exc).split())
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def raise_for(error: BaseException, exc: BaseException) -> NoReturn:
    """Raise an error whose cause is set in place of ``exc``, which may be the same one."""
    try:
        raise error
    finally:
        if error is not exc:  # the cause may be a stand-in for it
            error.__context__ = error.__cause__
