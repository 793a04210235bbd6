"""One thread makes it, all others wait for it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from imgstore.errors import PermissionDenied, Unavailable
from imgstore.process.shared import Shared

THREADS = 8


class Maker:
    """Makes a value once it is let, or raises."""

    def __init__(self, *raised):
        self.calls = 0
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self._raised = list(raised)

    def __call__(self):
        self.calls += 1
        self.entered.set()
        assert self.go_on.wait(30)
        if self._raised:
            raise self._raised.pop(0)
        return [self.calls]


def asked(shared, maker):
    """Let many threads ask at once; return their futures."""
    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(shared.get)]
        assert maker.entered.wait(30)
        futures += [pool.submit(shared.get) for _ in range(THREADS - 1)]
        maker.go_on.set()
    return futures


def test_all_get_the_same():
    """It is made once, and kept."""
    maker = Maker()
    shared = Shared(maker)
    values = [future.result() for future in asked(shared, maker)]
    assert all(value is values[0] for value in values)
    assert maker.calls == 1
    assert shared.get() is shared.peek() is values[0]


def test_a_failure_is_shared():
    """Those who waited do not try as long again, and each raises an error of its own."""
    first = PermissionDenied("wrong password")
    first.remedy = "ask for another one"
    maker = Maker(first, *[PermissionDenied("again")] * THREADS)
    shared = Shared(maker)
    raised = [future.exception() for future in asked(shared, maker)]
    assert all(isinstance(exc, PermissionDenied) for exc in raised)
    assert len({id(exc) for exc in raised}) == len(raised)
    assert {str(exc.remedy) for exc in raised if exc.reason == "wrong password"} == {
        "ask for another one"
    }
    assert maker.calls < THREADS
    assert shared.peek() is None


def test_an_interrupt_is_ones_own():
    """Another thread makes it then."""
    maker = Maker(KeyboardInterrupt())
    raised = [future.exception() for future in asked(Shared(maker), maker)]
    assert [type(exc) for exc in raised if exc is not None] == [KeyboardInterrupt]
    assert maker.calls == 2


def test_another_one_instead():
    """What was refused is not given out again, but the one after it is."""
    maker = Maker()
    maker.go_on.set()
    shared = Shared(maker)
    refused = shared.get()
    new = shared.get(instead_of=refused)
    assert new is not refused
    assert shared.get(instead_of=refused) is new
    assert shared.peek(instead_of=new) is None


def test_what_is_no_longer_good():
    """It is made anew."""
    maker = Maker()
    maker.go_on.set()
    shared = Shared(maker, is_good=lambda value: value[0] > 1)
    assert shared.get() == [1]
    assert shared.get() == [2]
    assert shared.get() == [2]


def test_dropping():
    """One value, or whichever there is."""
    maker = Maker()
    maker.go_on.set()
    shared = Shared(maker)
    assert shared.drop() is None
    value = shared.get()
    assert shared.drop([1]) is None
    assert shared.drop(value) is value
    assert shared.get() == [2]
    assert shared.drop() == [2]
    assert shared.peek() is None


def test_errors_of_others_are_shared_as_they_are():
    """Only errors of this library can be made again."""
    maker = Maker(OSError("no"), Unavailable("later"))
    maker.go_on.set()
    shared = Shared(maker)
    with pytest.raises(OSError, match="no"):
        shared.get()
    with pytest.raises(Unavailable):
        shared.get()
    assert shared.get() == [3]
