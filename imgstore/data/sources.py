"""What an image can be read from, and how."""

from __future__ import annotations

import array
import io
import mmap
import os
import stat
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, TypeAlias

from imgstore.data.opened import SourceFile
from imgstore.data.pace import Progress
from imgstore.data.reader import ImageReader
from imgstore.data.units import MIB
from imgstore.errors import IntegrityError, InvalidArgument
from imgstore.process.interrupts import Descriptors

__all__ = [
    "READ_LIMIT",
    "Input",
    "Pieces",
    "Progress",
    "RefusedSource",
    "Sink",
    "Source",
    "open_input",
]

READ_LIMIT: Final = 64 * MIB
_PLAIN_FILES: Final = (io.BufferedReader, io.BufferedRandom, io.FileIO)


class RefusedSource(InvalidArgument):
    """The source is of a kind, or gave something, that cannot be image data."""


class Readable(Protocol):
    """A source that is read in pieces; fewer bytes than asked for are not the end, none are."""

    def read(self, n: int, /) -> bytes:
        """Return at most ``n`` bytes, or none at the end."""


class Sink(Protocol):
    """Anything that takes every byte of an image, once and in order.

    A sink may also have ``finish()``: it is called once, after the last byte and before the image
    is committed, on the thread of the add. It returns None, or raises to refuse the image.
    """

    def update(self, data: bytes, /) -> object:
        """Take in more bytes."""


Buffer: TypeAlias = "bytes | bytearray | memoryview | array.array[Any] | mmap.mmap"
Source: TypeAlias = (
    "Buffer | os.PathLike[str] | os.PathLike[bytes] | Readable | ImageReader | Iterable[Buffer]"
)


class Input(Protocol):
    """A source of any kind, as the body sees it."""

    size: int | None
    file: SourceFile | None
    check: Callable[[], None]

    def pull(self, n: int) -> bytes:
        """Return 1 to ``n`` bytes, or none at the end."""

    def close(self, consumed: int) -> None:
        """Leave the source as if ``consumed`` bytes had been read from it."""


class Pieces:
    """Pieces of any size, handed out in sizes asked for."""

    size: int | None = None
    file: SourceFile | None = None

    def __init__(self, fetch: Callable[[int], object]) -> None:
        self._fetch = fetch
        self._rest = memoryview(b"")
        self.check: Callable[[], None] = lambda: None

    def pull(self, n: int) -> bytes:
        """Return 1 to ``n`` bytes, or none at the end."""
        if not self._rest:
            piece = self._fetch(n)
            if type(piece) is bytes and len(piece) <= n:
                return piece
            self._rest = _view(piece, "the source gave")
        taken = bytes(self._rest[:n])
        self._rest = self._rest[n:]
        return taken

    def close(self, consumed: int) -> None:
        """Drop what was fetched too much; sources are never rewound."""
        self._rest = memoryview(b"")


class _File:
    """A file that can be read at any position, up to its end."""

    def __init__(self, file: SourceFile, leave: Callable[[int], None] = lambda used: None) -> None:
        self.file: SourceFile | None = file
        # /proc and sysfs show files that are not empty as 0 bytes long.
        self.size = file.length or None
        self._fd = file.fd
        self._position = file.offset
        self._leave = leave
        self.check: Callable[[], None] = lambda: None

    def pull(self, n: int) -> bytes:
        data = os.pread(self._fd, n, self._position)
        self._position += len(data)
        return data

    def skip(self, n: int) -> None:
        self._position += n

    def close(self, consumed: int) -> None:
        self._leave(consumed)


class _FileOfImage(_File):
    """What is left of an image's file; it fails as its reader does."""

    def __init__(self, reader: ImageReader, file: SourceFile, leave: Callable[[int], None]) -> None:
        super().__init__(file, leave)
        self.size = file.length
        self.check = reader.check
        self._reader = reader
        self._end = file.offset + file.length

    def pull(self, n: int) -> bytes:
        n = min(n, self._end - self._position)
        try:
            data = super().pull(n)
        except OSError as exc:
            self._reader.fail(exc)
        if n > 0 and not data:
            self.check()
            missing = self._end - self._position
            self._reader.fail(IntegrityError(f"the data ended {missing} bytes early"))
        return data


def _view(piece: object, who: str) -> memoryview:
    try:
        return memoryview(piece).cast("B")  # type: ignore[arg-type]  # the check is the cast
    except TypeError:
        if piece is None:
            raise RefusedSource(
                f"{who} None: it would block", remedy="pass a source whose read(n) waits for data"
            ) from None
        raise RefusedSource(
            f"{who} {type(piece).__name__}, not contiguous bytes", remedy="open files with 'rb'"
        ) from None


def _is_buffer(source: object) -> bool:
    try:
        memoryview(source)  # type: ignore[arg-type]  # the only test before Python 3.12
    except TypeError:
        return False
    return True


def open_input(source: object, held: Descriptors) -> Input:
    """Return the input for any kind of source; raises InvalidArgument for the rest.

    What it opens is in ``held``, which the caller closes after the input.
    """
    if isinstance(source, os.PathLike):
        return _open_path(source, held)
    if isinstance(source, ImageReader):
        return _from_reader(source, held)
    if type(source) in _PLAIN_FILES:
        plain = _plain_file(source, held)
        if plain is not None:
            return plain
    read = getattr(source, "read", None)
    if callable(read) and not isinstance(source, io.TextIOBase):
        return Pieces(read)
    if _is_buffer(source):
        return _from_bytes(source)
    if isinstance(source, Iterable) and not isinstance(source, str | io.TextIOBase):
        return _from_iterable(source)
    raise RefusedSource(
        f"a source cannot be {type(source).__name__}",
        remedy="pass bytes, a path object, an object with read(n), or an iterable of bytes",
    )


def _from_bytes(source: object) -> Input:
    view = _view(source, "the source is")
    position = 0

    def fetch(n: int) -> memoryview:
        nonlocal position
        piece = view[position : position + n]
        position += len(piece)
        return piece

    pieces = Pieces(fetch)
    pieces.size = len(view)
    return pieces


def _from_iterable(source: Iterable[Any]) -> Input:
    pieces = iter(source)

    def fetch(n: int) -> object:
        for piece in pieces:
            if len(piece if isinstance(piece, bytes) else _view(piece, "the source gave")):
                return piece
        return b""

    return Pieces(fetch)


def _open_path(path: os.PathLike[Any], held: Descriptors) -> Input:
    fd = held.open(path, os.O_RDONLY | os.O_CLOEXEC)
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode):
        file = SourceFile(fd, 0, status.st_size)
        return _File(file)
    return Pieces(lambda n: os.read(fd, n))


def _plain_file(source: Any, held: Descriptors) -> Input | None:
    """Return an input that reads an open binary file by position, where it is a regular file."""
    try:
        status = os.fstat(source.fileno())
        if not stat.S_ISREG(status.st_mode):
            return None
        start = source.tell()
        # A duplicate: the caller may close the file meanwhile, and its number be given away.
        fd = held.dup(source.fileno())
    except (OSError, ValueError):
        return None
    raw_position = os.lseek(fd, 0, os.SEEK_CUR)

    def leave(used: int) -> None:
        if held.last < 0:
            return
        try:
            # The object remembers where it left the descriptor; put that back before it seeks.
            os.lseek(fd, raw_position, os.SEEK_SET)
            source.seek(start + used)
        except (OSError, ValueError):
            return  # closed by the caller

    file = SourceFile(fd, start, max(0, status.st_size - start))
    return _File(file, leave)


def _from_reader(reader: ImageReader, held: Descriptors) -> Input:
    """Return an input for a reader, or for its file: then it takes what was read as delivered."""
    try:
        file = reader.take_file(held)
    except OSError as exc:
        reader.fail(exc)
    if file is None:
        pieces = Pieces(reader.read)
        pieces.size = reader.left
        return pieces

    def leave(used: int) -> None:
        if held.last >= 0:
            os.lseek(file.fd, file.offset + used, os.SEEK_SET)

    return _FileOfImage(reader, file, leave)
