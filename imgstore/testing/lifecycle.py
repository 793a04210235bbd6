"""What stores tell about themselves, and how they end."""

from __future__ import annotations

import copy
import logging
import pickle
import traceback
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from imgstore import Capability, Location, Store, StoreManager, errors
from imgstore.testing.doubles import Untouched
from imgstore.testing.harness import (
    WAIT,
    Harness,
    Place,
    content,
    library_half,
    new_id,
    pattern,
    refusal,
)


class Lifecycle(Harness, is_part=True):
    """Stores from their description to their end."""

    def test_the_store_can_what_the_class_says(self, store: Store) -> None:
        """The capabilities that selected these tests are the store's."""
        assert store.capabilities == self.capabilities

    def test_a_healthy_store_has_no_faults(self, store: Store) -> None:
        """``check`` talks to the backend and finds nothing wrong."""
        assert store.check() == []
        assert store.check(timeout=WAIT) == []

    def test_a_check_that_does_not_write_changes_nothing(
        self, store: Store, place: Place, leaves: Callable[[], Iterable[str]]
    ) -> None:
        """``check(write=False)`` finds nothing wrong and leaves no trace."""
        place(b"data")
        before = sorted(leaves())
        assert store.check(write=False) == []
        assert store.check(write=False, timeout=WAIT) == []
        assert sorted(leaves()) == before

    @pytest.mark.parametrize("timeout", [-1, True, "1", float("nan"), float("inf")], ids=str)
    def test_a_timeout_is_a_number_of_seconds(self, store: Store, timeout: Any) -> None:
        """A time limit that is none is InvalidArgument."""
        with pytest.raises(errors.InvalidArgument):
            store.check(timeout=timeout)

    def test_a_manager_describes_the_store(self, store: Store, place: Place) -> None:
        """``info`` has the store's own words; the manager finds an image by its location."""
        location = place(b"data")
        default = store.name if Capability.WRITE in self.capabilities else None
        with StoreManager([store], default=default) as stores:
            info = stores.info(store.name)
            assert info.driver == store.driver != ""
            assert info.capabilities == self.capabilities
            assert (info.weight, info.description) == (store.weight, store.description)
            assert info.default == (default is not None)
            assert (info.url_prefix, info.settings) == (store.url_prefix, store.settings)
            assert stores.size(location) == stores.size(location, store=store.name) == 4

    def test_no_credentials_are_shown(
        self, store: Store, place: Place, missing: Location, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Nothing shows what a store was given: itself, locations, errors, nor any logger."""
        caplog.set_level(logging.DEBUG)
        with pytest.raises(errors.NotFound) as caught:
            store.get(missing)
        location = place(b"data")
        assert content(store, location) == b"data"
        if Capability.DELETE in self.capabilities:
            store.delete(location)
        shown = [store, store.settings, location, location.url]
        shown += [caught.value, caught.value.__cause__]
        texts = [f"{thing} {thing!r}" for thing in shown]
        text = " ".join([*texts, *traceback.format_exception(caught.value), caplog.text])
        assert store.name in repr(store)
        assert not [secret for secret in self.secrets if secret in text]

    def test_leftovers_of_a_live_store_are_none(self, store: Store, place: Place) -> None:
        """There are no leftovers beside images, and removing them removes no image."""
        location = place(b"data")
        for age in (0, 3600.5, timedelta(0), timedelta(days=1)):
            assert store.leftovers(older_than=age) == []
            assert store.remove_leftovers(older_than=age) == []
        assert store.size(location) == 4

    def test_leftovers_are_listed_and_removed_by_their_age(
        self, store: Store, abandon: Callable[[], object]
    ) -> None:
        """What was left just now is no leftover of an hour ago, neither listed nor removed."""
        hour = timedelta(hours=1)
        abandon()
        assert list(store._leftovers(hour)) == [], "the driver lists what is too young"
        assert store.leftovers(older_than=hour) == []
        assert store.remove_leftovers(older_than=hour) == []
        found = store.leftovers(older_than=0)
        assert all(each.modified.utcoffset() is not None for each in found)
        if Capability.WRITE in self.capabilities:
            assert store.remove_leftovers(older_than=0) == found
            assert store.leftovers(older_than=0) == []

    @library_half
    def test_an_age_is_not_negative(self, store: Store) -> None:
        """An age that is none is InvalidArgument."""
        ages: tuple[Any, ...] = (-1, timedelta(seconds=-1), "1", None, float("nan"))
        for age in ages:
            for verb in (store.leftovers, store.remove_leftovers):
                refusal(errors.InvalidArgument, f"{age!r}", partial(verb, older_than=age))

    @library_half
    def test_stores_and_readers_are_not_pickled(self, store: Store, place: Place) -> None:
        """Neither stores nor readers travel, nor are they copied; locations are."""
        location = place(b"data")
        with store.get(location) as reader:
            for thing in (store, reader):
                for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
                    with pytest.raises(TypeError):
                        duplicate(thing)
        assert pickle.loads(pickle.dumps(location)) == location  # noqa: S301  # our own

    def test_a_closed_store_is_of_no_use(self, store: Store, place: Place) -> None:
        """Closing twice is harmless; afterwards every verb raises ValueError."""
        location = place(b"data")
        store.close()
        store.close()
        for verb in _verbs(store, location):
            with pytest.raises(ValueError, match="closed") as caught:
                verb()
            assert not isinstance(caught.value, errors.ImgStoreError)

    def test_a_closed_store_closes_its_readers(self, store: Store, place: Place) -> None:
        """Readers end with their store, started or not."""
        location = place(pattern(self.large))
        fresh, started = store.get(location), store.get(location)
        started.read(10)
        store.close()
        for reader in (fresh, started):
            assert reader.closed
            with pytest.raises(ValueError, match="closed"):
                reader.read(1)

    def test_with_closes_the_store(self, store: Store, place: Place) -> None:
        """A store is a context that gives itself and closes itself."""
        location = place(b"data")
        with store as same:
            assert same is store
        with pytest.raises(ValueError, match="closed"):
            store.size(location)


def _verbs(store: Store, location: Location) -> list[Callable[[], object]]:
    return [
        lambda: store.add(new_id(), Untouched()),
        lambda: store.get(location),
        lambda: store.size(location),
        lambda: store.delete(location),
        lambda: store.copy(location, new_id()),
        lambda: store.set_acls(location),
        lambda: store.leftovers(older_than=0),
        lambda: store.remove_leftovers(older_than=0),
        store.check,
    ]
