"""When ``progress`` is called, and how much a source is asked for meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from imgstore.hashing import MIB

EVERY: Final = 0.1  # seconds from one call to the next, at least
STEP: Final = 64 * MIB  # what a kernel copies between two calls
# A source that fills what it was asked for is asked for as much as it gives in this time.
_READ: Final = 0.05  # seconds
_LEAST: Final = 256  # bytes
_GROWTH: Final = 4

Progress = Callable[[int, int | None], object]


class Pace:
    """Calls ``progress`` while bytes arrive, not too often, and once at the end."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._told = -1
        self._told_at = time.monotonic()
        self._most = _LEAST

    def pull(self, pull: Callable[[int], bytes], n: int) -> bytes:
        """Return what ``pull`` gives, asked for no more than it gives in a short time."""
        started = time.monotonic()
        asked = min(n, self._most)
        piece = pull(asked)
        took = time.monotonic() - started
        if took > _READ:
            self._most = max(_LEAST, int(len(piece) * _READ / took))
        elif len(piece) == self._most:
            self._most *= _GROWTH
        return piece

    def arrived(self, done: int, total: int | None) -> None:
        """Tell of ``done`` bytes, unless others were told of just before or these are the last."""
        now = time.monotonic()
        if now - self._told_at >= EVERY and (total is None or done < total):
            self._tell(max(done, self._told), total)
            # Not ``now``: a progress that takes long is not called all the time.
            self._told_at = time.monotonic()

    def ended(self, done: int, total: int | None) -> None:
        """Tell of the last byte, unless it was told of before it was known to be the last."""
        if done != self._told:
            self._tell(done, total)

    def _tell(self, done: int, total: int | None) -> None:
        self._told = done
        self._progress(done, total)
