"""Filling a new image: ahead of what is written it becomes larger, where its size is unknown."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from imgstore.data.streams import Body
from imgstore.drivers._librbd.images import OpenImage
from imgstore.drivers._librbd.writing import Window

# What an image of unknown size begins with, in objects; it takes no space.
FIRST_OBJECTS: Final = 128
# How much larger it becomes at a time: by a quarter, so few requests, and little to cut off.
_GROWTH: Final = 4


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
        for position, _, data in body.stretches(lambda: self._window.piece, thin=self._thin):
            if data is not None:
                if self._grows:
                    self._grow(position + len(data))
                self._window.send(data, position)
        self._window.drain()
        if self._growth is not None:
            self._size = self._growth.result()
        if body.total != self._size:
            self._image.resize(body.total)
        self._image.flush()

    def close(self) -> None:
        """Wait for what is under way, however it ends."""
        self._window.close()
        if self._pool is not None:
            self._pool.shutdown()

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
