"""Commits whose answer may be lost, and undoing what is not committed.

An exception is *in doubt* while what was begun may be done all the same: its ``indeterminate`` is
true, and nothing that it stands for may be undone.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from imgstore.boundary.translation import describe
from imgstore.errors import ImgStoreError, Unavailable

LOG = logging.getLogger(__name__)

# Of directories: CIFS, FUSE and drvfs have such.
_CANNOT_FLUSH: Final = frozenset(
    {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF}
)

T = TypeVar("T")


def is_in_doubt(exc: BaseException) -> bool:
    """Return whether what an exception ended may be done all the same."""
    return bool(getattr(exc, "indeterminate", False))


def mark_in_doubt(exc: BaseException) -> None:
    """Let an exception, of whatever class, say that what it ended may be done all the same."""
    exc.indeterminate = True  # type: ignore[attr-defined]  # exceptions take any attribute


def in_doubt(
    reason: str = "it cannot be told whether the image was completed",
    *,
    remedy: str = "look for the image later",
) -> Unavailable:
    """Return the error for a commit of which nobody knows whether it was carried out."""
    return Unavailable(reason, remedy=remedy, indeterminate=True)


def settled(
    send: Callable[[], T],
    ask: Callable[[Exception], T | ImgStoreError | None],
    *,
    is_refused: Callable[[Exception], bool],
) -> T:
    """Return what ``send`` commits; where its answer is lost, what ``ask`` finds committed.

    A failure that ``is_refused`` is raised. After any other, ``ask`` looks at the backend: None
    says that nothing is committed, and the failure is raised; an error that it returns says what
    else became of the commit, and is raised. Where ``ask`` fails the outcome is in doubt.
    """
    try:
        return send()
    except Exception as exc:
        if is_refused(exc):
            raise
        try:
            found = ask(exc)
        except Exception:
            raise in_doubt() from exc
        if found is None or found is exc:
            raise
        if isinstance(found, ImgStoreError):
            raise found from exc
        return found


@contextmanager
def undone(undo: Callable[[], object], what: str) -> Iterator[None]:
    """Undo on any failure inside, also an interrupt, unless its outcome is in doubt.

    A failure to undo is logged as one of ``what``, such as "the removal of a draft", for
    the first failure is the one to raise; what it left is for leftovers() to find.
    """
    try:
        yield
    except BaseException as exc:
        if not is_in_doubt(exc):
            attempted(undo, what)
        raise


def flush_directory(fd: int) -> None:
    """Bring names of an open directory to the disk, where its file system can do that."""
    try:
        os.fsync(fd)
    except OSError as exc:
        if exc.errno not in _CANNOT_FLUSH:
            raise


def attempted(call: Callable[[], object], what: str) -> bool:
    """Call, and return whether that succeeded; a failure of ``what`` is logged and no more."""
    try:
        call()
    except Exception as exc:
        LOG.warning("%s failed: %s", what, describe(exc))
        return False
    return True
