"""How a reader behaves."""

from __future__ import annotations

import io
import os
import shutil
import threading
from collections.abc import Iterator
from typing import cast

import pytest

from imgstore import ImageReader, Store
from imgstore.testing.harness import KIB, MIB, WAIT, Harness, Place, difference, pattern


class Reading(Harness, is_part=True):
    """Whole images, read in every way there is."""

    def test_an_image_that_exists_is_read(
        self, store: Store, place: Place, image_size: int
    ) -> None:
        """An image of any size is read, and its size told, by location and by text."""
        data = pattern(image_size)
        location = place(data)
        for at in (location, location.url):
            assert store.size(at) == image_size
            with store.get(at) as reader:
                assert isinstance(reader, ImageReader)
                assert reader.size == reader.image_size == image_size
                assert not difference(reader.read(), data)
                assert reader.size == reader.image_size == image_size

    def test_iteration_gives_the_image_in_chunks(
        self, store: Store, place: Place, image_size: int
    ) -> None:
        """Iteration gives chunks of bytes that are not empty, and goes on ending."""
        data = pattern(image_size)
        with store.get(place(data)) as reader:
            assert iter(reader) is reader
            chunks = list(reader)
            assert all(type(chunk) is bytes and chunk for chunk in chunks)
            assert not difference(b"".join(chunks), data)
            assert next(reader, None) is None
            assert reader.read() == reader.read(1) == b""
            assert reader.readinto(bytearray(1)) == 0

    @pytest.mark.parametrize("n", [1000, 64 * KIB, MIB, MIB + 1, 100 * MIB])
    def test_read_is_exact(self, store: Store, place: Place, n: int) -> None:
        """``read(n)`` gives ``n`` bytes, fewer only at the end, then none."""
        data = pattern(self.large)
        with store.get(place(data)) as reader:
            for start in range(0, len(data), n):
                assert not difference(reader.read(n), data[start : start + n])
            assert reader.read(n) == b""

    def test_read_without_a_number_takes_the_rest(self, store: Store, place: Place) -> None:
        """``read()``, ``read(-1)`` and ``read(None)`` give all that is left."""
        data = pattern(self.large)
        location = place(data)
        for arguments in ((), (-1,), (None,)):
            with store.get(location) as reader:
                assert reader.read(0) == b""
                assert not difference(reader.read(10), data[:10])
                assert not difference(reader.read(*arguments), data[10:])
                assert reader.read(*arguments) == b""

    @pytest.mark.parametrize("n", [1, 1000, MIB + 1])
    def test_readinto_fills_the_buffer(self, store: Store, place: Place, n: int) -> None:
        """``readinto`` fills the buffer, less only at the end."""
        data = pattern(min(self.large, 2000 * n))
        buffer = bytearray(n)
        with store.get(place(data)) as reader:
            for start in range(0, len(data), n):
                filled = reader.readinto(memoryview(buffer))
                assert filled == min(n, len(data) - start)
                assert not difference(bytes(buffer[:filled]), data[start : start + filled])
            assert reader.readinto(buffer) == 0
            assert reader.readinto(bytearray()) == 0

    def test_ways_of_reading_mix(self, store: Store, place: Place) -> None:
        """Reading, iterating and filling buffers take turns without losing a byte."""
        data = pattern(self.large)
        with store.get(place(data)) as reader:
            assert not difference(b"".join(_in_turns(reader)), data)

    def test_the_standard_library_reads_a_reader(self, store: Store, place: Place) -> None:
        """A reader passes for a raw binary stream that cannot seek."""
        data = pattern(self.large)
        location = place(data)
        copy = io.BytesIO()
        with store.get(location) as reader:
            shutil.copyfileobj(reader, copy)
            assert reader.readable()
            assert not reader.seekable()
        assert not difference(copy.getvalue(), data)

    def test_the_standard_library_buffers_a_reader(self, store: Store, place: Place) -> None:
        """A reader is the raw stream of an ``io.BufferedReader``, which closes it."""
        data = pattern(self.large)
        reader = store.get(place(data))
        with io.BufferedReader(cast("io.RawIOBase", reader), 100_000) as buffered:
            pieces = iter(lambda: buffered.read(8192), b"")
            assert not difference(b"".join(pieces), data)
        assert reader.closed

    def test_a_descriptor_stands_at_the_next_byte(self, store: Store, place: Place) -> None:
        """``fileno`` is positioned at the next undelivered byte, or says that there is none."""
        data = pattern(self.large)
        location = place(data)
        with store.get(location) as reader:
            assert not difference(reader.read(1000), data[:1000])
            try:
                fd = reader.fileno()
            except io.UnsupportedOperation:
                assert not difference(reader.read(), data[1000:])
                return
            assert not difference(os.read(fd, 500), data[1000:1500])
            assert not difference(reader.read(500), data[1500:2000])
            assert not difference(os.read(reader.fileno(), 500), data[2000:2500])
            assert not difference(reader.read(), data[2500:])
        with pytest.raises(ValueError, match="closed"):
            reader.fileno()

    def test_a_closed_reader_is_of_no_use(self, store: Store, place: Place) -> None:
        """Closing twice is harmless; a closed reader raises ValueError, at its end as well."""
        location = place(pattern(self.large))
        for read in (0, 10, None):
            reader = store.get(location)
            reader.read(read)
            assert not reader.closed
            reader.close()
            reader.close()
            assert reader.closed
            with pytest.raises(ValueError, match="closed"):
                reader.read()
            with pytest.raises(ValueError, match="closed"):
                reader.read(1)
            with pytest.raises(ValueError, match="closed"):
                next(reader)
            with pytest.raises(ValueError, match="closed"):
                reader.readinto(bytearray(1))

    def test_any_thread_closes_a_reader(self, store: Store, place: Place) -> None:
        """A reader closed by another thread while it is read gives true bytes or ValueError."""
        data = pattern(self.large)
        location = place(data)
        for delay in (0, 0.0005, 0.002):
            reader = store.get(location)
            closer = threading.Timer(delay, reader.close)
            closer.start()
            got = []
            try:
                while chunk := reader.read(10_000):
                    got.append(chunk)
            except ValueError as exc:
                assert "closed" in str(exc)  # noqa: PT017  # either outcome is right
            else:
                assert not difference(b"".join(got), data)
            closer.join(WAIT)
            assert data.startswith(b"".join(got))
            assert reader.closed

    def test_readers_do_not_share_a_position(self, store: Store, place: Place) -> None:
        """Readers of one image, read in turns, each give the whole of it."""
        data = pattern(self.large)
        location = place(data)
        with store.get(location) as one, store.get(location) as two:
            pieces = [(one.read(70_000), two.read(70_000)) for _ in range(0, len(data), 70_000)]
        assert not difference(b"".join(piece for piece, _ in pieces), data)
        assert not difference(b"".join(piece for _, piece in pieces), data)


def _in_turns(reader: ImageReader) -> Iterator[bytes]:
    buffer = bytearray(3000)
    while piece := reader.read(1000):
        yield piece
        yield bytes(buffer[: reader.readinto(buffer)])
        yield reader.read(0)
        yield next(reader, b"")
