"""Where a file has data and where it has holes (lseek(2), SEEK_DATA and SEEK_HOLE)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from imgstore.data.opened import SourceFile
from imgstore.data.units import MIB

# Holes smaller than this count as data: skipping them costs more than it saves.
GRAIN: Final = 64 * 1024
# How far holes are looked for at once.
_SCAN: Final = 64 * MIB
# A MiB of a hole, as readers hand it on: always this object, which nobody has to look into.
ZEROS: Final = bytes(MIB)
_GRAIN_OF_ZEROS: Final = ZEROS[:GRAIN]


def next_extent(source: SourceFile, position: int) -> tuple[int, int]:
    """Return start and end of the next stretch of data at or after ``position``.

    Where the file system cannot tell, or the file became shorter, all that follows is data.
    """
    base = source.offset
    try:
        start = os.lseek(source.fd, base + position, os.SEEK_DATA) - base
        end = os.lseek(source.fd, base + start, os.SEEK_HOLE) - base
    except OSError as exc:
        with suppress(OSError):  # reading tells
            # ENXIO: nothing but a hole follows up to the end of the file, wherever that is now.
            if exc.errno == errno.ENXIO and os.fstat(source.fd).st_size >= base + source.length:
                return source.length, source.length
        return position, source.length
    return min(start, source.length), min(end, source.length)


class Holes:
    """The holes of a source, of at least a grain; smaller ones count as data."""

    def __init__(self, source: SourceFile | None) -> None:
        self._source = source
        # The stretch of data at or after the position last looked at.
        self._start = 0
        self._end = 0

    def at(self, position: int) -> int:
        """Return the length of the hole that begins at ``position``, 0 if none does."""
        source = self._source
        if source is None or position >= source.length:
            return 0
        if position >= self._end:
            start, end = next_extent(source, position)
            self._start = start if start - position >= GRAIN else position
            self._end = self._end_of_data(source, end if start < end else position)
        return max(0, self._start - position)

    def before(self, position: int, limit: int) -> int:
        """Return how many of the ``limit`` bytes from ``position`` on lie before the next hole."""
        return min(limit, self._end - position) if position < self._end else limit

    def _end_of_data(self, source: SourceFile, end: int) -> int:
        while end < min(source.length, self._start + _SCAN):
            start, next_end = next_extent(source, end)
            if start - end >= GRAIN:
                break
            end = next_end
        return end


def stretches_of_data(block: bytes, position: int) -> Iterator[tuple[int, int]]:
    """Yield start and end, in ``block``, of what lies between zeros of whole aligned grains.

    ``position`` is where the block lies in the image, whose grains are meant.
    """
    data_from = None
    at = 0
    while at < len(block):
        end = min(len(block), at + GRAIN - (position + at) % GRAIN)
        if block.startswith(_GRAIN_OF_ZEROS if end - at == GRAIN else ZEROS[: end - at], at):
            if data_from is not None:
                yield data_from, at
                data_from = None
        elif data_from is None:
            data_from = at
        at = end
    if data_from is not None:
        yield data_from, len(block)
