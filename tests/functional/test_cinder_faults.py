"""The Cinder store while its servers fail, and while its own processes die."""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.cinder import LIMIT, Cinder
from servers.cinder_stores import cinder_store, login
from servers.keystone import Interface, Keystone
from servers.losing import Losing, losing
from servers.process import until

from imgstore import RequestContext, Store, errors
from imgstore.testing.harness import content, difference, new_id, pattern

pytestmark = pytest.mark.servers("cinder", "keystone")

MIB = 1 << 20
DATA = pattern(40 * MIB + 3)
# What a process does that is killed, or ends, with an image open. The line says how far it is.
CHILD = """
import json, sys, time
from imgstore.drivers.cinder import CinderStore
options, verb, name = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
store = CinderStore("child", **options)
def source():
    yield bytes(1 << 20)
    print("begun", flush=True)
    time.sleep(120)
if verb == "add":
    store.add(name, source())
if verb == "attach":
    print("begun", flush=True)
reader = store.get(name)
reader.read(1)
print("begun", flush=True)
if verb == "get":
    time.sleep(120)
"""


def forget_locks(cinder: Cinder) -> None:
    """Remove the files of locks of volumes that went without the store."""
    for path in cinder.locks.iterdir():
        path.unlink()


@pytest.fixture(autouse=True)
def _emptied(cinder: Cinder) -> Iterator[None]:
    forget_locks(cinder)  # which tests of other files left
    yield
    cinder.heal()
    cinder.empty()
    forget_locks(cinder)


@pytest.fixture
def make(cinder: Cinder) -> Iterator[Callable[..., Any]]:
    """Make stores that end with the test."""
    made: list[Store] = []

    def one(kind: str = "fast", **options: Any) -> Any:
        made.append(cinder_store(cinder, kind, **options))
        return made[-1]

    yield one
    for store in made:
        store.close()


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


def later(seconds: float, call: Callable[[], object]) -> None:
    threading.Timer(seconds, call).start()


def left(cinder: Cinder) -> list[str]:
    """Return the volumes that are not on their way out."""
    return [each["status"] for each in cinder.volumes() if each["status"] != "deleting"]


def is_clean(store: Store, cinder: Cinder) -> bool:
    """Clean up, and return whether nothing is left; it may take Cinder a while to let go."""
    with contextlib.suppress(errors.InUse, errors.TimedOut):
        store.remove_leftovers(older_than=0)
    return not cinder.states()


@pytest.fixture
def child(cinder: Cinder) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process that is in the middle of something when this returns."""
    started: list[subprocess.Popen[str]] = []

    def start(verb: str, name: str, kind: str = "fast", **more: object) -> subprocess.Popen[str]:
        options = (
            login(cinder.user)
            | more
            | {
                "volume_type": kind,
                "mount_point_base": str(cinder.mounts),
                "poll_interval": 0.1,
            }
        )
        command = [sys.executable, "-W", "ignore", "-c", CHILD, json.dumps(options), verb, name]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=60)


def attachments(cinder: Cinder) -> list[Any]:
    found: list[Any] = cinder.call("GET", "attachments")["attachments"]
    return found


def reserved(cinder: Cinder) -> int:
    return sum(each["status"] == "reserved" for each in attachments(cinder))


def kill(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


class TestServices:
    def test_the_volume_service_is_gone_when_a_volume_is_made(
        self, make: Any, cinder: Cinder
    ) -> None:
        """What it makes when it is back is not left."""
        store = make(state_transition_timeout=3)
        cinder.services["rbd"].kill()
        with pytest.raises(errors.StoreError):
            store.add(new_id(), DATA)
        cinder.heal()
        until(lambda: is_clean(store, cinder), seconds=60, what="the volume is gone")

    def test_the_volume_service_is_killed_while_it_extends(self, make: Any, cinder: Cinder) -> None:
        """The state `extending`, which nobody ends, does not keep the volume."""
        store = make(state_transition_timeout=3, do_extend_attached=True)
        service, osd = cinder.services["rbd"], cinder.cluster.osd

        def outage() -> None:
            try:
                until(lambda: cinder.states() == ["extending"], seconds=30, what="it is extended")
                time.sleep(0.5)  # so that the service waits for the OSD
                service.kill()
            finally:
                osd.thaw()
            service.start()

        # The volume is full when the OSD is frozen; the next byte needs an extension.
        def source() -> Iterator[bytes]:
            for number in range(1025):
                if number == 1024:
                    osd.freeze()
                    later(0, outage)
                yield bytes(MIB)

        with pytest.raises(errors.StoreError):
            store.add(new_id(), source())
        cinder.heal()
        store.remove_leftovers(older_than=0)
        until(lambda: not cinder.states(), seconds=60, what="the volume is gone")

    def test_the_volume_service_is_gone_when_a_volume_is_attached(
        self, make: Any, cinder: Cinder
    ) -> None:
        store = make()
        image = store.add(new_id(), DATA)
        cinder.services["rbd"].kill()
        with pytest.raises(errors.Unavailable):
            store.get(image.location)
        cinder.heal()
        assert not difference(content(store, image.location), DATA)

    def test_the_api_is_restarted_during_an_add(self, make: Any, cinder: Cinder) -> None:
        store = make(http_retries=8)
        source = Source(DATA, {20 * MIB: cinder.services["api"].restart})
        image = store.add(new_id(), source)
        assert not difference(content(store, image.location), DATA)

    def test_the_api_is_gone(self, make: Any, cinder: Cinder) -> None:
        """An add that cannot be committed is no image, and can be removed."""
        store = make(http_retries=0)
        with pytest.raises(errors.Unavailable):
            store.add(new_id(), Source(DATA, {20 * MIB: cinder.services["api"].kill}))
        cinder.heal()
        assert store.leftovers(older_than=3600) == []
        store.close()  # with it ends the life that says that the add may go on
        with cinder_store(cinder) as store:
            store.remove_leftovers(older_than=0)
            assert store.leftovers(older_than=0) == []
        until(lambda: not cinder.states(), seconds=30, what="the volume is gone")


class TestOsd:
    def test_killed_and_restarted_while_it_is_written_to(self, make: Any, cinder: Cinder) -> None:
        store, osd = make(), cinder.cluster.osd

        def outage() -> None:
            osd.kill()
            later(0.5, osd.revive)

        image = store.add(new_id(), Source(DATA, {20 * MIB: outage}))
        assert image.digests["sha256"] == hashlib.sha256(DATA).hexdigest()
        assert not difference(content(store, image.location), DATA)

    def test_killed_and_restarted_while_it_is_read(self, make: Any, cinder: Cinder) -> None:
        store, osd = make(), cinder.cluster.osd
        data = pattern(60 * MIB)  # more than is read ahead
        image = store.add(new_id(), data)
        with store.get(image.location) as reader:
            got = bytearray(reader.read(10 * MIB))
            osd.kill()
            later(0.5, osd.revive)
            got += reader.read()
        assert got == data

    def test_gone_for_longer_than_the_limit(self, make: Any, cinder: Cinder) -> None:
        """A limit stands in the file of the key, as for all clients of Cinder's clusters."""
        key = cinder.key_file.read_text()
        cinder.key_file.write_text(key.replace(LIMIT, "rados_osd_op_timeout = 2"))
        store = make(state_transition_timeout=5)
        try:
            with pytest.raises(errors.Unavailable):
                store.add(new_id(), Source(DATA, {20 * MIB: cinder.cluster.osd.kill}))
        finally:
            cinder.key_file.write_text(key)
        cinder.cluster.heal()
        until(lambda: is_clean(store, cinder), seconds=90, what="what is left is removed")


@pytest.mark.parametrize("kind", ["fast", "slow"])
def test_a_volume_deleted_while_it_is_read(make: Any, cinder: Cinder, kind: str) -> None:
    """Its bytes, or an error; never zeros in their place, nor an early end."""
    store, data = make(kind), pattern(80 * MIB)  # more than is read ahead
    image = store.add(new_id(), data)
    volume = image.location.rest.rpartition("/")[2]
    with store.get(image.location) as reader:
        got = bytearray(reader.read(MIB))
        state = {"os-reset_status": {"status": "available", "attach_status": "detached"}}
        cinder.call("POST", f"volumes/{volume}/action", state)
        cinder.call("DELETE", f"volumes/{volume}")
        cinder.wait(volume, "", "error_deleting", "available")
        try:
            got += reader.read()
        except errors.StoreError:
            assert data.startswith(got)
        else:
            assert got == data


class TestProcesses:
    def test_killed_during_an_add(self, make: Any, cinder: Cinder, child: Any) -> None:
        """It is a leftover then, and before that it is not; the id is free again."""
        kind = "slow"
        store, name = make(kind), new_id()
        process = child("add", name, kind)
        (volume,) = cinder.volumes()
        with pytest.raises(errors.NotFound, match="not complete"):
            store.size(f"cinder://{kind}/{volume['id']}")
        assert store.leftovers(older_than=0) == []
        with pytest.raises(errors.AlreadyExists) as caught:
            store.add(name, DATA)
        assert caught.value.retryable
        kill(process)
        (leftover,) = store.leftovers(older_than=0)
        assert name in leftover.name
        assert store.leftovers(older_than=3600) == []
        assert store.remove_leftovers(older_than=0) == [leftover]
        assert cinder.volumes() == []
        store.add(name, DATA)

    def test_the_next_add_of_the_id_removes_what_a_dead_process_left(
        self, make: Any, cinder: Cinder, child: Any
    ) -> None:
        store, name = make(), new_id()
        kill(child("add", name))
        image = store.add(name, DATA)
        assert not difference(content(store, image.location), DATA)
        assert len(cinder.volumes()) == 1

    def test_killed_while_it_reads(self, make: Any, cinder: Cinder, child: Any) -> None:
        """Cinder says that the volume is attached, for ever; whoever comes next knows better."""
        store = make()
        image = store.add(new_id(), DATA)
        kill(child("get", image.location.url.replace("fast", "child")))
        (leftover,) = store.leftovers(older_than=0)
        assert "attached by a process that died" in leftover.name
        assert not difference(content(store, image.location), DATA)
        kill(child("get", image.location.url.replace("fast", "child")))
        store.delete(image.location)

    def test_killed_while_it_attaches(self, make: Any, cinder: Cinder, child: Any) -> None:
        """Cinder says of a reservation neither whose it is nor where."""
        store = make(attachment_retry_attempts=2)
        image = store.add(new_id(), DATA)
        cinder.services["rbd"].freeze()
        process = child("attach", image.location.url.replace("fast", "child"))
        until(lambda: reserved(cinder) == 1, seconds=30, what="the volume is reserved")
        time.sleep(0.5)  # so that the process has the answer
        kill(process)
        cinder.services["rbd"].thaw()
        (leftover,) = store.leftovers(older_than=0)
        assert "attached by a process that died" in leftover.name
        assert not difference(content(store, image.location), DATA)
        assert attachments(cinder) == []

    def test_who_has_other_locks_is_not_taken_for_dead(
        self, make: Any, cinder: Cinder, child: Any, tmp_path: Path
    ) -> None:
        """A service in a container has the host's name, maybe, and a directory of its own."""
        store, name = make("slow", attachment_retry_attempts=1), new_id()
        child("add", name, "slow", lock_path=str(tmp_path))
        with pytest.raises(errors.AlreadyExists):
            store.add(name, DATA)
        assert store.remove_leftovers(older_than=3600) == []
        image = store.add(new_id(), DATA)
        url = image.location.url.replace("slow", "child")
        child("get", url, "slow", lock_path=str(tmp_path))
        with pytest.raises(errors.InUse):
            store.get(image.location)
        assert store.remove_leftovers(older_than=3600) == []

    def test_one_of_two_readers_is_killed(self, make: Any, cinder: Cinder, child: Any) -> None:
        """The other one goes on."""
        store = make("multi")
        image = store.add(new_id(), DATA)
        with store.get(image.location) as reader:
            got = reader.read(10 * MIB)
            kill(child("get", image.location.url.replace("multi", "child"), "multi"))
            assert len(store.leftovers(older_than=0)) == 1
            assert len(store.remove_leftovers(older_than=0)) == 1
            assert got + reader.read() == DATA
        store.delete(image.location)

    def test_an_exit_detaches(self, make: Any, cinder: Cinder, child: Any) -> None:
        """Although the reader is open."""
        store = make("slow")
        image = store.add(new_id(), DATA)
        process = child("exit", image.location.url.replace("slow", "child"), "slow")
        assert process.wait(30) == 0
        found = cinder.volume(image.location.rest.rpartition("/")[2])
        assert found is not None
        assert found["attachments"] == []
        assert os.listdir(cinder.mounts / "nfs") == []


class TestMembers:
    """A user of the project like any other: Cinder tells it less, and forbids it to reset."""

    @pytest.fixture
    def member(self, make: Any, cinder: Cinder, keystone: Keystone) -> Callable[..., Any]:
        user = keystone.user(new_id(), project=cinder.user.project)
        return functools.partial(make, **login(user), wait_for_delete=False)

    def test_processes_that_are_killed(self, member: Any, cinder: Cinder, child: Any) -> None:
        store, name = member(), new_id()
        kill(child("add", name))
        image = store.add(name, DATA)
        url = image.location.url.replace("fast", "child")
        kill(child("get", url))
        assert any("attached" in each.name for each in store.leftovers(older_than=0))
        with contextlib.suppress(errors.InUse):  # Ceph keeps what the first one wrote to
            store.remove_leftovers(older_than=0)
        assert attachments(cinder) == []
        kill(child("get", url))
        assert not difference(content(store, image.location), DATA)
        kill(child("get", url))
        store.delete(image.location)
        volume = image.location.rest.rpartition("/")[2]
        until(lambda: not cinder.status(volume), seconds=60, what="the volume is deleted")

    def test_a_volume_that_is_stuck(self, member: Any, cinder: Cinder) -> None:
        """It is in use by Cinder, and goes later."""
        store, name = member(state_transition_timeout=3), new_id()
        cinder.services["rbd"].kill()
        with pytest.raises(errors.TimedOut):
            store.add(name, DATA)
        with pytest.raises(errors.AlreadyExists) as caught:
            store.add(name, DATA)
        assert caught.value.retryable
        with pytest.raises(errors.InUse):
            store.remove_leftovers(older_than=0)
        cinder.heal()
        until(lambda: is_clean(store, cinder), seconds=60, what="the volume is gone")
        store.add(name, DATA)


def test_dropped_readers_detach(make: Any, cinder: Cinder) -> None:
    store = make()
    image = store.add(new_id(), DATA)
    reader = store.get(image.location)
    assert reader.read(1)
    del reader
    gc.collect()
    until(lambda: not attachments(cinder), seconds=30, what="the volume is detached")
    until(lambda: not os.listdir(cinder.locks), seconds=10, what="the lock is given back")


def test_a_store_is_closed_during_an_add(make: Any, cinder: Cinder) -> None:
    """What is being written goes on to its end; nobody attaches for it any more."""
    store, name = make(initial_size=1), new_id()
    image = store.add(name, Source(DATA, {20 * MIB: store.close}), size=len(DATA))
    assert not difference(content(make(), image.location), DATA)
    assert attachments(cinder) == []

    store = make(initial_size=1)
    chunks = (store.close() or bytes(MIB) for _ in range(1025))
    with pytest.raises(ValueError, match="closed"):
        store.add(new_id(), chunks)
    assert len(cinder.volumes()) == 1
    assert os.listdir(cinder.locks) == []


def test_tokens_that_expire(make: Any, keystone: Keystone) -> None:
    """They are renewed, also in the middle of an add."""
    store = make(auth_address=keystone.short_url)
    source = Source(DATA, {20 * MIB: lambda: time.sleep(5.5)})
    image = store.add(new_id(), source)
    assert not difference(content(store, image.location), DATA)


def test_tokens_that_are_revoked(make: Any, keystone: Keystone, cinder: Cinder) -> None:
    store = make()
    store.add(new_id(), DATA)
    tokens = {each.headers["x-auth-token"] for each in cinder.requests.read("POST")}
    for token in tokens:
        keystone.revoke(token)
    store.add(new_id(), DATA)


class TestLostAnswers:
    @pytest.fixture
    def proxy(self, cinder: Cinder) -> Iterator[Losing]:
        with losing("127.0.0.1", cinder.port) as proxy:
            yield proxy

    @pytest.fixture
    def anonymous(self, make: Any, proxy: Losing) -> Any:
        none = dict.fromkeys(("auth_address", "user_name", "password", "project_name"))
        return make(endpoint_template=f"{proxy.url}/v3/%(tenant)s", http_retries=0, **none)

    @pytest.fixture
    def region(self, proxy: Losing, keystone: Keystone) -> Iterator[str]:
        """One whose Cinder is behind the proxy, for stores that log in."""
        name, url = new_id(), f"{proxy.url}/v3/%(project_id)s"
        interfaces: tuple[Interface, ...] = ("public", "internal", "admin")
        made = [keystone.endpoint("volumev3", name, each, url) for each in interfaces]
        yield name
        for endpoint in made:
            keystone.call("DELETE", f"endpoints/{endpoint}")

    @pytest.fixture
    def context(self, cinder: Cinder, keystone: Keystone) -> RequestContext:
        return RequestContext(keystone.token(cinder.user), cinder.user.project_id)

    def test_of_making_a_volume(
        self, anonymous: Any, proxy: Losing, context: RequestContext, cinder: Cinder
    ) -> None:
        """Nobody knows its name then; it is found by what it says of itself."""
        proxy.lose("POST", "/volumes")
        with pytest.raises(errors.Unavailable):
            anonymous.add(new_id(), DATA, context=context)
        until(lambda: not cinder.states(), seconds=30, what="the volume is gone")

    def test_of_the_commit(self, anonymous: Any, proxy: Losing, context: RequestContext) -> None:
        proxy.lose("POST", "/metadata")
        proxy.lose("PUT", "/metadata")
        image = anonymous.add(new_id(), DATA, context=context)
        assert len(proxy.lost) == 1
        with anonymous.get(image.location, context=context) as reader:
            assert reader.read() == DATA

    def test_of_attaching(
        self, anonymous: Any, proxy: Losing, context: RequestContext, cinder: Cinder
    ) -> None:
        proxy.lose("POST", "/attachments")
        with pytest.raises(errors.Unavailable):
            anonymous.add(new_id(), DATA, context=context)
        until(lambda: not cinder.states(), seconds=30, what="the volume is gone")
        assert attachments(cinder) == []

    def test_of_attaching_to_read(
        self, make: Any, anonymous: Any, proxy: Losing, context: RequestContext, cinder: Cinder
    ) -> None:
        """Nobody knows the attachment; who cleans up sees that nobody goes on with it."""
        store = make(attachment_retry_attempts=1)
        image = store.add(new_id(), DATA)
        proxy.lose("POST", "/attachments")
        with pytest.raises(errors.Unavailable):
            anonymous.get(image.location, context=context)
        assert reserved(cinder) == 1
        with pytest.raises(errors.InUse, match="remove_leftovers"):
            store.get(image.location)
        (leftover,) = store.remove_leftovers(older_than=0)
        assert leftover.name.startswith("volume ")
        assert attachments(cinder) == []
        assert not difference(content(store, image.location), DATA)
        assert os.listdir(cinder.locks) == []

    def test_of_what_a_dead_process_attached(
        self, make: Any, proxy: Losing, cinder: Cinder, region: str, child: Any
    ) -> None:
        """A clean-up that did not end an attachment does not say that there is none."""
        store = make(os_region_name=region, http_retries=0)
        image = store.add(new_id(), DATA)
        kill(child("get", image.location.url.replace("fast", "child")))
        proxy.lose("DELETE", "/attachments", what="forbidden")
        with pytest.raises(errors.PermissionDenied):
            store.remove_leftovers(older_than=0)
        assert len(store.remove_leftovers(older_than=0)) == 1
        assert attachments(cinder) == []

    def test_of_detaching(
        self, anonymous: Any, proxy: Losing, context: RequestContext, cinder: Cinder
    ) -> None:
        """Whoever wants the volume next tries again."""
        proxy.lose("DELETE", "/attachments", what="request", times=3)
        image = anonymous.add(new_id(), DATA, context=context)
        assert len(proxy.lost) == 3
        assert attachments(cinder) == []
        proxy.lose("DELETE", "/attachments", what="request", times=3)
        for _ in range(2):
            with anonymous.get(image.location, context=context) as reader:
                assert reader.read() == DATA
        assert len(proxy.lost) == 6
        proxy.lose("DELETE", "/attachments", what="request", times=3)
        anonymous.get(image.location, context=context).close()
        assert len(attachments(cinder)) == 1
        anonymous.delete(image.location, context=context)
        assert os.listdir(cinder.locks) == []

    def test_of_the_commit_with_an_interrupt(
        self, anonymous: Any, proxy: Losing, context: RequestContext, cinder: Cinder
    ) -> None:
        """The volume is an image then, of which nobody would know."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for verb in ("POST", "PUT"):
            proxy.lose(verb, "/metadata", done=lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            anonymous.add(new_id(), DATA, context=context)
        assert cinder.volumes() == []

    def test_of_the_look_after_the_commit(
        self, anonymous: Any, proxy: Losing, context: RequestContext, cinder: Cinder
    ) -> None:
        """What failed leaves no image; where that fails as well, nobody claims that it did."""
        name = new_id()

        def lose_the_look() -> None:
            proxy.lose("GET", "/volumes/detail", what="request")

        for verb in ("POST", "PUT"):
            proxy.lose(verb, "/metadata", done=lose_the_look)
        with pytest.raises(errors.Unavailable) as caught:
            anonymous.add(name, DATA, context=context)
        assert not caught.value.indeterminate
        assert cinder.volumes() == []
        proxy.lose("PUT", "/metadata", done=lose_the_look)
        proxy.lose("POST", "/metadata", done=lose_the_look)
        proxy.lose("DELETE", "/volumes/", what="request")
        with pytest.raises(errors.Unavailable, match="may be complete") as caught:
            anonymous.add(name, DATA, context=context)
        assert caught.value.indeterminate

    def test_of_undoing(
        self, anonymous: Any, proxy: Losing, context: RequestContext, cinder: Cinder
    ) -> None:
        """The next add of the id finds that the one before it has ended."""
        name = new_id()

        def failing() -> Iterator[bytes]:
            yield DATA
            raise ZeroDivisionError

        proxy.lose("DELETE", "/volumes/", what="request")
        with pytest.raises(ZeroDivisionError):
            anonymous.add(name, failing(), context=context)
        (volume,) = cinder.volumes()
        image = anonymous.add(name, DATA, context=context)
        assert volume["id"] not in image.location.url
        assert len(cinder.volumes()) == 1
