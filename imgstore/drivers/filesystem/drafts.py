"""Files on their way to becoming images: invisible, then published at once and exclusively.

Where the file system can, a draft has no name at all (O_TMPFILE) and the kernel drops it with its
last descriptor, however the process ends. Elsewhere it has a temporary name in the same directory
and its writer holds a lock on it (flock(2), which NFS carries to other hosts), by which a dead
writer's draft is told from a live one's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final

from imgstore.drivers.filesystem import kernel
from imgstore.drivers.filesystem.calls import Calls, OpenFile
from imgstore.drivers.filesystem.paths import DRAFT_PREFIX, open_directory
from imgstore.errors import AlreadyExists, TimedOut, Unsupported

# Used where a directory itself cannot be locked (NFS wants a file that is open for writing).
_LOCK_NAME: Final = f"{DRAFT_PREFIX}lock"
_NO_TMPFILE: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})
_NO_LINK: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_NO_DIRECTORY_LOCK: Final = frozenset({errno.EBADF, errno.EINVAL, errno.EOPNOTSUPP, errno.EISDIR})
# A name that went away, or one that this process may not lock and so must leave alone.
_CANNOT_TELL: Final = frozenset(
    {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ELOOP, errno.ENXIO}
)
_READ_WRITE: Final = os.O_RDWR | os.O_CLOEXEC
_PROC: Final = "/proc/self/fd"


@dataclass(frozen=True)
class DeadDraft:
    """A draft whose writer is gone."""

    root: str
    name: str
    inode: int
    size: int
    modified: float


class Draft:
    """An unfinished file in an open directory."""

    def __init__(self, directory: int, fd: int, name: str | None, calls: Calls) -> None:
        """Take over ``fd``; ``name`` is None where the file has none."""
        self.file = OpenFile(fd, calls)
        self._directory = directory
        self._name = name
        self._calls = calls
        self.published: str | None = None

    @classmethod
    def create(cls, directory: int, calls: Calls) -> Draft:
        """Make a draft in an open directory; the umask applies."""

        def open_draft() -> tuple[int, str | None]:
            if os.path.isdir(_PROC):  # without it a file without a name can never get one
                try:
                    return os.open(".", _READ_WRITE | os.O_TMPFILE, 0o666, dir_fd=directory), None
                except OSError as exc:
                    if exc.errno not in _NO_TMPFILE:
                        raise
            return _open_named(directory)

        fd, name = calls(open_draft, late=lambda opened: _discard(directory, opened))
        return cls(directory, fd, name, calls)

    def settle(self, *, mode: int, sync: bool) -> bool:
        """Bring the data to the disk or at least to the server; return whether ``mode`` was set.

        ``mode`` 0 leaves what the umask gave.
        """

        def finish(fd: int) -> bool:
            if sync:
                os.fsync(fd)
            else:
                # NFS reports delayed write errors when any descriptor of the file is closed.
                os.close(os.dup(fd))
            if not mode:
                return True
            try:
                os.fchmod(fd, mode)
            except OSError:
                return False
            return True

        return self.file(finish)

    def publish(
        self, name: str, *, sync: bool, alone: Callable[[str], AbstractContextManager[None]]
    ) -> None:
        """Give the draft its final name; raises AlreadyExists if the name is taken.

        ``alone(name)`` is held meanwhile. If the answer is lost the error says ``indeterminate``.
        """

        def link() -> None:
            with alone(name):
                self._link(name)

        try:
            self._calls(link)
        except TimedOut as exc:
            exc.indeterminate = True
            raise
        self.published = name
        if sync:
            self._calls(os.fsync, self._directory)

    def _link(self, name: str) -> None:
        try:
            if self._name is None:
                os.link(f"{_PROC}/{self.file.fd}", name, dst_dir_fd=self._directory)
            else:
                self._link_named(self._name, name)
        except FileExistsError:
            # An NFS client may ask again after a lost answer and then find its own file.
            if not self._is_named(name):
                raise AlreadyExists("an image of this id exists") from None

    def _link_named(self, draft: str, name: str) -> None:
        here = self._directory
        try:
            os.link(draft, name, src_dir_fd=here, dst_dir_fd=here, follow_symlinks=False)
        except OSError as exc:
            if exc.errno not in _NO_LINK:
                raise
            self._rename_named(draft, name)
        else:
            os.unlink(draft, dir_fd=here)
        self._name = None

    def _rename_named(self, draft: str, name: str) -> None:
        """Publish where there are no hard links."""
        here = self._directory
        try:
            kernel.rename_exclusively(here, draft, name)
        except OSError as exc:
            if exc.errno not in kernel.UNSUPPORTED:
                raise
            with locked(here):
                if exists(here, name):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
                os.rename(draft, name, src_dir_fd=here, dst_dir_fd=here)

    def _is_named(self, name: str) -> bool:
        found = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
        return os.path.samestat(found, os.fstat(self.file.fd))

    def abandon(self) -> bool:
        """Undo everything that an unfinished add did; return whether that worked."""

        def undo() -> None:
            if self.published is not None and self._is_named(self.published):
                os.unlink(self.published, dir_fd=self._directory)
            if self._name is not None:
                os.unlink(self._name, dir_fd=self._directory)

        try:
            self._calls(undo)
        except (OSError, TimedOut):
            return False
        return True

    def close(self) -> None:
        """Close the file, which ends its lock."""
        self.file.close()


def _open_named(directory: int) -> tuple[int, str]:
    """Create a file under a temporary name and lock it.

    Between the two steps a clean-up elsewhere may take it for a dead writer's and remove it.
    """
    while True:
        name = f"{DRAFT_PREFIX}{secrets.token_hex(12)}"
        try:
            fd = os.open(name, _READ_WRITE | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=directory)
        except FileExistsError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if exists(directory, name):
                return fd, name
        except BaseException:
            os.close(fd)
            os.unlink(name, dir_fd=directory)
            raise
        os.close(fd)


def _discard(directory: int, opened: tuple[int, str | None] | None) -> None:
    if opened is not None:
        fd, name = opened
        os.close(fd)
        if name is not None:
            os.unlink(name, dir_fd=directory)


def exists(directory: int | None, name: str) -> bool:
    """Return whether there is an entry of this name, of whatever kind; links are not followed."""
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


@contextmanager
def locked(directory: int) -> Iterator[None]:
    """Hold an exclusive lock on an open directory, among processes and hosts."""
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as exc:
            if exc.errno not in _NO_DIRECTORY_LOCK:
                raise
            os.close(fd)
            fd = os.open(_LOCK_NAME, _READ_WRITE | os.O_CREAT, 0o666, dir_fd=directory)
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def dead_drafts(root: str) -> list[DeadDraft]:
    """Return the drafts of a directory whose writers are gone."""
    try:
        names = [name for name in os.listdir(root) if name.startswith(DRAFT_PREFIX)]
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        if name == _LOCK_NAME:
            continue
        with _dead(root, name) as status:
            if status is not None:
                found.append(DeadDraft(root, name, status.st_ino, status.st_size, status.st_mtime))
    return found


def remove_draft(draft: DeadDraft) -> bool:
    """Remove a dead writer's draft; return False if it is gone or in use."""
    with _dead(draft.root, draft.name) as status:
        if status is None or status.st_ino != draft.inode:
            return False
        os.unlink(os.path.join(draft.root, draft.name))
        return True


@contextmanager
def _dead(root: str, name: str) -> Iterator[os.stat_result | None]:
    """Lock a draft and give its status, or None where a writer holds it or it is gone."""
    directory = open_directory(root)
    try:
        try:
            fd = os.open(name, _READ_WRITE | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        except OSError as exc:
            if exc.errno not in _CANNOT_TELL:
                raise
            yield None
            return
        try:
            status = os.fstat(fd)
            alive = not stat.S_ISREG(status.st_mode) or not _try_lock(fd)
            yield None if alive or not exists(directory, name) else status
        finally:
            os.close(fd)
    finally:
        os.close(directory)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def require_support(directory: int, calls: Calls) -> None:
    """Make and drop a draft; raises what an add would, e.g. where locks are missing."""
    draft = Draft.create(directory, calls)
    try:
        draft.file(os.pwrite, b"\0", 0)
    except OSError as exc:
        if exc.errno == errno.EOPNOTSUPP:
            raise Unsupported("the file system cannot hold images") from exc
        raise
    finally:
        draft.abandon()
        draft.close()
