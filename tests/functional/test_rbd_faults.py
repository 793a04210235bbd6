"""The RBD store while its cluster fails: killed, frozen, full, refusing."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from servers.ceph import Ceph
from servers.ceph import ceph as run_ceph
from servers.pools import RbdPool, admin, make_pool
from servers.process import until
from servers.scratch import Scratch

from imgstore import errors
from imgstore.drivers._librbd import connection
from imgstore.drivers.rbd import RbdStore
from imgstore.testing.harness import content, new_id, pattern

pytestmark = pytest.mark.servers("ceph")

MIB = 1024 * 1024
LIMIT = 4  # seconds that stores of these tests wait for the cluster


@pytest.fixture
def pool(ceph: Ceph, rbd_pool: RbdPool) -> Iterator[RbdPool]:
    yield rbd_pool
    ceph.heal()
    rbd_pool.empty()
    for name in rbd_pool.objects():  # which an OSD wrote late, when its image was removed
        rbd_pool.context.remove_object(name)


@pytest.fixture
def store(pool: RbdPool, tmp_path: Path) -> Iterator[RbdStore]:
    """A store that waits for the cluster as long as it takes, and soon asks where an OSD is now."""
    conf = tmp_path / "soon.conf"
    text = pool.user.conf.read_text()
    conf.write_text(text.replace("[client]\n", "[client]\nobjecter_timeout = 1\n"))
    with pool.store(ceph_conf=str(conf)) as store:
        yield store


@pytest.fixture
def hasty(ceph: Ceph, pool: RbdPool) -> Iterator[RbdStore]:
    """A store that waits for seconds only."""
    with pool.store("hasty", rados_connect_timeout=LIMIT) as store:
        yield store
        ceph.heal()


class Source:
    """Delivers `data` in pieces; `at` maps a position to what happens before it is passed."""

    def __init__(self, data: bytes, at: dict[int, Callable[[], object]]) -> None:
        self.data = memoryview(data)
        self.at = at
        self.position = 0

    def read(self, n: int) -> bytes:
        for position in [each for each in self.at if self.position >= each]:
            self.at.pop(position)()
        piece = bytes(self.data[self.position : self.position + min(n, MIB)])
        self.position += len(piece)
        return piece


def later(seconds: float, call: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(seconds, call)
    timer.start()
    return timer


def _clean_up(store: RbdStore, pool: RbdPool) -> None:
    """Remove the unfinished image, once nobody watches it; a busy OSD may take a while for that."""

    def is_clean() -> bool:
        try:
            return bool(store.remove_leftovers(older_than=0)) or not pool.images()
        except errors.TimedOut:
            return False

    until(is_clean, seconds=90, what="the unfinished image can be removed")


class TestOsd:
    def test_killed_and_restarted_while_it_is_written_to(self, ceph: Ceph, store: RbdStore) -> None:
        data = pattern(50 * MIB)

        def outage() -> None:
            ceph.osd.kill()
            later(1, ceph.osd.revive)

        image = store.add(new_id(), Source(data, {20 * MIB: outage}))
        assert image.digests["sha256"] == hashlib.sha256(data).hexdigest()
        assert content(store, image.location) == data

    def test_killed_and_restarted_while_it_is_read(self, ceph: Ceph, store: RbdStore) -> None:
        data = pattern(80 * MIB)  # more than is read ahead
        image = store.add(new_id(), data)
        with store.get(image.location) as reader:
            got = bytearray(reader.read(20 * MIB))
            ceph.osd.kill()
            later(1, ceph.osd.revive)
            got += reader.read()
        assert got == data

    def test_gone_for_longer_than_the_limit_while_it_is_written_to(
        self, ceph: Ceph, pool: RbdPool, hasty: RbdStore
    ) -> None:
        """The add ends; what it could not remove is a leftover, and no image."""
        source = Source(pattern(50 * MIB), {20 * MIB: ceph.osd.kill})
        with pytest.raises(errors.Unavailable) as caught:
            hasty.add(name := new_id(), source)
        assert isinstance(caught.value, errors.TimedOut)
        assert not caught.value.indeterminate
        ceph.heal()
        with pytest.raises(errors.NotFound):
            hasty.get(f"rbd://{ceph.fsid}/images/{name}/snap")
        _clean_up(hasty, pool)
        assert pool.images() == []
        image = hasty.add(name, b"again")
        assert content(hasty, image.location) == b"again"

    def test_gone_for_longer_than_the_limit_while_it_is_read(
        self, ceph: Ceph, hasty: RbdStore
    ) -> None:
        image = hasty.add(new_id(), pattern(60 * MIB))
        with hasty.get(image.location) as reader:
            reader.read(MIB)
            ceph.osd.kill()
            began = time.monotonic()
            with pytest.raises(errors.Unavailable):
                reader.read()
            assert time.monotonic() - began < 90
        ceph.heal()
        assert hasty.size(image.location) == 60 * MIB

    def test_a_read_goes_on_where_a_time_limit_broke_it_off(
        self, ceph: Ceph, hasty: RbdStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The OSD is back in the moment in which the limit ended a request."""
        data = pattern(100 * MIB)  # more than is read ahead
        image = hasty.add(new_id(), data)
        broke = threading.Event()

        def thaw(record: logging.LogRecord) -> bool:
            if "connection to the cluster broke" in record.getMessage() and not broke.is_set():
                broke.set()
                ceph.osd.thaw()
            return True

        caplog.set_level(logging.DEBUG, connection.LOG.name)
        caplog.handler.addFilter(thaw)
        with hasty.get(image.location) as reader:
            got = bytearray(reader.read(20 * MIB))
            ceph.osd.freeze()
            got += reader.read()
        caplog.handler.removeFilter(thaw)
        assert broke.is_set()
        assert got == data

    @pytest.mark.parametrize("verb", ["size", "get", "delete"])
    def test_frozen(self, ceph: Ceph, hasty: RbdStore, verb: str) -> None:
        image = hasty.add(new_id(), b"data")
        ceph.osd.freeze()
        began = time.monotonic()
        with pytest.raises(errors.Unavailable):
            getattr(hasty, verb)(image.location)
        assert time.monotonic() - began < 60
        ceph.osd.thaw()
        assert content(hasty, image.location) == b"data"

    def test_frozen_while_the_snapshot_is_made(
        self, ceph: Ceph, pool: RbdPool, hasty: RbdStore
    ) -> None:
        """Whether the image is complete cannot be told, and afterwards it is or is not.

        librbd would return only when the OSD is back: its notice of a snapshot has no time limit.
        """
        data = pattern(3 * MIB)
        timers = list[threading.Timer]()

        class Ending:
            def __init__(self) -> None:
                self.left = data

            def read(self, n: int) -> bytes:
                piece, self.left = self.left[:n], self.left[n:]
                if not piece:
                    timers.append(later(0.02, ceph.osd.freeze))
                return piece

        name = new_id()
        with contextlib.suppress(errors.Unavailable):
            hasty.add(name, Ending())
        for timer in timers:
            timer.cancel()
            timer.join()
        ceph.osd.thaw()
        ceph.heal()
        location = f"rbd://{ceph.fsid}/images/{name}/snap"
        try:
            found = content(hasty, location)
        except errors.NotFound:
            _clean_up(hasty, pool)
        else:
            assert found == data


class TestMonitor:
    def test_gone_at_the_start(self, ceph: Ceph, pool: RbdPool) -> None:
        """The constructor does not ask; threads that wait for a connection share the attempt."""
        ceph.mon.kill()
        with pool.store(rados_connect_timeout=LIMIT // 2) as store:
            began = time.monotonic()

            def add(_: int) -> type[BaseException]:
                with pytest.raises(errors.Unavailable) as caught:
                    store.add(new_id(), b"x")
                return caught.type

            with ThreadPoolExecutor(4) as threads:
                assert set(threads.map(add, range(4))) == {errors.TimedOut}
            assert time.monotonic() - began < 4 * LIMIT
            for write in (True, False):
                (problem,) = store.check(write=write)
                assert "no monitor answers in time" in problem
            ceph.mon.revive()
            assert store.check() == store.check(write=False) == []
            image = store.add(new_id(), b"x")
            assert content(store, image.location) == b"x"

    def test_killed_and_restarted(self, ceph: Ceph, store: RbdStore) -> None:
        store.add(new_id(), b"x")
        ceph.mon.kill()
        later(1, ceph.mon.revive)
        image = store.add(new_id(), b"y")  # snapshots need the monitor
        assert content(store, image.location) == b"y"


class TestCutOff:
    def test_a_client_that_was_blocklisted_connects_anew(
        self, ceph: Ceph, pool: RbdPool, store: RbdStore
    ) -> None:
        image = store.add(name := new_id(), b"x")

        def cut_off() -> None:
            with pool.image(f"imgstore-add-{unfinished}", read_only=True) as found:
                (watcher,) = found.watchers_list()
            ceph.command("osd", "blocklist", "add", watcher["addr"])

        unfinished = new_id()
        with pytest.raises(errors.Unavailable, match="cut this client off"):
            store.add(unfinished, Source(pattern(40 * MIB), {10 * MIB: cut_off}))
        assert content(store, image.location) == b"x"
        until(
            lambda: pool.images() == [name] or bool(store.remove_leftovers(older_than=0)),
            seconds=60,
            what="the unfinished image can be removed",
        )
        assert pool.images() == [name]


@pytest.fixture(scope="module")
def watched_cluster(scratch: Scratch) -> Iterator[Ceph]:
    """A cluster with a manager, which sees to the quotas of pools."""
    with run_ceph(scratch, mgr=True) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def small_pool(watched_cluster: Ceph) -> Iterator[RbdPool]:
    with admin(watched_cluster) as client:
        yield make_pool(watched_cluster, client, "small")


class TestFull:
    def flags(self, cluster: Ceph, pool: str) -> str:
        return next(
            line
            for line in cluster.command("osd", "pool", "ls", "detail").splitlines()
            if f"'{pool}'" in line
        )

    def test_a_quota(self, watched_cluster: Ceph, small_pool: RbdPool) -> None:
        """The add ends at once and leaves nothing; images can be read and deleted; then it goes."""
        cluster, name = watched_cluster, small_pool.name
        with small_pool.store() as store:
            kept = store.add(new_id(), pattern(10 * MIB))
            cluster.quota(name, 5 * MIB)
            until(lambda: "full_quota" in self.flags(cluster, name), seconds=60, what="full")
            before = small_pool.objects()
            for data in (b"small", pattern(30 * MIB)):
                with pytest.raises(errors.StorageFull):
                    store.add(new_id(), data)
            assert small_pool.objects() == before
            assert len(content(store, kept.location)) == 10 * MIB
            store.delete(kept.location)
            cluster.quota(name, None)
            until(lambda: "full_quota" not in self.flags(cluster, name), seconds=60, what="room")
            store.delete(store.add(new_id(), b"x").location)
            assert small_pool.objects() == []

    def test_a_quota_reached_in_mid_add(self, watched_cluster: Ceph, small_pool: RbdPool) -> None:
        cluster, name = watched_cluster, small_pool.name

        def full() -> None:
            cluster.quota(name, 5 * MIB)
            until(lambda: "full_quota" in self.flags(cluster, name), seconds=60, what="full")

        with small_pool.store() as store:
            with pytest.raises(errors.StorageFull):
                store.add(new_id(), Source(pattern(60 * MIB), {40 * MIB: full}))
            assert small_pool.objects() == []
            cluster.quota(name, None)
            until(lambda: "full_quota" not in self.flags(cluster, name), seconds=60, what="room")

    def test_a_full_osd(self, ceph: Ceph, pool: RbdPool, hasty: RbdStore) -> None:
        """Ceph answers some requests that it is full, and lets others wait."""
        kept = hasty.add(kept_name := new_id(), b"kept")
        with pytest.raises((errors.StorageFull, errors.TimedOut)):
            hasty.add(new_id(), Source(pattern(60 * MIB), {30 * MIB: ceph.fill}))
        assert content(hasty, kept.location) == b"kept"
        ceph.make_room()
        until(
            lambda: pool.images() == [kept_name] or bool(hasty.remove_leftovers(older_than=0)),
            seconds=60,
            what="what was left can be removed",
        )
        assert pool.images() == [kept_name]


class TestRights:
    def test_a_wrong_key(self, ceph: Ceph, pool: RbdPool, tmp_path: Path) -> None:
        keyring = tmp_path / "keyring"
        wrong = ceph.user("stranger", mon="profile rbd", osd="profile rbd pool=images")
        keyring.write_text(wrong.keyring.read_text().replace("stranger", pool.user.name))
        conf = tmp_path / "ceph.conf"
        conf.write_text(pool.user.conf.read_text().replace(str(pool.user.keyring), str(keyring)))
        with pool.store(ceph_conf=str(conf)) as store:
            with pytest.raises(errors.PermissionDenied):
                store.add(new_id(), b"x")
            with pytest.raises(errors.PermissionDenied):
                store.size("rbd://image")
            assert len(store.check()) == 1

    def test_a_missing_key(self, pool: RbdPool, tmp_path: Path) -> None:
        conf = tmp_path / "ceph.conf"
        text = pool.user.conf.read_text()
        conf.write_text(text.replace(str(pool.user.keyring), str(tmp_path / "none")))
        with pool.store(ceph_conf=str(conf)) as store, pytest.raises(errors.PermissionDenied):
            store.add(new_id(), b"x")

    def test_a_missing_pool(self, ceph: Ceph, pool: RbdPool) -> None:
        with pool.store(pool="missing") as store:
            with pytest.raises(errors.ConfigError, match="'missing' does not exist"):
                store.add(new_id(), b"x")
            for verb in (store.get, store.size, store.delete):
                with pytest.raises(errors.NotFound, match="'missing' does not exist"):
                    verb(f"rbd://{ceph.fsid}/missing/image/snap")
            (problem,) = store.check()
            assert "'missing' does not exist" in problem

    @pytest.mark.parametrize("option", ["namespace", "data_pool"])
    def test_a_missing_place_inside(self, pool: RbdPool, option: str) -> None:
        with (
            pool.store(**{option: "missing"}) as store,
            pytest.raises(errors.ConfigError, match=r"'missing'.*does not exist"),
        ):
            store.add(new_id(), b"x")
        assert pool.objects() == []

    def test_a_key_that_may_only_read(self, ceph: Ceph, pool: RbdPool, store: RbdStore) -> None:
        image = store.add(name := new_id(), b"data")
        reader = ceph.user("reader", mon="profile rbd", osd="profile rbd-read-only pool=images")
        with RbdStore("r", pool="images", user=reader.name, ceph_conf=str(reader.conf)) as reading:
            assert content(reading, image.location) == b"data"
            assert reading.size(image.location) == 4
            for call in (
                lambda: reading.delete(image.location),
                lambda: reading.add(new_id(), b"x"),
            ):
                with pytest.raises(errors.PermissionDenied):
                    call()
            (problem,) = reading.check()
            assert "PermissionError" in problem
        assert pool.images() == [name]
        assert content(store, image.location) == b"data"


class TestProcesses:
    def test_a_forked_child_has_a_connection_of_its_own(
        self, pool: RbdPool, store: RbdStore
    ) -> None:
        """It uses and ends nothing of its parent's, not even when it exits."""
        data = pattern(40 * MIB)
        image = store.add(new_id(), data)
        reader = store.get(image.location)
        head = reader.read(MIB)
        child = os.fork()
        if not child:
            status = 1
            try:
                assert content(store, image.location) == data
                reader.close()
                store.close()
                del reader, store
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert head + reader.read() == data
        reader.close()
        assert content(store, image.location) == data

    def test_forked_children_have_addresses_of_their_own(self, store: RbdStore) -> None:
        """Where one is cut off by its address, as one that died is, the others are not."""

        def address() -> str:
            with store._clusters.get().connection() as connection:
                found: str = connection._client.get_addrs()
                return found

        found = {address()}
        for _ in range(2):
            reading, writing = os.pipe()
            child = os.fork()
            if not child:
                try:
                    os.write(writing, address().encode())
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            found.add(os.read(reading, 1000).decode())
            os.close(reading)
            os.close(writing)
        store._clusters.close()
        found.add(address())
        assert len(found) == 4, found

    SCRIPT = """
import os, sys, threading, time
from imgstore.drivers.rbd import RbdStore
pool, user, conf, how = sys.argv[1:]
store = RbdStore("rbd", pool=pool, user=user, ceph_conf=conf)
image = store.add("image-of-" + how, bytes(1000) + b"x" * 50_000_000)
reader = store.get(image.location)
reader.read(1)
if how == "daemon":
    class Endless:
        def read(self, n):
            return b"x" * n

    for number in range(2):
        threading.Thread(
            target=store.add, args=(f"endless-{number}", Endless()), daemon=True
        ).start()
    threading.excepthook = lambda *_: None
    time.sleep(0.3)
if how == "fork" and os.fork() == 0:
    sys.exit(0)
if how == "fork":
    assert os.wait()[1] == 0
    assert len(reader.read()) == 50_000_999
print("done", flush=True)
"""

    @pytest.mark.parametrize("how", ["fork", "open", "daemon"])
    def test_the_interpreter_ends_with_all_left_open(self, pool: RbdPool, how: str) -> None:
        command = [sys.executable, "-c", self.SCRIPT, pool.name, pool.user.name, pool.user.conf]
        done = subprocess.run(
            [*map(os.fspath, command), how],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")

    @pytest.mark.parametrize("attempt", range(8))
    def test_ctrl_c_from_outside_leaves_nothing(
        self, ceph: Ceph, pool: RbdPool, store: RbdStore, attempt: int
    ) -> None:
        """Wherever the signal comes: in a wait, a request, the end."""
        data = pattern(20 * MIB)

        def work() -> None:
            later(0.02 + attempt * 0.05, lambda: os.kill(os.getpid(), signal.SIGINT))
            while True:
                store.delete(store.add(new_id(), Source(data, {})).location)

        with pytest.raises(KeyboardInterrupt):
            work()
        until(
            lambda: not store.remove_leftovers(older_than=0) and not pool.trash(),
            seconds=60,
            what="nothing unfinished is left",
        )
        for name in pool.images():
            assert pool.content(name) == data  # complete, and its deletion had not begun
            store.delete(f"rbd://{ceph.fsid}/images/{name}/snap")
        assert pool.objects() == []

    def test_ctrl_c_in_mid_add_leaves_nothing(self, pool: RbdPool, store: RbdStore) -> None:
        source = Source(pattern(60 * MIB), {20 * MIB: lambda: os.kill(os.getpid(), signal.SIGINT)})
        with pytest.raises(KeyboardInterrupt):
            store.add(new_id(), source)
        assert pool.objects() == []


def test_a_source_that_fails_leaves_nothing(pool: RbdPool, store: RbdStore) -> None:
    def fail() -> None:
        raise OSError(errno.EPIPE, "the client went away")

    for position in (0, MIB, 40 * MIB):
        with pytest.raises(BrokenPipeError):
            store.add(new_id(), Source(pattern(50 * MIB), {position: fail}))
    assert pool.objects() == []
