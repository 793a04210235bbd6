"""One client per process, across real forks."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest

from imgstore import errors
from imgstore.data.units import MIB
from imgstore.drivers.filesystem import FilesystemStore
from imgstore.process.per_process import PerProcess
from imgstore.testing.expecting import Judging

WAIT = 30

# From Python 3.12 on a fork beside threads warns; that is the case under test.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


class Client:
    def __init__(self):
        self.pid = os.getpid()
        self.closed = False

    def close(self):
        assert self.pid == os.getpid(), "another process's client was closed"
        self.closed = True


def in_child(call):
    """Run ``call`` in a forked child; fail if it raises or takes too long."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            threading.Timer(WAIT, os._exit, (2,)).start()
            call()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_the_client_is_built_once_and_on_demand():
    """Nothing is built before it is asked for, and only once for any number of threads."""
    built = []
    clients = PerProcess(lambda: built.append(1) or Client(), Client.close)
    assert built == []
    barrier = threading.Barrier(8)

    def get():
        barrier.wait(WAIT)
        return clients.get()

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(get) for _ in range(8)]
        assert len({future.result(WAIT) for future in futures}) == 1
    assert built == [1]


def test_a_failed_build_is_tried_again():
    """An exception while building comes through; the next call builds anew."""
    outcomes = iter([OSError("down"), Client()])

    def build():
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    clients = PerProcess(build, Client.close)
    with pytest.raises(OSError, match="down"):
        clients.get()
    assert clients.get() is clients.get()


def test_closing_closes_once():
    """Closing without a client does nothing; a closed one is replaced on demand."""
    clients = PerProcess(Client, Client.close)
    clients.close()
    first = clients.get()
    clients.close()
    clients.close()
    assert first.closed
    assert clients.get() is not first


def test_a_child_builds_its_own_and_leaves_its_parents_alone():
    """A forked child neither uses nor closes its parent's client."""
    clients = PerProcess(Client, Client.close)
    parents = clients.get()

    def child():
        own = clients.get()
        assert own is not parents
        assert own.pid == os.getpid()
        clients.close()
        assert own.closed
        assert not parents.closed
        assert clients.get() is not own

    in_child(child)
    assert clients.get() is parents
    assert not parents.closed


def test_a_child_closes_nothing_it_did_not_build():
    """Closing in a child that never asked for a client touches nothing."""
    clients = PerProcess(Client, Client.close)
    parents = clients.get()
    in_child(clients.close)
    assert not parents.closed
    assert clients.get() is parents


def test_a_build_under_way_does_not_block_a_child():
    """A lock that another thread held during the fork is not the child's."""
    building, go_on = threading.Event(), threading.Event()
    parent = os.getpid()

    def build():
        if os.getpid() == parent:
            building.set()
            assert go_on.wait(WAIT)
        return Client()

    clients = PerProcess(build, Client.close)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(clients.get)
        try:
            assert building.wait(WAIT)
            in_child(clients.get)
        finally:
            go_on.set()
        assert future.result(WAIT).pid == parent


@pytest.mark.parametrize("end", ["the reader is closed", "the store is closed", "it is read"])
def test_a_reader_with_digests_stays_in_its_process(tmp_path, end):
    """The threads that compute them are not in a child, where nobody waits for them for ever."""
    data = bytes(20 * MIB)
    digests = {"sha256": hashlib.sha256(data).hexdigest()}
    with FilesystemStore("files", datadir=str(tmp_path)) as store:
        image = store.add("image", data)
        with store.get(image, expected=digests) as reader:
            reader.read(2 * MIB)

            def close():
                if end == "it is read":
                    with pytest.raises(errors.StoreError, match="fork"):
                        reader.read()
                (store if end == "the store is closed" else reader).close()

            in_child(close)
            if end != "it is read":  # which moves the position, as the two share the file
                assert len(reader.read()) == 18 * MIB


def test_a_process_that_dies_while_a_sink_judges(tmp_path):
    """The image was not committed, its id is free, and what is left of it is removed."""
    with FilesystemStore("files", datadir=str(tmp_path)) as store:
        sink = Judging(lambda data: os.kill(os.getpid(), signal.SIGKILL))
        child = os.fork()
        if child == 0:
            store.add("image", bytes(3 * MIB), sinks=[sink])
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        with pytest.raises(errors.NotFound):
            store.size(f"file://{tmp_path}/image")
        store.remove_leftovers(older_than=0)
        assert list(tmp_path.iterdir()) == []
        store.add("image", b"another")
