"""What errors of Ceph mean."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from imgstore.boundary.translation import describe, error_class
from imgstore.errors import ImgStoreError, InUse, InvalidRange, PermissionDenied, Unavailable

LOG = logging.getLogger(__name__)

INSTALL: Final = "the distribution's packages python3-rados and python3-rbd, for its own Python"
_RIGHTS: Final = (
    "check the user's key and its capabilities: mon 'profile rbd', osd 'profile rbd pool=…'"
)
# What error numbers mean here that mean something else, or nothing, elsewhere.
_CLASSES: Final[dict[int, type[ImgStoreError]]] = {
    errno.ENOTEMPTY: InUse,
    errno.ESHUTDOWN: Unavailable,
    # What librbd makes of answers that did not come in time.
    errno.EBADMSG: Unavailable,
    errno.ECANCELED: Unavailable,
    errno.EDOM: InvalidRange,
}


class RequestFailed(OSError):
    """A request that librbd carries out by itself ended with an error number."""

    def __init__(self, status: int) -> None:
        super().__init__(-status, os.strerror(-status))


def error_number(exc: BaseException) -> int:
    """Return the errno of an exception, 0 if it has none; Ceph's are negative at times."""
    number: int = getattr(exc, "errno", None) or 0
    return abs(number)


def classify(exc: Exception) -> ImgStoreError | None:
    """Map what rados and rbd raise, and their requests end with, to our errors; None for others."""
    if not (type(exc).__module__ in {"rados", "rbd"} or isinstance(exc, RequestFailed)):
        return None
    number = error_number(exc)
    if number == errno.EROFS:
        return PermissionDenied(
            "the image is read-only here: it is mirrored from another cluster, or another client "
            "keeps its lock",
            remedy="change it there, promote it here first, or end that client",
        )
    kind = _CLASSES.get(number) or error_class(OSError(number, ""))
    reason = "the cluster cut this client off" if number == errno.ESHUTDOWN else describe(exc)
    return kind(reason, remedy=_RIGHTS if kind is PermissionDenied else "")


@contextmanager
def quietly(what: str) -> Iterator[None]:
    """Go on whatever the SDK raises: something else is already being raised, or all is done."""
    try:
        yield
    except Exception as exc:
        LOG.debug("%s: %s", what, describe(exc))
