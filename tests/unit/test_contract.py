"""The contract on stores that need no server."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgstore import Capability
from imgstore.drivers.filesystem import FilesystemStore
from imgstore.drivers.memory import MemoryStore
from imgstore.layers import Layer, Limited, ReadOnly
from imgstore.testing import StoreContract
from imgstore.testing.verifying import flip

MIB = 1024 * 1024


class TestMemory(StoreContract):
    foreign_locations = ("memory://other/image", "memory://memo", "memory://memory-2/image")

    @pytest.fixture
    def store(self):
        with MemoryStore("memory") as store:
            yield store

    @pytest.fixture
    def leaves(self, store):
        return lambda: list(store._images)

    @pytest.fixture
    def rot(self, store):
        def rot(location):
            version, data = store._images[location.url]
            store._images[location.url] = (version, data[:-1] + bytes([data[-1] ^ 1]))

        return rot


class TestLayers(StoreContract):
    """Every layer that does not refuse something, one around the other."""

    foreign_locations = TestMemory.foreign_locations

    @pytest.fixture
    def store(self):
        with Limited(Layer(Limited(MemoryStore("memory"), 64)), 32) as store:
            yield store

    @pytest.fixture
    def leaves(self, store):
        return lambda: list(store.unwrapped._images)


class TestFilesystem(StoreContract):
    foreign_locations = ("file:///etc/passwd", "file://host/image", "filesystem:///")
    memory_limit = 40 * MIB

    @pytest.fixture
    def store(self, tmp_path):
        with FilesystemStore("file", datadir=str(tmp_path / "images"), fsync=False) as store:
            yield store

    @pytest.fixture
    def leaves(self, tmp_path):
        return lambda: [str(path) for path in (tmp_path / "images").rglob("*") if path.is_file()]

    @pytest.fixture
    def rot(self):
        return lambda location: flip(Path(location.rest))

    @pytest.fixture
    def abandon(self, store, tmp_path):
        store.check()  # makes the directory
        return lambda: (tmp_path / "images" / ".imgstore-dead").write_bytes(b"half")


class TestReadOnly(StoreContract):
    capabilities = Capability.READ | Capability.RANGES
    foreign_locations = TestMemory.foreign_locations

    @pytest.fixture
    def store(self):
        with Limited(ReadOnly(MemoryStore("memory", weight=3, description="read")), 32) as store:
            yield store

    @pytest.fixture
    def place(self, store):
        numbers = iter(range(1000))
        return lambda data: store.unwrapped.add(f"image-{next(numbers)}", data).location

    @pytest.fixture
    def missing(self, store, place):
        location = place(b"soon gone")
        store.unwrapped.delete(location)
        return location


class WholeImagesStore(MemoryStore):
    """A store without ranges and without deletes."""

    capabilities = Capability.READ | Capability.WRITE


class TestWholeImages(StoreContract):
    capabilities = WholeImagesStore.capabilities

    @pytest.fixture
    def store(self):
        with WholeImagesStore("memory") as store:
            yield store

    @pytest.fixture
    def missing(self, store):
        return store.add("never", b"").location.parse("memory://memory/missing")
