"""Which locations a store accepts, and what it says of images that are not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from imgstore import Capability, Location, RequestContext, Store, errors
from imgstore.model import Ownership
from imgstore.testing.harness import (
    Harness,
    Place,
    content,
    difference,
    lacks,
    library_half,
    needs,
    new_id,
    pattern,
    refusal,
)

MALFORMED: dict[str, Any] = {
    "empty": "",
    "no scheme": "somewhere/image",
    "no slashes": "scheme:image",
    "nothing after": "scheme://",
    "control character": "scheme://host/\n",
    "surrogate": "scheme://host/\ud800",
    "bytes": b"scheme://host/image",
    "number": 7,
    "nothing": None,
    "nothing behind location": SimpleNamespace(location=None, store="a"),
    "no URL behind location": SimpleNamespace(location="somewhere/image"),
}


class Locations(Harness, is_part=True):
    """Locations of this store, of others, and of nothing."""

    def _verbs(self, store: Store) -> Iterator[Callable[[Any], object]]:
        """Yield every permitted verb that takes a location."""
        yield store.get
        yield store.size
        yield lambda location: store.copy(location, new_id())
        if Capability.DELETE in self.capabilities:
            yield store.delete
        if Capability.ACLS in self.capabilities:
            yield store.set_acls

    @library_half
    def test_malformed_locations_are_refused(self, store: Store) -> None:
        """What is not a URL is InvalidLocation."""
        for case, url in MALFORMED.items():
            for verb in self._verbs(store):
                error = refusal(errors.InvalidLocation, f"{verb}: {case}", partial(verb, url))
                assert error.store == store.name
                assert error.operation is not None

    def test_foreign_locations_are_refused(self, store: Store) -> None:
        """Locations of other schemes, or outside the store, are InvalidLocation."""
        urls = ("nothing-we-know://host/image", *self.foreign_locations)
        for url in urls:
            for verb in self._verbs(store):
                for location in (url, Location.parse(url)):
                    with pytest.raises(errors.InvalidLocation):
                        verb(location)

    @needs(Capability.WRITE)
    def test_an_image_is_as_good_as_its_location(self, store: Store) -> None:
        """What an add returned can be passed to every verb that takes a location."""
        image = store.add(new_id(), b"data")
        assert content(store, image) == b"data"
        assert store.size(image) == 4
        assert store.holds(image)
        if Capability.ACLS in self.capabilities:
            store.set_acls(image)
        copied = store.copy(image, new_id())
        assert content(store, copied) == b"data"
        if Capability.DELETE in self.capabilities:
            store.delete(image)
            with pytest.raises(errors.NotFound):
                store.size(image)

    def test_a_missing_image_is_not_found(self, store: Store, missing: Location) -> None:
        """Reading, sizing, copying and deleting what is not there is NotFound, by the call."""
        for verb in self._verbs(store):
            with pytest.raises(errors.NotFound) as caught:
                verb(missing)
            assert caught.value.store == store.name
            assert caught.value.location == missing
            assert missing.url in str(caught.value) or "?" in missing.url

    def test_ownership_needs_no_backend(self, store: Store, place: Place) -> None:
        """A store owns, or may own, what is in it; it never claims what lies outside."""
        location = place(b"data")
        assert store.ownership(location) is not Ownership.NO
        foreign = Location.parse("nothing-we-know://host/image")
        assert store.ownership(foreign) is Ownership.NO
        for url in self.foreign_locations:
            assert store.ownership(Location.parse(url)) is not Ownership.YES

    def test_who_reads_is_a_context(self, store: Store, place: Place) -> None:
        """A context has the right shape, or every verb refuses it; other stores pass over it."""
        location = place(b"data")
        stranger: Any = object()
        for verb in (store.get, store.size):
            with pytest.raises(errors.InvalidArgument):
                verb(location, context=stranger)
        context = RequestContext(token="token", project_id="project")  # noqa: S106
        assert store.size(location, context=context) == 4
        with store.get(location, context=context) as reader:
            assert reader.read() == b"data"
        if Capability.DELETE in self.capabilities:
            with pytest.raises(errors.InvalidArgument):
                store.delete(location, context=stranger)
            store.delete(location, context=context)

    @needs(Capability.DELETE)
    def test_deleting_is_final(self, store: Store, place: Place) -> None:
        """A deleted image is NotFound for everyone; others stay."""
        gone, kept = place(b"gone"), place(b"kept")
        store.delete(gone)
        for verb in self._verbs(store):
            with pytest.raises(errors.NotFound):
                verb(gone.url)
        assert content(store, kept) == b"kept"

    @needs(Capability.DELETE | Capability.WRITE)
    def test_a_deleted_id_is_free(self, store: Store) -> None:
        """After a delete the id can be added again, with other bytes."""
        image_id = new_id()
        for data in (pattern(1000), b"", pattern(70_000)):
            image = store.add(image_id, data)
            assert not difference(content(store, image.location), data)
            store.delete(image.location)

    @needs(Capability.DELETE)
    def test_reading_while_deleting_is_whole_or_an_error(self, store: Store, place: Place) -> None:
        """A reader whose image is deleted gives every byte, or raises; it never ends early."""
        data = pattern(self.large)
        location = place(data)
        with store.get(location) as reader:
            got = [reader.read(1000)]
            try:
                store.delete(location)
            except errors.InUse:  # a store may protect what is being read
                assert not difference(reader.read(), data[1000:])
                return
            try:
                got.append(reader.read())
            except errors.StoreError:
                assert data.startswith(b"".join(got))
            else:
                assert not difference(b"".join(got), data)

    @lacks(Capability.DELETE)
    def test_deleting_is_unsupported(self, store: Store, place: Place) -> None:
        """A store that cannot delete says so, and the image stays."""
        location = place(b"data")
        with pytest.raises(errors.Unsupported):
            store.delete(location)
        assert content(store, location) == b"data"

    @lacks(Capability.ACLS)
    def test_acls_are_unsupported(self, store: Store, place: Place) -> None:
        """A store without access lists says so."""
        location = place(b"data")
        with pytest.raises(errors.Unsupported):
            store.set_acls(location, public=True)

    @needs(Capability.ACLS)
    def test_acls_are_set(self, store: Store, place: Place) -> None:
        """Access lists are set and taken back; the image stays as it is."""
        location = place(b"data")
        store.set_acls(location, public=True)
        store.set_acls(location, read=["one", "two"], write=["one"])
        store.set_acls(location)
        assert content(store, location) == b"data"
