"""Writing an image to a file of the caller's, whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import stat
from contextlib import closing, suppress
from typing import Final

from imgstore.data.extents import GRAIN
from imgstore.data.streams import Body
from imgstore.data.units import MIB
from imgstore.errors import InvalidArgument
from imgstore.process.committing import flush_directory
from imgstore.process.interrupts import Descriptors

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW: Final = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_DEAD: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class FileOfCallers:
    """A file that is to hold an image: a draft beside it, flushed, replaces it in one step.

    Holes stay holes. What a process that died left of a draft is removed by the next one that
    saves to the same path; a lock on the draft tells that its process lives.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Name the file; raises InvalidArgument for what can be no file's name."""
        self._path = path
        try:
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

    def fill(self, body: Body) -> None:
        """Write the whole of ``body``, or leave everything as it was.

        Raises OSError of the file's, and InvalidArgument where something else than a file is there.
        """
        try:
            self._fill(body)
        except OSError as exc:  # the caller's file, not the store
            body.error, body.error_is_callers = exc, True
            raise

    def _fill(self, body: Body) -> None:
        mode = self._mode()
        with Descriptors(locked=True) as held, held:
            directory = held.open(self._directory, _DIRECTORY)
            self._remove_dead(directory)
            draft, fd = self._new_draft(directory, held)
            try:
                with closing(body), body:
                    self._write(body, fd)
                if mode is not None:
                    os.fchmod(fd, mode)
                os.fsync(fd)
                os.rename(draft, self._name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                _remove(draft, directory)
                raise
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

    def _new_draft(self, directory: int, held: Descriptors) -> tuple[str, int]:
        while True:
            draft = self._drafts + secrets.token_hex(8)
            try:
                fd = held.open(draft, _NEW, 0o666, dir_fd=directory)
                fcntl.flock(fd, fcntl.LOCK_EX)
                if os.fstat(fd).st_nlink:  # another may have removed it before it was locked
                    return draft, fd
            except BaseException:
                _remove(draft, directory)
                raise
            held.close_last()

    def _remove_dead(self, directory: int) -> None:
        """Remove what can be: neither a draft of another user nor a pipe keeps anybody out."""
        for name in os.listdir(directory):
            if name.startswith(self._drafts):
                with Descriptors() as held, held, suppress(OSError):
                    fd = held.open(name, _DEAD, dir_fd=directory)
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(name, dir_fd=directory)

    def _write(self, body: Body, fd: int) -> None:
        for position, _, data in body.stretches(lambda: MIB, grain=GRAIN, thin=True):
            written = 0
            while data is not None and written < len(data):
                written += os.pwrite(fd, data[written:], position + written)
        os.ftruncate(fd, body.total)


def _remove(draft: str, directory: int) -> None:
    with suppress(OSError):  # what it is removed for says more
        os.unlink(draft, dir_fd=directory)
