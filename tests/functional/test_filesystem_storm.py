"""Many clients of one directory, which are killed and stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
from storm import backends
from storm.storming import seed_of, storm

pytestmark = pytest.mark.servers("filesystems")


def test_a_storm(tmp_path: Path) -> None:
    """No image is lost, doubled or mixed, and nothing else is left."""
    with backends.file(tmp_path) as backend:
        report = storm(backend, 10, seed=seed_of())
    assert not report.violations, f"\n{report}"
