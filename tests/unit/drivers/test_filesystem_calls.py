"""Time limits for calls, without a file system."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import pytest

from imgstore import errors
from imgstore.drivers.filesystem.calls import Calls, Job, OpenFile

WAIT = 20


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    """What a call waits for; set at the end at the latest."""
    event = threading.Event()
    yield event
    event.set()


def calls(*, size: int = 4, timeout: int = 1) -> Calls:
    return Calls(timeout=timeout, size=size, threshold=75)


def soon(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "imgstore-file"]


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("timeout", [0, 5])
def test_results_and_errors_come_through(timeout: int) -> None:
    """With and without a limit a call returns and raises what it would by itself."""
    made = calls(timeout=timeout)
    assert made(lambda a, b: a + b, 1, 2) == 3
    for error in (OSError(5, "x"), ValueError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught:
            made(fail, error)
        assert caught.value is error


def test_an_interrupt_loses_no_thread() -> None:
    """One that comes while a thread is started leaves its place to another."""

    def interrupt(frame: FrameType, event: str, _: object) -> None:
        if frame.f_code is threading.Thread.__init__.__code__:
            sys.settrace(None)
            raise KeyboardInterrupt

    made = calls(size=1)
    ended: list[str] = []
    sys.settrace(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            made(ended.append, "interrupted")
    finally:
        sys.settrace(None)
    made(ended.append, "after it")
    assert ended[-1] == "after it"


def test_without_a_limit_there_are_no_threads() -> None:
    """A limit of 0 makes the call where it is."""
    assert calls(timeout=0)(threading.current_thread) is threading.current_thread()
    assert calls(timeout=5)(threading.current_thread) is not threading.current_thread()


def test_a_call_is_given_up(hanging: threading.Event) -> None:
    """A call beyond its time is TimedOut; ``late`` is called once, when it has returned."""
    made, late = calls(), list[None]()
    with pytest.raises(errors.TimedOut):
        made.outcome(Job(lambda: hanging.wait(WAIT), lambda: late.append(None)))
    assert late == []
    hanging.set()
    soon(lambda: late)
    assert late == [None]


def test_a_late_failure_is_nobodys(hanging: threading.Event) -> None:
    """``late`` is called where the call failed after all; what it raises itself harms nobody."""
    made, late = calls(size=1), list[None]()

    def clean() -> None:
        late.append(None)
        raise RuntimeError

    with pytest.raises(errors.TimedOut):
        made.outcome(Job(lambda: hanging.wait(WAIT) and fail(OSError(5, "x")), clean))
    hanging.set()
    soon(lambda: late)
    assert late == [None]
    assert made(lambda: "works") == "works"


def test_waiting_calls_are_never_made(hanging: threading.Event) -> None:
    """What found no thread in time is not made when there is one; ``late`` is called."""
    made, late, done = calls(size=1), list[None](), list[int]()

    def job(number: int) -> Job:
        return Job(lambda: done.append(number), lambda: late.append(None))

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(made, hanging.wait, WAIT)]
        soon(threads)
        futures += [pool.submit(made.outcome, job(n)) for n in range(3)]
        assert all(isinstance(f.exception(WAIT), errors.TimedOut) for f in futures)
    hanging.set()
    soon(lambda: len(late) == 3)
    assert (late, done) == ([None] * 3, [])


def test_a_thread_that_cleans_up_is_not_waited_for(hanging: threading.Event) -> None:
    """What hangs again when it is undone keeps its thread, and other calls get another one."""
    made, undoing = calls(size=2), threading.Event()
    came_back = threading.Event()

    def clean() -> None:
        undoing.set()
        hanging.wait(WAIT)

    with pytest.raises(errors.TimedOut):
        made.outcome(Job(lambda: came_back.wait(WAIT), clean))
    came_back.set()
    assert undoing.wait(WAIT)
    assert made(lambda: "works") == "works"


def test_no_more_threads_than_allowed() -> None:
    """A pool has as many threads as are busy at once, up to its size."""
    soon(lambda: not threads())
    made = calls(size=3, timeout=WAIT)
    for _ in range(20):
        made(lambda: None)
    assert len(threads()) == 1
    seen = []

    def work() -> None:
        seen.append(len(threads()))
        time.sleep(0.02)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(made, work) for _ in range(30)]:
            future.result(WAIT)
    assert max(seen) == 3
    soon(lambda: not threads())  # they end when idle
    assert made(lambda: "again") == "again"


def opened(made: Calls) -> OpenFile:
    file = OpenFile(made)
    file.open(lambda held: held.open("/dev/null", os.O_RDONLY))
    return file


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_a_descriptor_in_use_is_not_closed(hanging: threading.Event) -> None:
    """A descriptor stays open while a call hangs on it, and is closed exactly once after that."""
    file = opened(calls())
    with pytest.raises(errors.TimedOut):
        file(lambda fd: hanging.wait(WAIT) and fail(OSError(5, "x")))
    assert file.lost
    fd = file.fd
    file.close()
    file.close()
    assert is_open(fd)
    hanging.set()
    soon(lambda: not is_open(fd))


@pytest.mark.parametrize("timeout", [0, 5])
def test_a_descriptor_is_closed_once(timeout: int) -> None:
    """Closing again harms no descriptor that got the same number, and never raises."""
    file = opened(calls(timeout=timeout))
    fd = file.fd
    assert file(os.read, 1) == b""
    assert file.reader(5)() == b""
    file.close()
    again = os.open("/dev/null", os.O_RDONLY)
    assert again == fd
    file.close()
    assert is_open(again)
    os.close(again)


def test_a_hanging_close_is_awaited_no_longer_than_other_calls(hanging: threading.Event) -> None:
    """close() comes back in time when all threads hang, and closes as soon as one is free."""
    made = calls(size=1)
    file = opened(made)
    with pytest.raises(errors.TimedOut):
        made(hanging.wait, WAIT)
    fd = file.fd
    file.close()
    assert is_open(fd)
    hanging.set()
    soon(lambda: not is_open(fd))
