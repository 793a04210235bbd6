"""Ctrl-C at any moment of an add."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# For one interpreter: Python 3.12.1 traces no opcodes, without which the program finds no points.
pytestmark = pytest.mark.tree

PROGRAM = Path(__file__).with_name("interrupted_adds.py")
PREAMBLE = f"import runpy, sys; sys.path[:] = {sys.path!r}; runpy.run_path({str(PROGRAM)!r}, "


@pytest.mark.parametrize("count", [1, 2], ids=["one directory", "two directories"])
def test_nothing_stays(tmp_path: Path, count: int) -> None:
    """No draft, descriptor or thread stays, and an image only where the interrupt says so."""
    roots = [tmp_path / str(number) for number in range(count)]
    for root in roots:
        root.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", f"{PREAMBLE}run_name='__main__')", "1", "5", *map(str, roots)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    *faults, interrupted = done.stdout.splitlines()
    assert faults == []
    assert int(interrupted.split()[0]) > 50
