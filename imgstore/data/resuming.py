"""Exactly the bytes that were promised, of one version, however often the backend fails."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Final, NoReturn, Protocol

from imgstore.boundary.translation import raise_for
from imgstore.data.opened import Opened
from imgstore.errors import IntegrityError
from imgstore.process.janitor import Janitor
from imgstore.process.patience import Patience

LOG = logging.getLogger(__name__)

_PAUSE: Final = 0.2  # seconds before a broken read is resumed


class Reopen(Protocol):
    """How a reader opens the image again after a failure."""

    def __call__(self, offset: int, length: int, version: str) -> Opened:
        """Open at ``offset``, pinned to ``version``; raises errors of the tree."""


class Resuming:
    """The chunks of a range of an image, opened again where a read breaks off.

    ``size`` bytes from ``offset`` are delivered, or a failure is raised, now and whenever more is
    asked for. One thread takes chunks and any may close; ``release`` gives back what is open,
    once. ``shares_file`` says that the caller moves the position of the open file, too: then it
    stays open until its end is seen.
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
    ) -> None:
        """Begin with what the driver opened."""
        self.size = size
        self.opened = opened
        self.fetched = 0
        self.failed: BaseException | None = None
        self.closed = False
        self.shares_file = False
        self._chunks = opened.chunks
        self._image_size = opened.image_size
        self._offset = offset
        self._reopen = reopen
        self._translate = translate
        # The thread that pops it releases it: once, without a lock that a fork could find held.
        self._held = [opened]
        self._wake = threading.Event()
        self._pauses = Patience(_PAUSE, _PAUSE, times=retries).pauses()

    @property
    def is_open(self) -> bool:
        """Return whether something is to be released."""
        return bool(self._held)

    @property
    def left(self) -> int:
        """Return how many bytes were not fetched yet."""
        if self.shares_file:
            self._count_sent()
        return max(0, self.size - self.fetched)

    def next_chunk(self) -> bytes:
        """Return the next chunk, or nothing once everything was delivered."""
        if self.shares_file:
            self._count_sent()
        missing = self.size - self.fetched
        if missing <= 0 or self.closed or self.failed is not None:
            return self._end()
        try:
            chunk = next(self._chunks)
        except Exception as exc:  # StopIteration included: bytes are missing
            chunk = self._next_after(exc)
        if not 0 < len(chunk) < missing:
            chunk = self._last(chunk, missing) if chunk else self._next_after(None)
        self.fetched += len(chunk)
        return chunk

    def file_from(self, rest: int) -> int | None:
        """Return the descriptor of an open file, None if there is none.

        It is positioned at the next byte, counted without the last ``rest``, which were fetched
        and not delivered.
        """
        fd = self.opened.fd
        if fd is None or not self._held or self.failed is not None:
            return None
        if not self.shares_file or rest:
            self.fetched -= rest
            os.lseek(fd, self._offset + self.fetched, os.SEEK_SET)
            self.shares_file = True
        return fd

    def left_of(self, fd: int) -> tuple[int, int]:
        """Return the position of a descriptor of the file, and how many bytes are left there."""
        position = os.lseek(fd, 0, os.SEEK_CUR)
        return position, max(0, self._offset + self.size - position)

    def stop(self, exc: BaseException) -> None:
        """Let no later chunk follow as if nothing had been lost."""
        if self.failed is None and not self.closed:
            interrupted = IntegrityError("an earlier read of this reader was interrupted")
            self.failed = exc if isinstance(exc, Exception) else interrupted
            self.release()

    def close(self) -> None:
        """Let the next chunk be refused, and a pause end; nothing is released yet."""
        self.closed = True
        self._wake.set()

    def release(self, janitor: Janitor | None = None) -> None:
        """Give back what is open, by a thread of ``janitor`` if there is one."""
        try:
            opened = self._held.pop()
        except IndexError:
            return
        if janitor is not None:
            janitor.leave(opened.close)
        else:
            opened.close()

    def check_open(self) -> None:
        """Raise ValueError once it was closed."""
        if self.closed:
            raise ValueError("the reader is closed")

    def _end(self) -> bytes:
        """Say why no chunk follows; give back what is held unless the caller has the file."""
        self.check_open()
        if self.failed is not None:
            raise self.failed
        if not self.shares_file:
            self.release()
        elif self._held:
            self.check_version()  # of what the caller sent straight from the file
        return b""

    def _count_sent(self) -> None:
        """Count what the caller sent straight from the file as delivered."""
        if self.opened.fd is not None and self._held:
            self.fetched = os.lseek(self.opened.fd, 0, os.SEEK_CUR) - self._offset

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
                missing = self.size - self.fetched
                return chunk if len(chunk) < missing else self._last(chunk, missing)

    def _last(self, chunk: bytes, missing: int) -> bytes:
        """Check that the image ends where it should, before its last chunk is delivered."""
        self.check_version()
        if self._offset + self.size == self._image_size:
            excess = len(chunk) > missing
            if not excess:
                # Everything promised has arrived: only more bytes could be wrong now.
                try:
                    excess = any(self._chunks)
                except Exception:
                    self.release()
            if excess:
                self.fail(
                    IntegrityError(f"the data goes on beyond the {self._image_size} bytes promised")
                )
        fd = self.opened.fd
        if fd is None:
            self.release()  # a file stays open for fileno() until its end is seen
        if len(chunk) == missing:
            return chunk
        if fd is not None and self._held:
            os.lseek(fd, self._offset + self.size, os.SEEK_SET)
        return chunk[:missing]

    def check_version(self) -> None:
        """Raise the translated error if the image changed since it was opened."""
        try:
            self.opened.check()
        except Exception as exc:
            self.fail(exc)

    def _resume(self, exc: Exception) -> None:
        """Open the same version at the first undelivered byte, or raise the translated error."""
        version = self.opened.version
        while True:
            if isinstance(exc, StopIteration):
                missing = self.size - self.fetched
                exc = IntegrityError(f"the data ended {missing} bytes early", retryable=True)
            error = self._translate(exc)
            self.release()
            may_pass = version is not None and getattr(error, "retryable", False)
            pause = next(self._pauses, None) if may_pass and not self.closed else None
            if version is None or pause is None:
                self.fail(exc)
            LOG.info("reading goes on at byte %d after %s", self._offset + self.fetched, error)
            self._wake.wait(pause)
            self.check_open()
            try:
                opened = self._reopen(
                    self._offset + self.fetched, self.size - self.fetched, version
                )
            except Exception as failure:
                exc = failure
                continue
            self.opened, self._chunks = opened, opened.chunks
            self._held.append(opened)
            self.shares_file = False
            if opened.version == version and opened.image_size == self._image_size:
                return
            exc = IntegrityError("the image changed while it was read")

    def fail(self, exc: Exception) -> NoReturn:
        """Raise the translated error, now and whenever more is asked for."""
        self.release()
        self.check_open()
        error = self._translate(exc)
        self.failed = error
        raise_for(error, exc)
