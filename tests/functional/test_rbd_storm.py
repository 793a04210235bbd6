"""Many clients of one pool, which are killed and stopped; and a cluster that stands still."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers.ceph import Ceph
from servers.pools import RbdPool
from storm import backends
from storm.storming import seed_of, storm

pytestmark = pytest.mark.servers("ceph")


@pytest.mark.heavy
def test_a_storm(ceph: Ceph, rbd_pool: RbdPool, tmp_path: Path) -> None:
    """No image is lost, doubled or mixed, and nothing else is left."""
    with backends.rbd(tmp_path, rbd_pool) as backend:
        report = storm(backend, 10, seed=seed_of())
    rbd_pool.empty()
    assert not report.violations, f"\n{report}"
