"""What ``add`` does when all goes well, and what it refuses before it reads a byte."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

import pytest

from imgstore import Capability, Location, RequestContext, Store, errors
from imgstore.data.sources import Source
from imgstore.model import Ownership
from imgstore.testing.doubles import Collected, Untouched, Watched
from imgstore.testing.harness import (
    MIB,
    Harness,
    Undone,
    content,
    difference,
    lacks,
    library_half,
    needs,
    new_id,
    pattern,
    refusal,
)

BAD_IDS: dict[str, Any] = {
    "empty": "",
    "here": ".",
    "parent": "..",
    "separator": "a/b",
    "up": "../escape",
    "absolute": "/etc/passwd",
    "trailing separator": "a/",
    "nul": "a\0b",
    "newline": "a\nb",
    "escape": "a\x1bb",
    "delete": "a\x7fb",
    "c1": "a\x85b",
    "invisible": "a\u202eb",
    "query": "a?b",
    "fragment": "a#b",
    "256 bytes": "x" * 256,
    "256 bytes of UTF-8": "ü" * 128,
    "surrogate": "a\ud800",
    "bytes": b"8c9f",
    "number": 7,
    "nothing": None,
}
BAD_ALGORITHMS: dict[str, Any] = {
    "unknown": ("sha256", "nope"),
    "upper case": ("SHA256",),
    "extendable": ("shake_128",),
    "text": "sha256",
    "number": 256,
    "names of another type": (b"sha256",),
}


@needs(Capability.WRITE)
class Adding(Harness, is_part=True):
    """Adds that succeed, and arguments that cannot be right."""

    def test_what_is_added_comes_back(self, store: Store, image_size: int) -> None:
        """An image of any size comes back byte for byte, of a known and an unknown size."""
        data = pattern(image_size)
        for size in (image_size, None):
            image = store.add(new_id(), iter([data]), size=size)
            assert image.size == image_size
            assert image.digests == {"sha256": hashlib.sha256(data).hexdigest()}
            assert store.size(image.location) == image_size
            assert not difference(content(store, image.location), data)

    def test_the_result_tells_what_to_persist(self, store: Store) -> None:
        """The result has a parseable URL of the store, no credentials, and names the store."""
        image_id = new_id()
        image = store.add(image_id, b"data")
        again = Location.parse(image.location.url)
        assert again == image.location
        assert again.credentials is None
        assert image.location.scheme in store.schemes
        assert image.store == store.name
        assert store.url_prefix is None or image.location.url.startswith(store.url_prefix)
        own = tuple(store._url_prefixes())
        assert not own or image.location.url.startswith(own)
        for prefix in store.url_prefixes:
            assert prefix.endswith("/")
            inside = Location.parse(prefix + _below(image.location.url, image_id))
            assert store.ownership(inside) is Ownership.YES
        assert content(store, image.location.url) == b"data"

    def test_metadata_names_the_store(self, store: Store) -> None:
        """Metadata names the store, except in the old single form, and is the caller's own."""
        image = store.add(new_id(), b"data")
        assert image.metadata.get("store") == (None if store.single else store.name)
        image.metadata["mine"] = image.metadata["store"] = "changed"
        assert "mine" not in store.add(new_id(), b"data").metadata

    @pytest.mark.parametrize("declared", [0, None])
    @pytest.mark.parametrize("source", [b"", (), (b"", b"")], ids=["bytes", "none", "empties"])
    def test_an_empty_image_is_an_image(
        self, store: Store, declared: int | None, source: Source
    ) -> None:
        """An empty image is stored, whether its size was declared or not."""
        image = store.add(new_id(), source, size=declared, algorithms=("md5",))
        assert image.size == 0
        assert image.digests == {"md5": hashlib.md5(usedforsecurity=False).hexdigest()}
        assert store.size(image.location) == 0
        assert content(store, image.location) == b""

    def test_max_size_is_the_last_size_accepted(self, store: Store, image_size: int) -> None:
        """An image of exactly ``max_size`` bytes is stored."""
        data = pattern(image_size)
        image = store.add(new_id(), Watched(data), max_size=image_size, algorithms=())
        assert not difference(content(store, image.location), data)

    @pytest.mark.parametrize("size", [1000, 3 * MIB + 1])
    def test_digests_are_those_of_hashlib(self, store: Store, size: int) -> None:
        """Each algorithm that was named gives hashlib's digest, in lower case."""
        data = pattern(size)
        names = ("md5", "sha1", "sha256", "sha512", "sha3_256", "blake2b", "sha256")
        image = store.add(new_id(), Watched(data, at_most=100_001), algorithms=names)
        expected = {name: hashlib.new(name, data, usedforsecurity=False) for name in names}
        assert image.digests == {name: hasher.hexdigest() for name, hasher in expected.items()}

    def test_no_algorithms_give_no_digests(self, store: Store) -> None:
        """``algorithms=()`` computes nothing."""
        assert store.add(new_id(), b"data", algorithms=()).digests == {}

    @library_half
    def test_bad_algorithms_are_refused(self, store: Store, undone: Undone) -> None:
        """A digest that cannot be computed is refused before a byte is read."""
        with undone() as image_id:
            for case, algorithms in BAD_ALGORITHMS.items():
                add = partial(store.add, image_id, Untouched(), algorithms=algorithms)
                refusal(errors.InvalidArgument, case, add)

    def test_sinks_get_every_byte_once_in_order(self, store: Store, image_size: int) -> None:
        """Each sink gets the whole image, in order, in blocks of bytes that are not empty."""
        data = pattern(image_size)
        sinks = Collected(), Collected()
        image = store.add(new_id(), Watched(data, at_most=70_001), sinks=sinks)
        assert image.size == image_size
        for sink in sinks:
            assert not difference(sink.data, data)
            assert all(type(block) is bytes and block for block in sink.blocks)

    def test_progress_ends_at_the_size(self, store: Store, image_size: int) -> None:
        """Progress never goes back, tells of the size once, at the end, and the total if known."""
        for total in (image_size, None):
            calls: list[tuple[int, int | None]] = []
            store.add(
                new_id(),
                iter([pattern(image_size)]),
                size=total,
                progress=lambda *call, calls=calls: calls.append(call),
            )
            assert [done for done, _ in calls] == sorted(done for done, _ in calls)
            assert {known for _, known in calls} == {total}
            assert [done for done, _ in calls if done >= image_size] == [image_size]

    def test_good_ids_are_accepted(self, store: Store, good_id: str) -> None:
        """Every printable path segment of at most 255 bytes is an image id."""
        data = good_id.encode()
        image = store.add(good_id, data)
        location = Location.parse(image.location.url)
        assert not difference(content(store, location), data)
        assert store.size(location) == len(data)
        with pytest.raises(errors.AlreadyExists):
            store.add(good_id, b"another")
        if Capability.DELETE in self.capabilities:
            store.delete(location)
            with pytest.raises(errors.NotFound):
                store.size(location)

    @library_half
    def test_bad_ids_are_refused(self, store: Store, undone: Undone) -> None:
        """What is not one safe path segment is refused before a byte is read."""
        with undone():
            for case, image_id in BAD_IDS.items():
                add = partial(store.add, image_id, Untouched())
                text = str(refusal(errors.InvalidArgument, case, add))
                assert "\n" not in text
                assert len(text) < 1000

    def test_an_existing_image_is_not_touched(self, store: Store) -> None:
        """Adding an id that exists is AlreadyExists and leaves the first image as it is."""
        image_id = new_id()
        image = store.add(image_id, b"first")
        for source in (b"second, longer", b"", iter([b"third"])):
            with pytest.raises(errors.AlreadyExists) as caught:
                store.add(image_id, source)
            assert caught.value.store == store.name
            assert caught.value.operation == "add"
            assert content(store, image.location) == b"first"

    def test_who_asks_is_a_context(self, store: Store, undone: Undone) -> None:
        """A context has the right shape or is refused before a byte is read."""
        with undone() as image_id, pytest.raises(errors.InvalidArgument):
            store.add(image_id, Untouched(), context=object())  # type: ignore[arg-type]
        image = store.add(new_id(), b"data", context=RequestContext(token="token"))  # noqa: S106
        assert content(store, image.location) == b"data"


def _below(url: str, image_id: str) -> str:
    """Return what a URL has behind the image's place; backends may give names of their own."""
    _, found, behind = url.rpartition(image_id)
    return found + behind if found else url.rpartition("/")[2]


class AddingRefused(Harness, is_part=True):
    """What a store without WRITE says to an add."""

    @lacks(Capability.WRITE)
    def test_adding_is_unsupported(self, store: Store) -> None:
        """A store that cannot write says so before a byte is read."""
        with pytest.raises(errors.Unsupported) as caught:
            store.add(new_id(), Untouched())
        assert caught.value.store == store.name
