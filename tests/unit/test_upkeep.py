"""Checks of many stores: side by side, within a time, and without writing."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import imgstore
from imgstore import Store, StoreManager, errors
from imgstore.drivers.filesystem import FilesystemStore
from imgstore.drivers.memory import MemoryStore
from imgstore.layers import Layer, Limited, ReadOnly
from imgstore.process.per_process import PerProcess

WAIT = 30


class CheckedStore(MemoryStore):
    """A store that does something while it is checked."""

    def __init__(self, name, call=lambda write: ()):
        super().__init__(name)
        self._call = call

    def _check(self, *, write):
        yield from self._call(write) or ()


class OldStore(MemoryStore):
    """A store of a driver from before ``write``."""

    def _check(self):
        yield "dusty"


def test_stores_are_asked_side_by_side():
    """Nobody waits for the store before; problems come in the order of the stores."""
    meeting = threading.Barrier(3)

    def meet(write):
        meeting.wait(WAIT)
        return ["met"]

    with StoreManager([CheckedStore(name, meet) for name in "abc"]) as stores:
        assert stores.check() == ["store 'a': met", "store 'b': met", "store 'c': met"]
        assert stores.check(timeout=WAIT) == ["store 'a': met", "store 'b': met", "store 'c': met"]


def test_a_store_that_does_not_answer_is_a_problem():
    """The others' answers are told, and nobody waits for it, not to close it either."""
    go_on = threading.Event()
    try:
        dead = CheckedStore("dead", lambda write: go_on.wait(WAIT) and ())
        with StoreManager([dead, OldStore("alive")]) as stores:
            first, second = stores.check(timeout=0.2)
            assert first == (
                "store 'dead': check: no answer after 0.2 seconds; "
                "see whether the backend can be reached, or allow more time"
            )
            assert second == "store 'alive': dusty"
            assert stores.check(store="dead", timeout=0) == dead.check(timeout=0)
        with pytest.raises(ValueError, match="closed"):
            dead.check()
    finally:
        go_on.set()


def test_the_time_is_for_all():
    """Many stores that do not answer take no longer than one."""
    go_on = threading.Event()
    try:
        dead = [CheckedStore(f"{n}", lambda write: go_on.wait(WAIT) and ()) for n in range(20)]
        with StoreManager(dead) as stores:
            started = time.monotonic()
            assert len(stores.check(timeout=1)) == 20
            # One after the other it would be 20 s.
            assert time.monotonic() - started < 10
    finally:
        go_on.set()


def test_a_client_that_is_being_built_is_not_waited_for():
    """Closing leaves it to the thread that builds it, which closes it when it is there."""
    building, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def build():
        building.set()
        assert go_on.wait(WAIT)
        return object()

    clients = PerProcess(build, lambda client: closed.set())
    thread = threading.Thread(target=clients.get)
    thread.start()
    try:
        assert building.wait(WAIT)
        clients.close()
        assert not closed.is_set()
    finally:
        go_on.set()
        thread.join(WAIT)
    assert closed.is_set()


def test_a_client_that_answers_late_is_closed_once():
    """By whichever of the two finds it there; what was closed is built anew for the next."""
    closed = []
    clients = PerProcess(object, closed.append)
    first = clients.get()
    clients.close()
    clients.close()
    assert closed == [first]
    assert clients.get() is not first


HANGING = """
import threading
from imgstore import StoreManager
from imgstore.process.per_process import PerProcess
from imgstore.drivers.memory import MemoryStore

class Hanging(MemoryStore):
    def __init__(self, name):
        super().__init__(name)
        self._client = PerProcess(threading.Event().wait, lambda client: None)
    def _check(self, *, write):
        self._client.get()
        return ()
    def _close(self):
        self._client.close()

with StoreManager([Hanging("one"), Hanging("two")]) as stores:
    print(len(stores.check(timeout=0.1)))
print("end")
"""


def test_the_interpreter_does_not_wait_for_a_check(tmp_path):
    """A process ends while a store has not answered."""
    done = subprocess.run(
        [sys.executable, "-c", HANGING],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(imgstore.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("2\nend\n", "")


def test_drivers_are_told_whether_to_write():
    """Through every layer; a store that is read-only is never written to."""
    told = []
    store = CheckedStore("checked", told.append)
    for outer, expected in (
        (store, True),
        (Limited(Layer(store), 2), True),
        (Limited(ReadOnly(store), 2), False),
    ):
        outer.check()
        outer.check(write=False)
        assert told == [expected, False]
        told.clear()
    with StoreManager([store, CheckedStore("other", told.append)]) as stores:
        stores.check(write=False)
        assert told == [False, False]


def test_old_drivers_are_checked():
    """A driver whose hook has no ``write`` is called to write, and says so otherwise."""
    for store in (OldStore("old"), Layer(OldStore("old"))):
        assert store.check() == store.check(timeout=WAIT) == ["dusty"]
        (problem,) = store.check(write=False)
        assert problem.startswith("store 'old': check: its driver cannot check without writing; ")


def test_old_drivers_may_call_their_base(tmp_path):
    """Whichever store of ours that is."""

    class Files(FilesystemStore):
        def _check(self):
            return [*super()._check(), "dusty"]

    class Wrapping(Layer):
        def _check(self):
            return [*super()._check(), "dusty"]

    class Memory(MemoryStore):
        def _check(self):
            return [*super()._check(), "dusty"]

    files = Files("old", datadir=str(tmp_path))
    for store in (files, Memory("old"), Wrapping(Memory("old")), Wrapping(MemoryStore("old"))):
        assert set(store.check()) == {"dusty"}


@pytest.mark.parametrize("driver", ["cinder", "filesystem", "http", "rbd", "s3", "swift", "vmware"])
def test_the_hooks_of_all_drivers_can_be_called_by_an_old_one(driver):
    """They write unless they are told not to."""
    module = importlib.import_module(f"imgstore.drivers.{driver}")
    (store,) = (
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Store) and each is not Store
    )
    assert inspect.signature(store._check).parameters["write"].default is True


def test_an_old_driver_that_is_read_only_has_no_problem():
    """Nothing that its user could do would make it check without writing."""

    class OldLayer(Layer):
        def _check(self):
            yield from super()._check()

    stores = (
        ReadOnly(OldStore("old")),
        Limited(ReadOnly(Layer(OldStore("old"))), 1),
        ReadOnly(OldLayer(MemoryStore("old"))),
        ReadOnly(ReadOnly(OldStore("old"))),
    )
    for store in stores:
        assert store.check() == store.check(write=False) == store.check(timeout=WAIT) == []


def test_what_was_found_before_a_failure_is_told():
    """The failure comes after it."""

    def fail(write):
        yield "dusty"
        raise OSError(5, "broken")

    with CheckedStore("a", fail) as store:
        first, second = store.check()
        assert first == "dusty"
        assert second == "store 'a': check: broken (EIO); try again later"


THREADLESS = """
import threading
from imgstore import StoreManager
from imgstore.drivers.memory import MemoryStore

stores = StoreManager([MemoryStore("one"), MemoryStore("two")])
# No room for the stack of a thread.
threading.stack_size(1 << 40)
print(stores.check(timeout=30), stores.check(store="one", timeout=30), sep="\\n")
"""


def test_a_thread_that_does_not_start_is_a_problem(tmp_path):
    """A check raises nothing for it."""
    done = subprocess.run(
        [sys.executable, "-c", THREADLESS],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(imgstore.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=True,
    )
    both, one = done.stdout.splitlines()
    assert both.count("can't start new thread") == 2
    assert one.count("can't start new thread") == 1


def test_whatever_a_check_raises_is_a_problem():
    """Also what would end a thread in silence."""

    def leave(write):
        raise SystemExit(1)

    def fail(write):
        raise OSError(5, "broken")

    with StoreManager([CheckedStore("a", leave), CheckedStore("b", fail)]) as stores:
        first, second = stores.check()
        assert "SystemExit" in first
        assert second == "store 'b': check: broken (EIO); try again later"


def test_files_are_looked_at(tmp_path):
    """``write=False`` makes no directory, and finds out what would be in an add's way."""
    root = tmp_path / "images"
    with FilesystemStore("file", datadir=str(root)) as store:
        (problem,) = store.check(write=False)
        assert "there is no such directory" in problem
        assert not root.exists()
        assert store.check() == []
        assert root.is_dir()
        assert store.check(write=False) == []
        root.rmdir()
        root.write_bytes(b"")
        (problem,) = store.check(write=False)
        assert "ENOTDIR" in problem


def test_a_timeout_is_checked_first():
    """It is checked whatever the stores are."""
    with StoreManager([]) as stores:
        assert stores.check(timeout=1) == []
        with pytest.raises(errors.InvalidArgument, match="timeout"):
            stores.check(timeout=-1)
