"""Files on their way to becoming images: invisible, then published at once and exclusively.

Where the file system can, a draft has no name at all (O_TMPFILE) and the kernel drops it with its
last descriptor, however the process ends. Elsewhere it has a temporary name in the same directory
and its writer holds a lock on it (flock(2), which NFS carries to other hosts), by which a dead
writer's draft is told from a live one's.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import secrets
import stat
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from imgstore.drivers import _linux
from imgstore.drivers.filesystem.calls import Calls, OpenFile
from imgstore.drivers.filesystem.paths import DRAFT_PREFIX, open_directory
from imgstore.errors import AlreadyExists, StoreError, TimedOut, Unavailable
from imgstore.process.committing import flush_directory, mark_in_doubt
from imgstore.process.interrupts import Descriptors

# Used where a directory itself cannot be locked, or not for other hosts (NFS wants a file that is
# open for writing).
_LOCK_NAME: Final = f"{DRAFT_PREFIX}lock"
_NO_TMPFILE: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})
_NO_LINK: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_NO_DIRECTORY_LOCK: Final = frozenset({errno.EBADF, errno.EINVAL, errno.EOPNOTSUPP, errno.EISDIR})
# A name that went away, or one that this process may not lock and so must leave alone: a program
# that is being executed, a file with a lease.
_CANNOT_TELL: Final = frozenset(
    {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ELOOP, errno.ENXIO}
    | {errno.ETXTBSY, errno.EAGAIN, errno.EBUSY}
)
# Where a path leads to another mount than before, or nowhere.
_GONE: Final = frozenset({errno.EXDEV, errno.ENOENT, errno.ENOTDIR})
_READ_WRITE: Final = os.O_RDWR | os.O_CLOEXEC
_PROC: Final = "/proc/self/fd"


# What opens a directory to write in, and notes the descriptor.
OpenDirectory = Callable[[Descriptors, str], int]
# What keeps a name to one writer; it gives the directory that it locks, if any.
Alone = Callable[[str], AbstractContextManager[int | None]]


@dataclass(frozen=True)
class DeadDraft:
    """A draft whose writer is gone."""

    root: str
    name: str
    inode: int
    size: int
    modified: float


class Draft(OpenFile):
    """An unfinished file; one that has a name holds the directory that it is in as well.

    One without is linked by its path, which the kernel refuses where the path leads to another
    mount by then (EXDEV). Used as ``with draft, draft:``, for an interrupt may come when the first
    undoing begins.
    """

    def __init__(self, calls: Calls) -> None:
        """Make nothing yet."""
        super().__init__(calls)
        self._root = ""
        self._directory: int | None = None  # what names are relative to, for a draft with a name
        self._name: str | None = None  # noted before it exists, as all that is to be undone
        self._is_locked = False
        self._is_local = False  # as far as it was asked
        self._target: str | None = None

    def make(self, root: str, open_checked: OpenDirectory | None) -> None:
        """Make the file in a directory, that which ``open_checked`` opens if there is one.

        The umask applies.
        """
        self.open(self._make, root, open_checked)

    def _make(self, held: Descriptors, root: str, open_checked: OpenDirectory | None) -> None:
        # Of an attempt before, in a directory that was removed: once the own one is closed, that
        # would be taken for the file.
        held.close()
        self._name = self._directory = None
        self._root = root
        directory = None if open_checked is None else open_checked(held, root)
        if _has_proc():  # without it a file without a name can never get one
            path = root if directory is None else "."
            try:
                held.open(path, _READ_WRITE | os.O_TMPFILE, 0o666, dir_fd=directory)
            except OSError as exc:
                if exc.errno not in _NO_TMPFILE:
                    raise
            else:
                return
        self._directory = open_directory(held, root) if directory is None else directory
        self._make_named(held, self._directory)

    def _path(self, name: str) -> str:
        """Return what an image's name is called relative to ``_directory``, where that is held."""
        return f"{self._root}/{name}" if self._directory is None else name

    def _make_named(self, held: Descriptors, directory: int) -> None:
        """Create a file under a temporary name and lock it.

        Between the two steps a clean-up elsewhere may take it for a dead writer's and remove it.
        """
        while True:
            self._name = name = f"{DRAFT_PREFIX}{secrets.token_hex(12)}"
            try:
                held.open(name, _READ_WRITE | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=directory)
            except FileExistsError:
                continue
            self._is_locked = True
            fcntl.flock(held.last, fcntl.LOCK_EX)
            if exists(directory, name):
                return
            held.close_last()

    def __exit__(self, *exc_info: object) -> None:
        """Undo what a failed add did, and close."""
        try:
            if exc_info[0] is not None:
                self.abandon()
        finally:
            self.close()

    @property
    def may_be_published(self) -> bool:
        """Return whether there may be an image."""
        return self._target is not None

    def settle(self, *, mode: int, sync: bool) -> bool:
        """Bring the data to the disk or at least to the server; return whether ``mode`` was set.

        ``mode`` 0 leaves what the umask gave.
        """

        def finish(fd: int) -> bool:
            if sync:
                os.fsync(fd)
            elif not self._found_local(fd):
                # NFS reports delayed write errors when any descriptor of the file is closed.
                deque(map(os.close, map(os.dup, (fd,))), maxlen=0)  # no interrupt comes between
            if not mode:
                return True
            try:
                os.fchmod(fd, mode)
            except OSError:
                return False
            return True

        return self(finish)

    def _found_local(self, file: int) -> bool:
        self._is_local = _linux.is_local(file)
        return self._is_local

    def publish(self, name: str, *, sync: bool, alone: Alone) -> None:
        """Give the draft its final name; raises AlreadyExists if the name is taken.

        ``alone`` is held meanwhile. If the answer is lost the error says ``indeterminate``.
        """
        self._target = name
        try:
            self(self._publish, name, alone)
        except TimedOut as exc:
            mark_in_doubt(exc)
            raise
        if sync:
            self(self._sync_directory)

    def _publish(self, file: int, name: str, alone: Alone) -> None:
        begun = False
        try:
            with alone(name) as held:
                if self._directory is not None or not self._is_local:
                    self._require_root()
                begun = True
                self._link(file, name, held)
        finally:
            if not begun:  # nothing to look for, in a directory that may be out of reach
                self._target = None

    def _require_root(self) -> None:
        """Raise what says that the path is out of reach, or leads not to the open directory."""
        try:
            status = os.stat(self._root)
        except FileNotFoundError:
            raise self._gone() from None
        directory = self._directory
        if directory is not None and not os.path.samestat(status, os.fstat(directory)):
            raise self._gone()

    def _gone(self) -> Unavailable:
        return Unavailable(
            f"{self._root} was replaced, unmounted or mounted over while the image was written",
            remedy="add the image again",
        )

    def _link(self, file: int, name: str, held: int | None) -> None:
        try:
            if self._directory is None:
                # With a dir_fd Python follows the first path's link; absolute ones ignore it.
                os.link(f"{_PROC}/{file}", self._path(name), dst_dir_fd=file)
            elif self._name is not None:
                self._link_named(self._directory, self._name, name, held)
        except OSError as exc:
            # The answer may have been lost: the client then asks again and finds its own file.
            if not self._is_named(file, name):
                self._target = None
                if isinstance(exc, FileExistsError):
                    raise AlreadyExists("an image of this id exists") from None
                if self._directory is None and exc.errno in _GONE:
                    raise self._gone() from exc
                raise
        self._drop_name()

    def _link_named(self, directory: int, draft: str, name: str, held: int | None) -> None:
        try:
            os.link(draft, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        except OSError as exc:
            if exc.errno not in _NO_LINK:
                raise
            _rename(directory, draft, name, held)
            self._name = None

    def _is_named(self, file: int, name: str) -> bool:
        try:
            found = os.stat(self._path(name), dir_fd=self._directory, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return os.path.samestat(found, os.fstat(file))

    def _drop_name(self) -> None:
        """Remove the temporary name; where that fails, it is a dead writer's from now on."""
        if self._name is not None:
            with suppress(OSError):
                os.unlink(self._name, dir_fd=self._directory)
            self._name = None

    def _sync_directory(self, file: int) -> None:
        held = Descriptors()
        with held, held:
            directory = self._directory
            if directory is None:  # opened now, it is the one that the link went to
                directory = open_directory(held, self._root)
            flush_directory(directory)

    def abandon(self) -> None:
        """Undo everything that an unfinished add did, unless a call that hangs may yet publish.

        Nothing can be undone once the file is closed: it tells whether an image is this one.
        """
        is_open = self.fd not in {-1, self._directory}
        if is_open and not self.lost and (self._name or self._target):
            with suppress(OSError, StoreError):
                self(self._undo)

    def _undo(self, file: int) -> None:
        self._drop_name()
        if self._target is not None:
            if self._is_named(file, self._target):
                os.unlink(self._path(self._target), dir_fd=self._directory)
            elif self._directory is None and os.fstat(file).st_nlink:
                return  # the directory was moved away with the image: in doubt
            self._target = None

    def _clean(self) -> None:
        try:
            self._drop_name()
        finally:
            super()._clean()

    def close(self) -> None:
        """Close the file and end its lock, which a forked child may share and would keep."""
        if self._is_locked and self.fd >= 0 and not self.lost:
            with suppress(OSError, TimedOut):
                self(fcntl.flock, fcntl.LOCK_UN)
        super().close()


@functools.cache
def _has_proc() -> bool:
    return os.path.isdir(_PROC)


def _rename(directory: int, draft: str, name: str, held: int | None) -> None:
    """Publish where there are no hard links; ``held`` is a directory that is locked already."""
    try:
        _linux.rename_exclusively(directory, draft, name)
    except OSError as exc:
        if exc.errno not in _linux.UNSUPPORTED:
            raise
        with locked(directory, held=held):
            if exists(directory, name):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
            os.rename(draft, name, src_dir_fd=directory, dst_dir_fd=directory)


def exists(directory: int | None, name: str) -> bool:
    """Return whether there is an entry of this name, of whatever kind; links are not followed."""
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


@contextmanager
def locked(directory: int, *, held: int | None = None) -> Iterator[None]:
    """Hold an exclusive lock on an open directory, among processes and hosts.

    ``held`` is a directory that is locked already, perhaps the same one.
    """
    if held is not None and os.path.samestat(os.fstat(held), os.fstat(directory)):
        yield
        return
    held_lock = Descriptors(locked=True)
    with held_lock, held_lock:
        if not _lock_directory(directory, held_lock):
            held_lock.open(_LOCK_NAME, _READ_WRITE | os.O_CREAT, 0o666, dir_fd=directory)
            fcntl.flock(held_lock.last, fcntl.LOCK_EX)
        yield


def _lock_directory(directory: int, held: Descriptors) -> bool:
    """Lock a directory itself; return False where that is not possible, or not for other hosts."""
    if not _linux.shares_directory_locks(directory):
        return False
    held.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        fcntl.flock(held.last, fcntl.LOCK_EX)
    except OSError as exc:
        if exc.errno not in _NO_DIRECTORY_LOCK:
            raise
        held.close_last()
        return False
    return True


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
    directory, file = Descriptors(), Descriptors(locked=True)
    with directory, directory, file, file:
        directory.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        status = None
        try:
            file.open(name, _READ_WRITE | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory.last)
            found = os.fstat(file.last)
            if stat.S_ISREG(found.st_mode):
                fcntl.flock(file.last, fcntl.LOCK_EX | fcntl.LOCK_NB)  # EAGAIN: its writer lives
                status = found if exists(directory.last, name) else None
        except OSError as exc:
            if exc.errno not in _CANNOT_TELL:
                raise
        yield status
