"""Stores that break one rule each, and the test of the contract that must find out.

Run by test_testing.py in a process of its own; every test here fails.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from imgstore import Capability, Location, Stat
from imgstore.data.opened import Opened
from imgstore.data.streams import Body
from imgstore.drivers.memory import MemoryStore
from imgstore.errors import AlreadyExists
from imgstore.model import Added, Leftover, Ownership
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


class Renaming(MemoryStore):
    """Tells a version that no reader has."""

    caught_by = "test_an_image_is_described"

    def _stat(self, location, *, context):
        told = super()._stat(location, context=context)
        return Stat(told.size, f"v{told.version}")


class Trusting(MemoryStore):
    """Stores an empty image without asking whether it may."""

    caught_by = "test_a_sink_that_refuses_keeps_an_image_out"

    def _add(self, image_id, body, *, context):
        if body.size == 0:
            body = Body(b"").__enter__()
        return super()._add(image_id, body, context=context)


class Undoing(MemoryStore):
    """Shows an image while it is judged, and relies on its own process to take it away."""

    caught_by = "test_a_process_that_dies_while_it_judges_stores_nothing"

    def __init__(self, name):
        super().__init__(name)
        self._shown = tempfile.TemporaryDirectory()

    def _close(self):
        self._shown.cleanup()
        super()._close()

    def _path(self, location):
        return Path(self._shown.name, location.url.rpartition("/")[2])

    def _add(self, image_id, body, *, context):
        path = self._path(Location.parse(f"{self.url_prefix}{image_id}"))
        path.touch()
        try:
            return super()._add(image_id, body, context=context)
        finally:
            path.unlink()

    def _size(self, location, *, context):
        return 0 if self._path(location).exists() else super()._size(location, context=context)


class Caching(MemoryStore):
    """Reads what it keeps, whatever has become of the image."""

    caught_by = "test_rot_is_found"

    def rot(self, location):
        pass


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


class Mixing(MemoryStore):
    """Goes on with another version of an image than the one it was asked for."""

    caught_by = "test_a_stale_version_is_not_opened"

    def _get(self, location, offset, length, *, if_version, context):
        opened = super()._get(location, offset, length, if_version=None, context=context)
        opened.version = if_version or opened.version
        return opened


class Unpinned(MemoryStore):
    """Tells no version, so that its reads are not resumed."""

    caught_by = "test_a_read_that_is_resumed_is_pinned"

    def _get(self, location, offset, length, *, if_version, context):
        opened = super()._get(location, offset, length, if_version=None, context=context)
        opened.version = None
        return opened


class Brief(MemoryStore):
    """Leaves out the last byte, and says so."""

    caught_by = "test_an_image_that_exists_is_read"

    def _get(self, location, offset, length, *, if_version, context):
        opened = super()._get(location, offset, length, if_version=if_version, context=context)
        size = max(0, opened.image_size - 1)
        data = b"".join(opened.chunks)[: max(0, size - offset)]
        return Opened(iter([data]), size, opened.version)


class Breaking(MemoryStore):
    """Leaves out the last byte of what it promised."""

    caught_by = "test_an_image_that_exists_is_read"

    def _get(self, location, offset, length, *, if_version, context):
        opened = super()._get(location, offset, length, if_version=if_version, context=context)
        return Opened(iter([b"".join(opened.chunks)[:-1]]), opened.image_size, opened.version)


class Miscounting(MemoryStore):
    """Tells a size that is larger than the image."""

    caught_by = "test_an_image_that_exists_is_read"

    def _size(self, location, *, context):
        return super()._size(location, context=context) + 1


class Mutable(MemoryStore):
    """Delivers what its caller may change."""

    caught_by = "test_iteration_gives_the_image_in_chunks"

    def _get(self, location, offset, length, *, if_version, context):
        opened = super()._get(location, offset, length, if_version=if_version, context=context)
        opened.chunks = map(bytearray, opened.chunks)
        return opened


class Closing(MemoryStore):
    """Closes the source."""

    caught_by = "test_a_source_is_asked_politely"

    def _add(self, image_id, body, *, context):
        added = super()._add(image_id, body, context=context)
        body.source.close()
        return added


class Rewinding(MemoryStore):
    """Reads from the source's beginning, wherever it stood."""

    caught_by = "test_a_source_is_asked_politely"

    def _add(self, image_id, body, *, context):
        body.source.seek(0)
        return super()._add(image_id, body, context=context)


class Stubborn(MemoryStore):
    """Stores what it has when it is interrupted."""

    caught_by = "test_what_the_source_raises_is_the_callers"

    def _add(self, image_id, body, *, context):
        location = Location.parse(f"{self.url_prefix}{image_id}")
        data = b""
        try:
            while block := body.read(100_000):
                data += block
        except Exception:
            raise
        except BaseException:
            pass
        self._images[location.url] = ("1", data)
        return Added(location)


class Misplacing(MemoryStore):
    """Tells the location of another image."""

    caught_by = "test_what_is_added_comes_back"

    def _add(self, image_id, body, *, context):
        added = super()._add(image_id, body, context=context)
        return Added(Location.parse(f"{added.location.url}-2"))


class Grasping(MemoryStore):
    """Tells a prefix of what other stores may have."""

    caught_by = "test_the_result_tells_what_to_persist"

    def _url_prefixes(self):
        return (self.url_prefix, "memory://")


class Absent(MemoryStore):
    """Tells a prefix that is its own, but that of no image."""

    caught_by = "test_the_result_tells_what_to_persist"

    def _url_prefixes(self):
        return (f"{self.url_prefix}images/",)


class Littering(MemoryStore):
    """A store that lists leftovers, as it should; the next ones do something wrong."""

    caught_by = None

    def __init__(self, name):
        super().__init__(name)
        self._left = {}

    def abandon(self):
        self._left["dead"] = datetime.now(timezone.utc)

    def _leftovers(self, older_than):
        limit = datetime.now(timezone.utc) - older_than
        for name, modified in list(self._left.items()):
            if modified <= limit:
                yield Leftover(self.name, name, modified)

    def _remove_leftover(self, leftover):
        self._left.pop(leftover.name, None)


class Ageless(Littering):
    """Lists what was left just now, whatever age is asked for."""

    caught_by = "test_leftovers_are_listed_and_removed_by_their_age"

    def _leftovers(self, older_than):
        return super()._leftovers(timedelta(0))


class Ancient(Littering):
    """Makes up the age of what was left, and would remove what is under way."""

    caught_by = "test_leftovers_are_listed_and_removed_by_their_age"

    def abandon(self):
        self._left["dead"] = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Naive(Littering):
    """Tells times that have no zone."""

    caught_by = "test_leftovers_are_listed_and_removed_by_their_age"

    def _leftovers(self, older_than):
        for leftover in super()._leftovers(older_than):
            yield Leftover(self.name, leftover.name, leftover.modified.replace(tzinfo=None))


class Sticky(Littering):
    """Says that it removed what it did not remove."""

    caught_by = "test_leftovers_are_listed_and_removed_by_their_age"

    def _remove_leftover(self, leftover):
        pass


class Suspicious(Littering):
    """Lists its own adds while they are under way."""

    caught_by = "test_an_unfinished_image_is_not_visible"

    def _add(self, image_id, body, *, context):
        self._left[image_id] = datetime.now(timezone.utc)
        try:
            return super()._add(image_id, body, context=context)
        finally:
            del self._left[image_id]


class Scribbling(MemoryStore):
    """Writes where it was asked only to look."""

    caught_by = "test_a_check_that_does_not_write_changes_nothing"

    def _check(self, *, write):
        self._images["memory://memory/check"] = ("1", b"")
        return ()


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

        @pytest.fixture
        def rot(self, store):
            return getattr(store, "rot", None)

        @pytest.fixture
        def abandon(self, store):
            return getattr(store, "abandon", lambda: None)

    return Contract


TestLittering = _contract(Littering)
BROKEN = [
    each
    for each in vars().copy().values()
    if isinstance(each, type) and getattr(each, "caught_by", None)
]
globals().update({f"Test{each.__name__}": _contract(each) for each in BROKEN})
