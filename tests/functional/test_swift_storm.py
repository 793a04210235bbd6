"""Many clients of one container, killed and stopped, as servers are; bad connections."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers.containers import Container
from servers.swift import Swift
from storm import backends
from storm.storming import seed_of, storm

pytestmark = pytest.mark.servers("swift", "keystone")


@pytest.mark.heavy
@pytest.mark.parametrize("segments", [True, False])
def test_a_storm(swift: Swift, container: Container, tmp_path: Path, *, segments: bool) -> None:
    """No image is lost, doubled or mixed, and nothing else is left."""
    with backends.swift(tmp_path, swift, container, segments=segments) as backend:
        report = storm(backend, 20, seed=seed_of())
    assert not report.violations, f"\n{report}"
