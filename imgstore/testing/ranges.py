"""Parts of images."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Final

import pytest

from imgstore import Capability, Location, Store, errors
from imgstore.testing.harness import (
    KIB,
    MIB,
    Harness,
    Place,
    difference,
    lacks,
    library_half,
    needs,
    pattern,
    refusal,
)

SIZE: Final = MIB + 3
EDGES: Final = (0, 1, 64 * KIB - 1, 64 * KIB, MIB - 1, MIB, SIZE - 1, SIZE)
LENGTHS: Final = (0, 1, 2, 64 * KIB, MIB, SIZE - 1, SIZE, SIZE + 1, 1 << 62)
BAD_COUNTS: dict[str, Any] = {
    "negative": -1,
    "very negative": -(1 << 70),
    "bool": True,
    "float": 1.0,
    "text": "1",
}


@needs(Capability.RANGES)
class Ranges(Harness, is_part=True):
    """Ranges inside images, at their edges and beyond.

    ``offsets`` and ``lengths`` are those of an image of SIZE bytes that are tried with one another,
    and ``alone`` is the size of an image of which every byte is read by itself.
    """

    offsets: ClassVar[tuple[int, ...]] = EDGES
    lengths: ClassVar[tuple[int, ...]] = LENGTHS
    alone: ClassVar[int] = 37

    def test_every_range_gives_its_bytes(self, store: Store, place: Place) -> None:
        """A range holds its bytes; a length beyond the end is clipped; at the end it is empty."""
        data = pattern(SIZE)
        location = place(data)
        for offset in self.offsets:
            for length in self.lengths:
                expected = data[offset : offset + length]
                with store.get(location, offset=offset, length=length) as reader:
                    assert (reader.size, reader.image_size) == (len(expected), SIZE)
                    assert not difference(reader.read(), expected), (offset, length)
            with store.get(location, offset=offset) as reader:
                assert reader.size == SIZE - offset
                assert not difference(b"".join(reader), data[offset:])

    def test_every_byte_can_be_read_alone(self, store: Store, place: Place) -> None:
        """One byte at every offset of a small image."""
        data = pattern(self.alone)
        location = place(data)
        for offset in range(self.alone):
            with store.get(location, offset=offset, length=1) as reader:
                assert not difference(reader.read(), data[offset : offset + 1])

    def test_an_empty_image_has_one_range(self, store: Store, place: Place) -> None:
        """The only range of an empty image is the empty one at 0."""
        location = place(b"")
        for length in (None, 0, 1):
            with store.get(location, length=length) as reader:
                assert (reader.size, reader.image_size) == (0, 0)
                assert reader.read() == b""
        with pytest.raises(errors.InvalidRange):
            store.get(location, offset=1)

    def test_an_offset_beyond_the_end_is_refused(self, store: Store, place: Place) -> None:
        """An offset beyond the size is InvalidRange, raised by the call."""
        location = place(b"data")
        for beyond in (1, 2, MIB, 1 << 62, 1 << 70):
            for length in (None, 0, 1):
                get = partial(store.get, location, offset=4 + beyond, length=length)
                error = refusal(errors.InvalidRange, f"{beyond} beyond, length {length}", get)
                assert (error.store, error.operation) == (store.name, "get")

    @library_half
    def test_ranges_are_numbers_of_bytes(self, store: Store, place: Place) -> None:
        """An offset or length that is not a number of bytes is InvalidRange."""
        location = place(b"data")
        for name in ("offset", "length"):
            for case, count in BAD_COUNTS.items():
                get = partial(store.get, location, **{name: count})
                refusal(errors.InvalidRange, f"{name}: {case}", get)

    def test_a_range_of_no_image_is_not_found(self, store: Store, missing: Location) -> None:
        """Whether the image exists is found out first, for empty ranges as well."""
        for offset, length in ((0, 0), (0, 1), (5, 0), (5, None), (1 << 40, 1)):
            with pytest.raises(errors.NotFound):
                store.get(missing, offset=offset, length=length)

    def test_a_range_that_is_left_early_is_closed(self, store: Store, place: Place) -> None:
        """A range may be closed before its end, and the image read again."""
        data = pattern(self.large)
        location = place(data)
        for _ in range(5):
            with store.get(location, offset=7, length=MIB) as reader:
                assert not difference(reader.read(100), data[7:107])
        with store.get(location, offset=7, length=MIB) as reader:
            assert not difference(reader.read(), data[7 : MIB + 7])


class RangesRefused(Harness, is_part=True):
    """What a store without RANGES says to a range."""

    @lacks(Capability.RANGES)
    def test_ranges_are_unsupported(self, store: Store, place: Place) -> None:
        """A store that reads whole images only says so."""
        location = place(b"data")
        for offset, length in ((1, None), (0, 2), (1, 2), (0, 4)):
            with pytest.raises(errors.Unsupported):
                store.get(location, offset=offset, length=length)
