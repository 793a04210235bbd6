"""The contract on Cinder, for each kind of backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from servers.cinder import Cinder
from servers.cinder_stores import cinder_store
from servers.everything import EVERYTHING, Again, Slow
from servers.kept import Kept

from imgstore import Capability, Store
from imgstore.testing import StoreContract
from imgstore.testing.ranges import MIB, Ranges
from imgstore.testing.reading import Reading
from imgstore.testing.resources import Resources

pytestmark = pytest.mark.servers("cinder", "keystone")

ID = "5d0a0a5e-7c4b-4c3a-9b1f-0a1b2c3d4e5f"


class Volumes(Slow):
    """A store in a project without volumes."""

    capabilities = Capability.READ | Capability.WRITE | Capability.DELETE | Capability.RANGES
    # An add takes seconds, and an id is a name that Cinder keeps as it is.
    sizes, good_ids = Again.sizes, Again.good_ids
    offsets = Ranges.offsets if EVERYTHING else (0, MIB - 1, MIB + 2, MIB + 3)
    lengths = Ranges.lengths if EVERYTHING else (0, 1, MIB, MIB + 4)
    alone = Ranges.alone if EVERYTHING else 5
    rounds = Resources.rounds if EVERYTHING else 2
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

    @pytest.fixture
    def store(self, cinder: Cinder, kept: Kept) -> Iterator[Store]:
        yield kept.get(lambda: cinder_store(cinder, self.kind, **self.options))
        kept.close_readers()
        cinder.empty()

    @pytest.fixture
    def leaves(self, cinder: Cinder) -> Callable[[], list[str]]:
        return lambda: [
            f"{volume['id']} {volume['status']} {volume['attachments']}"
            for volume in cinder.volumes()
        ]

    @pytest.fixture(autouse=True)
    def _secrets(self, cinder: Cinder) -> None:
        type(self).secrets = (cinder.user.password,)


class TestRbd(Volumes, StoreContract):
    """Volumes in a Ceph pool."""


class TestNfs(Again, Volumes, Reading):
    """Volumes as files of an export."""

    kind = "slow"
