"""Writing to an image: many requests under way, bounded in memory."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Any, Final

from imgstore.data.units import MIB
from imgstore.drivers._librbd.errors import RequestFailed
from imgstore.drivers._librbd.images import OpenImage

# Bytes of one request. Larger ones are slower here, because their memory is not used again.
PIECE: Final = 2 * MIB


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
        self._requests = opened.connection.requests
        self._watchdog = opened.watchdog
        self._image = opened.sdk
        self._size = size
        self.piece = min(PIECE, size)
        self._change = threading.Condition(threading.Lock())
        self._flying: set[_Request] = set()
        self._bytes = 0
        self._error: RequestFailed | None = None

    def send(self, view: bytes | memoryview, position: int) -> None:
        """Begin to write, once there is room; raises OSError for what was begun before.

        A view of a part of some bytes is copied, for librbd takes no views. Beyond the end of the
        image librbd writes nothing, and raises nothing.
        """
        data = _bytes(view)
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
        self._wait_until(lambda: not self._flying)

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
        if not self._wait_until(lambda: self._bytes <= limit or self._error is not None):
            raise RequestFailed(-errno.ETIMEDOUT)
        if self._error is not None:
            raise self._error

    def _wait_until(self, ready: Callable[[], bool]) -> bool:
        """Wait until something is so; return whether it is, or librbd will not return."""

        def wait(seconds: float | None) -> bool:
            with self._change:
                return self._change.wait_for(ready, seconds)

        return self._watchdog.wait(wait)


def _bytes(view: bytes | memoryview) -> bytes:
    whole = view.obj if isinstance(view, memoryview) else view
    return whole if isinstance(whole, bytes) and len(whole) == len(view) else bytes(view)
