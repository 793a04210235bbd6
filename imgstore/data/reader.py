"""Image data on its way out, as a reader that callers have."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, final

from imgstore.data.hashing import Expected
from imgstore.data.opened import Opened, SourceFile
from imgstore.data.resuming import Reopen, Resuming
from imgstore.errors import IntegrityError
from imgstore.process.interrupts import Descriptors
from imgstore.process.janitor import Janitor


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
        expected: Expected | None = None,
    ) -> None:
        """Stores make readers; see ``Store.get``."""
        self.size = size
        self.image_size = opened.image_size
        self._bytes = Resuming(
            opened,
            offset=offset,
            size=size,
            reopen=reopen,
            translate=translate,
            retries=retries,
        )
        self._janitor = janitor
        self._expected = expected
        # The chunk that is being delivered, and how much of it was: what follows is never copied.
        self._chunk: bytes = b""
        self._at = 0
        self._busy = False

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
        if n is None or n < 0:
            self._bytes.check_open()
            return b"".join(self)
        chunk, at = self._chunk, self._at
        end = at + n
        if end < len(chunk):  # not once it was closed, which drops the chunk
            self._at = end
            return chunk[at:end]
        self._bytes.check_open()
        pieces = [rest] if (rest := self._rest()) else []
        missing = n - len(rest)
        while missing > 0 and (chunk := self._fetch()):
            if len(chunk) > missing:
                self._chunk, self._at = chunk, missing
                if self._bytes.closed:  # meanwhile, by another thread
                    self._chunk = b""
                chunk = chunk[:missing]
            pieces.append(chunk)
            missing -= len(chunk)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """Fill ``buffer``, less only at the end, and return how many bytes were put there."""
        self._bytes.check_open()
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
        self._bytes.check_open()
        if self._expected is not None:
            raise io.UnsupportedOperation("what is read of this image is compared with digests")
        rest = max(0, len(self._chunk) - self._at)
        self._bytes.check_open()  # again: close() drops the chunk, in any thread
        fd = self._bytes.file_from(rest)
        if fd is None:
            raise io.UnsupportedOperation("this image is not a file that is open")
        if rest:
            self._chunk, self._at = b"", 0
        return fd

    @property
    def version(self) -> str | None:
        """Return what tells this content from another one at this location, if anything does."""
        return self._bytes.opened.version

    @property
    def left(self) -> int:
        """Return how many bytes this reader is still to deliver."""
        return self._bytes.left + len(self._chunk) - self._at

    @property
    def opened(self) -> Opened:
        """Return what the driver opened; for layers."""
        return self._bytes.opened

    def take_file(self, held: Descriptors) -> SourceFile | None:
        """Return what is left of the file, or None if it is none; the caller closes ``held``.

        The descriptor is a duplicate, which stays valid when the reader is closed meanwhile, and
        shares its position with the reader's.
        """
        if self._bytes.opened.has_time_limit:
            return None
        with self._using():
            try:
                fd = held.dup(self._position_fd())
            except io.UnsupportedOperation:
                return None
            position, length = self._bytes.left_of(fd)
        return SourceFile(fd, position, length)

    def check(self) -> None:
        """Raise IntegrityError if the image changed since it was opened; for ``take_file``."""
        self._bytes.check_version()

    def fail(self, exc: Exception) -> NoReturn:
        """Raise what ``read`` raises where reading fails so, now and later; for ``take_file``."""
        self._bytes.fail(exc)

    @property
    def closed(self) -> bool:
        """Return whether the reader was closed."""
        return self._bytes.closed

    def close(self) -> None:
        """Release what the reader holds; a fetch under way in another thread ends first."""
        self._bytes.close()
        self._chunk = b""
        # The consumer sets _busy before it looks at closed, so one of the two sees the other.
        if not self._busy:
            self._release()

    def _release(self, janitor: Janitor | None = None) -> None:
        try:
            self._bytes.release(janitor)
        finally:
            if self._expected is not None:
                self._expected.close()

    @contextmanager
    def _using(self) -> Iterator[None]:
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
            if self._bytes.closed:
                self.close()

    def __enter__(self) -> ImageReader:
        """Return self."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close."""
        self.close()

    def __del__(self) -> None:
        """Release what an abandoned reader holds."""
        if hasattr(self, "_busy"):
            self._bytes.close()
            self._release(self._janitor)

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled."""
        raise TypeError("an ImageReader cannot be pickled")

    def prime(self) -> None:
        """Fetch the first chunk, so that what is missing is found out before a response begins.

        An open file needs no such proof and keeps its position.
        """
        if self._bytes.opened.fd is None or self._expected is not None:
            self._chunk = self._fetch()

    def _fetch(self) -> bytes:
        """Return the next chunk, or nothing once everything was delivered."""
        self._busy = True  # as _using, which would cost a tenth of reading a cached chunk
        try:
            chunk = self._bytes.next_chunk()
            if self._expected is not None:
                self._judge(self._expected, chunk)
            return chunk
        except BaseException as exc:
            self._bytes.stop(exc)
            raise
        finally:
            self._busy = False
            if self._bytes.closed:
                self.close()

    def _judge(self, expected: Expected, chunk: bytes) -> None:
        try:
            expected.take(chunk, is_last=self._bytes.fetched >= self.size)
        except IntegrityError as exc:
            self._bytes.fail(exc)
