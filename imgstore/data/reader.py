"""Image data on its way out."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NoReturn, Protocol, final

from imgstore.boundary.translation import raise_for
from imgstore.errors import IntegrityError
from imgstore.process.interrupts import Descriptors
from imgstore.process.janitor import Janitor

_PAUSE: Final = 0.2  # seconds before a broken read is resumed


@dataclass(frozen=True)
class SourceFile:
    """A stretch of a regular file: ``length`` bytes of descriptor ``fd`` from ``offset``."""

    fd: int
    offset: int
    length: int


def _nothing() -> None:
    return None


@dataclass(eq=False)
class Opened:
    """What a driver's ``_get`` returns: an open image, positioned at the offset asked for.

    ``chunks`` yields the bytes from there on, as many as asked for or up to the end.
    ``image_size`` is the size of the whole image. ``version`` pins the content (an ETag, a
    modification time, a snapshot); without one a broken read is not resumed. ``close`` releases
    what is held, also when ``chunks`` was never iterated; it may be called twice. ``fd`` is the
    descriptor that ``chunks`` reads from at its own position, for stores that are files;
    ``has_time_limit`` says that ``chunks`` gives up on a read that hangs, which ``fd`` does not.
    ``close_waits`` says that ``close`` asks a server, or takes locks: for a reader that is dropped
    it is called by a thread then, not by the garbage collector, which may run inside any lock.
    ``check`` raises IntegrityError if the image changed since it was opened; it is called once,
    before the last bytes are delivered.
    """

    chunks: Iterator[bytes]
    image_size: int
    version: str | None = None
    close: Callable[[], None] = field(default=_nothing)
    fd: int | None = None
    has_time_limit: bool = False
    close_waits: bool = False
    check: Callable[[], None] = field(default=_nothing)


class Reopen(Protocol):
    """How a reader opens the image again after a failure."""

    def __call__(self, offset: int, length: int, version: str) -> Opened:
        """Open at ``offset``, pinned to ``version``; raises errors of the tree."""


@final
class ImageReader:
    """An image, or a range of it, on its way out.

    Iterates non-empty chunks of bytes. ``size`` is the number of bytes that this reader delivers
    and ``image_size`` that of the whole image. It delivers exactly ``size`` bytes or raises;
    after a failure that may pass it opens the same version of the image again where it stopped.
    One thread consumes a reader; any may close it. Closing twice is harmless, using a closed
    reader raises ValueError, and one that is dropped releases what it holds.
    """

    def __init__(
        self,
        opened: Opened,
        *,
        offset: int,
        size: int,
        reopen: Reopen,
        translate: Callable[[BaseException], BaseException],
        retries: int,
        janitor: Janitor | None = None,
    ) -> None:
        """Stores make readers; see ``Store.get``."""
        self.size = size
        self.image_size = opened.image_size
        self._opened = opened
        self._chunks = opened.chunks
        self._offset = offset
        self._reopen = reopen
        self._translate = translate
        self._retries = retries
        self._janitor = janitor
        self._fetched = 0
        # The chunk that is being delivered, and how much of it was: what follows is never copied.
        self._chunk: bytes = b""
        self._at = 0
        self._busy = False
        # What is to be released; whoever pops it does that, once, without a lock to hold at a fork.
        self._held = [opened]
        self._closed = False
        self._failed: BaseException | None = None
        self._wake = threading.Event()
        self._shared_fd = False

    def __iter__(self) -> ImageReader:
        """Return self."""
        return self

    def __next__(self) -> bytes:
        """Return the next chunk."""
        chunk = self._rest() or self._fetch()
        if not chunk:
            raise StopIteration
        return chunk

    def read(self, n: int | None = -1, /) -> bytes:
        """Return exactly ``n`` bytes, fewer only at the end; all that is left without ``n``."""
        if self._closed:
            self._check_open()
        if n is None or n < 0:
            return b"".join(self)
        chunk, at = self._chunk, self._at
        end = at + n
        if end < len(chunk):
            self._at = end
            return chunk[at:end]
        pieces = [rest] if (rest := self._rest()) else []
        missing = n - len(rest)
        while missing > 0 and (chunk := self._fetch()):
            if len(chunk) > missing:
                self._chunk, self._at = chunk, missing
                chunk = chunk[:missing]
            pieces.append(chunk)
            missing -= len(chunk)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """Fill ``buffer``, less only at the end, and return how many bytes were put there."""
        self._check_open()
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view):
            chunk, at = self._chunk, self._at
            if at >= len(chunk):
                chunk, at = self._fetch(), 0
                if not chunk:
                    break
            end = min(len(chunk), at + len(view) - filled)
            view[filled : filled + end - at] = memoryview(chunk)[at:end]
            filled += end - at
            self._chunk, self._at = (chunk, end) if end < len(chunk) else (b"", 0)
        return filled

    def _rest(self) -> bytes:
        """Take what is left of the chunk that is being delivered."""
        chunk, at = self._chunk, self._at
        self._chunk, self._at = b"", 0
        return chunk[at:] if at else chunk

    def readable(self) -> bool:
        """Return True."""
        return True

    def flush(self) -> None:
        """Do nothing: ``io.BufferedReader`` flushes what it reads before it closes that."""

    def seekable(self) -> bool:
        """Return False: ask the store for another range instead."""
        return False

    def fileno(self) -> int:
        """Return a descriptor positioned at the next undelivered byte, fit for ``sendfile``.

        Send at most ``size`` bytes: the file may go on beyond the range. What is sent that way
        counts as delivered. Raises OSError (``io.UnsupportedOperation``) where the image is not
        a file, for an empty range, and once the end was read.
        """
        with self._using():
            return self._position_fd()

    def _position_fd(self) -> int:
        self._check_open()
        fd = self._opened.fd
        if fd is None or not self._held or self._failed is not None:
            raise io.UnsupportedOperation("this image is not a file that is open")
        rest = max(0, len(self._chunk) - self._at)
        self._check_open()  # again: close() drops the chunk, in any thread
        if not self._shared_fd or rest:
            self._fetched -= rest
            self._chunk, self._at = b"", 0
            os.lseek(fd, self._offset + self._fetched, os.SEEK_SET)
            self._shared_fd = True
        return fd

    @property
    def opened(self) -> Opened:
        """Return what the driver opened; for layers."""
        return self._opened

    def take_file(self, held: Descriptors) -> SourceFile | None:
        """Return what is left of the file, or None if it is none; the caller closes ``held``.

        The descriptor is a duplicate, which stays valid when the reader is closed meanwhile, and
        shares its position with the reader's.
        """
        if self._opened.has_time_limit:
            return None
        with self._using():
            try:
                fd = held.dup(self._position_fd())
            except io.UnsupportedOperation:
                return None
            position = os.lseek(fd, 0, os.SEEK_CUR)
        return SourceFile(fd, position, max(0, self._offset + self.size - position))

    @property
    def closed(self) -> bool:
        """Return whether the reader was closed."""
        return self._closed

    def close(self) -> None:
        """Release what the reader holds; a fetch under way in another thread ends first."""
        self._closed = True
        self._wake.set()
        self._chunk = b""
        # The consumer sets _busy before it looks at _closed, so one of the two sees the other.
        if not self._busy:
            self._release()

    @contextmanager
    def _using(self) -> Iterator[None]:
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
            if self._closed:
                self.close()

    def __enter__(self) -> ImageReader:
        """Return self."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close."""
        self.close()

    def __del__(self) -> None:
        """Release what an abandoned reader holds."""
        if hasattr(self, "_shared_fd"):
            self._closed = True
            self._release(self._janitor)

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled."""
        raise TypeError("an ImageReader cannot be pickled")

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the reader is closed")

    def prime(self) -> None:
        """Fetch the first chunk, so that what is missing is found out before a response begins.

        An open file needs no such proof and keeps its position.
        """
        if self._opened.fd is None:
            self._chunk = self._fetch()

    def _fetch(self) -> bytes:
        """Return the next chunk, or nothing once everything was delivered."""
        self._busy = True  # as _using, which would cost a tenth of reading a cached chunk
        try:
            if self._shared_fd:
                self._count_sent()
            missing = self.size - self._fetched
            if missing <= 0 or self._closed or self._failed is not None:
                return self._end()
            try:
                chunk = next(self._chunks)
            except Exception as exc:  # StopIteration included: bytes are missing
                chunk = self._next_after(exc)
            if not 0 < len(chunk) < missing:
                chunk = self._last(chunk, missing) if chunk else self._next_after(None)
            self._fetched += len(chunk)
            return chunk
        except BaseException as exc:
            self._stop(exc)
            raise
        finally:
            self._busy = False
            if self._closed:
                self.close()

    def _stop(self, exc: BaseException) -> None:
        """Let no later read go on as if nothing had been lost."""
        if self._failed is None and not self._closed:
            interrupted = IntegrityError("an earlier read of this reader was interrupted")
            self._failed = exc if isinstance(exc, Exception) else interrupted
            self._release()

    def _end(self) -> bytes:
        """Say why no chunk follows; give back what is held unless the caller has the file."""
        self._check_open()
        if self._failed is not None:
            raise self._failed
        if not self._shared_fd:
            self._release()
        elif self._held:
            self._check_version()  # of what the caller sent straight from the file
        return b""

    def _count_sent(self) -> None:
        """Count what the caller sent straight from the file as delivered."""
        if self._opened.fd is not None and self._held:
            self._fetched = os.lseek(self._opened.fd, 0, os.SEEK_CUR) - self._offset

    def _next_after(self, exc: Exception | None) -> bytes:
        """Return the next chunk after a failure, an early end or (None) an empty chunk."""
        while True:
            if exc is not None:
                self._resume(exc)
            try:
                chunk = next(self._chunks)
            except Exception as failure:
                exc = failure
                continue
            exc = None
            if chunk:
                missing = self.size - self._fetched
                return chunk if len(chunk) < missing else self._last(chunk, missing)

    def _last(self, chunk: bytes, missing: int) -> bytes:
        """Check that the image ends where it should, before its last chunk is delivered."""
        self._check_version()
        if self._offset + self.size == self.image_size:
            excess = len(chunk) > missing
            if not excess:
                # Everything promised has arrived: only more bytes could be wrong now.
                try:
                    excess = any(self._chunks)
                except Exception:
                    self._release()
            if excess:
                self._fail(
                    IntegrityError(f"the data goes on beyond the {self.image_size} bytes promised")
                )
        fd = self._opened.fd
        if fd is None:
            self._release()  # a file stays open for fileno() until its end is seen
        if len(chunk) == missing:
            return chunk
        if fd is not None and self._held:
            os.lseek(fd, self._offset + self.size, os.SEEK_SET)
        return chunk[:missing]

    def _check_version(self) -> None:
        try:
            self._opened.check()
        except Exception as exc:
            self._fail(exc)

    def _resume(self, exc: Exception) -> None:
        """Open the same version at the first undelivered byte, or raise the translated error."""
        version = self._opened.version
        while True:
            if isinstance(exc, StopIteration):
                missing = self.size - self._fetched
                exc = IntegrityError(f"the data ended {missing} bytes early", retryable=True)
            error = self._translate(exc)
            self._release()
            retryable = getattr(error, "retryable", False)
            if version is None or not retryable or self._retries <= 0 or self._closed:
                self._fail(exc)
            self._retries -= 1
            self._wake.wait(_PAUSE)
            self._check_open()
            try:
                opened = self._reopen(
                    self._offset + self._fetched, self.size - self._fetched, version
                )
            except Exception as failure:
                exc = failure
                continue
            self._opened, self._chunks = opened, opened.chunks
            self._held.append(opened)
            self._shared_fd = False
            if opened.version == version and opened.image_size == self.image_size:
                return
            exc = IntegrityError("the image changed while it was read")

    def _fail(self, exc: Exception) -> NoReturn:
        """Raise the translated error, now and whenever more is asked for."""
        self._release()
        self._check_open()
        error = self._translate(exc)
        self._failed = error
        raise_for(error, exc)

    def _release(self, janitor: Janitor | None = None) -> None:
        try:
            opened = self._held.pop()
        except IndexError:
            return
        if janitor is not None:
            janitor.leave(opened.close)
        else:
            opened.close()
