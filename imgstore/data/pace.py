"""When ``progress`` is called, and how much a source is asked for meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from imgstore.data.units import MIB

EVERY: Final = 0.1  # seconds from one call to the next, at least
STEP: Final = 64 * MIB  # what a kernel copies between two calls
# A source that fills what it was asked for is asked for as much as it gives in this time.
_READ: Final = 0.05  # seconds
_LEAST: Final = 256  # bytes
_GROWTH: Final = 4
# A source that takes its time however little it is asked for: three quarters of its speed.
_LATENCIES: Final = 3
_STEADY: Final = 16  # reads alike, after which one of twice the size finds out what has changed

Progress = Callable[[int, int | None], object]


@dataclass(frozen=True)
class _Read:
    size: int  # bytes
    took: float  # seconds

    def differs(self, other: _Read) -> bool:
        """Tell whether the sizes are far enough apart to compare how long the two took."""
        return self.size >= 2 * other.size or other.size >= 2 * self.size


class _Asking:
    """How many bytes the next read asks for, by how long the reads before it took.

    A read of n bytes lasts a latency and n / rate, which two reads of different sizes tell apart:
    less is asked for only where a shorter read ends sooner.
    """

    def __init__(self) -> None:
        self.most = _LEAST
        self._newer: _Read | None = None
        self._older: _Read | None = None  # of another size
        self._alike = 0

    def learn(self, read: _Read) -> None:
        """Account for a read of at most ``most`` bytes."""
        if read.size == 0:
            return
        newer, self._newer = self._newer, read
        self._alike += 1
        if newer is not None and newer.differs(read):
            self._older, self._alike = newer, 0
        elif self._older is not None and not self._older.differs(read):
            self._older = None
        wanted = max(_LEAST, int(self._wanted(read)))
        if self._alike >= _STEADY and self.most < 2 * wanted <= 2 * self.most == 2 * read.size:
            wanted, self._alike = 2 * self.most, 0
        if wanted < self.most or read.size == self.most:
            self.most = wanted

    def _wanted(self, read: _Read) -> float:
        if read.took <= _READ / _GROWTH:
            return self.most * _GROWTH
        older = self._older
        if older and read.size < older.size and read.took > _GROWTH * older.took:
            older = self._older = None  # less took far longer: the source has become slow
        if older is not None:
            return self._fitting(*sorted((older, read), key=lambda each: each.size))
        if self.most > _LEAST:
            return read.size * _READ / read.took
        return self.most * _GROWTH

    def _fitting(self, small: _Read, large: _Read) -> float:
        most = max(self.most * _GROWTH, large.size)
        seconds = large.took - small.took
        if seconds <= 0:
            return most
        rate = (large.size - small.size) / seconds
        latency = small.took - small.size / rate
        return min(most, rate * max(_READ, _LATENCIES * latency))


class Pace:
    """Calls ``progress`` while bytes arrive, not too often, and once at the end."""

    def __init__(self, progress: Progress, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress = progress
        self._clock = clock
        self._told = -1
        self._told_at = clock()
        self._asking = _Asking()

    def pull(self, pull: Callable[[int], bytes], n: int) -> bytes:
        """Return what ``pull`` gives, asked for what it gives in a short time where that helps."""
        started = self._clock()
        piece = pull(min(n, self._asking.most))
        self._asking.learn(_Read(len(piece), self._clock() - started))
        return piece

    def arrived(self, done: int, total: int | None) -> None:
        """Tell of ``done`` bytes, unless others were told of just before or these are the last."""
        now = self._clock()
        if now - self._told_at >= EVERY and (total is None or done < total):
            self._tell(max(done, self._told), total)
            # Not ``now``: a progress that takes long is not called all the time.
            self._told_at = self._clock()

    def ended(self, done: int, total: int | None) -> None:
        """Tell of the last byte, unless it was told of before it was known to be the last."""
        if done != self._told:
            self._tell(done, total)

    def _tell(self, done: int, total: int | None) -> None:
        self._told = done
        self._progress(done, total)
