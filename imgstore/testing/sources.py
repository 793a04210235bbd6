"""Everything that can be stored, how it is used, and what is refused."""

from __future__ import annotations

import array
import io
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest

from imgstore import Capability, Store, errors
from imgstore.data.sources import Source
from imgstore.drivers.memory import MemoryStore
from imgstore.testing.doubles import Calling, Watched
from imgstore.testing.harness import (
    KIB,
    MIB,
    WAIT,
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

READ_LIMIT: Final = 64 * MIB


class _Path:
    """A path object that is not a pathlib.Path."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __fspath__(self) -> str:
        return self._path


class _Both:
    """An object that can be read and iterated; reading comes first."""

    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)

    def read(self, n: int, /) -> bytes:
        return self._stream.read(n)

    def __iter__(self) -> Iterator[bytes]:
        raise AssertionError("a source with read() was iterated")


def _uneven(data: bytes) -> Iterator[bytes | bytearray | memoryview]:
    """Yield pieces of very different sizes, empty ones among them."""
    yield b""
    yield data[:1]
    yield bytearray(data[1:100])
    yield b""
    yield memoryview(data)[100:-1]
    yield data[-1:]
    yield b""


IN_MEMORY: dict[str, Callable[[bytes], Source]] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "array": lambda data: array.array("Q", data[: len(data) // 8 * 8]),
    "two dimensions": lambda data: memoryview(data).cast("B", (2, len(data) // 2)),
    "BytesIO": io.BytesIO,
    "short reads": lambda data: Watched(data, at_most=1000),
    "read and iteration": _Both,
    "list of pieces": lambda data: [data[:7], data[7:]],
    "iterator of uneven pieces": _uneven,
    "generator of small pieces": lambda data: (
        data[start : start + KIB] for start in range(0, len(data), KIB)
    ),
    "read that gives bytearrays": lambda data: _Converted(data, bytearray),
    "read that gives memoryviews": lambda data: _Converted(data, memoryview),
}
FEW_KINDS = ("bytes", "short reads", "iterator of uneven pieces")


class _Converted:
    """A source whose pieces are not bytes."""

    def __init__(self, data: bytes, convert: Callable[[bytes], Any]) -> None:
        self._stream = io.BytesIO(data)
        self._convert = convert

    def read(self, n: int, /) -> Any:
        return self._convert(self._stream.read(min(n, 100_000)))


NOT_SOURCES: dict[str, Callable[[], Any]] = {
    "text": lambda: "text",
    "nothing": lambda: None,
    "number": lambda: 7,
    "text stream": lambda: io.StringIO("text"),
    "object": object,
    "strided view": lambda: memoryview(b"0123456789")[::2],
}
# Found out only when the driver reads.
NOT_BYTES: dict[str, Callable[[], Any]] = {
    "list of texts": lambda: ["text"],
    "list of numbers": lambda: [1, 2, 3],
    "mapping": lambda: {"text": b"data"},
    "text at the end": lambda: iter([b"data", "text"]),
    "read that gives text": lambda: _Converted(b"data", lambda data: data.decode()),
}


@needs(Capability.WRITE)
class Sources(Harness, is_part=True):
    """Sources of every kind.

    ``kinds`` are the names of those IN_MEMORY. A driver cannot tell them apart, so ``FEW_KINDS``
    are enough for a slow backend.
    """

    kinds: ClassVar[tuple[str, ...]] = tuple(IN_MEMORY)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run tests that take ``kind`` for each of the class's kinds."""
        super().pytest_generate_tests(metafunc)
        if "kind" in metafunc.fixturenames:
            metafunc.parametrize("kind", self.kinds)

    def test_every_kind_of_source_is_taken(self, store: Store, kind: str) -> None:
        """Bytes-like objects, readable ones and iterables are stored whole."""
        data = pattern(2 * MIB + 80)
        for size in (len(data), None):
            image = store.add(new_id(), IN_MEMORY[kind](data), size=size)
            assert not difference(content(store, image.location), data)

    @pytest.mark.parametrize("make", [Path, _Path])
    def test_a_path_is_opened_and_closed(
        self, store: Store, tmp_path: Path, make: Callable[[Path], Source]
    ) -> None:
        """A path object stands for the whole of its file."""
        data = pattern(self.large)
        path = tmp_path / "image"
        path.write_bytes(data)
        image = store.add(new_id(), make(path), size=len(data))
        assert not difference(content(store, image.location), data)

    def test_a_path_that_is_no_file_is_the_callers(
        self, store: Store, tmp_path: Path, undone: Undone
    ) -> None:
        """What opening the source raises reaches the caller as it is."""
        with undone() as image_id, pytest.raises(FileNotFoundError):
            store.add(image_id, tmp_path / "missing")
        with undone() as image_id, pytest.raises(IsADirectoryError):
            store.add(image_id, tmp_path)

    @pytest.mark.parametrize("buffering", [0, -1])
    def test_an_open_file_is_read_from_where_it_stands(
        self, store: Store, tmp_path: Path, buffering: int
    ) -> None:
        """An open file is read from its position, left at its end, and not closed."""
        data = pattern(self.large)
        path = tmp_path / "image"
        path.write_bytes(data)
        with path.open("rb", buffering=buffering) as file:
            assert not difference(file.read(1000), data[:1000])
            image = store.add(new_id(), file, size=len(data) - 1000)
            assert not file.closed
            assert file.tell() == len(data)
            assert file.read(1) == b""
        assert not difference(content(store, image.location), data[1000:])

    def test_a_sparse_file_keeps_its_zeros(self, store: Store, tmp_path: Path) -> None:
        """Holes of a file are zeros, at the start, in the middle and at the end."""
        path = tmp_path / "image"
        island = pattern(100_000)
        with path.open("wb") as file:
            for position in (MIB + 1, 2 * MIB - 100_000):
                file.seek(position)
                file.write(island)
            file.truncate(self.large)
        image = store.add(new_id(), path)
        assert not difference(content(store, image.location), path.read_bytes())

    def test_a_reader_of_another_store_is_a_source(self, store: Store) -> None:
        """An image is copied by adding its reader; the reader stays open and is at its end."""
        data = pattern(self.large)
        with MemoryStore("other") as other:
            at = other.add("image", data).location
            with other.get(at, offset=10) as reader:
                assert not difference(reader.read(5), data[10:15])
                image = store.add(new_id(), reader, size=len(data) - 15)
                assert not reader.closed
                assert reader.read() == b""
        assert not difference(content(store, image.location), data[15:])

    def test_a_reader_of_the_same_store_is_a_source(self, store: Store) -> None:
        """A store adds what it delivers at the same time."""
        data = pattern(self.large)
        at = store.add(new_id(), data).location
        with store.get(at) as reader:
            assert not difference(reader.read(5), data[:5])
            image = store.add(new_id(), reader, size=len(data) - 5)
            assert reader.read() == b""
        assert not difference(content(store, image.location), data[5:])

    @needs(Capability.RANGES)
    def test_a_range_is_a_source(self, store: Store) -> None:
        """A reader of a part is a source of that part, however much of it was read before."""
        data = pattern(self.large)
        at = store.add(new_id(), data).location
        for read in (0, 5, 100_000):
            for size in (100_000 - read, None):
                with store.get(at, offset=10, length=100_000) as reader:
                    assert not difference(reader.read(read), data[10 : 10 + read])
                    image = store.add(new_id(), reader, size=size)
                    assert image.size == 100_000 - read
                    assert reader.read() == b""
                assert not difference(content(store, image.location), data[10 + read : 100_010])

    def test_a_reader_that_is_closed_meanwhile(self, store: Store) -> None:
        """A source that somebody else closes is stored whole or not at all."""
        data = pattern(self.large)
        with MemoryStore("other") as other:
            for origin in (other, store):
                reader = origin.get(origin.add(new_id(), data).location)
                closing = threading.Thread(target=reader.close)

                def close(done: int, closing: threading.Thread = closing) -> None:
                    if done < len(data) and closing.ident is None:
                        closing.start()
                        closing.join(WAIT)

                try:
                    image = store.add(new_id(), reader, sinks=[Calling(close)])
                except ValueError as exc:
                    assert "closed" in str(exc)  # noqa: PT017  # either outcome is right
                else:
                    assert not difference(content(store, image.location), data)
                # Nobody can close it meanwhile where the driver takes it in one piece.
                assert reader.closed or closing.ident is None

    def test_a_source_is_asked_politely(self, store: Store) -> None:
        """A source is asked for 1 byte to 64 MiB at a time, never rewound, and not closed."""
        source = Watched(pattern(self.large), at_most=100_000)
        store.add(new_id(), source)
        assert all(type(n) is int and 0 < n <= READ_LIMIT for n in source.asked)
        assert not source.closed

    def test_a_failed_add_leaves_the_source_open(self, store: Store, undone: Undone) -> None:
        """A source is neither rewound nor closed when its add fails."""
        source = Watched(pattern(1000))
        with undone() as image_id, pytest.raises(errors.SizeMismatch):
            store.add(image_id, source, size=999)
        assert not source.closed

    @library_half
    def test_what_is_no_source_is_refused(self, store: Store, undone: Undone) -> None:
        """Text, text streams and what has no bytes are InvalidArgument."""
        with undone() as image_id:
            for case, make in NOT_SOURCES.items():
                error = refusal(errors.InvalidArgument, case, partial(store.add, image_id, make()))
                assert error.store == store.name

    @pytest.mark.parametrize("make", NOT_BYTES.values(), ids=NOT_BYTES)
    def test_what_is_not_bytes_is_refused(
        self, store: Store, undone: Undone, make: Callable[[], Any]
    ) -> None:
        """A source that gives anything but bytes is InvalidArgument."""
        with undone() as image_id, pytest.raises(errors.InvalidArgument) as caught:
            store.add(image_id, make())
        assert caught.value.store == store.name

    @library_half
    def test_a_text_file_is_refused(self, store: Store, undone: Undone, tmp_path: Path) -> None:
        """A file that was opened as text is InvalidArgument."""
        path = tmp_path / "text"
        path.write_text("text")
        with undone() as image_id, path.open() as file, pytest.raises(errors.InvalidArgument):
            store.add(image_id, file)  # type: ignore[arg-type]
