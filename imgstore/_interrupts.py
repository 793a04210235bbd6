"""Calls that an interrupt does not cut off from what they did."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait


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
    outcome: Future[None] = Future()

    def run() -> None:
        if outcome.set_running_or_notify_cancel():
            try:
                call()
            except BaseException as exc:  # raised by the thread that waits
                outcome.set_exception(exc)
            else:
                outcome.set_result(None)

    try:
        threading.Thread(target=run, name="imgstore-uninterrupted", daemon=True).start()
        outcome.result()
    except BaseException:
        if not outcome.cancel():
            wait([outcome])
        raise
