"""Closing, by a thread of its own, what the garbage collector came upon."""

from __future__ import annotations

import atexit
import contextlib
import enum
import logging
import os
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Final

from imgstore.boundary.translation import describe

LOG = logging.getLogger(__name__)

Call = Callable[[], None]

# Seconds in which what was dropped together with the janitor is still taken.
_LAST: Final = 1.0
_EXIT: Final = 10.0  # seconds that an interpreter's exit waits for a call


class _End(enum.Enum):
    NOW = enum.auto()
    SOON = enum.auto()


class Janitor:
    """A thread that calls what it is told to.

    The collector runs inside whatever its thread does, with any lock that it has then: that of a
    connection, of a logger. What it comes upon may be closed by it only if that needs no lock.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        # Its put may be called within itself, unlike that of queue.Queue.
        self._calls: queue.SimpleQueue[Call | _End] = queue.SimpleQueue()
        weakref.finalize(self, self._calls.put, _End.SOON).atexit = False
        self._thread = threading.Thread(
            target=_run, args=(self._calls,), name="imgstore-janitor", daemon=True
        )
        with contextlib.suppress(RuntimeError):  # at exit none starts; end() calls then
            self._thread.start()
        _living.add(self)

    def leave(self, call: Call) -> None:
        """Have it called soon; in a forked child, where the thread is not, at once."""
        if os.getpid() == self._pid:
            self._calls.put(call)
        else:
            call()

    def end(self) -> None:
        """Call what is left, and end the thread."""
        with contextlib.suppress(queue.Empty):
            while True:
                call = self._calls.get_nowait()
                if not isinstance(call, _End):
                    _try(call)
        self._calls.put(_End.NOW)

    def exit(self) -> None:
        """Let no thread be in a library of C when the interpreter ends."""
        if os.getpid() == self._pid:
            self.end()
            if self._thread.is_alive():
                self._thread.join(_EXIT)


def _run(calls: queue.SimpleQueue[Call | _End]) -> None:
    patience: float | None = None
    with contextlib.suppress(queue.Empty):
        while True:
            call = calls.get(timeout=patience)
            if call is _End.NOW:
                return
            if call is _End.SOON:
                patience = _LAST
            else:
                _try(call)


def _try(call: Call) -> None:
    try:
        call()
    except Exception as exc:
        LOG.warning("closing what was dropped: %s", describe(exc))


_living: weakref.WeakSet[Janitor] = weakref.WeakSet()


@atexit.register
def _exit() -> None:
    for each in list(_living):
        each.exit()
