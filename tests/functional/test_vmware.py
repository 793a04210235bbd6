"""The VMware store on a vCenter Server: what only VMware has."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from servers.process import until
from servers.vmware_stores import DATA, files, login, used
from servers.vsphere import PASSWORD, VSphere

from imgstore import Capability, StoreManager, errors
from imgstore.drivers.vmware import VmwareStore
from imgstore.testing.doubles import Paused
from imgstore.testing.harness import content, difference, new_id

pytestmark = pytest.mark.servers("vsphere")

MIB = 1024 * 1024

Make = Callable[..., VmwareStore]


@pytest.fixture
def make(vsphere: VSphere) -> Iterator[Make]:
    """Make stores on the server, in one datastore unless told otherwise."""
    vsphere.expire()  # of a login whose answer was lost the server keeps the session
    with contextlib.ExitStack() as stack:
        known = {**login(vsphere), "datastores": ["DC0:images"], "task_poll_interval": 1}
        yield lambda **options: stack.enter_context(VmwareStore("vmware", **known | options))


def placed(store: VmwareStore, size: int | None = None) -> str:
    """Add an image and return the query of its location, which names the datastore."""
    data = b"x" * (size or 1)
    source = [data] if size is None else data
    return store.add(new_id(), source).location.url.partition("?")[2]


def test_an_image_is_described_by_one_request(vsphere: VSphere, make: Make) -> None:
    """Size, version and time are in one answer; nobody logs in again."""
    store = make()
    image = store.add(new_id(), DATA)
    for verb in (store.size, store.stat):
        vsphere.requests.forget()
        verb(image)
        assert [each.method for each in vsphere.requests.read()] == ["HEAD"]


class TestLocations:
    @pytest.mark.parametrize(
        ("datastore", "query"),
        [
            ("DC0:images", "dsName=images&dcPath=DC0"),
            ("F0/DC1:spare disks", "dsName=spare+disks&dcPath=F0%2FDC1"),
            (r"/F0/DC1:odd\:+&name:7", "dsName=odd%3A%2B%26name&dcPath=%2FF0%2FDC1"),
        ],
    )
    def test_they_are_glance_stores(
        self, vsphere: VSphere, make: Make, datastore: str, query: str
    ) -> None:
        store = make(datastores=[datastore])
        image = store.add("image", DATA)
        service = f"127.0.0.1:{vsphere.ports['https']}"
        assert image.location.url == f"vsphere://{service}/folder/openstack_glance/image?{query}"
        assert not difference(content(store, image.location), DATA)
        store.delete(image.location)
        assert files(vsphere) == []

    def test_forms_of_other_writers(self, make: Make) -> None:
        """The datacenter may have slashes around it, or be missing where there is no other."""
        store = make(datastores=["DC0:images", "DC0:spare disks", "F0/DC1:spare disks"])
        image = store.add("image", b"1")
        before = image.location.url.partition("?")[0]
        known = "dsName=images"
        for query in (f"dcPath=/DC0&{known}", f"{known}&dcPath=%2FDC0%2F", known):
            assert content(store, f"{before}?{query}") == b"1"
        with pytest.raises(errors.InvalidLocation, match="2 datastores"):
            store.size(f"{before}?dsName=spare+disks")
        store.delete(f"{before}?dsName=images")

    def test_hosts(self, vsphere: VSphere, make: Make) -> None:
        port = vsphere.ports["https"]
        for options in (
            {"server_host": f"localhost:{port}"},
            {"server_host": "127.0.0.1", "server_port": port},
            {"server_host": "::1", "server_port": port},
            {"server_host": f"[::1]:{port}"},
        ):
            store = make(**options)
            image = store.add(new_id(), b"1")
            host = str(options["server_host"]).removesuffix(f":{port}")
            shown = "[::1]" if "::1" in host else host
            assert image.location.url.startswith(f"vsphere://{shown}:{port}/folder/")
            assert store.url_prefix in image.location.url
            assert content(store, image.location) == b"1"
            store.delete(image.location)

    def test_drafts_and_directories_are_no_images(self, vsphere: VSphere, make: Make) -> None:
        store = make()
        vsphere.datastore().put("openstack_glance/inner/image", b"1")
        vsphere.datastore().put("openstack_glance/.imgstore-1", b"1")
        there = f"{store.url_prefix}/{{}}?dsName=images&dcPath=DC0"
        for verb in (store.get, store.size, store.delete):
            with pytest.raises(errors.NotFound, match="directory"):
                verb(there.format("inner"))
            for name in (".imgstore-1", "inner/image", "..", "../openstack_glance/inner"):
                with pytest.raises(errors.InvalidLocation):
                    verb(there.format(name))
        with pytest.raises(errors.InvalidArgument, match="imgstore-"):
            store.add(".imgstore-1", b"1")
        assert len(files(vsphere)) == 2


class TestPlacement:
    def test_weight_then_free_space(self, vsphere: VSphere, make: Make) -> None:
        """Free space is asked for again for each image."""
        store = make(datastores=["DC0:images:1", "F0/DC1:images:1", "DC0:spare disks"])
        vsphere.datastore("DC0").resize(free=20 * MIB)
        vsphere.datastore("F0/DC1").resize(free=10 * MIB)
        assert placed(store) == "dsName=images&dcPath=DC0"
        vsphere.datastore("DC0").resize(free=5 * MIB)
        assert placed(store) == "dsName=images&dcPath=F0%2FDC1"
        assert placed(store, 15 * MIB) == "dsName=spare+disks&dcPath=DC0"

    def test_what_cannot_be_used_is_passed_over(self, vsphere: VSphere, make: Make) -> None:
        store = make(datastores=["DC0:images:2", "F0/DC1:images:1", "DC0:spare disks", "DC0:no"])
        vsphere.datastore("DC0").change(accessible=False)
        vsphere.datastore("F0/DC1").change(maintenance="inMaintenance")
        assert placed(store) == "dsName=spare+disks&dcPath=DC0"
        vsphere.datastore("DC0", "spare disks").change(accessible=False)
        with pytest.raises(errors.Unavailable) as caught:
            store.add(new_id(), b"1")
        for part in ("DC0:images: it is not acc", "F0/DC1:images: it is in main", "no such"):
            assert part in str(caught.value)

    def test_no_room(self, vsphere: VSphere, make: Make) -> None:
        """Known or not, of whatever size: nothing is left."""
        store = make(datastores=["DC0:images", "DC0:spare disks"])
        for name in ("images", "spare disks"):
            vsphere.datastore("DC0", name).resize(free=3 * MIB)
        for source in (DATA, [DATA]):
            with pytest.raises(errors.StorageFull):
                store.add(new_id(), source)
            assert files(vsphere) == []
        used(vsphere, store, DATA[:MIB])

    def test_the_directory_is_made(self, vsphere: VSphere, make: Make) -> None:
        """Also anew, when somebody has removed it, and with what is above it."""
        vsphere.behave(parents=False)
        store = make(store_image_dir="/a/b c/images")
        image = store.add("image", DATA)
        assert "/folder/a/b c/images/image?" in image.location.url
        for data in (DATA, b"small"):
            vsphere.empty()
            used(vsphere, store, data)

    def test_a_missing_datacenter(self, make: Make) -> None:
        with pytest.raises(errors.Unavailable, match="no datacenter 'DC7'"):
            make(datastores=["DC7:images"]).add(new_id(), b"1")


class TestExclusive:
    def test_an_id_is_taken_in_every_datastore(self, vsphere: VSphere, make: Make) -> None:
        store = make(datastores=["DC0:images:1", "F0/DC1:images"])
        first = store.add("image", b"1")
        vsphere.datastore("DC0").change(maintenance="inMaintenance")
        for data in (b"2", DATA):
            with pytest.raises(errors.AlreadyExists):
                store.add("image", data)
        assert content(store, first.location) == b"1"

    @pytest.mark.parametrize("datastores", [["DC0:images"], ["DC0:images", "F0/DC1:images"]])
    def test_one_of_two_adds_wins(
        self, vsphere: VSphere, make: Make, datastores: list[str]
    ) -> None:
        """Whichever datastore each of them chooses."""
        store, other = make(datastores=datastores), make(datastores=datastores[::-1])
        for _ in range(6):
            name = new_id()

            def add(via: VmwareStore, name: str = name) -> bool:
                try:
                    via.add(name, b"x")
                except errors.AlreadyExists:
                    return False
                return True

            with ThreadPoolExecutor(4) as threads:
                ends = list(threads.map(add, (store, other, store, other)))
            assert ends.count(True) == 1
            assert len(files(vsphere)) == 1
            vsphere.empty()


class TestSessions:
    def test_there_is_one(self, vsphere: VSphere, make: Make) -> None:
        """For all threads; closing the store ends it."""
        store = make()
        with ThreadPoolExecutor(8) as threads:
            images = list(threads.map(lambda _: store.add(new_id(), b"x"), range(24)))
            list(threads.map(lambda image: store.delete(image.location), images))
        assert len(vsphere.requests.read("Login")) == 1
        assert len(vsphere.sessions()) == 1
        store.close()
        assert vsphere.sessions() == []

    def test_threads_that_find_it_ended_make_one(self, vsphere: VSphere, make: Make) -> None:
        store = make()
        images = [store.add(new_id(), b"x") for _ in range(8)]
        vsphere.expire()
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda image: store.delete(image.location), images))
        assert len(vsphere.requests.read("Login")) == 2
        assert len(vsphere.sessions()) == 1

    def test_a_child_has_its_own(self, vsphere: VSphere, make: Make) -> None:
        store = make()
        image = store.add("image", DATA)

        def read() -> None:
            good = content(store, image.location) == DATA
            store.close()
            os._exit(0 if good else 1)

        child = multiprocessing.get_context("fork").Process(target=read)
        child.start()
        child.join(30)
        assert child.exitcode == 0
        assert len(vsphere.requests.read("Login")) == 2
        assert len(vsphere.sessions()) == 1
        used(vsphere, store)
        assert len(vsphere.requests.read("Login")) == 2

    EXIT = """
import gc, os, sys
from imgstore.drivers.vmware import VmwareStore

host, user, password, ca, url, how = sys.argv[1:]

def used():
    store = VmwareStore("vmware", server_host=host, server_username=user,
                        server_password=password, ca_file=ca, datastores=["DC0:images"])
    store.size(url)
    return store

store = used()
if how == "dropped":
    for _ in range(3):
        used()
        gc.collect()
if how == "forked":
    child = os.fork()
    if not child:
        sys.exit()
    os.waitpid(child, 0)
    print("alive", flush=True)
    sys.stdin.read(1)
if how == "raised":
    raise ValueError
"""

    def left_by(self, vsphere: VSphere, url: str, how: str) -> subprocess.Popen[bytes]:
        """Begin a process that uses a store and does not close it."""
        return subprocess.Popen(
            [sys.executable, "-c", self.EXIT, *login(vsphere).values(), url, how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    @pytest.mark.parametrize("how", ["ended", "raised", "dropped"])
    def test_a_process_ends_without_closing(self, vsphere: VSphere, make: Make, how: str) -> None:
        """Its sessions end with it, or before."""
        url = make().add("image", b"1").location.url
        before = vsphere.sessions()
        process = self.left_by(vsphere, url, how)
        process.communicate(timeout=60)
        assert process.returncode == (1 if how == "raised" else 0)
        assert vsphere.sessions() == before
        assert len(vsphere.requests.read("Login")) == (5 if how == "dropped" else 2)

    def test_a_child_does_not_end_its_parents(self, vsphere: VSphere, make: Make) -> None:
        store = make()
        url = store.add("image", b"1").location.url
        store.close()
        process = self.left_by(vsphere, url, "forked")
        assert process.stdout is not None
        assert process.stdout.readline() == b"alive\n"
        assert len(vsphere.sessions()) == 1
        process.communicate(b"x", timeout=60)
        assert vsphere.sessions() == []

    def test_a_process_ends_while_the_server_is_frozen(self, vsphere: VSphere, make: Make) -> None:
        """That takes no longer than a few seconds."""
        url = make().add("image", b"1").location.url
        process = self.left_by(vsphere, url, "forked")
        assert process.stdout is not None
        assert process.stdout.readline() == b"alive\n"
        vsphere.process.freeze()
        try:
            process.communicate(b"x", timeout=30)
        finally:
            vsphere.process.thaw()
        assert process.returncode == 0

    def test_the_password_is_sent_once_and_shown_never(
        self, vsphere: VSphere, make: Make, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            store = make()
            used(vsphere, store)
            with pytest.raises(errors.NotFound) as caught:
                store.delete(f"{store.url_prefix}/x?dsName=images&dcPath=DC0")
        shown = [each for each in vsphere.requests.read() if each.password]
        assert [each.operation for each in shown] == ["Login"]
        assert all("authorization" not in each.headers for each in vsphere.requests.read("folder"))
        session = vsphere.requests.read("PUT")[0].headers["cookie"].partition("=")[2]
        for text in (caplog.text, str(caught.value), repr(caught.value.__cause__), repr(store)):
            assert PASSWORD not in text
            assert session.strip('"') not in text

    def test_small_images_take_few_requests(self, vsphere: VSphere, make: Make) -> None:
        """Placing, PUT, size, move and its end; GET; look, delete and its end."""
        store = make()
        used(vsphere, store, b"x")
        vsphere.requests.forget()
        image = store.add(new_id(), b"x")
        assert content(store, image.location) == b"x"
        store.delete(image.location)
        # A task that is not over at the first look takes some more.
        waits = ("CreatePropertyCollector", "CreateFilter", "WaitForUpdatesEx")
        ends = (*waits, "DestroyPropertyCollector", "RetrievePropertiesEx")
        counted = [each for each in vsphere.requests.read() if each.operation not in ends]
        assert len(counted) <= 6


class TestLeftovers:
    ADD = """
import sys
from imgstore.drivers.vmware import VmwareStore

class Source:
    count = 0
    def read(self, n):
        self.count += 1
        if self.count > 3:
            print("writing", flush=True)
            sys.stdin.read()
        return b"x" * n

host, user, password, ca, name = sys.argv[1:]
VmwareStore("vmware", server_host=host, server_username=user, server_password=password,
            ca_file=ca, datastores=["DC0:images"]).add(name, Source())
"""

    @pytest.fixture
    def begun(self, vsphere: VSphere) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
        """Begin adds in processes of their own, which then wait."""
        started = []

        def begin(name: str) -> subprocess.Popen[bytes]:
            options = login(vsphere).values()
            process = subprocess.Popen(
                [sys.executable, "-c", self.ADD, *options, name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            started.append(process)
            assert process.stdout is not None
            assert process.stdout.readline() == b"writing\n"
            return process

        yield begin
        for process in started:
            process.kill()
            process.communicate()

    def test_a_killed_add(self, vsphere: VSphere, make: Make, begun: Any) -> None:
        store = make()
        name = new_id()
        process = begun(name)
        until(lambda: bool(files(vsphere)), seconds=20, what="the draft is there")
        assert store.leftovers(older_than=60) == []
        process.kill()
        process.wait()
        used(vsphere, store)

        def found() -> list[Any]:
            with contextlib.suppress(errors.InUse):
                return store.remove_leftovers(older_than=0)
            return []

        (left,) = store.leftovers(older_than=0)
        assert left.name.startswith("[images] openstack_glance/.imgstore-")
        assert left.size is not None
        until(lambda: bool(found()), seconds=20, what="the draft is removed")
        assert files(vsphere) == []
        assert store.add(name, b"1").size == 1

    def test_a_datastore_that_cannot_be_used(
        self, vsphere: VSphere, make: Make, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It does not hide what the others have."""
        store = make(datastores=["DC0:images", "DC0:spare disks"])
        for datastore in vsphere.datastores:
            datastore.put("openstack_glance/.imgstore-x", b"draft")
        vsphere.datastore().change(accessible=False)
        (leftover,) = store.remove_leftovers(older_than=0)
        assert leftover.name.startswith("[spare disks]")
        assert "images is not searched" in caplog.text.replace("DC0:", "")
        vsphere.datastore().change(accessible=True)
        assert len(store.remove_leftovers(older_than=0)) == 1

    def test_drafts_that_become_images_meanwhile(self, vsphere: VSphere, make: Make) -> None:
        """They do not end the clean-up of others."""
        store = make()
        for number in range(3):
            vsphere.datastore().put(f"openstack_glance/.imgstore-{number}", b"draft")
        vsphere.fail("DeleteDatastoreFile_Task", "FileNotFound", nth=2)
        assert len(store.remove_leftovers(older_than=0)) == 2

    def test_ones_own_adds_are_none(self, vsphere: VSphere, make: Make) -> None:
        store, source = make(), Paused(DATA)
        with ThreadPoolExecutor(1) as threads:
            adding = threads.submit(store.add, "image", source)
            assert source.reached.wait(30)
            until(lambda: bool(files(vsphere)), seconds=20, what="the draft is there")
            assert store.leftovers(older_than=0) == []
            source.go_on.set()
            assert content(store, adding.result().location) == DATA

    def test_an_interrupted_add_leaves_nothing(self, vsphere: VSphere, begun: Any) -> None:
        process = begun(new_id())
        until(lambda: bool(files(vsphere)), seconds=20, what="the draft is there")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert b"KeyboardInterrupt" in said
        assert files(vsphere) == []


class TestCopies:
    def test_the_server_copies(self, vsphere: VSphere, make: Make) -> None:
        store, other = make(), make(datastores=["F0/DC1:images"])
        image = store.add("image", DATA)
        vsphere.requests.forget()
        for target in (store, other):
            copied = store.copy(image.location, "copy", to=target)
            assert copied.size == len(DATA)
            assert copied.digests == {}
            assert vsphere.requests.read("PUT") == []
            assert not difference(content(target, copied.location), DATA)
        with pytest.raises(errors.AlreadyExists):
            store.copy(image.location, "copy")
        with pytest.raises(errors.NotFound):
            store.copy(f"{store.url_prefix}/x?dsName=images&dcPath=DC0", new_id())
        assert len(files(vsphere)) == 3

    def test_another_server_does_not(self, vsphere: VSphere, make: Make) -> None:
        store = make()
        image = store.add("image", DATA)
        other = make(server_host=f"localhost:{vsphere.ports['https']}")
        copied = store.copy(image.location, "copy", to=other)
        assert copied.digests
        assert len(vsphere.requests.read("PUT")) == 2


class TestCheck:
    def test_all_is_well(self, vsphere: VSphere, make: Make) -> None:
        assert make(datastores=["DC0:images", "F0/DC1:spare disks"]).check() == []
        assert files(vsphere) == []

    def test_what_is_wrong(self, vsphere: VSphere, make: Make) -> None:
        vsphere.datastore("DC0", "spare disks").change(accessible=False)
        store = make(datastores=["DC0:images", "DC7:x", "DC0:y", "DC0:spare disks"])
        found = store.check()
        assert store.check(write=False) == found
        assert [problem.partition(";")[0].rpartition("datastore ")[2] for problem in found] == [
            "DC7:x: the server has no datacenter 'DC7'",
            "DC0:y: its datacenter has no such datastore, or none that this user may see",
            "DC0:spare disks: it is not accessible",
        ]

    def test_a_wrong_password(self, make: Make) -> None:
        (found,) = make(server_password="wrong").check()
        assert "refuses the login" in found


class TestConfiguration:
    def test_files_of_glance(self, vsphere: VSphere, tmp_path: Path) -> None:
        path = tmp_path / "images.conf"
        path.write_text(
            "[DEFAULT]\nenabled_backends = v:vmware, old:vmware\n"
            "[glance_store]\ndefault_backend = v\n"
            f"[backend_defaults]\nvmware_server_host = 127.0.0.1:{vsphere.ports['https']}\n"
            f"vmware_server_username = {vsphere.user}\nvmware_server_password = {PASSWORD}\n"
            "[v]\nvmware_datastores = DC0:images\nvmware_datastores = F0/DC1:images:100\n"
            f"vmware_ca_file = {vsphere.ca}\n"
            "[old]\nvmware_api_insecure = true\nvmware_datacenter_path = DC0\n"
            "vmware_datastore_name = images\nvmware_store_image_dir = /old\n"
        )
        with StoreManager.from_file(path) as stores:
            image = stores.add("image", DATA)
            assert image.location.url.endswith("?dsName=images&dcPath=F0%2FDC1")
            assert image.metadata["store"] == "v"
            assert stores["old"].capabilities & Capability.WRITE
            with stores.get(image.location) as reader:
                assert not difference(reader.read(), DATA)
            stores.delete(image.location)
        assert files(vsphere) == []


def test_former_hosts(vsphere: VSphere, make: Make) -> None:
    """Rows that name the host as it was are read from the one that there is."""
    former = "vsphere://old.example.org/folder/openstack_glance"
    store = make(also_owns=[former])
    store.add("image", b"1")
    row = f"{former}/image?dsName=images&dcPath=DC0"
    assert content(store, row) == b"1"
    store.delete(row)
    with pytest.raises(errors.InvalidLocation):
        store.size("vsphere://other.example.org/folder/openstack_glance/x?dsName=images&dcPath=DC0")
