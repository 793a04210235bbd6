"""The contract on Cinder, for each kind of backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from servers.cinder import Cinder
from servers.cinder_stores import cinder_store
from servers.everything import EVERYTHING, Again, Slow
from servers.kept import Kept
from servers.pools import admin, modules

from imgstore import Capability, Location, Store
from imgstore.testing import StoreContract
from imgstore.testing.harness import Harness, Place, Rot, new_id
from imgstore.testing.ranges import MIB, Ranges
from imgstore.testing.reading import Reading
from imgstore.testing.resources import Resources
from imgstore.testing.verifying import Rotting, flip

pytestmark = pytest.mark.servers("cinder", "keystone")

ID = "5d0a0a5e-7c4b-4c3a-9b1f-0a1b2c3d4e5f"


def volume_of(location: Location) -> str:
    return location.rest.rpartition("/")[2]


@pytest.fixture(scope="class")
def placed(_cinder: Cinder) -> Iterator[dict[bytes, Location]]:
    """Images that the tests of a class have in common: to make one takes the longest."""
    placed: dict[bytes, Location] = {}
    yield placed
    _cinder.empty()


@pytest.fixture(scope="class")
def going() -> set[str]:
    """Volumes of the tests before, which no test waits for."""
    return set()


class Volumes(Slow):
    """A store in a project without volumes, but for images that other tests read as well."""

    capabilities = Capability.READ | Capability.WRITE | Capability.DELETE | Capability.RANGES
    # An add takes seconds, and an id is a name that Cinder keeps as it is.
    sizes, good_ids = Again.sizes, Again.good_ids
    judged_sizes = Harness.judged_sizes if EVERYTHING else (0,)
    failures = Slow.failures if EVERYTHING else ("OSError", "KeyboardInterrupt")
    offsets = Ranges.offsets if EVERYTHING else (0, MIB - 1, MIB + 2, MIB + 3)
    lengths = Ranges.lengths if EVERYTHING else (0, 1, MIB, MIB + 4)
    alone = Ranges.alone if EVERYTHING else 5
    rounds = Resources.rounds if EVERYTHING else 1
    memory_limit = 100 * 1024 * 1024
    threads = 4  # each add is some ten requests to services that share two cores
    foreign_locations = (
        f"cinder://elsewhere/{ID}",
        "cinder://image",
        f"cinder://{ID.upper()}",
        f"cinder://fast/{ID}/",
    )
    kind: ClassVar[str] = "fast"
    options: ClassVar[dict[str, Any]] = {}

    if not EVERYTHING:  # to the driver they are adds that fail, as others are
        test_an_answer_of_a_sink_is_no_consent = None
        test_a_copy_is_compared = None

    @pytest.fixture
    def store(
        self, cinder: Cinder, kept: Kept, placed: dict[bytes, Location], going: set[str]
    ) -> Iterator[Store]:
        yield kept.get(lambda: cinder_store(cinder, self.kind, **self.options))
        kept.close_readers()
        going.update(cinder.discard(but=[volume_of(each) for each in placed.values()]))

    @pytest.fixture
    def place(self, store: Store, cinder: Cinder, placed: dict[bytes, Location]) -> Place:
        """Give an image that an earlier test has read, or a new one; within a test each is new."""
        given: set[bytes] = set()

        def place(data: bytes) -> Location:
            is_there = data in placed and cinder.status(volume_of(placed[data])) == "available"
            if data in given or not is_there:
                placed[data] = store.add(new_id(), data, algorithms=()).location
            given.add(data)
            return placed[data]

        return place

    @pytest.fixture
    def leaves(self, cinder: Cinder, going: set[str]) -> Callable[[], list[str]]:
        return lambda: [
            f"{volume['id']} {volume['status']} {volume['attachments']}"
            for volume in cinder.volumes()
            if volume["id"] not in going
        ]

    @pytest.fixture(autouse=True)
    def _secrets(self, cinder: Cinder) -> None:
        type(self).secrets = (cinder.user.password,)


class TestRbd(Volumes, StoreContract):
    """Volumes in a Ceph pool."""

    @pytest.fixture
    def rot(self, cinder: Cinder) -> Iterator[Rot]:
        """Change an object in the pool; later tests have the image as it was."""
        with admin(cinder.cluster) as client, client.open_ioctx("volumes") as pool:
            changed: list[str] = []

            def change(name: str) -> None:
                (byte,) = pool.read(name, 1)
                pool.write(name, bytes([byte ^ 1]))

            def rot(location: Location) -> None:
                with modules()[1].Image(pool, f"volume-{volume_of(location)}") as image:
                    changed.append(f"rbd_data.{image.id()}.{0:016x}")
                change(changed[-1])

            yield rot
            for name in changed:
                change(name)


class TestNfs(Again, Volumes, Reading, Rotting):
    """Volumes as files of an export."""

    kind = "slow"

    @pytest.fixture
    def rot(self, cinder: Cinder) -> Iterator[Rot]:
        """Change a file of the export; later tests have the image as it was."""
        changed: list[Path] = []

        def rot(location: Location) -> None:
            changed.append(cinder.export / f"volume-{volume_of(location)}")
            flip(changed[-1])

        yield rot
        for path in changed:
            flip(path)
