"""The bytes of a segment, or of a whole image, on their way to Swift."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from imgstore.data.segments import Segment
from imgstore.data.units import MIB
from imgstore.drivers.swift.errors import classify
from imgstore.drivers.swift.settings import Settings
from imgstore.errors import Unavailable

HEAD: Final = 8 * MIB  # an image of unknown size that ends within is no large object


class EndedError(Exception):
    """A segment of unknown size ended before the size that all but the last have."""


def sending_of(
    data: Segment,
    settings: Settings,
    before_last: Callable[[float], None] = lambda _: None,
    *,
    is_full: bool = False,
) -> Sending:
    """Return what sends a segment; ``is_full`` says that it most probably is.

    ``before_last`` is called before the last byte goes out, with the seconds that it may take: an
    object is committed when it is complete.
    """
    if data.size is not None and data.size <= min(HEAD, settings.memory):
        return Small(data, settings, before_last)
    if data.size is None and is_full and settings.segment <= settings.memory:
        return Full(data, settings, before_last)
    return Sending(data, settings, before_last)


class Sized:
    """Blocks whose whole length is known; requests announces it."""

    def __init__(self, blocks: Iterable[bytes], size: int) -> None:
        self._blocks = blocks
        self._size = size

    def __len__(self) -> int:
        """Return the number of bytes."""
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        """Iterate the blocks."""
        return iter(self._blocks)


class Sending:
    """Sends a segment while it is read; its MD5 and size are known when it was sent."""

    def __init__(
        self, data: Segment, settings: Settings, before_last: Callable[[float], None]
    ) -> None:
        self._data = data
        self._settings = settings
        self._before_last = before_last
        self._attempts = 0
        self.was_complete = False
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.size = 0

    def headers(self) -> dict[str, str]:
        """Return what the server has to know beforehand."""
        return {}

    def blocks(self) -> object:
        """Return what to send, once more."""
        self._attempts += 1
        # Not again while it is read: a source that stalls would break this attempt, too.
        if self._attempts > 1 and not self._data.wait_whole():
            raise Unavailable(
                "the connection broke, and what was sent is not in memory any more",
                remedy="raise swift_store_upload_memory, or use smaller segments",
            )
        return self._announced()

    def _announced(self) -> object:
        size = self._data.length
        return self._ending() if size is None else Sized(self._ending(), size)

    def _ending(self) -> Iterator[bytes]:
        blocks = self._hashed()
        held = next(blocks, b"")
        for block in blocks:
            yield held
            held = block
        # The server waits for the last bytes meanwhile, for a minute by default.
        self._complete(self._settings.read_timeout / 2)
        yield held

    def _hashed(self) -> Iterator[bytes]:
        self.md5, self.size = hashlib.md5(usedforsecurity=False), 0
        for block in self._data:
            self.md5.update(block)
            self.size += len(block)
            yield block

    def _complete(self, seconds: float) -> None:
        try:
            self._before_last(seconds)
        except Exception as exc:  # not to be taken for a failure of the request
            raise classify(exc) or exc from exc
        self.was_complete = True


class Small(Sending):
    """Sends a segment once all of it is in memory: the server refuses what does not fit its MD5."""

    def headers(self) -> dict[str, str]:
        """Return the MD5, which the segment is waited for."""
        self._data.wait_whole()
        for _ in self._hashed():
            pass
        return {"Etag": self.md5.hexdigest()}

    def _announced(self) -> object:
        self._complete(self._settings.read_timeout)
        return Sized(self._data, self.size)


class Full(Sending):
    """Sends a segment of unknown size as one of the size that all segments have but the last.

    Chunked transfers cost a tenth more. The last segment is in memory when it ends too early, and
    is sent a second time.
    """

    def _announced(self) -> object:
        if self._data.length is not None:
            return super()._announced()
        return Sized(self._filling(), self._settings.segment)

    def _filling(self) -> Iterator[bytes]:
        yield from self._hashed()
        if self.size < self._settings.segment:
            raise EndedError
