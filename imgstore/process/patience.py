"""Trying again, and waiting until something is so: how often, how long, and with which pauses."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from imgstore.boundary.translation import describe

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How long something that may still succeed is waited for; all times are in seconds.

    The first pause is ``first`` long, each further one twice as long as the one before, but
    ``longest`` at most. Patience ends after ``seconds`` or ``times`` pauses; a last attempt is
    made when it ends. ``at_once`` puts an attempt without a pause before the first one. With
    ``spread`` each pause is shortened at random to no less than a half, so that those who stand in
    each other's way do not meet again. ``sleep`` waits; it may end early, or raise.
    """

    first: float
    longest: float = math.inf
    seconds: float = math.inf
    times: float = math.inf
    at_once: bool = False
    spread: bool = False
    sleep: Callable[[float], object] = time.sleep

    def pauses(self) -> Iterator[float]:
        """Return how long each pause is to be; the time counts from this call."""
        return self._pauses(time.monotonic() + self.seconds)

    def _pauses(self, end: float) -> Iterator[float]:
        pause, left = self.first, self.times
        if self.at_once and left > 0:
            left -= 1
            yield 0.0
        while left > 0 and (rest := end - time.monotonic()) > 0:
            length = min(pause, self.longest)
            if self.spread:
                length = random.uniform(length / 2, length)  # noqa: S311  # no secret
            yield min(length, rest)
            pause, left = 2 * pause, left - 1

    def attempts(self) -> Iterator[int]:
        """Yield the number of each attempt, from 1 on, with a pause before all but the first."""
        pauses = self.pauses()
        yield 1
        for number, pause in enumerate(pauses, start=2):
            self.sleep(pause)
            yield number

    def repeat(
        self,
        call: Callable[[], T],
        may_pass: Callable[[Exception], bool],
        again: Callable[[Exception], object] = lambda exc: None,
    ) -> T:
        """Return what ``call`` returns, called again after a failure that ``may_pass``.

        ``again`` is told of each failure before its pause. Raises the failure that does not pass,
        or the last one.
        """
        pauses = self.pauses()
        while True:
            try:
                return call()
            except Exception as exc:
                if not may_pass(exc) or (pause := next(pauses, None)) is None:
                    raise
                again(exc)
            self.sleep(pause)


def noted(logger: logging.Logger, what: str) -> Callable[[Exception], None]:
    """Return a function that notes, at INFO, with which failure something is tried again."""
    return lambda exc: logger.info("%s is tried again: %s", what, describe(exc))
