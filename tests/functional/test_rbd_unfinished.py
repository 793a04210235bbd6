"""What is an RBD image and what is not yet, or no more: names, marks, snapshots, the trash."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers.ceph import Ceph
from servers.pools import RbdPool

from imgstore import errors
from imgstore.drivers.rbd import RbdStore, names
from imgstore.drivers.rbd.adding import Adding
from imgstore.testing.harness import content, new_id, pattern

pytestmark = pytest.mark.servers("ceph")

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def _healthy(ceph: Ceph) -> None:
    """The cluster is in health before and after each test."""


@pytest.fixture
def pool(rbd_pool: RbdPool) -> Iterator[RbdPool]:
    yield rbd_pool
    rbd_pool.empty()
    assert rbd_pool.objects() == []


@pytest.fixture
def store(pool: RbdPool) -> Iterator[RbdStore]:
    with pool.store() as store:
        yield store


def watched(data: bytes, look: Callable[[], None]) -> Iterator[bytes]:
    """Deliver `data`; `look` is called before and after it."""
    look()
    yield data
    look()


def locations(ceph: Ceph, name: str) -> tuple[str, str]:
    return (f"rbd://{name}", f"rbd://{ceph.fsid}/images/{name}/snap")


def trash(pool: RbdPool, name: str) -> str:
    """Move an image to the trash, and return its id."""
    image_id = names.id_of(pool.context, name)
    assert image_id is not None
    pool.verbs.trash_move(pool.context, name, 0)
    return image_id


class Losing:
    """The SDK's pool; requests that change an object of this name are carried out, unanswered."""

    def __init__(self, pool: Any, name: str) -> None:
        self._pool, self._name = pool, name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def operate_write_op(self, request: Any, name: str) -> None:
        self._pool.operate_write_op(request, name)
        if name == self._name:
            raise TimeoutError(errno.ETIMEDOUT, "no answer")


class TestAdds:
    def test_an_unfinished_image_is_known_as_one_from_its_first_moment(
        self, ceph: Ceph, pool: RbdPool, store: RbdStore
    ) -> None:
        """No verb sees it, a deletion changes nothing, and it is complete afterwards."""
        name, looks = new_id(), []

        def look() -> None:
            looks.append(pool.images())
            with pool.store("other") as other:
                for location in locations(ceph, name):
                    for verb in (other.get, other.size, other.delete):
                        with pytest.raises(errors.NotFound):
                            verb(location)
                with pytest.raises(errors.AlreadyExists) as caught:
                    other.add(name, b"x")
                assert caught.value.retryable
                assert other.leftovers(older_than=0) == []

        data = pattern(5000)
        image = store.add(name, watched(data, look))
        assert looks == [[f"imgstore-add-{name}"]] * 2
        assert content(store, image.location) == data
        assert pool.images() == [name]
        with pool.image(name) as found:
            assert dict(found.metadata_list()) == {}

    def test_one_that_was_created_and_not_opened_is_removed_by_clean_up(
        self, pool: RbdPool, store: RbdStore
    ) -> None:
        """Its process died there; for another add it may still live, for half a minute."""
        pool.make(f"imgstore-add-{(name := new_id())}", snapshots=())
        with pytest.raises(errors.AlreadyExists) as caught:
            store.add(name, b"x")
        assert caught.value.retryable
        (removed,) = store.remove_leftovers(older_than=0)
        assert removed.name == f"image imgstore-add-{name}"
        assert pool.objects() == []
        store.add(name, b"x")

    def test_one_that_died_while_it_got_its_name_has_it(
        self, ceph: Ceph, pool: RbdPool, store: RbdStore
    ) -> None:
        """It is an image; deleted, its other name is gone, too."""
        for end in (store.delete, lambda _: store.remove_leftovers(older_than=0)):
            pool.make(f"imgstore-add-{(name := new_id())}", b"data")
            image_id = names.id_of(pool.context, f"imgstore-add-{name}") or ""
            pool.context.write_full(
                f"rbd_id.{name}", struct.pack("<I", len(image_id)) + image_id.encode()
            )
            _, location = locations(ceph, name)
            assert content(store, location) == b"data"
            with pytest.raises(errors.AlreadyExists):
                store.add(name, b"x")
            end(location)
            assert pool.images() in ([], [name])
            assert store.leftovers(older_than=0) == []
        assert content(store, location) == b"data"

    def test_an_add_that_stood_still_takes_nobodys_name(
        self, pool: RbdPool, store: RbdStore
    ) -> None:
        """Its image was removed meanwhile as abandoned, and another add has begun."""

        def source() -> Iterator[bytes]:
            yield b"data"
            (draft,) = pool.images()
            image_id = names.id_of(pool.context, draft) or ""
            names.to_trash(pool.context, image_id, draft)
            pool.make(draft, b"another's", snapshots=())

        with pytest.raises(errors.Unavailable, match="stood still"):
            store.add(name := new_id(), source())
        assert pool.images() == [f"imgstore-add-{name}"]
        assert pool.content(f"imgstore-add-{name}", None) == b"another's"

    def test_what_an_interrupt_ends_after_its_last_step_is_removed(
        self, pool: RbdPool, store: RbdStore
    ) -> None:
        """Even by clean-up, where somebody had it open by then."""
        cluster = store._clusters.get()
        with cluster.connection() as connection:
            adding = Adding(cluster, connection, store._settings, name := new_id())
            adding._finish(adding._create(4))
            with pool.image(name):
                adding._undo(KeyboardInterrupt())
                assert (pool.images(), pool.trash()) == ([], [name])
        (removed,) = store.remove_leftovers(older_than=0)
        assert removed.name == f"trash {name}"
        assert pool.objects() == []

    def test_one_of_the_first_format(self, pool: RbdPool, store: RbdStore) -> None:
        """Librbd 16 makes none any more, and opens those that there are."""
        pool.context.write_full("image.rbd", b"<<< Rados Block Device Image >>>\n")
        with pytest.raises(errors.AlreadyExists, match="first format"):
            store.add("image", b"x")
        pool.context.remove_object("image.rbd")


class TestImages:
    """An image without its protected snapshot is none, in every form of location."""

    @pytest.mark.parametrize("snapshots", [(), ("snap",)])
    def test_without_its_protected_snapshot(
        self, ceph: Ceph, pool: RbdPool, store: RbdStore, snapshots: tuple[str, ...]
    ) -> None:
        pool.make("image", b"data", snapshots=snapshots)
        readable = locations(ceph, "image") if snapshots else ("rbd://image",)
        with pool.image("image") as image:
            if snapshots:
                image.unprotect_snap("snap")
            for location in readable:
                for verb in (store.get, store.size):
                    with pytest.raises(errors.NotFound, match="not complete"):
                        verb(location)
            image.metadata_set("imgstore.complete", "yes")
            for location in readable:
                assert content(store, location) == b"data"

    def test_one_that_is_older_than_this_library(self, pool: RbdPool, store: RbdStore) -> None:
        pool.make("image", b"data", snapshots=())
        image_id = names.id_of(pool.context, "image")
        request = pool.context.create_write_op()
        made = struct.pack("<II", 1_300_000_000, 0)
        pool.context.set_omap(request, ("create_timestamp",), (made,))
        pool.context.operate_write_op(request, f"rbd_header.{image_id}")
        pool.context.release_write_op(request)
        assert content(store, "rbd://image") == b"data"

    def test_one_whose_deletion_died_before_the_trash(
        self, ceph: Ceph, pool: RbdPool, store: RbdStore
    ) -> None:
        pool.make("image", b"data")
        with pool.image("image") as image:
            image.metadata_set("imgstore.unfinished", f"delete {image.id()} 1")
            image.unprotect_snap("snap")
        for location in locations(ceph, "image"):
            assert content(store, location) == b"data"
        store.delete(location)
        assert pool.objects() == []


class TestNames:
    def test_what_is_deleted_is_what_was_looked_at(self, pool: RbdPool) -> None:
        """Not the next image of that name."""
        context = pool.context
        pool.make("image", b"old")
        old = names.id_of(context, "image") or ""
        pool.verbs.rename(context, "image", "elsewhere")
        pool.make("image", b"new")
        with pytest.raises(errors.NotFound):
            names.to_trash(context, old, "image")
        assert pool.content("image") == b"new"
        assert pool.trash() == []
        names.to_trash(context, old, "elsewhere")
        with pytest.raises(errors.NotFound):
            names.to_trash(context, old, "elsewhere")
        with pytest.raises(errors.NotFound):
            names.publish(context, old, "elsewhere", "third")
        assert pool.images() == ["image"]
        pool.verbs.trash_restore(context, old, "back")
        assert pool.content("back") == b"old"

    def test_a_deletion_whose_answer_is_lost_is_one(self, pool: RbdPool) -> None:
        """Once its name is taken from an image that is in the trash, it is deleted."""
        pool.make("image", b"data")
        image_id = names.id_of(pool.context, "image") or ""
        names.to_trash(Losing(pool.context, "rbd_directory"), image_id, "image")
        assert (pool.images(), pool.trash()) == ([], ["image"])

    def test_a_mark_is_removed_by_the_deletion_that_set_it(self, pool: RbdPool) -> None:
        pool.make("image", b"data")
        with pool.image("image") as image:
            image.metadata_set("imgstore.unfinished", "theirs")
            names.remove_metadata(pool.context, image.id(), "imgstore.unfinished", "mine")
            assert dict(image.metadata_list()) == {"imgstore.unfinished": "theirs"}
            names.remove_metadata(pool.context, image.id(), "imgstore.unfinished", "theirs")
            names.remove_metadata(pool.context, image.id(), "imgstore.unfinished", "theirs")
        with pool.image("image") as image:
            assert dict(image.metadata_list()) == {}

    def test_a_name_that_nothing_opens(self, pool: RbdPool, store: RbdStore) -> None:
        """Said at once, as it is; an image that is there is no leftover."""
        pool.make("image", b"data")
        pool.context.remove_object("rbd_id.image")
        with pytest.raises(errors.AlreadyExists, match=r"rbd_id\.image") as caught:
            store.add("image", b"x")
        assert not caught.value.retryable
        assert store.leftovers(older_than=0) == []
        image_id = names.listed_id(pool.context, "image") or ""
        pool.context.write_full(
            "rbd_id.image", struct.pack("<I", len(image_id)) + image_id.encode()
        )
        assert pool.content("image") == b"data"

    @pytest.mark.parametrize("way", ["add", "clean up"])
    def test_a_name_of_an_image_that_is_gone(
        self, pool: RbdPool, store: RbdStore, way: str
    ) -> None:
        """A process that moved the image to the trash, or removed it, died before its last step."""
        context, left = pool.context, ["gone", "imgstore-copy-0"]
        for name in left:
            pool.make(name, b"data", snapshots=())
            image_id = names.id_of(context, name) or ""
            pool.verbs.remove(context, name)
            request = context.create_write_op()
            data = b"".join(struct.pack("<I", len(t)) + t.encode() for t in (name, image_id))
            request.execute("rbd", "dir_add_image", data)
            context.operate_write_op(request, "rbd_directory")
            context.release_write_op(request)
        assert {each.name for each in store.leftovers(older_than=0)} == {
            f"name {name}" for name in left
        }
        if way == "add":
            image = store.add("gone", b"x")
            assert content(store, image.location) == b"x"
            store.delete(image.location)
        assert len(store.remove_leftovers(older_than=0)) == (2 if way == "clean up" else 1)
        assert (pool.images(), pool.trash()) == ([], [])


class TestTrash:
    def test_drafts_in_the_trash(self, pool: RbdPool, store: RbdStore) -> None:
        """As removals leave them that die: whole, hidden by their source, without an image."""
        kinds = ("add", "copy", "check")
        for kind in kinds:
            pool.make(f"imgstore-{kind}-0", b"data", snapshots=("snap", "more"))
            image_id = trash(pool, f"imgstore-{kind}-0")
            if kind == "copy":
                change(pool, image_id, lambda entry: entry[:6] + b"\3" + entry[7:])
                assert "imgstore-copy-0" not in pool.trash()
            if kind == "check":
                for key in (key for key in pool.objects() if f".{image_id}" in key):
                    pool.context.remove_object(key)
        found = store.remove_leftovers(older_than=0)
        assert {each.name for each in found} == {f"trash imgstore-{kind}-0" for kind in kinds}
        assert list(names.trash(pool.context)) == []

    def test_a_deletion_that_died_before_its_name_was_free(
        self, pool: RbdPool, store: RbdStore
    ) -> None:
        pool.make("image", b"data")
        image_id = names.id_of(pool.context, "image") or ""
        with pool.image("image") as image:
            image.metadata_set("imgstore.unfinished", f"delete {image_id} {2**32}")
        trash(pool, "image")
        pool.context.write_full(
            "rbd_id.image", struct.pack("<I", len(image_id)) + image_id.encode()
        )
        (removed,) = store.remove_leftovers(older_than=0)
        assert removed.name == "trash image"
        assert pool.objects() == []

    def test_a_removal_that_died_between_two_steps_of_its_snapshot(
        self, pool: RbdPool, store: RbdStore
    ) -> None:
        """A snapshot is renamed, out of the way of its clones, before it removes it."""
        pool.make("image", b"data")
        image_id = names.id_of(pool.context, "image") or ""
        with pool.image("image") as image:
            image.metadata_set("imgstore.unfinished", f"delete {image_id} {2**32}")
            image.unprotect_snap("snap")
            snapshot = image.snap_get_id("snap")
        trash(pool, "image")
        away = struct.pack("<II4sI", 2, 4, b"snap", 0)
        data = struct.pack("<QBBI", snapshot, 1, 1, len(away)) + away
        request = pool.context.create_write_op()
        request.execute("rbd", "snapshot_trash_add", data)
        pool.context.operate_write_op(request, f"rbd_header.{image_id}")
        pool.context.release_write_op(request)
        with pool.sdk.Image(pool.context, image_id=image_id) as image:
            assert [each["namespace"] for each in image.list_snaps()] == [2]
        (removed,) = store.remove_leftovers(older_than=0)
        assert removed.name == "trash image"
        assert pool.objects() == []

    @pytest.mark.parametrize("way", ["clean up", "add"])
    def test_a_clean_up_that_died_before_an_add_that_stood_still_went_on(
        self, pool: RbdPool, store: RbdStore, way: str
    ) -> None:
        """What got its name is an image, whatever the trash says of it."""
        context, draft = pool.context, "imgstore-add-image"
        name = "image" if way == "clean up" else draft
        pool.make(name, b"data")
        image_id = names.id_of(context, name) or ""
        spec = b"\0" + struct.pack("<I", len(draft)) + draft.encode() + bytes(17)
        request = context.create_write_op()
        value = struct.pack("<BBI", 2, 1, len(spec)) + spec
        context.set_omap(request, (f"id_{image_id}",), (value,))
        context.operate_write_op(request, "rbd_trash")
        context.release_write_op(request)
        if way == "clean up":
            (removed,) = store.remove_leftovers(older_than=0)
            assert removed.name == f"trash {draft}"
        else:
            names.publish(context, image_id, draft, "image")
        assert list(names.trash(context)) == []
        assert pool.content("image") == b"data"

    def test_while_an_image_is_prepared_for_a_live_migration(
        self, ceph: Ceph, pool: RbdPool, store: RbdStore
    ) -> None:
        """Its source is in the trash for that, which the SDK's iterator cannot tell."""
        pool.make("moving", b"data", snapshots=())
        pool.make("imgstore-copy-0", b"data")
        trash(pool, "imgstore-copy-0")
        ceph.run(["rbd", "migration", "prepare", "images/moving", "images/moved"])
        try:
            with pytest.raises(errors.InUse, match="migrated"):
                store.delete("rbd://moved")
            (removed,) = store.remove_leftovers(older_than=0)
            assert removed.name == "trash imgstore-copy-0"
        finally:
            ceph.run(["rbd", "migration", "abort", "images/moved"])
        assert pool.content("moving", None) == b"data"


def change(pool: RbdPool, image_id: str, how: Callable[[bytes], bytes]) -> None:
    """Change an entry of the trash."""
    context, key = pool.context, f"id_{image_id}"
    read = context.create_read_op()
    entries, _ = context.get_omap_vals_by_keys(read, (key,))
    context.operate_read_op(read, "rbd_trash")
    value = dict(entries)[key]
    context.release_read_op(read)
    request = context.create_write_op()
    context.set_omap(request, (key,), (how(value),))
    context.operate_write_op(request, "rbd_trash")
    context.release_write_op(request)
