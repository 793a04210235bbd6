"""Sources and sinks that misbehave, or watch how they are used."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from imgstore.testing.harness import WAIT


class Watched:
    """A source of short reads that remembers how it was used and refuses to be rewound."""

    def __init__(self, data: bytes, *, at_most: int = 1 << 30) -> None:
        """Deliver ``data``, never more than ``at_most`` bytes at a time."""
        self._stream = io.BytesIO(data)
        self._at_most = at_most
        self.asked: list[int] = []
        self.closed = False

    def read(self, n: int, /) -> bytes:
        """Return a piece."""
        self.asked.append(n)
        return self._stream.read(min(n, self._at_most))

    def seek(self, *_: object) -> NoReturn:
        """Fail: nobody may rewind a source."""
        raise AssertionError("the source was rewound")

    def close(self) -> None:
        """Remember it: only who opens a source closes it."""
        self.closed = True


class Untouched:
    """A source that nobody may read."""

    def read(self, n: int, /) -> NoReturn:
        """Fail."""
        raise AssertionError(f"the source was asked for {n} bytes")


class Failing:
    """A source or sink that raises after a number of bytes."""

    def __init__(self, error: BaseException, *, after: int = 0) -> None:
        """Raise ``error`` instead of passing byte number ``after``."""
        self._error = error
        self._left = after

    def read(self, n: int, /) -> bytes:
        """Return zeros as long as there are any."""
        if self._left == 0:
            raise self._error
        n = min(n, self._left)
        self._left -= n
        return bytes(n)

    def update(self, data: bytes, /) -> None:
        """Take in bytes as long as there is room."""
        if len(data) > self._left:
            raise self._error
        self._left -= len(data)


class Paused:
    """A source that stops in the middle until it is told to go on."""

    def __init__(self, data: bytes) -> None:
        """Deliver ``data`` in two halves."""
        self._halves = [data[: len(data) // 2], data[len(data) // 2 :]]
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def read(self, n: int, /) -> bytes:
        """Return a piece; between the halves, wait."""
        if not self._halves[0]:
            self.reached.set()
            if not self.go_on.wait(WAIT):
                raise AssertionError("nobody let the source go on")
            self._halves = [self._halves[1], b""]
        piece, self._halves[0] = self._halves[0][:n], self._halves[0][n:]
        return piece


class Trickling:
    """A source that gives one byte at a time, and a thousand of them in ten seconds."""

    def __init__(self) -> None:
        """Start with nothing given."""
        self.given = 0

    def read(self, n: int, /) -> bytes:
        """Return a byte."""
        if self.given == 1000:
            return b""
        time.sleep(0.01)
        self.given += 1
        return b"x"


class Calling:
    """A sink that calls a function with how many bytes it got so far."""

    def __init__(self, call: Callable[[int], object]) -> None:
        """Call ``call`` with each block."""
        self._call = call
        self._done = 0

    def update(self, data: bytes, /) -> None:
        """Take in a block."""
        self._done += len(data)
        self._call(self._done)


class Collected:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        """Start empty."""
        self.blocks: list[bytes] = []

    def update(self, data: bytes, /) -> None:
        """Take in a block."""
        self.blocks.append(data)

    @property
    def data(self) -> bytes:
        """Return everything so far."""
        return b"".join(self.blocks)


def raising(error: BaseException) -> Callable[..., NoReturn]:
    """Return a function that raises ``error``."""

    def call(*_: object) -> NoReturn:
        raise error

    return call
