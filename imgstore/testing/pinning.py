"""What a read that is resumed relies on: the driver opens one version of an image, or none."""

from __future__ import annotations

import time
from typing import Final

import pytest

from imgstore import Capability, Location, Store, errors
from imgstore.testing.harness import Harness, Place, difference, needs, new_id, pattern

# How long the times of a backend, which may be its versions, stand still: they are whole seconds.
_CLOCK: Final = 3.0
_OTHER: Final = bytes.maketrans(bytes(range(256)), bytes(reversed(range(256))))


@needs(Capability.RANGES)
class Pinning(Harness):
    """Versions of images."""

    def test_a_read_that_is_resumed_is_pinned(self, store: Store, place: Place) -> None:
        """A driver whose reads are resumed tells a version, and opens that one at any offset."""
        data = pattern(self.large)
        location = place(data)
        version = _version(store, location)
        if store.read_retries:
            assert version, "set read_retries to 0 where the backend tells no version"
            for offset in (0, 1, len(data) - 1):
                assert not difference(_rest(store, location, offset, version), data[offset:])
                assert _version(store, location) == version

    @needs(Capability.WRITE | Capability.DELETE)
    def test_a_stale_version_is_not_opened(self, store: Store) -> None:
        """Where an image was replaced by one of the same size, its version is not opened."""
        image_id, data = new_id(), pattern(self.large)
        first = at = store.add(image_id, data).location
        version = _version(store, first)
        deadline = time.monotonic() + _CLOCK
        while version:
            store.delete(at)
            at = store.add(image_id, data.translate(_OTHER)).location
            if _version(store, at) != version or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        if version:
            for offset in (0, 1):
                with pytest.raises((errors.IntegrityError, errors.NotFound)):
                    _rest(store, first, offset, version)


def _version(store: Store, location: Location) -> str | None:
    with store.get(location) as reader:
        return reader.opened.version


def _rest(store: Store, location: Location, offset: int, version: str) -> bytes:
    """Open as a reader does that goes on after a failure."""
    try:
        opened = store._get(location, offset, None, if_version=version, context=None)
        try:
            if opened.version != version:  # the reader looks at it, too
                raise errors.IntegrityError("another version was opened")
            return b"".join(opened.chunks)
        finally:
            opened.close()
    except Exception as exc:
        raise store._translate(exc, "get") from exc
