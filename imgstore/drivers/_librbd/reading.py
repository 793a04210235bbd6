"""Reading an image: ahead of the consumer, bounded in memory, holes without a request."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Final

from imgstore.data.extents import ZEROS
from imgstore.data.units import MIB
from imgstore.drivers._librbd.access import FEATURES
from imgstore.drivers._librbd.errors import RequestFailed
from imgstore.drivers._librbd.images import OpenImage
from imgstore.drivers._librbd.writing import PIECE
from imgstore.errors import IntegrityError

_ZEROS: Final = bytes(PIECE)
# For how many objects at once the object map is asked.
_OBJECTS: Final = 4096

# How many pieces wait for the consumer at most: requests, or parts of holes.
_WAITING: Final = 64

# A stretch of the image: where it begins, its length, and whether it is a hole.
_Stretch = tuple[int, int, bool]


class Ahead:
    """Iterates ``length`` bytes from ``offset``, of which ``window`` are under way or waiting.

    The objects of an image that is deleted meanwhile read as zeros. So ``confirm`` is called
    before the last bytes are delivered if an object's worth of zeros was among them.
    """

    def __init__(
        self,
        opened: OpenImage,
        offset: int,
        length: int,
        *,
        window: int,
        confirm: Callable[[], None],
    ) -> None:
        self._opened = opened
        self._image = opened.sdk
        self._object_size: int = self._image.stat()["obj_size"]
        self._left = length
        # librbd has as much again in its own buffers.
        self._window = max(MIB, window // 2)
        self._confirm = confirm
        self._pieces = self._cut(self._stretches(offset, offset + length))
        self._waiting: deque[tuple[int, Future[bytes] | bytes]] = deque()
        self._flying = 0
        self._has_zeros = False

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes; raises OSError for what the cluster answers."""
        try:
            while (data := self._next()) is not None:
                yield data
        except Exception as exc:
            self._opened.connection.judge(exc)
            raise

    def _next(self) -> bytes | None:
        self._opened.check_process()
        self._fill()
        if not self._waiting:
            return None
        at, piece = self._waiting.popleft()
        if isinstance(piece, bytes):
            data = piece
            self._has_zeros = True
        else:
            data = piece.result()
            self._flying -= len(data)
            self._has_zeros = self._has_zeros or self._may_be_missing(at, data)
        self._left -= len(data)
        if not self._left and self._has_zeros:
            self._confirm()
        return data

    def _fill(self) -> None:
        while self._flying < self._window and len(self._waiting) < _WAITING:
            piece = next(self._pieces, None)
            if piece is None:
                return
            at, size, is_hole = piece
            if is_hole:
                self._waiting.append((at, ZEROS[:size]))
            else:
                self._flying += size
                self._waiting.append((at, _read(self._opened, at, size)))

    def _cut(self, stretches: Iterator[_Stretch]) -> Iterator[_Stretch]:
        """Cut stretches to the size of requests; none crosses a boundary of that size."""
        for start, end, is_hole in stretches:
            limit = MIB if is_hole else min(PIECE, self._window)
            at = start
            while at < end:
                size = min(end - at, limit if is_hole else limit - at % limit)
                yield at, size, is_hole
                at += size

    def _stretches(self, offset: int, end: int) -> Iterator[_Stretch]:
        """Yield start, end and kind of stretches; where nothing is known all is data."""
        for start, stop in self._data(offset, end):
            if offset < start:
                yield offset, start, True
            yield start, stop, False
            offset = stop
        if offset < end:
            yield offset, end, True

    def _data(self, offset: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield start and end of what may be data, as objects that exist."""
        if not self._knows_holes():
            yield offset, end
            return
        step = _OBJECTS * self._object_size
        for first in range(offset - offset % self._object_size, end, step):
            for start, length in _objects(self._image, first, step):
                if max(start, offset) < min(start + length, end):
                    yield max(start, offset), min(start + length, end)

    def _knows_holes(self) -> bool:
        """Return whether an object map tells what is there; asking each object would take long."""
        image = self._image
        is_mapped = image.features() & FEATURES["fast-diff"] and not image.flags()
        return bool(is_mapped and image.stripe_count() == 1 and not image.overlap())

    def _may_be_missing(self, at: int, data: bytes) -> bool:
        """Return whether all of an object, as far as ``data`` shows it, is zero."""
        start, step = 0, self._object_size - at % self._object_size
        while start < len(data):
            part = data if step >= len(data) else data[start : start + step]
            if _ZEROS.startswith(part):
                return True
            start, step = start + step, self._object_size
        return False


def _objects(image: Any, first: int, size: int) -> list[tuple[int, int]]:
    """Return start and length of the objects that exist in a stretch, by the object map."""
    found: list[tuple[int, int]] = []
    size = min(size, image.size() - first)
    image.diff_iterate(first, size, None, lambda at, n, _: found.append((at, n)), True, True)
    return found


def _read(opened: OpenImage, offset: int, size: int) -> Future[bytes]:
    future: Future[bytes] = Future()

    def done(completion: Any, data: bytes | None) -> None:
        status = completion.get_return_value()
        if status < 0:
            future.set_exception(RequestFailed(status))
        elif data is None or status != size:
            future.set_exception(IntegrityError("the image became shorter", retryable=True))
        else:
            future.set_result(data)
        opened.connection.requests.done()

    opened.connection.requests.begin()
    try:
        opened.sdk.aio_read(offset, size, done)
    except Exception:
        opened.connection.requests.done()
        raise
    return future
