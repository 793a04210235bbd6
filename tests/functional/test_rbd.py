"""What the RBD store does in a pool: what others find there, clones, trash, leftovers."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from servers.ceph import Ceph
from servers.pools import RbdPool, make_pool, modules

from imgstore import Location, StoredImage, StoreManager, errors
from imgstore.drivers.rbd import RbdStore
from imgstore.model import Ownership
from imgstore.testing.harness import content, new_id, pattern

pytestmark = pytest.mark.servers("ceph")

MIB = 1024 * 1024
CutOff = tuple[RbdStore, list["Future[StoredImage]"]]
CLUSTER = "0f0f0f0f-1111-2222-3333-444444444444"


@pytest.fixture(autouse=True)
def _healthy(ceph: Ceph) -> None:
    """The cluster is in health before and after each test."""


@pytest.fixture
def pool(rbd_pool: RbdPool) -> Iterator[RbdPool]:
    yield rbd_pool
    rbd_pool.empty()


@pytest.fixture
def store(pool: RbdPool) -> Iterator[RbdStore]:
    with pool.store() as store:
        yield store


@pytest.fixture(scope="session")
def other_pool(_ceph: Ceph, ceph_admin: Any) -> RbdPool:
    """A second pool, for whose images the first one's user has the rights."""
    return make_pool(_ceph, ceph_admin, "images-2")


@pytest.fixture
def clones(other_pool: RbdPool) -> Iterator[RbdPool]:
    yield other_pool
    other_pool.empty()


class Unending:
    """A source that delivers one block, and then waits until it is told to end."""

    def __init__(self, block: bytes) -> None:
        self.block = block
        self.reads = 0

    def read(self, n: int) -> bytes:
        self.reads += 1
        return self.block[:n]


class TestPool:
    """What other services find."""

    def test_locations_are_those_of_the_incumbent(self, ceph: Ceph, store: RbdStore) -> None:
        image = store.add("an id/".strip("/") + "+ü", b"x")
        assert image.location.url == f"rbd://{ceph.fsid}/images/an%20id%2B%C3%BC/snap"
        assert store.url_prefix == f"rbd://{ceph.fsid}/images/"
        assert content(store, image.location.url) == b"x"

    def test_an_image_is_as_nova_and_cinder_expect_it(self, pool: RbdPool) -> None:
        data = pattern(20 * MIB + 5)
        with pool.store() as store:
            image = store.add(name := new_id(), data, size=len(data))
        assert pool.images() == [name]
        assert pool.content(name) == data
        with pool.image(name) as found:
            assert [each["name"] for each in found.list_snaps()] == ["snap"]
            assert found.is_protected_snap("snap")
            assert found.size() == len(data) == image.size
            assert found.stat()["order"] == 23
            assert (found.stripe_count(), found.stripe_unit()) == (1, 8 * MIB)
            assert found.features() == 61  # rbd_default_features
            assert dict(found.metadata_list()) == {}
            assert not list(found.list_lockers())

    @pytest.mark.parametrize(
        ("features", "bits"),
        [
            ("layering", 1),
            ("exclusive-lock", 5),
            ("layering,exclusive-lock,object-map,fast-diff", 29),
            (["deep-flatten"], 33),
        ],
    )
    def test_features_are_those_asked_for(self, pool: RbdPool, features: Any, bits: int) -> None:
        with pool.store(features=features) as store:
            store.add(name := new_id(), b"x")
        with pool.image(name) as found:
            assert found.features() == bits

    @pytest.mark.parametrize(("chunk", "order"), [(1, 20), (3, 21), (8, 23), (32, 25), (100, 25)])
    def test_objects_have_the_size_of_chunks(self, pool: RbdPool, chunk: int, order: int) -> None:
        data = pattern(5 * MIB + 1)
        with pool.store(chunk_size=chunk) as store:
            image = store.add(name := new_id(), data)
            assert content(store, image.location) == data
        with pool.image(name) as found:
            assert found.stat()["order"] == order

    @pytest.mark.parametrize("thin", [False, True])
    def test_thin_images_take_no_space_for_zeros(self, pool: RbdPool, *, thin: bool) -> None:
        grain = 64 * 1024
        data = pattern(grain) + bytes(8 * MIB) + pattern(100) + bytes(25 * MIB)
        with pool.store(thin_provisioning=thin) as store:
            image = store.add(new_id(), data, algorithms=("sha256",))
            assert image.digests["sha256"] == hashlib.sha256(data).hexdigest()
            assert image.size == len(data)
            assert content(store, image.location) == data
            objects = [name for name in pool.objects() if name.startswith("rbd_data.")]
            assert len(objects) == (2 if thin else 5)

    def test_holes_of_files_take_no_space(self, pool: RbdPool, tmp_path: Path) -> None:
        source = tmp_path / "source"
        with source.open("wb") as file:
            file.write(b"begin")
            file.seek(40 * MIB)
            file.write(b"end")
            file.truncate(60 * MIB)
        with pool.store() as store:
            image = store.add(new_id(), source)
            assert content(store, image.location) == source.read_bytes()
            objects = [name for name in pool.objects() if name.startswith("rbd_data.")]
            assert len(objects) == 2

    def test_images_of_nova_and_glance_are_read_and_deleted(
        self, ceph: Ceph, pool: RbdPool, store: RbdStore
    ) -> None:
        pool.make("made-elsewhere", b"by Nova")
        location = f"rbd://{ceph.fsid}/images/made-elsewhere/snap"
        assert content(store, location) == b"by Nova"
        assert store.size(location) == 7
        store.delete(location)
        assert pool.objects() == []

    def test_locations_of_one_part_lie_in_the_stores_pool(
        self, pool: RbdPool, store: RbdStore
    ) -> None:
        pool.make("old%20one", b"data", snapshots=())
        with pool.image("old%20one") as image:
            image.metadata_set("imgstore.complete", "yes")
        assert content(store, "rbd://old%20one") == b"data"
        assert store.size("rbd://old%20one") == 4
        store.delete("rbd://old%20one")
        with pytest.raises(errors.NotFound):
            store.size("rbd://old%20one")
        assert pool.objects() == []

    def test_a_location_of_one_part_deletes_the_snapshot_too(
        self, pool: RbdPool, store: RbdStore
    ) -> None:
        pool.make("old", b"data")
        store.delete("rbd://old")
        assert (pool.objects(), pool.trash()) == ([], [])

    def test_an_image_without_that_snapshot_is_not_found(
        self, ceph: Ceph, pool: RbdPool, store: RbdStore
    ) -> None:
        pool.make("bare", b"data", snapshots=())
        for verb in (store.get, store.size):
            with pytest.raises(errors.NotFound):
                verb(f"rbd://{ceph.fsid}/images/bare/snap")

    def test_another_cluster_is_foreign(self, ceph: Ceph, store: RbdStore) -> None:
        image = store.add(new_id(), b"x")
        elsewhere = image.location.url.replace(ceph.fsid, "0" * 8 + ceph.fsid[8:])
        for verb in (store.get, store.size, store.delete):
            with pytest.raises(errors.InvalidLocation, match="outside this store"):
                verb(elsewhere)
        assert content(store, image.location) == b"x"

    def test_a_conf_without_fsid_leaves_it_to_the_cluster(
        self, ceph: Ceph, pool: RbdPool, tmp_path: Path
    ) -> None:
        conf = tmp_path / "ceph.conf"
        lines = pool.user.conf.read_text().splitlines()
        conf.write_text("".join(f"{line}\n" for line in lines if not line.startswith("fsid")))
        with pool.store(ceph_conf=str(conf)) as store:
            assert store.url_prefix is None
            elsewhere = f"rbd://{'0' * 8 + ceph.fsid[8:]}/images/x/snap"
            with pytest.raises(errors.InvalidLocation, match="another cluster"):
                store.get(elsewhere)
            assert store.url_prefix == f"rbd://{ceph.fsid}/images/"

    def test_a_former_cluster_is_owned_where_the_operator_says_so(
        self, ceph: Ceph, pool: RbdPool
    ) -> None:
        former = "rbd://00000000-1111-2222-3333-444444444444/images"
        with pool.store(also_owns=(former,)) as store:
            store.add(name := new_id(), b"moved here")
            assert content(store, f"{former}/{name}/snap") == b"moved here"

    def test_a_configuration_file_of_the_incumbent_loads(
        self, ceph: Ceph, pool: RbdPool, tmp_path: Path
    ) -> None:
        file = tmp_path / "glance-api.conf"
        file.write_text(
            "[DEFAULT]\nenabled_backends = ceph:rbd\n[glance_store]\ndefault_backend = ceph\n"
            f"[ceph]\nrbd_store_pool = images\nrbd_store_user = {pool.user.name}\n"
            f"rbd_store_ceph_conf = {pool.user.conf}\nrbd_store_chunk_size = 8\n"
            "rados_connect_timeout = 30\nrbd_thin_provisioning = true\n"
        )
        with StoreManager.from_file(file) as stores:
            image = stores.add(new_id(), b"x")
            assert image.metadata == {"store": "ceph"}
            assert Location.parse(image.location.url).url.startswith(f"rbd://{ceph.fsid}/images/")
            assert stores.info("ceph").url_prefix == f"rbd://{ceph.fsid}/images/"
            stores.delete(image.location)


class TestLocations:
    """Ownership and prefix, without a cluster."""

    @pytest.fixture
    def conf(self, tmp_path: Path) -> Path:
        path = tmp_path / "ceph.conf"
        path.write_text(f"[global]\nfsid = {CLUSTER}\nmon_host = 127.0.0.1:1\n")
        return path

    @pytest.mark.parametrize(
        ("rest", "ownership"),
        [
            (f"{CLUSTER}/images/image/snap", Ownership.YES),
            (f"{CLUSTER}/im%61ges/image/snap", Ownership.YES),
            (f"{CLUSTER}/volumes/image/snap", Ownership.MAYBE),
            ("image", Ownership.MAYBE),
            (f"{CLUSTER[::-1]}/images/image/snap", Ownership.MAYBE),
            (f"{CLUSTER[::-1]}/volumes/image/snap", Ownership.NO),
            (f"{CLUSTER}/images/image", Ownership.NO),
            (f"{CLUSTER}/images/image/snap/", Ownership.NO),
            (f"{CLUSTER}//image/snap", Ownership.NO),
            (f"{CLUSTER}/images/image%00x/snap", Ownership.NO),
        ],
    )
    def test_ownership_is_told_without_the_cluster(
        self, conf: Path, rest: str, ownership: Ownership
    ) -> None:
        with RbdStore("rbd", ceph_conf=str(conf)) as store:
            assert store.ownership(Location("rbd", rest)) is ownership
            assert store.url_prefix == f"rbd://{CLUSTER}/images/"

    def test_a_missing_configuration_is_told_by_the_first_verb(self, tmp_path: Path) -> None:
        with (
            RbdStore("rbd", ceph_conf=str(tmp_path / "none")) as store,
            pytest.raises(errors.ConfigError, match=r"none\) cannot be read"),
        ):
            store.size("rbd://image")

    def test_a_broken_configuration_is_told_by_the_first_verb(self, tmp_path: Path) -> None:
        path = tmp_path / "ceph.conf"
        path.write_text("[global\nfsid")
        with RbdStore("rbd", ceph_conf=str(path)) as store:
            assert store.url_prefix is None
            with pytest.raises(errors.ConfigError, match=r"ceph\.conf\) cannot be read"):
                store.size("rbd://image")


class TestSizes:
    def test_unknown_sizes_of_many_threads_do_not_mix(self, store: RbdStore) -> None:
        """Sixteen images of different sizes, each of unknown size, at once."""
        images = [pattern(number * 1_300_003 % (30 * MIB) + number) for number in range(16)]

        class Source:
            def __init__(self, data: bytes) -> None:
                self.view, self.at = memoryview(data), 0

            def read(self, n: int) -> bytes:
                piece = bytes(self.view[self.at : self.at + min(n, 300_000)])
                self.at += len(piece)
                return piece

        with ThreadPoolExecutor(16) as pool:
            added = list(pool.map(lambda data: store.add(new_id(), Source(data)), images))
            for data, image in zip(images, added, strict=True):
                assert image.size == len(data) == store.size(image.location)
                assert image.digests["sha256"] == hashlib.sha256(data).hexdigest()
                assert hashlib.sha256(content(store, image.location)).digest() == (
                    hashlib.sha256(data).digest()
                )

    def test_an_image_of_unknown_size_grows_and_ends_exactly(self, pool: RbdPool) -> None:
        """With objects of 1 MiB it begins with 128 MiB, and grows more than once."""
        block, count = pattern(MIB), 300

        def source() -> Iterator[bytes]:
            for number in range(count):
                yield block[number:] + block[:number]
            yield b"the end"

        with pool.store(chunk_size=1) as store:
            image = store.add(new_id(), source())
            assert image.size == count * MIB + 7 == store.size(image.location)
            with store.get(image.location) as reader:
                digest = hashlib.sha256()
                for chunk in reader:
                    digest.update(chunk)
            assert digest.hexdigest() == image.digests["sha256"]

    def test_a_hole_beyond_what_was_granted_is_no_loss(self, pool: RbdPool, tmp_path: Path) -> None:
        source = tmp_path / "source"
        with source.open("wb") as file:
            file.seek(700 * MIB)
            file.write(b"end")
        with pool.store(chunk_size=1) as store, source.open("rb") as file:

            class Hidden:
                name = "hidden"

                def read(self, n: int) -> bytes:
                    return file.read(n)

            image = store.add(new_id(), source)
            assert image.size == 700 * MIB + 3
            with store.get(image.location, offset=700 * MIB) as reader:
                assert reader.read() == b"end"
            with store.get(image.location, offset=100, length=3) as reader:
                assert reader.read() == bytes(3)

    @pytest.mark.parametrize("mode", ["crc", "secure"])
    def test_bytes_are_kept_until_they_are_sent(
        self, pool: RbdPool, tmp_path: Path, mode: str
    ) -> None:
        """A librbd can be told not to copy them, and its Python module does not keep them."""
        conf = tmp_path / "ceph.conf"
        more = f"[client]\nrbd_disable_zero_copy_writes = false\nms_client_mode = {mode}\n"
        conf.write_text(pool.user.conf.read_text() + more)
        with pool.store(ceph_conf=str(conf)) as store:
            for number in range(3):
                data = pattern(40 * MIB + number)
                image = store.add(
                    new_id(), iter([data[at : at + MIB] for at in range(0, len(data), MIB)])
                )
                found = hashlib.sha256(content(store, image.location)).hexdigest()
                assert found == hashlib.sha256(data).hexdigest()


class TestClones:
    """Clones of both formats, as Nova and Cinder make them."""

    @pytest.fixture(params=[1, 2])
    def clone_format(self, request: pytest.FixtureRequest) -> int:
        return int(request.param)

    @pytest.fixture
    def clone(self, ceph: Ceph, clones: RbdPool, clone_format: int) -> Iterator[Any]:
        rados, _ = modules()
        conf = {"rbd_default_clone_format": str(clone_format), "rados_osd_op_timeout": "60"}
        client = rados.Rados(conffile=str(ceph.conf), conf=conf)
        client.connect()
        origin, target = client.open_ioctx("images"), client.open_ioctx("images-2")
        yield lambda name: clones.verbs.clone(origin, name, "snap", target, f"clone-of-{name}")
        client.shutdown()

    def test_clones_flattened_first(
        self, pool: RbdPool, store: RbdStore, clones: RbdPool, clone: Any
    ) -> None:
        data = pattern(3 * MIB)
        image = store.add(name := new_id(), data)
        clone(name)
        assert clones.content(f"clone-of-{name}", None) == data
        with clones.image(f"clone-of-{name}") as child:
            child.flatten()
        store.delete(image.location)
        assert (pool.images(), pool.trash(), pool.objects()) == ([], [], [])
        assert clones.content(f"clone-of-{name}", None) == data

    def test_clones_deleted_first(
        self, pool: RbdPool, store: RbdStore, clones: RbdPool, clone: Any
    ) -> None:
        image = store.add(name := new_id(), b"data")
        clone(name)
        clones.verbs.remove(clones.context, f"clone-of-{name}")
        store.delete(image.location)
        assert (pool.images(), pool.trash(), pool.objects()) == ([], [], [])

    def test_the_image_deleted_first(
        self, pool: RbdPool, store: RbdStore, clones: RbdPool, clone: Any, clone_format: int
    ) -> None:
        data = pattern(3 * MIB)
        image = store.add(name := new_id(), data)
        clone(name)
        if clone_format == 1:
            with pytest.raises(errors.InUse, match="clones"):
                store.delete(image.location)
            assert content(store, image.location) == data
            with pool.image(name) as kept:
                assert kept.is_protected_snap("snap")
                assert dict(kept.metadata_list()) == {}
            return
        store.delete(image.location)
        for verb in (store.size, store.get, store.delete):
            with pytest.raises(errors.NotFound):
                verb(image.location)
        assert (pool.images(), pool.trash()) == ([], [name])
        assert clones.content(f"clone-of-{name}", None) == data
        assert store.leftovers(older_than=0) == []
        assert store.add(name, b"the id is free").size == 14
        with clones.image(f"clone-of-{name}") as child:
            child.flatten()
        (purged,) = store.remove_leftovers(older_than=0)
        assert purged.name == f"trash {name}"
        assert (pool.images(), pool.trash()) == ([name], [])
        assert clones.content(f"clone-of-{name}", None) == data


class TestDelete:
    @pytest.mark.parametrize("protected", [True, False])
    def test_a_snapshot_need_not_be_protected(
        self, pool: RbdPool, store: RbdStore, *, protected: bool
    ) -> None:
        image = store.add(name := new_id(), b"x")
        if not protected:
            with pool.image(name) as found:
                found.unprotect_snap("snap")
        store.delete(image.location)
        assert pool.objects() == []

    def test_a_missing_snapshot_is_no_obstacle(self, pool: RbdPool, store: RbdStore) -> None:
        image = store.add(name := new_id(), b"x")
        with pool.image(name) as found:
            found.unprotect_snap("snap")
            found.remove_snap("snap")
        store.delete(image.location)
        assert pool.objects() == []
        with pytest.raises(errors.NotFound):
            store.delete(image.location)

    def test_an_image_that_is_open_elsewhere_is_in_use(
        self, pool: RbdPool, store: RbdStore
    ) -> None:
        image = store.add(name := new_id(), b"x")
        with pool.image(name):
            with pytest.raises(errors.InUse, match="open elsewhere"):
                store.delete(image.location)
            assert content(store, image.location) == b"x"
        with pool.image(name) as found:
            assert found.is_protected_snap("snap")
        store.delete(image.location)

    def test_an_image_that_is_locked_is_in_use(self, pool: RbdPool) -> None:
        with pool.store(features=("layering",)) as store:
            image = store.add(name := new_id(), b"x")
            with pool.image(name) as found:
                found.lock_exclusive("by an operator")
            with pytest.raises(errors.InUse, match="locked"):
                store.delete(image.location)
            with pool.image(name) as found:
                found.unlock("by an operator")
            store.delete(image.location)

    def test_snapshots_of_others_send_the_image_to_the_trash(
        self, pool: RbdPool, store: RbdStore
    ) -> None:
        image = store.add(name := new_id(), b"x")
        with pool.image(name) as found:
            found.create_snap("an operator's")
        store.delete(image.location)
        assert (pool.images(), pool.trash()) == ([], [name])
        assert store.leftovers(older_than=0) == []  # that snapshot is not ours to remove

    def test_trash_with_a_delay(self, pool: RbdPool) -> None:
        with pool.store(trash_delay=4) as store:
            image = store.add(name := new_id(), b"precious")
            store.delete(image.location)
            with pytest.raises(errors.NotFound):
                store.get(image.location)
            assert pool.trash() == [name]
            assert store.remove_leftovers(older_than=0) == []
            (entry,) = pool.verbs.trash_list(pool.context)
            pool.verbs.trash_restore(pool.context, entry["id"], name)
            assert store.leftovers(older_than=0) == []
            assert content(store, image.location) == b"precious"
            with pool.image(name) as found:
                assert found.is_protected_snap("snap")
            store.delete(image.location)
            deadline = time.monotonic() + 20
            while not store.remove_leftovers(older_than=0):
                assert time.monotonic() < deadline
                time.sleep(0.3)
            assert (pool.images(), pool.trash(), pool.objects()) == ([], [], [])

    def test_the_trash_of_others_is_left_alone(self, pool: RbdPool, store: RbdStore) -> None:
        pool.make("of-cinder", b"data", snapshots=())
        pool.verbs.trash_move(pool.context, "of-cinder", 0)
        assert store.remove_leftovers(older_than=0) == []
        assert pool.trash() == ["of-cinder"]

    def test_deletes_of_two_processes(self, pool: RbdPool, store: RbdStore) -> None:
        """Each sees that the other one has the image open; it is deleted, or it is whole."""
        with pool.store("other") as other, ThreadPoolExecutor(2) as threads:
            for _ in range(10):
                image = store.add(name := new_id(), b"x")

                def delete(via: RbdStore, image: Any = image) -> type[Exception] | None:
                    try:
                        via.delete(image.location)
                    except (errors.InUse, errors.NotFound) as exc:
                        return type(exc)
                    return None

                ends = list(threads.map(delete, (store, other)))
                # While one of them has it in the trash and cannot remove it, there is no image.
                if None not in ends and pool.images():
                    assert content(store, image.location) == b"x"
                    with pool.image(name) as found:
                        assert found.is_protected_snap("snap")
                        assert dict(found.metadata_list()) == {}
                    store.delete(image.location)
                assert None in ends or errors.InUse in ends
                assert (pool.images(), pool.trash()) == ([], [])

    def test_a_reader_is_told_that_its_image_was_deleted(self, pool: RbdPool) -> None:
        """For librbd objects that are gone are zeros."""
        data = pattern(60 * MIB)
        with pool.store(io_depth=1) as store:
            image = store.add(new_id(), data)
            with store.get(image.location) as reader:
                reader.read(MIB)
                store.delete(image.location)
                with pytest.raises(errors.NotFound, match="deleted while it was read"):
                    reader.read()


@pytest.fixture(scope="class")
def cut_off(rbd_pool: RbdPool) -> Iterator[CutOff]:
    """Adds, beside the other tests, of ids whose creation was cut off: they wait for 20 s."""
    pool = rbd_pool.within("cut-off")
    for name in ("half", "imgstore-add-other"):
        pool.context.write_full(f"rbd_id.{name}", b"\x0c\x00\x00\x00aaaaaaaaaaaa")
    with pool.store(namespace=pool.namespace) as store:
        with ThreadPoolExecutor(2) as threads:
            yield store, [threads.submit(store.add, name, b"x") for name in ("half", "other")]
        pool.empty()


@pytest.mark.usefixtures("cut_off")
class TestLeftovers:
    """What a killed add leaves, and what is not that."""

    ADD = """
import sys
from imgstore.drivers.rbd import RbdStore
from imgstore.model import Ownership
pool, user, conf, name = sys.argv[1:]

class Source:
    count = 0
    def read(self, n):
        self.count += 1
        if self.count > 6:
            print("writing", flush=True)
            sys.stdin.read()
        return b"x" * n

RbdStore("rbd", pool=pool, user=user, ceph_conf=conf).add(name, Source())
"""

    @pytest.fixture
    def begun(self, pool: RbdPool) -> Iterator[Any]:
        """Begin adds in processes of their own, which then wait to be killed."""
        started = []

        def begin(name: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-c", self.ADD, pool.name, pool.user.name, pool.user.conf]
            process = subprocess.Popen(
                [*map(os.fspath, command), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            started.append(process)
            assert process.stdout is not None
            assert process.stdout.readline() == b"writing\n"
            return process

        yield begin
        for process in started:
            process.kill()
            process.communicate()

    def test_a_killed_add(self, pool: RbdPool, store: RbdStore, begun: Any) -> None:
        """Alive it is nobody's prey; dead its id is taken until its watch ends, and then free."""
        names = [new_id(), new_id()]
        processes = [begun(name) for name in names]
        for name in names:
            with pytest.raises(errors.AlreadyExists, match="under way") as caught:
                store.add(name, b"mine")
            assert caught.value.retryable
        assert store.leftovers(older_than=0) == []
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
        deadline = time.monotonic() + 60
        while len(store.leftovers(older_than=0)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert {each.name for each in store.leftovers(older_than=0)} == {
            f"image imgstore-add-{name}" for name in names
        }
        assert store.leftovers(older_than=3600) == []
        pool.age(f"imgstore-add-{names[0]}", 60)
        image = store.add(names[0], b"the same id again")
        assert content(store, image.location) == b"the same id again"
        (removed,) = store.remove_leftovers(older_than=0)
        assert removed.name == f"image imgstore-add-{names[1]}"
        assert pool.images() == [names[0]]
        store.delete(image.location)
        assert pool.objects() == []

    def test_an_unfinished_image_is_not_readable(
        self, ceph: Ceph, pool: RbdPool, store: RbdStore, begun: Any
    ) -> None:
        begun(name := new_id())
        for location in (f"rbd://{name}", f"rbd://{ceph.fsid}/images/{name}/snap"):
            with pytest.raises(errors.NotFound):
                store.get(location)
            with pytest.raises(errors.NotFound):
                store.size(location)
            with pytest.raises(errors.NotFound):
                store.delete(location)
        assert pool.images() == [f"imgstore-add-{name}"]
        draft = f"rbd://{ceph.fsid}/images/imgstore-add-{name}/snap"
        for verb in (store.get, store.size, store.delete):
            with pytest.raises(errors.NotFound):
                verb(draft)

    def test_a_lost_object_is_found(self, pool: RbdPool, store: RbdStore) -> None:
        """It reads as zeros, and the image is there still."""
        image = store.add(name := new_id(), pattern(20 * MIB))
        with pool.image(name, read_only=True) as found:
            pool.context.remove_object(f"rbd_data.{found.id()}.{1:016x}")
        with pytest.raises(errors.DigestMismatch):
            store.verify(image, image.digests)

    def test_images_of_others_are_none(self, pool: RbdPool, store: RbdStore) -> None:
        """Volumes, images of the oldest locations, images with a snapshot that is unprotected."""
        pool.make("volume-1", b"data", snapshots=())
        pool.make("image", b"data")
        with pool.image("image") as image:
            image.unprotect_snap("snap")
        assert store.remove_leftovers(older_than=0) == []
        for name in ("volume-1", "image"):
            with pytest.raises(errors.AlreadyExists):
                store.add(name, b"x")
        assert pool.images() == ["image", "volume-1"]

    @pytest.mark.parametrize("snapshots", [(), ("snap",)])
    def test_each_stage_of_an_add_is_recognised(
        self, pool: RbdPool, store: RbdStore, snapshots: tuple[str, ...]
    ) -> None:
        """Died before or after the snapshot was made; with a protected one it is complete."""
        pool.make(name := new_id(), b"part", snapshots=snapshots)
        with pool.image(name) as image:
            image.metadata_set("imgstore.unfinished", f"add {image.id()}")
        if snapshots:
            assert store.leftovers(older_than=0) == []
            with pytest.raises(errors.AlreadyExists):
                store.add(name, b"whole")
            with pool.image(name) as image:
                image.unprotect_snap("snap")
        (found,) = store.leftovers(older_than=0)
        assert found.name == f"image {name}"
        assert found.size == 4
        image = store.add(name, b"whole")
        assert content(store, image.location) == b"whole"
        assert store.leftovers(older_than=0) == []

    def test_clones_do_not_inherit_being_unfinished(self, pool: RbdPool, store: RbdStore) -> None:
        """They inherit the mark; a stopped machine's disk must not be taken for a leftover."""
        pool.make("parent", b"data")
        with pool.image("parent") as image:
            image.metadata_set("imgstore.unfinished", f"add {image.id()}")
        pool.verbs.clone(pool.context, "parent", "snap", pool.context, "disk")
        with pool.image("disk") as disk:
            assert "imgstore.unfinished" in dict(disk.metadata_list())
        assert store.remove_leftovers(older_than=0) == []
        with pytest.raises(errors.AlreadyExists):
            store.add("disk", b"x")
        assert pool.images() == ["disk", "parent"]
        pool.verbs.remove(pool.context, "disk")

    def test_images_that_cannot_be_opened_are_passed_over(
        self, ceph: Ceph, ceph_admin: Any, pool: RbdPool, store: RbdStore
    ) -> None:
        """Such as clones whose parent lies in a pool that this user may not read."""
        apart = make_pool(ceph, ceph_admin, "apart")
        apart.make("parent", b"data")
        pool.verbs.clone(apart.context, "parent", "snap", pool.context, "clone")
        pool.make("unfinished", b"part", snapshots=())
        with pool.image("unfinished") as image:
            image.metadata_set("imgstore.unfinished", f"add {image.id()}")
        (removed,) = store.remove_leftovers(older_than=0)
        assert removed.name == "image unfinished"
        with pytest.raises(errors.AlreadyExists):
            store.add("clone", b"x")
        pool.verbs.remove(pool.context, "clone")
        apart.empty()

    def test_what_a_killed_copy_left(self, pool: RbdPool, store: RbdStore) -> None:
        """Its snapshots are protected before its data is there."""
        name = "imgstore-copy-0123"
        pool.make(name, b"part", snapshots=("snap", "other"))
        with pool.image(name) as image:
            assert store.leftovers(older_than=0) == []  # somebody has it open
            image.metadata_set("imgstore.unfinished", f"copy {image.id()} image")
        (removed,) = store.remove_leftovers(older_than=0)
        assert removed.name == f"image {name}"
        assert (pool.objects(), pool.trash()) == ([], [])

    def test_a_copy_with_two_names_is_an_image(
        self, ceph: Ceph, pool: RbdPool, store: RbdStore
    ) -> None:
        """Renaming writes the new name before it gives up the old one."""
        pool.make("imgstore-copy-0123", b"data")
        with pool.image("imgstore-copy-0123") as image:
            image.metadata_set("imgstore.unfinished", f"copy {image.id()} image")
        pool.context.write_full("rbd_id.image", pool.context.read("rbd_id.imgstore-copy-0123"))
        (removed,) = store.remove_leftovers(older_than=0)
        assert removed.name == "name imgstore-copy-0123"
        assert pool.images() == ["image"]
        assert content(store, f"rbd://{ceph.fsid}/images/image/snap") == b"data"
        assert store.leftovers(older_than=0) == []

    @pytest.mark.parametrize("age", [0, 3600])
    def test_a_killed_deletion(self, pool: RbdPool, store: RbdStore, age: int) -> None:
        """It left the image in the trash; one that others moved there later is theirs."""
        pool.make("image", b"data")
        with pool.image("image") as image:
            mark = f"delete {image.id()} {int(time.time()) - age}"
            image.metadata_set("imgstore.unfinished", mark)
        pool.verbs.trash_move(pool.context, "image", 0)
        assert len(store.remove_leftovers(older_than=0)) == (0 if age else 1)
        assert pool.trash() == (["image"] if age else [])

    def test_a_creation_that_was_cut_off_does_not_block_its_id(self, cut_off: CutOff) -> None:
        """Names are written before images."""
        store, adds = cut_off
        for adding in adds:
            assert content(store, adding.result(120).location) == b"x"


class TestCopy:
    def test_a_copy_is_made_by_the_cluster(
        self, pool: RbdPool, store: RbdStore, clones: RbdPool
    ) -> None:
        data = pattern(30 * MIB + 1)
        image = store.add(new_id(), data)
        with RbdStore("to", **(pool.options | {"pool": clones.name, "chunk_size": 4})) as to:
            copy = store.copy(image.location, name := new_id(), to=to)
            assert copy.digests == {}
            assert copy.size == len(data)
            assert content(to, copy.location) == data
            assert clones.content(name) == data
            with clones.image(name) as found:
                assert [each["name"] for each in found.list_snaps()] == ["snap"]
                assert found.is_protected_snap("snap")
                assert found.stat()["order"] == 22
            assert to.leftovers(older_than=0) == []
            assert clones.images() == [name]
            with pytest.raises(errors.AlreadyExists):
                store.copy(image.location, name, to=to)
            assert clones.images() == [name]
            store.delete(image.location)
            assert content(to, copy.location) == data

    def test_what_was_written_after_the_snapshot_is_not_copied(
        self, ceph: Ceph, pool: RbdPool, store: RbdStore
    ) -> None:
        pool.make("source", b"as of snap")
        with pool.image("source") as image:
            image.write(b"later ", 0)
            image.create_snap("another")
            image.protect_snap("another")
        copy = store.copy(f"rbd://{ceph.fsid}/images/source/snap", name := new_id())
        assert content(store, copy.location) == b"as of snap"
        assert pool.content(name, None) == b"as of snap"
        with pool.image(name) as found:
            assert [each["name"] for each in found.list_snaps()] == ["snap"]

    @pytest.mark.parametrize("snapshot", ["other", None])
    def test_other_snapshots_and_none(
        self, ceph: Ceph, pool: RbdPool, store: RbdStore, snapshot: str | None
    ) -> None:
        pool.make("source", b"data", snapshots=("other",))
        with pool.image("source") as image:
            image.metadata_set("imgstore.complete", "yes")
        location = f"rbd://{ceph.fsid}/images/source/other" if snapshot else "rbd://source"
        copy = store.copy(location, name := new_id())
        assert content(store, copy.location) == b"data"
        with pool.image(name) as found:
            assert [each["name"] for each in found.list_snaps()] == ["snap"]
            assert found.is_protected_snap("snap")

    def test_a_source_that_this_user_may_not_read_is_streamed(
        self, ceph: Ceph, ceph_admin: Any, store: RbdStore
    ) -> None:
        apart = make_pool(ceph, ceph_admin, "apart")
        image = store.add(new_id(), b"x")
        with apart.store("apart") as to:
            copy = store.copy(image.location, new_id(), to=to)
            assert copy.digests["sha256"] == hashlib.sha256(b"x").hexdigest()
            assert content(to, copy.location) == b"x"
        apart.empty()

    def test_a_clone_is_streamed(self, ceph: Ceph, pool: RbdPool, store: RbdStore) -> None:
        image = store.add(name := new_id(), b"parent")
        pool.verbs.clone(pool.context, name, "snap", pool.context, "child")
        with pool.image("child") as child:
            child.create_snap("snap")
            child.protect_snap("snap")
        copy = store.copy(f"rbd://{ceph.fsid}/images/child/snap", new_id())
        assert copy.digests
        assert content(store, copy.location) == b"parent"
        with pool.image("child") as child:
            child.unprotect_snap("snap")
            child.remove_snap("snap")
        pool.verbs.remove(pool.context, "child")
        store.delete(image.location)
