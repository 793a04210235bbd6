"""Stores in containers, held to the contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from imgstore import Capability, Store
from imgstore.drivers.swift import SwiftStore
from imgstore.testing.harness import Harness
from servers.containers import Container
from servers.everything import Slow
from servers.kept import Kept
from servers.radosgw import SwiftUser

MIB = 1024 * 1024


class Containers(Slow):
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
