"""The RBD store where pools, rights and clusters change, or look alike; mirrored images."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from servers.ceph import Ceph
from servers.ceph import ceph as run_ceph
from servers.mirror import mirror as run_mirror
from servers.pools import RbdPool, admin, make_pool
from servers.process import until
from servers.scratch import Scratch

from imgstore import errors
from imgstore.drivers.rbd import RbdStore, names
from imgstore.testing.harness import content, new_id

pytestmark = pytest.mark.servers("ceph")


@pytest.fixture(scope="module")
def cluster(scratch: Scratch) -> Iterator[Ceph]:
    """A cluster whose pools come and go."""
    with run_ceph(scratch) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: Ceph) -> Iterator[Any]:
    with admin(cluster) as client:
        yield client


class TestPools:
    def test_an_add_lands_where_its_location_says(self, cluster: Ceph, client: Any) -> None:
        """Whatever has the pool's name by then: it was renamed, made anew, or is gone."""
        pool = make_pool(cluster, client, "moved")
        with pool.store() as store:
            first = store.add(new_id(), b"first")
            cluster.command("osd", "pool", "rename", "moved", "former")
            with pytest.raises(errors.ConfigError, match="'moved' does not exist"):
                store.add(new_id(), b"nowhere")
            now = make_pool(cluster, client, "moved")
            image = store.add(name := new_id(), b"second")
            assert now.images() == [name]
            assert content(store, image.location) == b"second"
            with pytest.raises(errors.NotFound):
                store.delete(first.location)
            with now.store("other") as other:
                assert content(other, image.location) == b"second"
            sure = "--yes-i-really-really-mean-it"
            cluster.command("osd", "pool", "rm", "moved", "moved", sure)
            with pytest.raises(errors.NotFound):
                store.size(image.location)
            anew = make_pool(cluster, client, "moved")
            store.add(name := new_id(), b"third")
            assert anew.images() == [name]

    @pytest.mark.parametrize("prefix", ["", "imgstore-add-"])
    def test_an_image_whose_parent_went_with_its_pool(
        self, cluster: Ceph, client: Any, prefix: str
    ) -> None:
        """It keeps its name, although librbd says that there is none."""
        pool, gone = (make_pool(cluster, client, f"{each}{prefix}") for each in ("kept", "gone"))
        name = f"{prefix}{(image_id := new_id())}"
        gone.make("parent", b"data")
        gone.verbs.clone(gone.context, "parent", "snap", pool.context, name)
        sure = "--yes-i-really-really-mean-it"
        cluster.command("osd", "pool", "rm", gone.name, gone.name, sure)
        client.wait_for_latest_osdmap()
        with pool.store() as store:
            with pytest.raises(errors.AlreadyExists, match="cannot be opened"):
                store.add(image_id, b"x")
            assert pool.images() == [name]

    def test_rights_that_are_given_count_at_once(self, cluster: Ceph, client: Any) -> None:
        pool = make_pool(cluster, client, "closed")
        key = ("auth", "caps", f"client.{pool.user.name}", "mon", "profile rbd", "osd")
        cluster.command(*key, "profile rbd pool=another")
        with pool.store() as store:
            with pytest.raises(errors.PermissionDenied):
                store.add(new_id(), b"x")
            assert store.check()
            cluster.command(*key, "profile rbd pool=closed")
            image = store.add(new_id(), b"x")
            assert store.check() == []
            assert content(store, image.location) == b"x"

    def test_rights_that_are_given_leave_open_images_alone(
        self, cluster: Ceph, client: Any
    ) -> None:
        pool, other = (make_pool(cluster, client, name) for name in ("mine", "theirs"))
        key = ("auth", "caps", f"client.{pool.user.name}", "mon", "profile rbd", "osd")
        mine = "profile rbd pool=mine"
        cluster.command(*key, mine)
        other.make("image", b"theirs")
        with pool.store() as store:
            data = bytes(range(256)) * 65536
            image = store.add(new_id(), data)
            theirs = f"rbd://{cluster.fsid}/theirs/image/snap"
            with store.get(image.location) as reader:
                begun = reader.read(1000)
                for _ in range(3):
                    with pytest.raises(errors.PermissionDenied):
                        store.size(theirs)
                cluster.command(*key, f"{mine}, profile rbd pool=theirs")
                assert store.size(theirs) == len(b"theirs")
                assert begun + reader.read() == data


class TestCopies:
    def test_clusters_with_one_fsid_are_two(
        self, scratch: Scratch, cluster: Ceph, client: Any
    ) -> None:
        """The other one has an image of that name, and more bytes."""
        pool = make_pool(cluster, client, "twins")
        with run_ceph(scratch, fsid=cluster.fsid) as twin, admin(twin) as its_client:
            other = make_pool(twin, its_client, "twins")
            with pool.store("from") as origin, other.store("to") as to:
                image = origin.add(name := new_id(), b"what is meant")
                to.add(name, b"another's bytes")
                copy = origin.copy(image.location, new_id(), to=to)
                assert content(to, copy.location) == b"what is meant"
                assert copy.digests

    def test_stores_of_different_users_copy_inside_the_cluster(
        self, cluster: Ceph, client: Any
    ) -> None:
        pool, target = make_pool(cluster, client, "one"), make_pool(cluster, client, "one-2")
        both = "profile rbd pool=one, profile rbd pool=one-2"
        user = cluster.user("both", mon="profile rbd", osd=both)
        options = {"user": user.name, "ceph_conf": str(user.conf)}
        with pool.store("from") as origin, target.store("to", **options) as to:
            image = origin.add(new_id(), b"data")
            copy = origin.copy(image.location, new_id(), to=to)
            assert copy.digests == {}
            assert content(to, copy.location) == b"data"

    def test_rights_to_copy_count_once_they_are_given(self, cluster: Ceph, client: Any) -> None:
        """Until then the bytes pass through the client, in a connection of the same age."""
        pool, target = (make_pool(cluster, client, name) for name in ("source", "target"))
        with pool.store("from") as origin, target.store("to") as to:
            image = origin.add(new_id(), b"data")
            assert origin.copy(image.location, new_id(), to=to).digests
            key = ("auth", "caps", f"client.{target.user.name}", "mon", "profile rbd", "osd")
            cluster.command(*key, "profile rbd pool=source, profile rbd pool=target")

            def is_inside() -> bool:
                return not origin.copy(image.location, new_id(), to=to).digests

            until(is_inside, seconds=30, what="the rights count")


class TestConfiguredFsid:
    """The fsid of the Ceph configuration is not the cluster's: librados takes no notice."""

    WRONG = "11111111-2222-3333-4444-555555555555"

    @pytest.fixture(scope="class")
    @classmethod
    def pool(cls, cluster: Ceph, client: Any) -> RbdPool:
        return make_pool(cluster, client, "configured")

    @pytest.fixture
    def store(self, cluster: Ceph, pool: RbdPool, tmp_path: Path) -> Iterator[RbdStore]:
        """One that has not connected yet."""
        conf = tmp_path / "ceph.conf"
        conf.write_text(pool.user.conf.read_text().replace(cluster.fsid, self.WRONG))
        with pool.store(ceph_conf=str(conf)) as store:
            yield store

    def test_its_images_are_found_before_it_was_connected_to(
        self, pool: RbdPool, store: RbdStore
    ) -> None:
        with pool.store("writer") as writer:
            image = writer.add(new_id(), b"data")
        for _ in range(2):
            assert content(store, image.location) == b"data"

    def test_a_location_with_it_is_of_another_cluster(
        self, cluster: Ceph, pool: RbdPool, store: RbdStore
    ) -> None:
        with pool.store("writer") as writer:
            url = writer.add(new_id(), b"data").location.url.replace(cluster.fsid, self.WRONG)
        for _ in range(2):
            with pytest.raises(errors.InvalidLocation):
                store.get(url)

    @pytest.mark.parametrize("write", [False, True])
    def test_check_tells_both(
        self, cluster: Ceph, store: RbdStore, caplog: pytest.LogCaptureFixture, *, write: bool
    ) -> None:
        (fault,) = store.check(write=write)
        assert self.WRONG in fault
        assert cluster.fsid in fault
        assert [record.getMessage() in fault for record in caplog.records] == [True]


def test_the_page_frees_the_space_of_what_is_in_the_trash(cluster: Ceph, client: Any) -> None:
    """By hand, where nobody calls remove_leftovers(): "rbd trash purge" leaves it there."""
    page = (Path(__file__).parents[2] / "docs" / "drivers" / "rbd.md").read_text(encoding="utf-8")
    shown = [line for line in page.splitlines() if line.startswith("$ rbd ") and "103f" in line]
    steps = [line for line in shown if "restore" not in line]
    assert len(steps) == 3
    pool = make_pool(cluster, client, "binned")
    with pool.store(trash_delay=1) as store:
        image = store.add(name := new_id(), b"data")
        store.delete(image.location)
    (entry,) = pool.verbs.trash_list(pool.context)
    until(
        lambda: (
            datetime.now(timezone.utc) > entry["deferment_end_time"].replace(tzinfo=timezone.utc)
        ),
        seconds=30,
        what="the delay is over",
    )
    with contextlib.suppress(Exception):
        cluster.run(["rbd", "trash", "purge", "binned"])
    assert pool.trash() == [name]
    for step in steps:
        words = step.removeprefix("$ ").split()
        named = [word.replace("103f6b8b4567", entry["id"]) for word in words]
        cluster.run([word.replace("images", "binned") for word in named])
    assert (pool.trash(), pool.objects()) == ([], [])


def test_a_monitor_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With the address, and where that comes from."""
    conf = tmp_path / "ceph.conf"
    conf.write_text("[global]\nmon_host = 127.0.0.1:1\nauth_client_required = none\n")
    with (
        RbdStore("rbd", ceph_conf=str(conf), rados_connect_timeout=1) as store,
        pytest.raises(errors.TimedOut, match=r"127\.0\.0\.1:1") as caught,
    ):
        store.size("rbd://image")
    assert str(conf) in str(caught.value)


class Daemon(threading.Thread):
    """Has an image open for as long as it is mirrored, as rbd-mirror has."""

    def __init__(self, pool: RbdPool, name: str) -> None:
        super().__init__(daemon=True)
        self.pool, self.name_of_image = pool, name
        self.opened = threading.Event()

    def run(self) -> None:
        with self.pool.image(self.name_of_image) as image:
            self.opened.set()
            while image.mirror_image_get_info()["state"] == self.pool.sdk.RBD_MIRROR_IMAGE_ENABLED:
                time.sleep(0.05)


@pytest.fixture
def mirrored(cluster: Ceph, client: Any) -> RbdPool:
    """A pool with one peer, whose images are mirrored one by one."""
    pool = make_pool(cluster, client, f"mirrored-{new_id()[:8]}")
    pool.verbs.mirror_mode_set(pool.context, pool.sdk.RBD_MIRROR_MODE_IMAGE)
    pool.verbs.mirror_peer_add(pool.context, "site-b", "client.mirror")
    return pool


def mirror(pool: RbdPool, name: str) -> None:
    with pool.image(name) as image:
        image.mirror_image_enable(pool.sdk.RBD_MIRROR_IMAGE_MODE_SNAPSHOT)


class TestMirrored:
    @pytest.mark.parametrize("delay", [0, 3600])
    def test_an_image_that_a_daemon_has_open_is_deleted(
        self, mirrored: RbdPool, delay: int
    ) -> None:
        with mirrored.store(trash_delay=delay) as store:
            image = store.add(name := new_id(), b"data")
            mirror(mirrored, name)
            daemon = Daemon(mirrored, name)
            daemon.start()
            assert daemon.opened.wait(60)
            store.delete(image.location)
            daemon.join(60)
            assert (mirrored.images(), mirrored.trash()) == ([], [name] if delay else [])

    def test_an_image_that_somebody_uses_is_in_use(self, mirrored: RbdPool) -> None:
        with mirrored.store() as store:
            image = store.add(name := new_id(), b"data")
            mirror(mirrored, name)
            daemon = Daemon(mirrored, name)
            with mirrored.image(name) as used:
                daemon.start()
                assert daemon.opened.wait(60)
                with pytest.raises(errors.InUse):
                    store.delete(image.location)
                info = used.mirror_image_get_info()
                assert info["state"] == mirrored.sdk.RBD_MIRROR_IMAGE_ENABLED
            assert content(store, image.location) == b"data"
            store.delete(image.location)
            daemon.join(60)

    def test_an_image_that_is_not_primary(self, mirrored: RbdPool) -> None:
        with mirrored.store() as store:
            image = store.add(name := new_id(), b"data")
            mirror(mirrored, name)
            with mirrored.image(name) as found:
                found.mirror_image_demote()
            with pytest.raises(errors.InUse, match="from another cluster"):
                store.delete(image.location)
            assert content(store, image.location) == b"data"

    def test_one_whose_clone_is_mirrored(self, mirrored: RbdPool) -> None:
        with mirrored.store() as store:
            image = store.add(name := new_id(), b"data")
            mirror(mirrored, name)
            context = mirrored.context
            mirrored.client.conf_set("rbd_default_clone_format", "2")
            mirrored.verbs.clone(context, name, "snap", context, "clone")
            mirror(mirrored, "clone")
            with pytest.raises(errors.InUse, match="clones of the image are mirrored"):
                store.delete(image.location)
            assert content(store, image.location) == b"data"
            with mirrored.image(name) as found:
                info = found.mirror_image_get_info()
                assert info["state"] == mirrored.sdk.RBD_MIRROR_IMAGE_ENABLED
            with mirrored.image("clone") as clone:
                clone.mirror_image_disable(False)
            mirrored.verbs.remove(context, "clone")
            store.delete(image.location)
            assert (mirrored.images(), mirrored.trash()) == ([], [])


class TestMirroredAsAWhole:
    """A pool of which every image with a journal is mirrored."""

    @pytest.fixture
    def pool(self, cluster: Ceph, client: Any) -> RbdPool:
        pool = make_pool(cluster, client, f"whole-{new_id()[:8]}")
        pool.verbs.mirror_mode_set(pool.context, pool.sdk.RBD_MIRROR_MODE_POOL)
        return pool

    @pytest.fixture
    def store(self, pool: RbdPool, tmp_path: Path) -> Iterator[RbdStore]:
        conf = tmp_path / "ceph.conf"
        conf.write_text(f"{pool.user.conf.read_text()}\n[client]\nrbd_default_features = 125\n")
        with pool.store(ceph_conf=str(conf)) as store:
            yield store

    @staticmethod
    def is_mirrored(pool: RbdPool, name: str) -> bool:
        with pool.image(name, read_only=True) as image:
            state = image.mirror_image_get_info()["state"]
            return bool(state == pool.sdk.RBD_MIRROR_IMAGE_ENABLED)

    def test_replication_begins_under_the_name_of_the_image(
        self, pool: RbdPool, store: RbdStore
    ) -> None:
        """That is, once it has it: a replica would keep the other one."""
        seen = []

        def source() -> Iterator[bytes]:
            (draft,) = pool.images()
            seen.append(self.is_mirrored(pool, draft))
            yield b"data"

        image = store.add(name := new_id(), source())
        copy = store.copy(image.location, other := new_id())
        assert seen == [False]
        assert self.is_mirrored(pool, name)
        assert self.is_mirrored(pool, other)
        for each in (image, copy):
            store.delete(each.location)
        assert (pool.images(), pool.trash(), pool.objects()) == ([], [], [])

    def test_an_image_that_is_not_deleted_is_mirrored_again(
        self, pool: RbdPool, store: RbdStore
    ) -> None:
        """For its name is another one since: an operator's renaming died before its last step."""
        image = store.add(name := new_id(), b"data")
        context = pool.context
        image_id = names.id_of(context, name) or ""
        opens = context.read(f"rbd_id.{name}")
        names.publish(context, image_id, name, "renamed")
        context.write_full(f"rbd_id.{name}", opens)
        with pytest.raises(errors.NotFound, match="another name"):
            store.delete(image.location)
        assert self.is_mirrored(pool, "renamed")
        assert pool.content("renamed") == b"data"


@pytest.mark.heavy
def test_rbd_mirror_itself(scratch: Scratch) -> None:
    """Of two clusters, replicating by snapshots: the image is gone from both."""
    with run_ceph(scratch) as here, run_ceph(scratch) as there, contextlib.ExitStack() as stack:
        pools = [
            make_pool(each, stack.enter_context(admin(each)), "images") for each in (here, there)
        ]
        daemon = stack.enter_context(run_mirror(scratch, here, there, "images"))
        pool, replica = pools
        with pool.store() as store:
            image = store.add(name := new_id(), b"data")
            mirror(pool, name)
            until(lambda: name in replica.images(), seconds=120, what="the image is replicated")

            def is_watched() -> bool:
                with pool.image(name, read_only=True) as found:
                    return any(True for _ in found.watchers_list())

            until(is_watched, seconds=120, what="the daemon has the image open")
            assert daemon.alive
            store.delete(image.location)
            assert (pool.images(), pool.trash()) == ([], [])
            until(lambda: not replica.images(), seconds=120, what="the replica is removed")
