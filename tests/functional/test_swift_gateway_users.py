"""Version 1 of Swift's authentication, by Ceph's gateway."""

from __future__ import annotations

import pytest
from servers.radosgw import RadosGateway, SwiftUser
from servers.swift_stores import VersionOne

from imgstore.testing.harness import new_id

pytestmark = pytest.mark.servers("ceph", "radosgw")


class TestVersionOne(VersionOne):
    @pytest.fixture
    def users(self, radosgw: RadosGateway) -> list[SwiftUser]:
        return [radosgw.swift_user(radosgw.user(f"v1-{new_id()}")) for _ in range(2)]
