"""Adds that fail: with the right error, and without a trace."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from imgstore import Capability, Store, errors
from imgstore.data.sources import Source
from imgstore.drivers.memory import MemoryStore
from imgstore.testing.doubles import (
    Calling,
    Collected,
    Failing,
    Trickling,
    Untouched,
    Watched,
    raising,
)
from imgstore.testing.harness import (
    MIB,
    Harness,
    Undone,
    content,
    difference,
    library_half,
    needs,
    new_id,
    pattern,
    refusal,
)

FAILURES: dict[str, Callable[[], BaseException]] = {
    "RuntimeError": lambda: RuntimeError("the caller's"),
    "OSError": lambda: OSError(errno.ENOSPC, "the caller's disk is full"),
    "FileNotFoundError": lambda: FileNotFoundError(errno.ENOENT, "the caller's"),
    "TimeoutError": lambda: TimeoutError("the caller's"),
    "StopIteration": lambda: StopIteration("the caller's"),
    "in doubt": lambda: errors.Unavailable("the caller's", indeterminate=True),
    "AlreadyExists": lambda: errors.AlreadyExists("the caller's"),
    "SizeMismatch": lambda: errors.SizeMismatch("the caller's"),
    "MemoryError": lambda: MemoryError("the caller's"),
    "KeyboardInterrupt": lambda: KeyboardInterrupt("the caller's"),
    "SystemExit": lambda: SystemExit("the caller's"),
}
# All that a driver can tell apart: our own errors and others are exceptions like any other.
KINDS = ("in doubt", "OSError", "StopIteration", "KeyboardInterrupt")
WRONG_SIZES = {"one more": 1, "one less": -1, "many more": 3 * MIB, "many less": -2 * MIB}
BAD_COUNTS: dict[str, Any] = {"negative": -1, "bool": True, "float": 1.0, "text": "1"}


def _as_path(data: bytes, directory: Path) -> Path:
    path = directory / "source"
    path.write_bytes(data)
    return path


SOURCES: dict[str, Callable[[bytes, Path], Source]] = {
    "bytes": lambda data, _: data,
    "short reads": lambda data, _: Watched(data, at_most=65_537),
    "pieces": lambda data, _: iter([data[:9], data[9:]]),
    "path": _as_path,
}
# A driver can tell a file, which has a length and holes, from all else.
SHAPES = ("short reads", "path")


@needs(Capability.WRITE)
class Failures(Harness, is_part=True):
    """Whatever goes wrong, nothing is stored and nothing is left behind.

    ``failures`` are the names of the FAILURES that sources, sinks and ``progress`` raise, and
    ``origins`` those of the SOURCES that are too long or too short. ``KINDS`` and ``SHAPES`` are
    enough for a slow backend.
    """

    failures: ClassVar[tuple[str, ...]] = tuple(FAILURES)
    origins: ClassVar[tuple[str, ...]] = tuple(SOURCES)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run tests that take ``failure`` or ``origin`` for each of the class's values."""
        super().pytest_generate_tests(metafunc)
        if "failure" in metafunc.fixturenames:
            metafunc.parametrize("failure", self.failures)
        if "origin" in metafunc.fixturenames:
            metafunc.parametrize("origin", self.origins)

    @pytest.mark.parametrize("wrong", WRONG_SIZES.values(), ids=WRONG_SIZES)
    def test_a_wrong_size_is_a_mismatch(
        self,
        store: Store,
        undone: Undone,
        tmp_path: Path,
        origin: str,
        wrong: int,
    ) -> None:
        """A source of more or fewer bytes than declared is SizeMismatch."""
        source = SOURCES[origin](pattern(self.large), tmp_path)
        with undone() as image_id, pytest.raises(errors.SizeMismatch) as caught:
            store.add(image_id, source, size=self.large + wrong)
        assert caught.value.store == store.name
        assert caught.value.operation == "add"
        assert str(self.large + wrong) in str(caught.value)

    def test_an_empty_image_is_empty(self, store: Store, undone: Undone) -> None:
        """``size=0`` is a declaration like any other, and so is one byte of nothing."""
        with undone() as image_id, pytest.raises(errors.SizeMismatch):
            store.add(image_id, b"x", size=0)
        with undone() as image_id, pytest.raises(errors.SizeMismatch):
            store.add(image_id, b"", size=1)

    @pytest.mark.parametrize("too_large", [1, MIB])
    def test_max_size_is_a_limit(
        self,
        store: Store,
        undone: Undone,
        tmp_path: Path,
        origin: str,
        too_large: int,
    ) -> None:
        """A source of more than ``max_size`` bytes is TooLarge."""
        limit = self.large - too_large
        source = SOURCES[origin](pattern(self.large), tmp_path)
        with undone() as image_id, pytest.raises(errors.TooLarge) as caught:
            store.add(image_id, source, max_size=limit)
        assert str(limit) in str(caught.value)

    def test_max_size_zero_is_a_limit(self, store: Store, undone: Undone) -> None:
        """``max_size=0`` accepts nothing but an empty image."""
        with undone() as image_id, pytest.raises(errors.TooLarge):
            store.add(image_id, iter([b"x"]), max_size=0)

    def test_a_declared_size_beyond_the_limit_is_refused_at_once(
        self, store: Store, undone: Undone
    ) -> None:
        """Where the declared size exceeds ``max_size`` no byte is read."""
        with undone() as image_id, pytest.raises(errors.TooLarge):
            store.add(image_id, Untouched(), size=11, max_size=10)

    def test_a_limit_and_a_size_both_hold(self, store: Store, undone: Undone) -> None:
        """A size within the limit is still checked."""
        with undone() as image_id, pytest.raises(errors.SizeMismatch):
            store.add(image_id, iter([b"12345"]), size=4, max_size=10)

    @library_half
    def test_sizes_are_numbers_of_bytes(self, store: Store, undone: Undone) -> None:
        """A size that is not a number of bytes is refused before a byte is read."""
        with undone() as image_id:
            for name in ("size", "max_size"):
                for case, count in BAD_COUNTS.items():
                    add = partial(store.add, image_id, Untouched(), **{name: count})
                    refusal(errors.InvalidArgument, f"{name}: {case}", add)

    @pytest.mark.parametrize("after", [0, 1, 3 * MIB])
    def test_what_the_source_raises_is_the_callers(
        self, store: Store, undone: Undone, failure: str, after: int
    ) -> None:
        """An exception of the source comes through as it is, at any point of the transfer."""
        for size in (after + 1, None):
            error, text = FAILURES[failure](), str(FAILURES[failure]())
            source = Failing(error, after=after)
            with undone() as image_id, pytest.raises(type(error)) as caught:
                store.add(image_id, source, size=size)
            assert caught.value is error
            assert str(error) == text

    @pytest.mark.parametrize("after", [0, 3 * MIB - 1])
    def test_what_a_sink_raises_is_the_callers(
        self, store: Store, undone: Undone, failure: str, after: int
    ) -> None:
        """An exception of a sink comes through as it is, at the first block and at the last."""
        error, text = FAILURES[failure](), str(FAILURES[failure]())
        with undone() as image_id, pytest.raises(type(error)) as caught:
            store.add(image_id, bytes(3 * MIB), sinks=[Collected(), Failing(error, after=after)])
        assert caught.value is error
        assert str(error) == text

    @pytest.mark.parametrize("at", [1, 3 * MIB])
    def test_what_progress_raises_is_the_callers(
        self, store: Store, undone: Undone, failure: str, at: int
    ) -> None:
        """An exception of ``progress`` comes through as it is, also from its last call."""
        error, text = FAILURES[failure](), str(FAILURES[failure]())

        def progress(done: int, _: int | None) -> None:
            if done >= at:
                raise error

        with undone() as image_id, pytest.raises(type(error)) as caught:
            store.add(image_id, bytes(3 * MIB), size=3 * MIB, progress=progress)
        assert caught.value is error
        assert str(error) == text

    def test_an_add_from_a_slow_source_is_cancelled(self, store: Store, undone: Undone) -> None:
        """Progress is called while bytes trickle in, so what it raises ends the add soon."""
        error, source = RuntimeError("the caller's"), Trickling()
        with undone() as image_id, pytest.raises(RuntimeError) as caught:
            store.add(image_id, source, progress=raising(error))
        assert caught.value is error
        assert source.given < 1000

    def test_what_an_iterable_raises_is_the_callers(
        self, store: Store, undone: Undone, failure: str
    ) -> None:
        """An exception between the pieces of an iterable comes through as it is."""
        if failure == "StopIteration":  # a generator cannot raise it: Python makes this of it
            failure = "RuntimeError"
        error = FAILURES[failure]()

        def pieces() -> Iterator[bytes]:
            yield b"data"
            raise error

        with undone() as image_id, pytest.raises(type(error)) as caught:
            store.add(image_id, pieces())
        assert caught.value is error

    def test_a_failing_reader_of_another_store_is_a_source(
        self, store: Store, undone: Undone
    ) -> None:
        """What reading another store raises is that store's error, not this one's."""
        with MemoryStore("other") as other:
            reader = other.get(other.add("image", pattern(self.large)).location)
            reader.close()
            with undone() as image_id, pytest.raises(ValueError, match="closed"):
                store.add(image_id, reader)

    def test_an_unfinished_image_is_not_visible(
        self, store: Store, leaves: Callable[[], Iterable[str]]
    ) -> None:
        """An add that is under way shows no image and is no leftover."""
        data = pattern(self.large)
        image_id, source = new_id(), Watched(data, at_most=100_000)
        if Capability.DELETE in self.capabilities:
            at = store.add(image_id, b"where such an image will be").location
            store.delete(at)

        def look(done: int) -> None:
            if done == len(data):
                return
            assert store.leftovers(older_than=0) == []
            if Capability.DELETE in self.capabilities:
                with pytest.raises(errors.NotFound):
                    store.get(at)
                with pytest.raises(errors.NotFound):
                    store.size(at)

        image = store.add(image_id, source, sinks=[Calling(look)])
        assert not difference(content(store, image.location), data)
        assert store.leftovers(older_than=0) == []
