"""Writing to an image: many requests under way, bounded in memory."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from imgstore.drivers.rbd.cluster import RequestFailed
from imgstore.drivers.rbd.images import OpenImage
from imgstore.extents import stretches_of_data
from imgstore.hashing import MIB
from imgstore.streams import Body

# Bytes of one request. Larger ones are slower here, because their memory is not used again.
PIECE: Final = 2 * MIB
# What an image of unknown size begins with, in objects; it takes no space.
FIRST_OBJECTS: Final = 128
# How much larger it becomes at a time: by a quarter, so few requests, and little to cut off.
_GROWTH: Final = 4


class _Request:
    """A write under way. It keeps the bytes, which librbd may read without copying them."""

    def __init__(self, writer: Window, data: bytes) -> None:
        self._writer = writer
        self.data = data

    def landed(self, completion: Any) -> None:
        """Tell the writer how it ended."""
        self._writer.landed(self, completion.get_return_value())


class Window:
    """Writes to an image, of which at most ``size`` bytes are under way; one thread uses it."""

    def __init__(self, opened: OpenImage, size: int) -> None:
        """Write to an image that stays open until ``close`` was called here."""
        self._requests = opened.requests
        self._image = opened.sdk
        self._size = size
        self.piece = min(PIECE, size)
        self._change = threading.Condition(threading.Lock())
        self._flying: set[_Request] = set()
        self._bytes = 0
        self._error: RequestFailed | None = None

    def send(self, data: bytes, position: int) -> None:
        """Begin to write, once there is room; raises OSError for what was begun before.

        Beyond the end of the image librbd writes nothing, and raises nothing.
        """
        self._wait_for(max(0, self._size - len(data)))
        request = _Request(self, data)
        try:
            with self._change:
                self._requests.begin()
                self._flying.add(request)
                self._bytes += len(data)
            self._image.aio_write(data, position, request.landed)
        except BaseException:  # an interrupt may come before the request is sent, or after
            self.landed(request, 0)
            raise

    def drain(self) -> None:
        """Wait until all is written; raises OSError."""
        self._wait_for(0)

    def close(self) -> None:
        """Wait for what is under way, however it ends."""
        with self._change:
            while self._flying:
                self._change.wait()

    def landed(self, request: _Request, status: int) -> None:
        """Count a request as done, once; called from librbd's threads, too."""
        with self._change:
            if request not in self._flying:
                return
            self._flying.discard(request)
            self._bytes -= len(request.data)
            if status < 0 and self._error is None:
                self._error = RequestFailed(status)
            self._change.notify_all()
        self._requests.done()

    def _wait_for(self, limit: int) -> None:
        """Wait until at most ``limit`` bytes are under way; raises what a request ended with."""
        with self._change:
            while self._bytes > limit and self._error is None:
                self._change.wait()
            if self._error is not None:
                raise self._error


class Writer:
    """Writes one body to a new image; one thread uses it.

    ``size`` is the size of the image. With ``grows`` it is enlarged in the background, ahead of
    what is written. At most ``window`` bytes are under way.
    """

    def __init__(
        self, opened: OpenImage, *, size: int, window: int, thin: bool, grows: bool
    ) -> None:
        self._window = Window(opened, window)
        self._image = opened.sdk
        self._size = size
        self._thin = thin
        self._grows = grows
        self._step = size
        self._pool: ThreadPoolExecutor | None = None
        self._growth: Future[int] | None = None

    def write(self, body: Body) -> None:
        """Write the whole of ``body`` and give the image its size; raises OSError."""
        position, piece = 0, self._window.piece
        while True:
            hole = body.hole()
            if hole:
                body.skip(hole)
                position += hole
                continue
            block = body.read(body.before_hole(piece - position % piece))
            if not block:
                break
            if self._thin:
                for start, end in stretches_of_data(block, position):
                    self._send(block[start:end], position + start)
            else:
                self._send(block, position)
            position += len(block)
        self._window.drain()
        if self._growth is not None:
            self._size = self._growth.result()
        if position != self._size:
            self._image.resize(position)
        self._image.flush()

    def close(self) -> None:
        """Wait for what is under way, however it ends."""
        self._window.close()
        if self._pool is not None:
            self._pool.shutdown()

    def _send(self, data: bytes, position: int) -> None:
        if self._grows:
            self._grow(position + len(data))
        self._window.send(data, position)

    def _grow(self, end: int) -> None:
        """Let the image become larger before ``end`` reaches its size: beyond it data is lost.

        librbd cuts asynchronous writes off at the end of the image without an error.
        """
        if self._growth is not None and (self._growth.done() or end > self._size):
            self._size, self._growth = self._growth.result(), None
        if self._growth is None and end + self._step // 2 > self._size:
            self._growth = self._enlarge(max(self._size, end))
            if end > self._size:
                self._size, self._growth = self._growth.result(), None

    def _enlarge(self, size: int) -> Future[int]:
        self._step = max(self._step, size // _GROWTH)
        size += self._step

        def resize() -> int:
            self._image.resize(size)
            return size

        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="imgstore-grow")
        return self._pool.submit(resize)
