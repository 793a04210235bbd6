"""The bytes of a segment, or of a whole image, on their way to Swift."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from imgstore.data.segments import Segment
from imgstore.data.units import MIB
from imgstore.drivers.swift.client import Sized
from imgstore.drivers.swift.errors import classify
from imgstore.drivers.swift.settings import Settings
from imgstore.errors import Unavailable

HEAD: Final = 8 * MIB  # an image of unknown size that ends within is no large object


class EndedError(Exception):
    """A segment of unknown size ended before the size that all but the last have."""


class Sending:
    """The bytes of a segment on their way, and their MD5.

    ``before_last`` is called before the last byte goes out, with the seconds that it may take: an
    object is committed when it is complete.
    """

    def __init__(
        self,
        data: Segment,
        settings: Settings,
        before_last: Callable[[float], None] | None,
        *,
        is_full: bool,
    ) -> None:
        self._data = data
        self._attempts = 0
        self._before_last = before_last
        self._patience = settings.read_timeout
        # Chunked transfers cost a tenth more. All segments but the last are full; that one is sent
        # a second time, if it is in memory by then.
        may_repeat = is_full and settings.segment <= settings.memory
        self._expected = settings.segment if may_repeat else None
        self.is_small = data.size is not None and data.size <= min(HEAD, settings.memory)
        self.was_complete = False
        self._whole: Any = None
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.size = 0

    def whole_md5(self) -> str:
        """Return the MD5 of a small segment, which is waited for."""
        self._data.wait_whole()
        for block in self._data if self._whole is None else ():
            self.md5.update(block)
        self._whole = self.md5
        return self.md5.hexdigest()

    def blocks(self) -> object:
        """Return what to send, once more."""
        self._attempts += 1
        # Not again while it is read: a source that stalls would break this attempt, too.
        if self._attempts > 1 and not self._data.wait_whole():
            raise Unavailable(
                "the connection broke, and what was sent is not in memory any more",
                remedy="raise swift_store_upload_memory, or use smaller segments",
            )
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.size = 0
        size = self._data.length
        if self.is_small:
            self._complete(self._patience)
            self.md5, self.size = self._whole, size or 0
            return Sized(self._data, self.size)
        # The server waits for the last bytes meanwhile, for a minute by default.
        if size is None and self._expected is not None:
            return Sized(self._filling(self._expected), self._expected)
        ending = self._ending(self._hashed(), self._patience / 2)
        return ending if size is None else Sized(ending, size)

    def _filling(self, expected: int) -> Iterator[bytes]:
        yield from self._hashed()
        if self.size < expected:
            raise EndedError

    def _hashed(self) -> Iterator[bytes]:
        for block in self._data:
            self.md5.update(block)
            self.size += len(block)
            yield block

    def _ending(self, blocks: Iterator[bytes], patience: float) -> Iterator[bytes]:
        held = next(blocks, b"")
        for block in blocks:
            yield held
            held = block
        self._complete(patience)
        yield held

    def _complete(self, patience: float) -> None:
        if self._before_last is not None:
            try:
                self._before_last(patience)
            except Exception as exc:  # not to be taken for a failure of the request
                raise classify(exc) or exc from exc
        self.was_complete = True
