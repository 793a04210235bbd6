"""Writing an image to a file of the caller's, whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Final

from imgstore.data.extents import GRAIN
from imgstore.data.streams import Body
from imgstore.data.units import MIB
from imgstore.errors import InvalidArgument
from imgstore.process.committing import flush_directory
from imgstore.process.interrupts import Descriptors

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_DEAD: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class FileOfCallers:
    """A file that is to hold an image: a draft beside it, flushed, replaces it in one step.

    Holes stay holes. What a process that died left of a draft is removed by the next one that
    saves to the same path; a lock on the draft tells that its process lives.
    """

    def __init__(self, path: str | os.PathLike[str], body: Body) -> None:
        """Name the file; raises InvalidArgument for what can be no file's name, and OSError."""
        self._path = path
        self._body = body
        try:
            with _of_callers(body):  # of a working directory that was removed
                text = os.fsdecode(path)
                self._directory, self._name = os.path.split(os.path.realpath(text))
        except (TypeError, ValueError) as exc:
            raise InvalidArgument(
                f"a file's name cannot be {path!r}", remedy="pass a path object, or text"
            ) from exc
        if text.endswith("/"):
            raise self._no_file()
        # Of one length whatever the name's, and the same in each process.
        self._drafts = f".imgstore-save-{hashlib.sha256(os.fsencode(self._name)).hexdigest()[:32]}-"

    def fill(self) -> None:
        """Write the whole of the body, or leave everything as it was.

        Raises OSError of the file's, and InvalidArgument where something else than a file is there.
        """
        with _of_callers(self._body):
            mode = self._mode()
            with Descriptors(locked=True) as held, held:
                directory = held.open(self._directory, _DIRECTORY)
                self._remove_dead(directory)
                draft = _Draft(directory, self._drafts)
                with draft, draft:
                    fd = draft.make(held, mode)
                    with closing(self._body), self._body:
                        self._write(self._body, fd)
                    if mode is not None:
                        os.fchmod(fd, mode)
                    os.fsync(fd)
                    os.rename(draft.name, self._name, src_dir_fd=directory, dst_dir_fd=directory)
                flush_directory(directory)

    def _mode(self) -> int | None:
        try:
            status = os.stat(os.path.join(self._directory, self._name))
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            raise self._no_file()
        return stat.S_IMODE(status.st_mode)

    def _no_file(self) -> InvalidArgument:
        return InvalidArgument(
            f"{os.fsdecode(self._path)!r} is not a regular file",
            remedy="get the image, and write it there yourself",
        )

    def _remove_dead(self, directory: int) -> None:
        """Remove what can be: neither a draft of another user nor a pipe keeps anybody out."""
        for name in os.listdir(directory):
            if name.startswith(self._drafts):
                with Descriptors() as held, held, suppress(OSError):
                    try:  # NFS locks only what is open for writing
                        held.open(name, os.O_RDWR | _DEAD, dir_fd=directory)
                    except PermissionError:
                        held.open(name, os.O_RDONLY | _DEAD, dir_fd=directory)
                    fcntl.flock(held.last, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(name, dir_fd=directory)

    def _write(self, body: Body, fd: int) -> None:
        for position, _, data in body.stretches(lambda: MIB, grain=GRAIN, thin=True):
            written = 0
            while data is not None and written < len(data):
                written += os.pwrite(fd, data[written:], position + written)
        os.ftruncate(fd, body.total)


class _Draft:
    """An unfinished file, removed where filling it fails.

    Used as ``with draft, draft:``, for an interrupt may come when the first removal begins.
    """

    def __init__(self, directory: int, prefix: str) -> None:
        self.name = ""  # noted before it exists
        self._directory = directory
        self._prefix = prefix

    def make(self, held: Descriptors, mode: int | None) -> int:
        """Make it, locked, with the rights of a new file, or those of a file that it replaces."""
        # Others get theirs at the end; the owner's let the next one remove it if this process dies.
        mode = 0o666 if mode is None else 0o600
        while True:
            self.name = self._prefix + secrets.token_hex(8)
            fd = held.open(self.name, _NEW, mode, dir_fd=self._directory)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:  # another may have removed it before it was locked
                return fd
            held.close_last()

    def __enter__(self) -> None:
        """Nothing is there yet."""

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        if kind is not None and self.name:
            with suppress(OSError):  # what it is removed for says more
                os.unlink(self.name, dir_fd=self._directory)


@contextmanager
def _of_callers(body: Body) -> Iterator[None]:
    """Remember that an OSError is that of the caller's file, not of the store."""
    try:
        yield
    except OSError as exc:
        body.error, body.error_is_callers = exc, True
        raise
