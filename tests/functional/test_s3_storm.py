"""Many clients of one bucket, killed and stopped, as the gateway is; bad connections."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers.buckets import Bucket
from storm import backends
from storm.storming import seed_of, storm

pytestmark = pytest.mark.servers("radosgw", "ceph")


@pytest.mark.heavy
@pytest.mark.parametrize("parts", [True, False])
def test_a_storm(bucket: Bucket, tmp_path: Path, *, parts: bool) -> None:
    """No image is lost, doubled or mixed, and nothing else is left."""
    with backends.s3(tmp_path, bucket, parts=parts) as backend:
        report = storm(backend, 10, seed=seed_of())
    assert not report.violations, f"\n{report}"
