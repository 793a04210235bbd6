"""Calls that an interrupt does not cut off from what they did."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from imgstore.process.interrupts import uninterrupted


def test_calls_and_raises() -> None:
    done: list[str] = []
    uninterrupted(lambda: done.append("called"))
    assert done == ["called"]
    with pytest.raises(AttributeError):
        uninterrupted(lambda: setattr(1, "x", 1))


def test_an_interrupt_waits_for_the_end() -> None:
    done: list[str] = []
    raised = threading.Event()

    def call() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        raised.wait(0.2)
        done.append("called")

    with pytest.raises(KeyboardInterrupt):
        uninterrupted(call)
    assert done == ["called"]


# Python drops an interrupt that comes in a callback of a weak reference, such as those of threads.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("attempt", range(40))
def test_it_is_known_whether_a_call_was_made(attempt: int) -> None:
    """Wherever the signal comes, nothing is done after it is raised."""
    done: list[str] = []
    arrived = threading.Event()

    def send() -> None:
        time.sleep(attempt / 10_000)
        while not arrived.is_set():
            os.kill(os.getpid(), signal.SIGINT)
            arrived.wait(1)

    sender = threading.Thread(target=send)

    def many() -> None:
        sender.start()
        while True:
            uninterrupted(lambda: done.append("called"))

    # threading.Condition makes a RuntimeError of an interrupt between its own steps.
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        many()
    arrived.set()
    sender.join()
    count = len(done)
    for thread in threading.enumerate():
        if thread.name == "imgstore-uninterrupted" and thread.is_alive():
            thread.join()
    assert len(done) == count


def test_other_threads_call_themselves() -> None:
    seen: list[threading.Thread] = []

    def work() -> None:
        uninterrupted(lambda: seen.append(threading.current_thread()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [thread]


def test_at_exit() -> None:
    """Where no thread starts any more, it is called all the same."""
    program = (
        "import atexit; from imgstore.process.interrupts import uninterrupted; "
        "atexit.register(lambda: uninterrupted(lambda: print('called')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "called\n"
