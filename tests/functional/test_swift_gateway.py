"""The contract of the swift store on Ceph's gateway."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from servers.everything import Again
from servers.radosgw import RadosGateway, SwiftUser, User
from servers.swift_stores import MIB, Containers

from imgstore.testing.adding import Adding
from imgstore.testing.concurrency import Concurrency
from imgstore.testing.ranges import Ranges
from imgstore.testing.reading import Reading

pytestmark = pytest.mark.servers("radosgw", "ceph")


@pytest.fixture(scope="session")
def gateway_user(_radosgw: RadosGateway, s3_user: User) -> SwiftUser:
    """A user of Ceph's gateway."""
    return _radosgw.swift_user(s3_user)


class TestGateway(Again, Containers, Adding, Reading, Ranges, Concurrency):
    """Ceph's object gateway, which takes no notice of If-None-Match."""

    large = 7 * MIB + 7
    options: ClassVar[dict[str, Any]] = {"large_object_size": 2, "large_object_chunk_size": 2}
    user = "gateway_user"
    server = "radosgw"
