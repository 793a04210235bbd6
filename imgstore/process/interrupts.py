"""Calls that an interrupt does not cut off from what they did.

Python delivers signals to the main thread, between any two of its steps: also after a function has
returned and before its result is assigned. What one function of C does is one step.
"""

from __future__ import annotations

import _thread
import fcntl
import functools
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

T = TypeVar("T")

_PAUSE: Final = 0.001  # seconds between looks, once there was an interrupt


def note(noted: list[T], call: Callable[..., T], *args: Any) -> None:
    """Append the result of ``call(*args)`` to a list, in one step with the return of ``call``.

    ``args`` are positional and at least one.
    """
    noted.extend(map(call, *((arg,) for arg in args)))


class Descriptors:
    """Descriptors that no interrupt loses: opened and noted, or forgotten and closed, in one step.

    Used as ``with held, held:``, for an interrupt may come when the first closing begins. With
    ``locked`` their locks end before: closing does not end one that a forked process has as well.
    """

    def __init__(self, *, locked: bool = False) -> None:
        """Hold none yet."""
        self._fds: list[int] = []
        self._locked = locked

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        """Open as ``os.open`` does."""
        # As note() does it, which would cost a tenth of an open that the kernel has cached.
        self._fds.extend(map(functools.partial(os.open, path, flags, dir_fd=dir_fd), (mode,)))
        return self._fds[-1]

    def dup(self, fd: int) -> int:
        """Duplicate a descriptor."""
        note(self._fds, os.dup, fd)
        return self._fds[-1]

    @property
    def last(self) -> int:
        """Return the descriptor that was opened last, -1 if none is."""
        return self._fds[-1] if self._fds else -1

    def close_last(self) -> None:
        """Close the descriptor that was opened last, if one is open."""
        # IndexError: none is; OSError: what is written was flushed where it matters.
        with suppress(IndexError, OSError):
            deque(map(os.close, map(self._fds.pop, (-1,))), maxlen=0)

    def close(self) -> None:
        """Close all; closing again is harmless."""
        while self._fds:
            if self._locked:
                with suppress(OSError, IndexError):
                    fcntl.flock(self._fds[-1], fcntl.LOCK_UN)
            self.close_last()

    def __enter__(self) -> Descriptors:
        """Return self."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close."""
        self.close()


def uninterrupted(call: Callable[[], None]) -> None:
    """Call to the end, or not at all; an interrupt (Ctrl-C) that comes meanwhile is raised then.

    In the main thread the call is made by another thread, which gets no signals. ``call`` notes
    what it did, so that the code that gets the interrupt can undo it.
    """
    # When the interpreter ends, no other thread runs any more.
    if threading.current_thread() is not threading.main_thread() or sys.is_finalizing():
        call()
        return
    turn: list[None] = [None]  # the thread that takes it decides whether the call is made
    raised: list[BaseException] = []
    # Locks and lists change in one step; conditions, futures and events do not, and one that an
    # interrupt left half changed would never be waited for to the end.
    ended = threading.Lock()
    ended.acquire()
    done: list[None] = []

    def run() -> None:
        try:
            turn.pop()
        except IndexError:
            return
        try:
            call()
        except BaseException as exc:  # raised by the thread that waits
            raised.append(exc)
        finally:
            done.append(None)
            ended.release()

    try:
        in_a_thread(run)
        ended.acquire()
    except BaseException:
        try:
            turn.pop()
        except IndexError:
            while not done:
                time.sleep(_PAUSE)
        raise
    if raised:
        raise raised[0]


def in_a_thread(run: Callable[[], None]) -> None:
    """Run it in a thread of its own, or here where none starts; an interrupt leaves nothing half.

    It may come before the thread has begun, or after.
    """

    def start() -> None:
        try:
            threading.Thread(target=run, name="imgstore-uninterrupted", daemon=True).start()
        except RuntimeError:  # none is left
            run()

    try:
        # Not by a Thread, which stays half started for ever where its start is interrupted.
        _thread.start_new_thread(start, ())
    except RuntimeError:  # none starts any more at exit (since Python 3.12), or none is left
        run()
