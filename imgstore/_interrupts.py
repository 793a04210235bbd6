"""Calls that an interrupt does not cut off from what they did."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Final

_PAUSE: Final = 0.001  # seconds between looks, once there was an interrupt


def uninterrupted(call: Callable[[], None]) -> None:
    """Call to the end, or not at all; an interrupt (Ctrl-C) that comes meanwhile is raised then.

    Python delivers signals to the main thread, between any two of its steps: also after a request
    was answered and before the answer is assigned. So there the call is made by another thread.
    ``call`` notes what it did, so that whoever gets the interrupt can undo it.
    """
    # When the interpreter ends, no other thread runs any more.
    if threading.current_thread() is not threading.main_thread() or sys.is_finalizing():
        call()
        return
    turn: list[None] = [None]  # whoever takes it says whether the call is made
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
        thread = threading.Thread(target=run, name="imgstore-uninterrupted", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # none starts any more at exit (since Python 3.12), or none is left
            run()
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
