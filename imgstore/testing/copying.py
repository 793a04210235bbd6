"""Copies inside a store and between stores."""

from __future__ import annotations

import hashlib

import pytest

from imgstore import Capability, Location, Store, errors
from imgstore.drivers.memory import MemoryStore
from imgstore.testing.doubles import Collected, raising
from imgstore.testing.harness import (
    Harness,
    Place,
    Undone,
    content,
    difference,
    lacks,
    needs,
    new_id,
    pattern,
)


class Copying(Harness, is_part=True):
    """Copies are images like any other."""

    @needs(Capability.WRITE)
    def test_an_image_is_copied_inside_its_store(self, store: Store, place: Place) -> None:
        """A copy has the same bytes under another id; digests may be missing, never wrong."""
        data = pattern(self.large)
        location = place(data)
        copy = store.copy(location, new_id())
        assert copy.location != location
        assert copy.size == len(data)
        assert copy.store == store.name
        assert copy.digests in ({}, {"sha256": hashlib.sha256(data).hexdigest()})
        assert copy.metadata.get("store") == (None if store.single else store.name)
        assert not difference(content(store, copy.location), data)
        assert not difference(content(store, location), data)

    @needs(Capability.WRITE)
    def test_an_empty_image_is_copied(self, store: Store, place: Place) -> None:
        """A copy of nothing is an image of no bytes."""
        assert store.size(store.copy(place(b""), new_id()).location) == 0

    def test_an_image_is_copied_to_another_store(self, store: Store, place: Place) -> None:
        """A copy in another store is streamed there, with digests."""
        data = pattern(self.large)
        location = place(data)
        with MemoryStore("other") as other:
            copy = store.copy(location.url, "image", to=other, algorithms=("md5",))
            assert copy.store == "other"
            assert copy.digests == {"md5": hashlib.md5(data, usedforsecurity=False).hexdigest()}
            assert not difference(content(other, copy.location), data)

    @needs(Capability.WRITE)
    def test_an_image_is_copied_from_another_store(self, store: Store) -> None:
        """An image of another store is copied here."""
        data = pattern(self.large)
        with MemoryStore("other") as other:
            copy = other.copy(other.add("image", data).location, new_id(), to=store)
        assert copy.store == store.name
        assert not difference(content(store, copy.location), data)

    @needs(Capability.WRITE)
    def test_who_wants_the_bytes_gets_them(self, store: Store, place: Place) -> None:
        """Sinks and progress see the bytes of a copy, and digests are those of hashlib."""
        data = pattern(self.large)
        sink, calls = Collected(), list[int]()
        copy = store.copy(
            place(data),
            new_id(),
            size=len(data),
            sinks=[sink],
            progress=lambda done, _: calls.append(done),
        )
        assert not difference(sink.data, data)
        assert calls[-1] == len(data)
        assert copy.digests == {"sha256": hashlib.sha256(data).hexdigest()}

    @needs(Capability.WRITE)
    def test_a_failed_copy_leaves_nothing(self, store: Store, place: Place, undone: Undone) -> None:
        """Sizes are checked and the caller's exceptions come through, as in an add."""
        location = place(pattern(1000))
        with undone() as image_id, pytest.raises(errors.SizeMismatch):
            store.copy(location, image_id, size=999)
        with undone() as image_id, pytest.raises(errors.TooLarge):
            store.copy(location, image_id, max_size=999)
        error = RuntimeError("the caller's")
        with undone() as image_id, pytest.raises(RuntimeError) as caught:
            store.copy(location, image_id, progress=raising(error))
        assert caught.value is error

    @needs(Capability.WRITE)
    def test_a_copy_replaces_nothing(self, store: Store, place: Place) -> None:
        """Copying to an id that exists is AlreadyExists; the image there is not touched."""
        image_id = new_id()
        first = store.add(image_id, b"first")
        with pytest.raises(errors.AlreadyExists):
            store.copy(place(b"second"), image_id)
        with pytest.raises(errors.AlreadyExists):
            store.copy(first.location, image_id)
        assert content(store, first.location) == b"first"

    @needs(Capability.WRITE)
    def test_what_cannot_be_copied_is_refused(
        self, store: Store, place: Place, missing: Location
    ) -> None:
        """A missing image, a bad id and bad algorithms are what they are in an add."""
        location = place(b"data")
        with pytest.raises(errors.NotFound):
            store.copy(missing, new_id())
        with pytest.raises(errors.InvalidArgument):
            store.copy(location, "a/b")
        with pytest.raises(errors.InvalidArgument):
            store.copy(location, new_id(), algorithms=("nope",))

    @lacks(Capability.WRITE)
    def test_copying_here_is_unsupported(self, store: Store, place: Place) -> None:
        """A store that cannot write does not take copies."""
        location = place(b"data")
        with pytest.raises(errors.Unsupported):
            store.copy(location, new_id())
