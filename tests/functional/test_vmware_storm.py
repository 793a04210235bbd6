"""Many clients of one vCenter Server, which are killed and stopped, as it is; bad connections."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers.vsphere import VSphere
from storm import backends
from storm.storming import seed_of, storm

pytestmark = pytest.mark.servers("vsphere")

ONE, TWO = ["DC0:images"], ["DC0:images", "F0/DC1:images"]


@pytest.mark.parametrize("datastores", [pytest.param(ONE, marks=pytest.mark.heavy), TWO])
def test_a_storm(vsphere: VSphere, tmp_path: Path, datastores: list[str]) -> None:
    """No image is lost, doubled or mixed, and nothing else is left."""
    with backends.vmware(tmp_path, vsphere, datastores=datastores) as backend:
        report = storm(backend, 10, seed=seed_of())
    assert not report.violations, f"\n{report}"
