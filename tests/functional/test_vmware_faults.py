"""The VMware store while its server, its sessions, its tasks or the connection fail."""

from __future__ import annotations

import contextlib
import gc
import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from servers.process import until
from servers.vmware_stores import DATA, files, login, used
from servers.vsphere import VSphere

from imgstore import errors
from imgstore.drivers.vmware import VmwareStore
from imgstore.testing.harness import content, difference, new_id

pytestmark = pytest.mark.servers("vsphere")

MIB = 1024 * 1024
SMALL = b"small"
IMAGE = ["[images] openstack_glance/image"]
BOTH = pytest.mark.parametrize("data", [SMALL, DATA], ids=["small", "large"])

Make = Callable[..., VmwareStore]


@pytest.fixture
def make(vsphere: VSphere) -> Iterator[Make]:
    """Make stores with little patience."""
    with contextlib.ExitStack() as stack:
        known = {
            **login(vsphere),
            "datastores": ["DC0:images"],
            "connect_timeout": 2.0,
            "read_timeout": 3.0,
            "api_retry_count": 3,
            "task_poll_interval": 1,
        }
        yield lambda **options: stack.enter_context(VmwareStore("vmware", **known | options))


@pytest.fixture
def store(make: Make, vsphere: VSphere) -> VmwareStore:
    """A store that has been used."""
    store = make()
    used(vsphere, store, SMALL)
    vsphere.requests.forget()
    return store


class Source:
    """Delivers data, and makes a call when it gets to ``at``."""

    def __init__(self, data: bytes, call: Callable[[], object], *, at: int = 3 * MIB) -> None:
        self._data = data
        self._calls = [call]
        self._at = at
        self._given = 0

    def read(self, n: int, /) -> bytes:
        if self._given >= self._at and self._calls:
            self._calls.pop()()
        piece = self._data[self._given : self._given + n]
        self._given += len(piece)
        return piece


def left(store: VmwareStore) -> str:
    """Return the location of an image that nobody has."""
    return f"{store.url_prefix}/{new_id()}?dsName=images&dcPath=DC0"


class TestSessions:
    @pytest.mark.parametrize("at", [0, 3 * MIB])
    def test_it_ends_during_an_add(self, vsphere: VSphere, store: VmwareStore, at: int) -> None:
        image = store.add(new_id(), Source(DATA, vsphere.expire, at=at))
        assert not difference(content(store, image.location), DATA)

    def test_it_ends_between(self, vsphere: VSphere, store: VmwareStore) -> None:
        image = store.add(new_id(), DATA)
        for verb in (store.size, store.get, store.delete):
            vsphere.expire()
            verb(image.location)
        assert files(vsphere) == []

    def test_it_ends_while_a_task_runs(self, vsphere: VSphere, store: VmwareStore) -> None:
        vsphere.slow("MoveDatastoreFile_Task", 2.0, times=1)
        vsphere.refuse("WaitForUpdatesEx", "NotAuthenticated")
        used(vsphere, store)

    @BOTH
    @pytest.mark.parametrize("on", ["PUT", "HEAD", "GET"])
    def test_a_401(self, vsphere: VSphere, store: VmwareStore, on: str, data: bytes) -> None:
        """It ends no session that the server still knows: other threads use that."""
        vsphere.answer(on, 401, at_once=True)
        used(vsphere, store, data)
        assert vsphere.requests.read("Login") == []

    @BOTH
    def test_401_for_ever(self, vsphere: VSphere, store: VmwareStore, data: bytes) -> None:
        image = store.add(new_id(), b"1")
        vsphere.answer("folder", 401, times=None)
        for verb in (store.size, store.get, store.delete, lambda _: store.add(new_id(), data)):
            with pytest.raises(errors.PermissionDenied, match="own session"):
                verb(image.location)
        vsphere.heal()
        assert len(files(vsphere)) == 1

    def test_a_401_in_the_middle(self, vsphere: VSphere, store: VmwareStore) -> None:
        """The data are gone: only the caller has them again."""
        vsphere.answer("PUT", 401, after=3 * MIB)
        with pytest.raises(errors.Unavailable, match="ended the session"):
            store.add(new_id(), DATA)
        assert files(vsphere) == []
        used(vsphere, store)

    def test_a_wrong_password_is_tried_once(self, vsphere: VSphere, make: Make) -> None:
        """Accounts are locked after a few failures."""
        with pytest.raises(errors.PermissionDenied, match="vmware_server_password"):
            make(server_password="wrong").add(new_id(), DATA)
        assert len(vsphere.requests.read("Login")) == 1


class TestStatuses:
    @BOTH
    @pytest.mark.parametrize(
        "on", ["PUT", "HEAD", "GET", "Login", "MoveDatastoreFile_Task", "DeleteDatastoreFile_Task"]
    )
    def test_503_twice(self, vsphere: VSphere, make: Make, on: str, data: bytes) -> None:
        vsphere.answer(on, 503, times=2, at_once=on == "PUT")
        used(vsphere, make(), data)

    def test_503_for_ever(self, vsphere: VSphere, store: VmwareStore) -> None:
        image = store.add(new_id(), b"1")
        for on in ("folder", "sdk"):
            vsphere.answer(on, 503, times=None, at_once=True)
            for verb in (store.delete, lambda _: store.add(new_id(), DATA)):
                with pytest.raises(errors.Unavailable, match="503"):
                    verb(image.location)
            vsphere.heal()
        assert len(files(vsphere)) == 1

    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (403, errors.PermissionDenied),
            (404, errors.NotFound),
            (500, errors.Unavailable),
            (200, errors.NotFound),
        ],
    )
    def test_pages_are_no_images(
        self, vsphere: VSphere, store: VmwareStore, status: int, error: type[Exception]
    ) -> None:
        image = store.add(new_id(), DATA)
        vsphere.answer("GET", status, times=None)
        for options in ({}, {"offset": 1, "length": 10}):
            with pytest.raises(errors.StoreError) as caught:
                store.get(image.location, **options)
            assert isinstance(caught.value, error) or options

    @pytest.mark.parametrize("moment", [{"at_once": True}, {"after": 3 * MIB}])
    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (403, errors.PermissionDenied),
            (404, errors.StoreError),
            (500, errors.Unavailable),
            (507, errors.StorageFull),
        ],
    )
    def test_puts_that_are_refused(
        self,
        vsphere: VSphere,
        store: VmwareStore,
        status: int,
        error: type[Exception],
        moment: dict[str, Any],
    ) -> None:
        """What the server says is known even if it takes no more data."""
        vsphere.answer("PUT", status, times=2, **moment)
        with pytest.raises(error):
            store.add(new_id(), DATA)
        vsphere.heal()
        assert files(vsphere) == []
        used(vsphere, store)

    def test_what_was_sent_is_not_what_was_stored(
        self, vsphere: VSphere, store: VmwareStore
    ) -> None:
        """The server has as many bytes as it should, and says that it failed to write them."""
        vsphere.answer("PUT", 500, after=len(DATA))
        with pytest.raises(errors.Unavailable, match="500"):
            store.add(new_id(), DATA)
        assert files(vsphere) == []

    def test_the_api_is_not_there(self, vsphere: VSphere, store: VmwareStore) -> None:
        """While a server starts, its proxy knows no API: that says nothing of an image."""
        image = store.add(new_id(), DATA)
        vsphere.answer("DeleteDatastoreFile_Task", 404, times=None)
        with pytest.raises(errors.Unavailable, match="404"):
            store.delete(image.location)
        vsphere.heal()
        store.delete(image.location)

    def test_a_datastore_fills_up(self, vsphere: VSphere, store: VmwareStore) -> None:
        def fill() -> None:
            vsphere.datastore().resize(free=0)

        for source in (Source(DATA, fill), iter([DATA[:MIB], DATA])):
            with pytest.raises(errors.StorageFull):
                store.add(new_id(), source)
            assert files(vsphere) == []
        vsphere.heal()
        used(vsphere, store)

    @pytest.mark.parametrize(
        ("data", "moment"),
        [(SMALL, {}), (SMALL, {"at_once": True}), (DATA, {"at_once": True})],
        ids=["small", "small, at once", "large, at once"],
    )
    def test_the_next_datastore_takes_what_one_refuses(
        self, vsphere: VSphere, make: Make, data: bytes, moment: dict[str, bool]
    ) -> None:
        """As long as the data are there."""
        store = make(datastores=["DC0:images:1", "F0/DC1:images"])
        vsphere.answer("PUT", 507, **moment)
        image = store.add(new_id(), data)
        assert image.location.url.endswith("dcPath=F0%2FDC1")
        assert not difference(content(store, image.location), data)
        assert len(files(vsphere)) == 1


class TestRedirects:
    def test_a_get_is_followed_with_a_ticket(self, vsphere: VSphere, store: VmwareStore) -> None:
        image = store.add(new_id(), DATA)
        (path,) = vsphere.datastore().names()
        there = vsphere.datastore().url(path, host="127.0.0.2")
        vsphere.answer("GET", 302, location=there, times=1)
        vsphere.requests.forget()
        assert not difference(content(store, image.location), DATA)
        first, second = vsphere.requests.read("GET")
        assert first.headers["cookie"].startswith("vmware_soap_session=")
        assert (second.host, second.status) == ("127.0.0.2", 200)
        assert second.headers["cookie"].startswith("vmware_cgi_ticket=")

    @BOTH
    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_a_put_is_followed(
        self, vsphere: VSphere, store: VmwareStore, status: int, data: bytes
    ) -> None:
        """As long as the data are there."""
        there = vsphere.datastore().url("openstack_glance/x", host="127.0.0.2")
        vsphere.answer("PUT", status, location=there, at_once=True)
        # The name of a draft is not known beforehand, so the data go to another one here.
        with pytest.raises(errors.Unavailable, match="removed before the image was complete"):
            store.add(new_id(), data)
        first, second = vsphere.requests.read("PUT")
        assert (first.status, second.status, second.host) == (status, 201, "127.0.0.2")
        assert second.headers["cookie"].startswith("vmware_cgi_ticket=")
        assert vsphere.datastore().content("openstack_glance/x") == data

    def test_a_put_is_not_followed_too_late(self, vsphere: VSphere, store: VmwareStore) -> None:
        there = vsphere.datastore().url("x", host="127.0.0.2")
        vsphere.answer("PUT", 307, location=there, after=3 * MIB)
        with pytest.raises(errors.StoreError, match="vmware_server_host"):
            store.add(new_id(), DATA)
        assert files(vsphere) == []

    @pytest.mark.parametrize(
        ("location", "said"),
        [("", "without saying where"), ("http", "from https to http"), ("same", "more than 5")],
    )
    def test_those_that_lead_nowhere(
        self, vsphere: VSphere, store: VmwareStore, location: str, said: str
    ) -> None:
        there = {
            "": "",
            "http": vsphere.url("/folder/x", "http"),
            "same": vsphere.url("/folder/x"),
        }[location]
        for on, verb in (("GET", store.get), ("PUT", lambda _: store.add(new_id(), DATA))):
            vsphere.answer(on, 307, location=there, at_once=True, times=None)
            with pytest.raises(errors.StoreError, match=said):
                verb(left(store))


class TestConnections:
    @pytest.mark.parametrize("after", [0, MIB, 3 * MIB])
    def test_a_put_is_cut(self, vsphere: VSphere, store: VmwareStore, after: int) -> None:
        """Begun again as long as the data are there, else nothing is left."""
        vsphere.cut("PUT", after)
        with contextlib.ExitStack() as failing:
            if after:
                failing.enter_context(pytest.raises(errors.Unavailable))
            image = store.add(new_id(), DATA)
            assert not difference(content(store, image.location), DATA)
            store.delete(image.location)
        assert files(vsphere) == []
        used(vsphere, store)

    def test_a_small_put_is_cut(self, vsphere: VSphere, store: VmwareStore) -> None:
        vsphere.cut("PUT", 2, times=2)
        used(vsphere, store, SMALL)

    @pytest.mark.parametrize("options", [{}, {"offset": 7}, {"offset": MIB, "length": 3 * MIB}])
    def test_a_get_goes_on(
        self, vsphere: VSphere, store: VmwareStore, options: dict[str, int]
    ) -> None:
        image = store.add(new_id(), DATA)
        vsphere.cut("GET", MIB, times=2)
        begin = options.get("offset", 0)
        expected = DATA[begin:][: options.get("length")]
        with store.get(image.location, **options) as reader:
            assert not difference(reader.read(), expected)

    def test_a_get_that_never_ends_well(self, vsphere: VSphere, store: VmwareStore) -> None:
        image = store.add(new_id(), DATA)
        vsphere.cut("GET", 1000, times=None)
        with store.get(image.location) as reader, pytest.raises(errors.StoreError, match="early"):
            reader.read()

    def test_another_image_took_the_name(self, vsphere: VSphere, store: VmwareStore) -> None:
        """A read that goes on never mixes two images."""
        image = store.add("image", DATA)
        vsphere.cut("GET", 2 * MIB)
        with store.get(image.location) as reader:
            reader.read(MIB)
            store.delete(image.location)
            time.sleep(1.1)  # dates are in seconds
            store.add("image", DATA[::-1])
            with pytest.raises(errors.IntegrityError, match="changed"):
                reader.read()

    @BOTH
    @pytest.mark.parametrize(
        "on",
        [
            "PUT",
            "HEAD",
            "Login",
            "MakeDirectory",
            "MoveDatastoreFile_Task",
            "DeleteDatastoreFile_Task",
            "RetrievePropertiesEx",
        ],
    )
    def test_an_answer_is_lost(self, vsphere: VSphere, make: Make, on: str, data: bytes) -> None:
        """Done is done: no success is reported as a failure, and nothing is there twice."""
        store = make()
        vsphere.lose(on)
        used(vsphere, store, data)

    @pytest.mark.parametrize(
        "on",
        [
            "RetrieveServiceContent",
            "Login",
            "MakeDirectory",
            "MoveDatastoreFile_Task",
            "DeleteDatastoreFile_Task",
            "RetrievePropertiesEx",
        ],
    )
    def test_an_answer_is_cut(self, vsphere: VSphere, make: Make, on: str) -> None:
        """It is asked again where that is safe, and no login stays of which the answer was cut."""
        vsphere.expire()
        store = make()
        vsphere.lose(on, 150, times=2)
        used(vsphere, store, SMALL)
        assert len(vsphere.sessions()) == 1

    @pytest.mark.parametrize("status", [200, 500])
    @pytest.mark.parametrize(
        "on",
        [
            "RetrieveServiceContent",
            "Login",
            "MakeDirectory",
            "MoveDatastoreFile_Task",
            "RetrievePropertiesEx",
        ],
    )
    def test_a_page_stands_for_an_answer(
        self, vsphere: VSphere, make: Make, on: str, status: int
    ) -> None:
        """A proxy shows it; what is behind that is asked again."""
        vsphere.expire()
        store = make()
        vsphere.answer(on, status, times=2)
        used(vsphere, store, SMALL)

    def test_all_answers_are_pages(self, vsphere: VSphere, store: VmwareStore) -> None:
        vsphere.answer("sdk", 200, times=None)
        for verb in (store.leftovers, lambda **_: store.add(new_id(), SMALL)):
            with pytest.raises(errors.Unavailable, match="vmware_server_host") as caught:
                verb(older_than=0)
            assert caught.value.retryable

    def test_all_answers_are_cut(self, vsphere: VSphere, store: VmwareStore) -> None:
        vsphere.lose("sdk", 150, times=None)
        for verb in (store.leftovers, lambda **_: store.add(new_id(), SMALL)):
            with pytest.raises(errors.Unavailable, match="ended early"):
                verb(older_than=0)

    def test_the_source_is_a_connection_that_breaks(
        self, vsphere: VSphere, store: VmwareStore
    ) -> None:
        """It is not taken for the one to the server."""

        def source() -> Iterator[bytes]:
            yield DATA[: 3 * MIB]
            raise ConnectionResetError("of the source")

        with pytest.raises(ConnectionResetError, match="of the source"):
            store.add(new_id(), source())
        assert files(vsphere) == []

    def test_a_reader_is_dropped_inside_a_lock(self, store: VmwareStore) -> None:
        """The collector may run while its thread has the lock of a pool of connections."""
        image = store.add(new_id(), DATA)
        reader = store.get(image.location)
        assert reader.read(1)
        gc.collect()  # so that nothing else takes such a lock below
        with contextlib.ExitStack() as stack:
            for pool in [each for each in gc.get_objects() if isinstance(each, queue.LifoQueue)]:
                stack.enter_context(pool.mutex)
            del reader
            gc.collect()
        assert not difference(content(store, image.location), DATA)

    def test_a_deletion_is_not_repeated_on_another_image(
        self, vsphere: VSphere, store: VmwareStore
    ) -> None:
        """Its answer was lost, and the name was taken anew."""
        image = store.add("image", DATA)
        place = "openstack_glance/image"
        vsphere.lose("DeleteDatastoreFile_Task")

        def intrude() -> None:
            while place in vsphere.datastore().names():
                time.sleep(0.002)
            vsphere.datastore().put(place, b"theirs")

        with ThreadPoolExecutor(1) as threads:
            intruded = threads.submit(intrude)
            store.delete(image.location)
            intruded.result()
        assert vsphere.datastore().content(place) == b"theirs"

    def test_all_answers_are_lost(self, vsphere: VSphere, store: VmwareStore) -> None:
        """Then it is not known whether there is an image."""
        vsphere.lose("MoveDatastoreFile_Task")
        vsphere.cut("HEAD", nth=2, times=None)
        with pytest.raises(errors.Unavailable) as caught:
            store.add(new_id(), SMALL)
        assert caught.value.indeterminate
        assert len(files(vsphere)) == 1

    @pytest.mark.parametrize("on", ["PUT", "GET"])
    def test_it_stands_still(self, vsphere: VSphere, make: Make, on: str) -> None:
        store = make(read_timeout=1.0)
        image = store.add(new_id(), DATA)
        vsphere.stall(on, 1000, times=None)
        with pytest.raises(errors.TimedOut):
            content(store, image.location) if on == "GET" else store.add(new_id(), DATA * 4)
        vsphere.heal()

        def is_cleared() -> bool:
            with contextlib.suppress(errors.InUse):  # by the server, which goes on
                store.remove_leftovers(older_than=0)
            return len(files(vsphere)) == 1

        until(is_cleared, seconds=20, what="the draft is removed")


class TestServer:
    def test_it_is_dead(self, vsphere: VSphere, store: VmwareStore) -> None:
        image = store.add(new_id(), DATA)
        vsphere.process.kill()
        for verb in (store.get, store.size, store.delete, lambda _: store.add(new_id(), DATA)):
            with pytest.raises(errors.Unavailable, match="refused"):
                verb(image.location)
        vsphere.heal()
        assert not difference(content(store, image.location), DATA)

    def test_it_is_killed_during_an_add(self, vsphere: VSphere, store: VmwareStore) -> None:
        """What could not be removed is told when the server is back."""
        name = new_id()
        with pytest.raises(errors.Unavailable):
            store.add(name, Source(DATA, vsphere.process.kill))
        vsphere.heal()
        store.remove_leftovers(older_than=0)
        assert files(vsphere) == []
        assert store.add(name, DATA).size == len(DATA)

    def test_it_is_restarted_during_a_get(self, vsphere: VSphere, store: VmwareStore) -> None:
        data = DATA * 4
        image = store.add(new_id(), data)
        with store.get(image.location) as reader:
            begun = reader.read(MIB)
            vsphere.process.kill()
            vsphere.process.start()
            assert not difference(begun + reader.read(), data)

    def test_it_is_frozen(self, vsphere: VSphere, make: Make) -> None:
        store = make(read_timeout=1.0, connect_timeout=1.0)
        image = store.add(new_id(), DATA)
        vsphere.process.freeze()
        try:
            for verb in (
                store.get,
                store.size,
                store.delete,
                lambda _: store.add(new_id(), DATA),
                lambda _: store.leftovers(older_than=0),
            ):
                began = time.monotonic()
                with pytest.raises(errors.TimedOut):
                    verb(image.location)
                assert time.monotonic() - began < 15
        finally:
            vsphere.process.thaw()
        assert not difference(content(store, image.location), DATA)

    def test_threads_share_a_login_that_fails(self, vsphere: VSphere, make: Make) -> None:
        """Or the last of them would wait as many times as there are threads."""
        store = make(read_timeout=1.0, connect_timeout=1.0)

        def fails(_: int) -> bool:
            with pytest.raises(errors.TimedOut):
                store.size(left(store))
            return True

        vsphere.process.freeze()
        began = time.monotonic()
        try:
            with ThreadPoolExecutor(12) as threads:
                assert all(threads.map(fails, range(12)))
        finally:
            vsphere.process.thaw()
        assert time.monotonic() - began < 10
        used(vsphere, store)


class TestTasks:
    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            ("NoPermission", errors.PermissionDenied),
            ("NoDiskSpace", errors.StorageFull),
            ("FileAlreadyExists", errors.AlreadyExists),
            ("InvalidState", errors.StoreError),
        ],
    )
    def test_a_move_fails(
        self, vsphere: VSphere, store: VmwareStore, fault: str, error: type[Exception]
    ) -> None:
        vsphere.fail("MoveDatastoreFile_Task", fault)
        with pytest.raises(error):
            store.add(new_id(), DATA)
        assert files(vsphere) == []

    def test_a_move_fails_for_ever(self, vsphere: VSphere, store: VmwareStore) -> None:
        """What the server says about it is certain, so nothing is left."""
        vsphere.fail("MoveDatastoreFile_Task", "InaccessibleDatastore", times=None)
        with pytest.raises(errors.Unavailable) as caught:
            store.add(new_id(), DATA)
        assert not caught.value.indeterminate
        assert files(vsphere) == []

    def test_a_move_goes_on_after_its_answer_was_lost(
        self, vsphere: VSphere, store: VmwareStore
    ) -> None:
        """It keeps the file locked, for longer than anybody waits, and succeeds then."""
        vsphere.slow("MoveDatastoreFile_Task", 600, times=1)
        vsphere.lose("MoveDatastoreFile_Task")
        vsphere.fail("MoveDatastoreFile_Task", "FileLocked", times=None)
        with pytest.raises(errors.Unavailable) as caught:
            store.add("image", DATA)
        assert caught.value.indeterminate
        vsphere.release()
        until(lambda: files(vsphere) == IMAGE, seconds=20, what="it is renamed")

    @pytest.mark.parametrize("fault", ["NoPermission", "FileAlreadyExists"])
    def test_a_move_is_held_while_another_is_refused(
        self, vsphere: VSphere, store: VmwareStore, fault: str
    ) -> None:
        """The refusal counts once the draft is deleted: nothing is left to rename later."""
        vsphere.slow("MoveDatastoreFile_Task", 600, times=1)
        vsphere.lose("MoveDatastoreFile_Task")
        vsphere.fail("MoveDatastoreFile_Task", fault)
        with pytest.raises((errors.PermissionDenied, errors.AlreadyExists)) as caught:
            store.add("image", DATA)
        assert not caught.value.indeterminate
        assert files(vsphere) == []
        vsphere.release()
        time.sleep(0.5)
        assert files(vsphere) == []

    @pytest.mark.parametrize("fault", ["NoPermission", "FileAlreadyExists"])
    def test_a_move_is_held_and_keeps_its_file(
        self, vsphere: VSphere, store: VmwareStore, fault: str
    ) -> None:
        """A refusal of the next attempt says nothing of it."""
        vsphere.slow("MoveDatastoreFile_Task", 600, times=1)
        vsphere.lose("MoveDatastoreFile_Task")
        vsphere.fail("MoveDatastoreFile_Task", fault)
        vsphere.fail("DeleteDatastoreFile_Task", "FileLocked", times=None)
        with pytest.raises(errors.Unavailable) as caught:
            store.add("image", DATA)
        assert caught.value.indeterminate
        vsphere.release()
        until(lambda: files(vsphere) == IMAGE, seconds=20, what="it is renamed")

    def test_a_login_fails_before_a_move(self, vsphere: VSphere, store: VmwareStore) -> None:
        """The task was not begun, so there is no image, whatever else cannot be asked."""
        vsphere.refuse("MoveDatastoreFile_Task", "NotAuthenticated")
        vsphere.lose("Login", times=None)
        with pytest.raises(errors.Unavailable) as caught:
            store.add("image", DATA)
        assert not caught.value.indeterminate
        vsphere.heal()
        assert len(store.remove_leftovers(older_than=0)) == 1
        assert files(vsphere) == []

    @pytest.mark.parametrize("fault", ["NoPermission", "FileAlreadyExists", "FileLocked"])
    def test_a_move_fails_and_is_done(
        self, vsphere: VSphere, store: VmwareStore, fault: str
    ) -> None:
        """The file is where it should be: that counts."""
        vsphere.fail("MoveDatastoreFile_Task", fault, done=True)
        used(vsphere, store)

    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            ("FileLocked", errors.InUse),
            ("NoPermission", errors.PermissionDenied),
            ("InvalidDatastore", errors.Unavailable),
        ],
    )
    def test_a_deletion_fails(
        self, vsphere: VSphere, store: VmwareStore, fault: str, error: type[Exception]
    ) -> None:
        image = store.add(new_id(), DATA)
        vsphere.fail("DeleteDatastoreFile_Task", fault)
        with pytest.raises(error):
            store.delete(image.location)
        assert not difference(content(store, image.location), DATA)

    def test_locks_that_pass(self, vsphere: VSphere, store: VmwareStore) -> None:
        """Of the draft, which nobody else has."""
        vsphere.fail("MoveDatastoreFile_Task", "FileLocked")
        used(vsphere, store)

    def test_they_are_slow(self, vsphere: VSphere, store: VmwareStore) -> None:
        """The server tells when they are over."""
        vsphere.slow("MoveDatastoreFile_Task", 1.5)
        vsphere.slow("DeleteDatastoreFile_Task", 1.5)
        used(vsphere, store, SMALL)

    def test_one_never_ends(self, vsphere: VSphere, make: Make) -> None:
        store = make(read_timeout=0.3)
        vsphere.slow("MoveDatastoreFile_Task", 600)
        with pytest.raises(errors.Unavailable) as caught:
            store.add("image", DATA)
        assert caught.value.indeterminate
        vsphere.release()

    def test_a_copy_never_ends(self, vsphere: VSphere, make: Make) -> None:
        """It is cancelled: nobody would remove what it writes later."""
        store = make(read_timeout=0.3)
        image = store.add("image", DATA)
        vsphere.slow("CopyDatastoreFile_Task", 600)
        with pytest.raises(errors.TimedOut):
            store.copy(image.location, "copy")
        vsphere.release()
        time.sleep(0.5)
        assert files(vsphere) == IMAGE

    @BOTH
    def test_its_draft_is_missing(self, vsphere: VSphere, store: VmwareStore, data: bytes) -> None:
        """An add does not say that there is no such image; here the server has kept nothing."""
        vsphere.answer("PUT", 201)
        with pytest.raises(errors.Unavailable, match="removed before the image was complete"):
            store.add("image", data)
        assert files(vsphere) == []

    @BOTH
    def test_another_one_wins(self, vsphere: VSphere, store: VmwareStore, data: bytes) -> None:
        """An image that comes while this one is sent is not touched."""

        def intrude() -> None:
            vsphere.datastore().put("openstack_glance/image", b"theirs")

        with pytest.raises(errors.AlreadyExists):
            store.add("image", Source(data, intrude, at=len(data) // 2))
        assert vsphere.datastore().content("openstack_glance/image") == b"theirs"
        assert len(files(vsphere)) == 1


class TestTls:
    @pytest.mark.parametrize("port", ["foreign", "expired"])
    def test_servers_that_are_not_trusted(
        self, vsphere: VSphere, make: Make, port: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever the environment says."""
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.setenv(name, str(vsphere.foreign_ca))
        store = make(server_host=f"127.0.0.1:{vsphere.ports[port]}")  # type: ignore[index]
        with pytest.raises(errors.PermissionDenied, match="vmware_ca_file"):
            store.add(new_id(), DATA)
        with pytest.raises(errors.PermissionDenied, match="not trusted"):
            make(ca_file=None).add(new_id(), DATA)
        assert vsphere.requests.read("Login") == []

    def test_the_environment_has_no_say(
        self, vsphere: VSphere, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(vsphere.foreign_ca))
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
        used(vsphere, make())

    @pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
    def test_any_server_where_that_is_wanted(self, vsphere: VSphere, make: Make) -> None:
        host = f"127.0.0.1:{vsphere.ports['foreign']}"
        used(vsphere, make(server_host=host, ca_file=None, insecure=True))
        with pytest.raises(errors.PermissionDenied):
            make(server_host=host, insecure=True).add(new_id(), DATA)

    def test_no_tls(self, vsphere: VSphere, make: Make) -> None:
        store = make(server_host=f"127.0.0.1:{vsphere.ports['http']}")
        with pytest.raises(errors.StoreError, match="TLS failed"):
            store.add(new_id(), DATA)

    def test_no_authorities(self, vsphere: VSphere, make: Make) -> None:
        with pytest.raises(errors.ConfigError, match="vmware_ca_file /missing"):
            make(ca_file="/missing.pem").add(new_id(), DATA)
