"""How many requests are under way, so that an exit can wait for them."""

from __future__ import annotations

import threading
import time
from typing import Final

from imgstore.errors import Unavailable

_EXIT: Final = 10.0  # seconds that an exit waits for requests that are under way
_RETURN: Final = 0.05  # seconds for librbd's threads to return from Python


class Requests:
    """How many asynchronous requests, and verbs, of a connection are under way."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._count = 0
        self._ended = False

    def begin(self, *, is_nested: bool = False) -> None:
        """Count one, or raise Unavailable: the interpreter exits.

        What is nested in one that is counted may begin even so: it undoes that one.
        """
        with self._change:
            if self._ended and not is_nested:
                raise Unavailable("the interpreter exits")
            self._count += 1

    def done(self) -> None:
        """Count one less."""
        with self._change:
            self._count -= 1
            self._change.notify_all()

    def end(self) -> None:
        """Let no more begin, and wait for those under way.

        librbd's threads must not call back into an interpreter that is gone, nor a daemon thread
        be inside librbd while the process ends.
        """
        with self._change:
            self._ended = True
            self._change.wait_for(lambda: self._count <= 0, _EXIT)
        time.sleep(_RETURN)
