"""The contract on real Swift and Keystone, and on Ceph's gateway, for each way to store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from servers.containers import Container
from servers.containers import container as make_container
from servers.kept import Kept
from servers.radosgw import RadosGateway, SwiftUser, User
from servers.swift import TESTER, Swift

from imgstore import Capability, Store
from imgstore.drivers.swift import SwiftStore
from imgstore.testing import StoreContract
from imgstore.testing.adding import Adding
from imgstore.testing.concurrency import Concurrency
from imgstore.testing.harness import Harness
from imgstore.testing.ranges import Ranges
from imgstore.testing.reading import Reading

MIB = 1024 * 1024


@pytest.fixture(scope="session")
def tempauth_user(_swift: Swift) -> SwiftUser:
    """A user of Swift's own authentication."""
    return _swift.v1_user(TESTER)


@pytest.fixture(scope="session")
def gateway_user(_radosgw: RadosGateway, s3_user: User) -> SwiftUser:
    """A user of Ceph's gateway."""
    return _radosgw.swift_user(s3_user)


@pytest.fixture(scope="class")
def images(request: pytest.FixtureRequest) -> Iterator[Container]:
    """A container for all tests of a class, of its user's."""
    with make_container(request.getfixturevalue(request.cls.user)) as made:
        yield made


class Containers(Harness):
    """A store in a container of the class's own, emptied after every test."""

    capabilities = Capability.READ | Capability.WRITE | Capability.DELETE | Capability.RANGES
    # Without the one that has an "@" in it: in Swift's locations that ends credentials.
    good_ids = tuple(name for name in Harness.good_ids if "@" not in name)
    foreign_locations = (
        "swift://elsewhere.example.org/v3/container/image",
        "swift+http://127.0.0.1:1/v3/container/image",
        "swift+http://tests%3Auser:key@127.0.0.1:1/v3/container/image",
        "swift+config://other/container/image",
        "swift+http://127.0.0.1/image",
        "swift+http://image",
    )
    kept_connections = 4  # of three workers, and of what is asked beside them
    options: ClassVar[dict[str, Any]] = {}
    user: ClassVar[str] = "swift_user"
    server: ClassVar[str] = "swift"

    @pytest.fixture
    def store(
        self, request: pytest.FixtureRequest, images: Container, kept: Kept
    ) -> Iterator[Store]:
        request.getfixturevalue(self.server)
        options = login(images.user) | self.options
        yield kept.get(lambda: SwiftStore("swift", container=images.name, **options))
        images.empty()

    @pytest.fixture
    def leaves(self, images: Container) -> Callable[[], list[str]]:
        return lambda: [*images.names(), *images.segments()]

    @pytest.fixture(autouse=True)
    def _secrets(self, images: Container) -> None:
        user = images.user
        type(self).secrets = (user.key if isinstance(user, SwiftUser) else user.password,)


def login(user: Any) -> dict[str, str]:
    if isinstance(user, SwiftUser):
        return {
            "auth_version": "1",
            "auth_address": user.url,
            "user": user.name,
            "key": user.key,
        }
    return {
        "auth_address": user.url,
        "user": f"{user.project}:{user.name}",
        "key": user.password,
        "user_domain_name": user.domain,
        "project_domain_name": user.domain,
    }


class TestStatic(Containers, StoreContract):
    """Every image of 1 MB and more in segments, as a static large object."""

    large = 7 * MIB + 7
    memory_limit = 40 * MIB
    options: ClassVar[dict[str, Any]] = {
        "large_object_size": 1,
        "large_object_chunk_size": 2,
        "upload_workers": 3,
        "upload_memory": 8,
    }


class TestDynamic(Containers, Reading, Concurrency):
    """The same, as a dynamic large object, read in ranges."""

    large = 13 * MIB + 7
    options: ClassVar[dict[str, Any]] = {
        "large_object_size": 1,
        "large_object_chunk_size": 2,
        "large_object_type": "dlo",
        "get_workers": 3,
    }


class TestWhole(Containers, Adding, Concurrency):
    """Images as single objects, but for those of unknown size, with Swift's own version 1."""

    large = 4 * MIB + 7
    user = "tempauth_user"
    # The cluster takes no larger objects.
    options: ClassVar[dict[str, Any]] = {"large_object_size": 5, "large_object_chunk_size": 4}


class TestGateway(Containers, Adding, Reading, Ranges, Concurrency):
    """Ceph's object gateway, which takes no notice of If-None-Match."""

    large = 7 * MIB + 7
    options: ClassVar[dict[str, Any]] = {"large_object_size": 2, "large_object_chunk_size": 2}
    user = "gateway_user"
    server = "radosgw"
