"""The contract on a Ceph cluster, for each kind of image."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from servers.ceph import Ceph
from servers.ceph import ceph as run_ceph
from servers.everything import Again, Slow
from servers.kept import Kept
from servers.pools import RbdPool, admin, make_pool
from servers.scratch import Scratch

from imgstore import Capability, Location, Store
from imgstore.testing import StoreContract
from imgstore.testing.adding import Adding
from imgstore.testing.concurrency import Concurrency
from imgstore.testing.copying import Copying
from imgstore.testing.harness import Rot
from imgstore.testing.ranges import Ranges
from imgstore.testing.reading import Reading
from imgstore.testing.resources import Resources

pytestmark = pytest.mark.servers("ceph")

MIB = 1024 * 1024
ELSEWHERE = str(uuid.UUID(int=1))


class Pools(Slow):
    """A store in a pool of the run's own, emptied after every test."""

    capabilities = (
        Capability.READ | Capability.WRITE | Capability.DELETE | Capability.RANGES | Capability.COPY
    )
    large = 19 * MIB + 7
    memory_limit = 100 * MIB
    foreign_locations = (
        f"rbd://{ELSEWHERE}/images/image/snap",
        "rbd://one/two",
        "rbd://one/two/three",
        "rbd://one/two/three/four/five",
        "rbd://one//three/four",
    )
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    def store(self, ceph: Ceph, rbd_pool: RbdPool, kept: Kept) -> Iterator[Store]:
        yield kept.get(lambda: rbd_pool.store(**self.options))
        kept.close_readers()
        rbd_pool.empty()

    @pytest.fixture
    def leaves(self, rbd_pool: RbdPool) -> Callable[[], list[str]]:
        return rbd_pool.objects

    @pytest.fixture
    def rot(self, rbd_pool: RbdPool) -> Rot:
        def rot(location: Location) -> None:
            with rbd_pool.image(location.rest.split("/")[2], read_only=True) as image:
                name = f"rbd_data.{image.id()}.{0:016x}"
            (byte,) = rbd_pool.context.read(name, 1)
            rbd_pool.context.write(name, bytes([byte ^ 1]))

        return rot

    @pytest.fixture(autouse=True)
    def _secrets(self, rbd_pool: RbdPool) -> None:
        type(self).secrets = (rbd_pool.key,)


class TestDefaults(Pools, StoreContract):
    """The cluster's default features: exclusive locks and object maps."""


class TestLayeringOnly(Again, Pools, Adding, Reading, Ranges, Resources):
    """Images without locks and object maps, small objects, one chunk under way."""

    memory_limit = 40 * MIB
    options: ClassVar[dict[str, Any]] = {
        "features": ("layering",),
        "chunk_size": 1,
        "io_depth": 1,
    }


class TestThin(Again, Pools, Adding, Reading):
    """Zeros are not written."""

    options: ClassVar[dict[str, Any]] = {"thin_provisioning": True}


@pytest.fixture(scope="module")
def erasure_coded(scratch: Scratch) -> Iterator[RbdPool]:
    """A pool for metadata in a cluster that has the pool "data", erasure-coded."""
    with run_ceph(scratch, size=4 << 30, osds=3) as cluster:
        cluster.erasure_pool("data")
        with admin(cluster) as client:
            yield make_pool(cluster, client, "images", data="data")


class TestDataPool(Again, Pools, Adding, Concurrency):
    """Data in an erasure-coded pool."""

    @pytest.fixture
    def rbd_pool(self, erasure_coded: RbdPool) -> RbdPool:
        return erasure_coded

    @pytest.fixture
    def store(self, rbd_pool: RbdPool, kept: Kept) -> Iterator[Store]:
        yield kept.get(lambda: rbd_pool.store(data_pool="data"))
        kept.close_readers()
        rbd_pool.empty()


class TestNamespace(Again, Pools, Reading, Copying, Concurrency):
    """A namespace of the pool."""

    test_copying_here_is_unsupported = None  # it is for stores that cannot write

    @pytest.fixture
    def rbd_pool(self, rbd_pool: RbdPool) -> RbdPool:
        return rbd_pool.within("inner")

    options: ClassVar[dict[str, Any]] = {"namespace": "inner"}
