"""Stores that break one rule each, and the test of the contract that must find out.

Run by test_testing.py in a process of its own; every test here fails.
"""

from __future__ import annotations

import itertools
import os
import threading

import pytest

from imgstore import Capability, Location
from imgstore.drivers.memory import MemoryStore
from imgstore.errors import AlreadyExists
from imgstore.store import Added, Ownership
from imgstore.streams import Opened
from imgstore.testing import StoreContract

MIB = 1024 * 1024


class Replacing(MemoryStore):
    """Adds over an existing image."""

    caught_by = "test_an_existing_image_is_not_touched"

    def _refuse_existing(self, location):
        pass


class Careless(MemoryStore):
    """Looks for an existing image at the beginning only."""

    caught_by = "test_one_of_two_overlapping_adds_wins"

    def _add(self, image_id, body, *, context):
        location = Location.parse(f"{self.url_prefix}{image_id}")
        if location.url in self._images:
            raise AlreadyExists("an image of this id exists")
        self._images[location.url] = ("1", b"".join(iter(lambda: body.read(MIB), b"")))
        return Added(location)


class Hasty(MemoryStore):
    """Shows an image while it is written."""

    caught_by = "test_an_unfinished_image_is_not_visible"

    def _add(self, image_id, body, *, context):
        location = Location.parse(f"{self.url_prefix}{image_id}")
        data = b""
        while block := body.read(100_000):
            data += block
            self._images[location.url] = ("1", data)
        return Added(location)


class Untidy(Hasty):
    """Leaves behind what a failed add wrote."""

    caught_by = "test_what_the_source_raises_is_the_callers"


class Swallowing(MemoryStore):
    """Takes a failure of the source for its end."""

    caught_by = "test_a_wrong_size_is_a_mismatch"

    def _add(self, image_id, body, *, context):
        location = Location.parse(f"{self.url_prefix}{image_id}")
        data = b""
        try:
            while block := body.read(100_000):
                data += block
        except Exception:
            pass
        self._images[location.url] = ("1", data)
        return Added(location)


class Forgetful(MemoryStore):
    """Stores the first MiB only."""

    caught_by = "test_what_is_added_comes_back"

    def _add(self, image_id, body, *, context):
        added = super()._add(image_id, body, context=context)
        version, data = self._images[added.location.url]
        self._images[added.location.url] = (version, data[:MIB])
        return added


class OffByOne(MemoryStore):
    """Reads ranges from one byte later."""

    caught_by = "test_every_range_gives_its_bytes"

    def _get(self, location, offset, length, *, if_version, context):
        offset += offset > 1
        return super()._get(location, offset, length, if_version=if_version, context=context)


class Guessing(MemoryStore):
    """Tells the size of what is not there."""

    caught_by = "test_a_missing_image_is_not_found"

    def _size(self, location, *, context):
        return len(self._images.get(location.url, ("", b""))[1])


class Indifferent(MemoryStore):
    """Deletes what is not there."""

    caught_by = "test_deleting_is_final"

    def _delete(self, location, *, context):
        self._images.pop(location.url, None)


class Keeping(MemoryStore):
    """Does not delete."""

    caught_by = "test_a_deleted_id_is_free"

    def _delete(self, location, *, context):
        self._find(location)


class Greedy(MemoryStore):
    """Owns everything of its scheme."""

    caught_by = "test_foreign_locations_are_refused"

    def owns(self, location):
        return Ownership.YES


class Leaking(MemoryStore):
    """Opens a descriptor for each reader and forgets it."""

    caught_by = "test_readers_hold_nothing_afterwards"

    def _get(self, location, offset, length, *, if_version, context):
        os.dup(0)
        return super()._get(location, offset, length, if_version=if_version, context=context)


class Threading(MemoryStore):
    """Starts a thread for each add and never ends it."""

    caught_by = "test_adds_hold_nothing_afterwards"

    def _add(self, image_id, body, *, context):
        threading.Thread(target=threading.Event().wait, args=(60,), daemon=True).start()
        return super()._add(image_id, body, context=context)


class Talkative(MemoryStore):
    """Shows its credentials."""

    caught_by = "test_no_credentials_are_shown"

    def __repr__(self):
        return f"<{self.name} with password hunter2>"


class Boasting(MemoryStore):
    """Claims a capability that it was not expected to have."""

    caught_by = "test_the_store_can_what_the_class_says"
    capabilities = MemoryStore.capabilities | Capability.ACLS


class Blanking(MemoryStore):
    """Gives zeros for an image that was deleted while it was read."""

    caught_by = "test_reading_while_deleting_is_whole_or_an_error"

    def _get(self, location, offset, length, *, if_version, context):
        opened = super()._get(location, offset, length, if_version=if_version, context=context)
        there = (location.url in self._images for _ in itertools.count())
        chunks = (
            chunk if kept else bytes(len(chunk))
            for chunk, kept in zip(opened.chunks, there, strict=False)
        )
        return Opened(chunks, opened.image_size)


def _contract(broken):
    class Contract(StoreContract):
        foreign_locations = ("memory://other/image",)
        secrets = ("hunter2",)
        patience = 0.2

        @pytest.fixture
        def store(self):
            with broken("memory") as store:
                yield store

        @pytest.fixture
        def leaves(self, store):
            return lambda: list(store._images)

    return Contract


BROKEN = [
    each
    for each in vars().copy().values()
    if isinstance(each, type) and issubclass(each, MemoryStore) and each is not MemoryStore
]
globals().update({f"Test{each.__name__}": _contract(each) for each in BROKEN})
