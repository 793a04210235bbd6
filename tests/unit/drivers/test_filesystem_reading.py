"""Reading from the filesystem store: descriptors, sendfile, closing."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
import os
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgstore import ImageReader, StoredImage, errors
from imgstore.drivers.filesystem import FilesystemStore

MIB = 1024 * 1024
DATA = random.Random(7).randbytes(3 * MIB + 7)


@pytest.fixture(params=[0, 10], ids=["direct", "time limit"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FilesystemStore]:
    with FilesystemStore(
        "file", datadir=str(tmp_path / "images"), fsync=False, timeout=request.param
    ) as store:
        yield store


@pytest.fixture
def image(store: FilesystemStore) -> StoredImage:
    return store.add("image", DATA)


def sent(reader: ImageReader, count: int) -> bytes:
    """Return ``count`` bytes that went from the reader's file to a socket inside the kernel."""
    ours, theirs = socket.socketpair()
    received = bytearray()

    def receive() -> None:
        while block := theirs.recv(65536):
            received.extend(block)

    with theirs:
        thread = threading.Thread(target=receive)
        thread.start()
        with ours:
            left = count
            while left and (done := os.sendfile(ours.fileno(), reader.fileno(), None, left)):
                left -= done
        thread.join()
    return bytes(received)


def held() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, None), (0, 1), (1, None), (MIB, MIB), (3 * MIB, 100), (3 * MIB, None), (5, 3 * MIB)],
)
def test_sendfile(
    store: FilesystemStore, image: StoredImage, offset: int, length: int | None
) -> None:
    """A whole image, or a range, goes to a socket; afterwards the reader is at its end."""
    expected = DATA[offset:] if length is None else DATA[offset : offset + length]
    with store.get(image.location, offset=offset, length=length) as reader:
        assert reader.size == len(expected)
        assert sent(reader, reader.size) == expected
        assert reader.read() == b""
        assert list(reader) == []


def test_sendfile_after_reading(store: FilesystemStore, image: StoredImage) -> None:
    """Reading and sending may take turns; no byte is lost or comes twice."""
    with store.get(image.location, offset=10, length=2 * MIB) as reader:
        pieces = [reader.read(100), sent(reader, 1000), next(reader), reader.read(7)]
        pieces += [sent(reader, 70_000), sent(reader, 1), reader.read(0), next(reader)]
        buffer = bytearray(12345)
        assert reader.readinto(buffer) == 12345
        pieces.append(bytes(buffer))
        position = sum(map(len, pieces))
        assert os.lseek(reader.fileno(), 0, os.SEEK_CUR) == 10 + position
        pieces.append(reader.read())
        assert b"".join(pieces) == DATA[10 : 10 + 2 * MIB]


def test_fileno_of_a_used_up_reader(store: FilesystemStore, image: StoredImage) -> None:
    """After the end was seen the file is given back, unless the caller took its descriptor."""
    with store.get(image.location) as reader:
        assert reader.read() == DATA
        assert reader.read() == b""
        with pytest.raises(io.UnsupportedOperation):
            reader.fileno()
    with pytest.raises(ValueError, match="closed"):
        reader.fileno()
    with store.get(image.location, length=0) as reader, pytest.raises(OSError, match="file"):
        reader.fileno()


def test_what_follows_a_range(store: FilesystemStore, image: StoredImage) -> None:
    """After the last byte of a range was read, the descriptor stands behind that byte."""
    with store.get(image.location, offset=5, length=100) as reader:
        assert next(reader) == DATA[5:105]
        assert os.lseek(reader.fileno(), 0, os.SEEK_CUR) == 105


@pytest.mark.parametrize("how", ["closed", "read", "dropped", "half", "sent", "begun"])
def test_readers_hold_no_descriptor(store: FilesystemStore, image: StoredImage, how: str) -> None:
    """Two hundred readers, whatever became of them, hold nothing."""
    store.get(image.location).close()
    before = held()
    for _ in range(200):
        reader = store.get(image.location, length=200_000)
        if how == "read":
            reader.read()
            reader.read()
        elif how == "half":
            reader.read(1000)
        elif how == "begun":
            next(iter(reader))
        elif how == "sent":
            reader.fileno()
        if how == "closed":
            reader.close()
        del reader
    assert held() == before


def test_refused_reads_hold_no_descriptor(store: FilesystemStore, image: StoredImage) -> None:
    """What get() refuses leaves nothing open."""
    store.get(image.location).close()
    before = held()
    for _ in range(50):
        with pytest.raises(errors.InvalidRange):
            store.get(image.location, offset=len(DATA) + 1)
        with pytest.raises(errors.NotFound):
            store.get(f"{image.location.url}-missing")
        store.get(image.location, offset=len(DATA)).close()
    assert held() == before


def test_closing_while_another_thread_reads(store: FilesystemStore, image: StoredImage) -> None:
    """The thread that reads gets right bytes up to a ValueError; the descriptor is given back."""
    store.get(image.location).close()
    before = held()
    for _ in range(30):
        reader = store.get(image.location)
        received = bytearray()
        begun = threading.Event()

        def read(
            reader: ImageReader = reader,
            received: bytearray = received,
            begun: threading.Event = begun,
        ) -> None:
            with contextlib.suppress(ValueError):
                for chunk in reader:
                    received.extend(chunk)
                    begun.set()

        thread = threading.Thread(target=read)
        thread.start()
        begun.wait(20)
        reader.close()
        thread.join(20)
        assert not thread.is_alive()
        assert bytes(received) == DATA[: len(received)]
        del reader, thread, read
    assert held() == before


def test_numbers_are_not_confused(store: FilesystemStore, tmp_path: Path) -> None:
    """Readers closed by other threads never deliver bytes of a file that got their number."""
    images = [store.add(f"image-{n}", bytes([n]) * 400_000).location for n in range(1, 9)]
    stop = threading.Event()
    wrong: list[int] = []

    def work(number: int) -> None:
        while not stop.is_set():
            reader = store.get(images[number])
            closer = threading.Thread(target=reader.close)
            try:
                first = reader.read(70_000)
                closer.start()
                rest = reader.read()
                if set(first + rest) != {number + 1}:
                    wrong.append(number)
            except ValueError:
                pass
            finally:
                closer.join()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    threading.Event().wait(0.7)
    stop.set()
    for thread in threads:
        thread.join(20)
    assert wrong == []


def test_closing_the_store(tmp_path: Path) -> None:
    """Closing a store closes its readers, and every verb says so from then on."""
    with FilesystemStore("file", datadir=str(tmp_path), fsync=False) as store:
        image = store.add("image", DATA)
        before = held()
        readers = [store.get(image.location) for _ in range(5)]
        readers[0].read(10)
        readers[1].fileno()
        readers[2].close()
        assert held() == before + 4
        store.close()
        store.close()
        assert held() == before
        for reader in readers:
            assert reader.closed
            with pytest.raises(ValueError, match="closed"):
                reader.read(1)
        for verb in (
            lambda: store.get(image.location),
            lambda: store.add("other", b""),
            lambda: store.size(image.location),
            lambda: store.delete(image.location),
            lambda: store.leftovers(older_than=0),
            store.check,
        ):
            with pytest.raises(ValueError, match="closed"):
                verb()
    assert [path.name for path in tmp_path.iterdir()] == ["image"]


@pytest.mark.parametrize("chunk_size", [1, 1000, 65536, 16 * MIB, 1 << 62])
def test_chunks(tmp_path: Path, chunk_size: int) -> None:
    """Every chunk but the last has the configured size, at most 64 MiB."""
    data = DATA[: 5000 if chunk_size == 1 else len(DATA)]
    with FilesystemStore(
        "file", datadir=str(tmp_path), chunk_size=chunk_size, fsync=False
    ) as store:
        image = store.add("image", data)
        assert image.digests["sha256"] == hashlib.sha256(data).hexdigest()
        chunks = list(store.get(image.location))
        assert b"".join(chunks) == data
        assert {len(chunk) for chunk in chunks[:-1]} <= {chunk_size}
