"""Many clients of one Cinder, which are killed and stopped, as its API is; bad connections."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers.cinder import Cinder
from servers.pools import RbdPool, admin
from storm import backends
from storm.storming import seed_of, storm

pytestmark = pytest.mark.servers("cinder", "keystone")


@pytest.mark.heavy
def test_a_storm(cinder: Cinder, tmp_path: Path) -> None:
    """No image is lost, doubled or mixed, and nothing else is left."""
    with admin(cinder.cluster) as client:
        pool = RbdPool(cinder.cluster, client, "volumes", cinder.user)
        with backends.cinder(tmp_path, cinder, pool) as backend:
            report = storm(backend, 20, seed=seed_of())
    assert not report.violations, f"\n{report}"
