"""Odd files with the names of drafts, on real file systems."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers.filesystems import Filesystems

from imgstore.drivers.filesystem import FilesystemStore

pytestmark = pytest.mark.servers("filesystems")

ODD = f".imgstore-{'0' * 24}"
DEAD = f".imgstore-{'1' * 24}"

LEASE = """
import fcntl, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = open(sys.argv[1], "rb")
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
print("leased", flush=True)
sys.stdin.read()
"""


@contextmanager
def executed(path: Path) -> Iterator[None]:
    shutil.copy(shutil.which("cat") or "/bin/cat", path)
    with subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(b"runs\n")
        program.stdin.flush()
        assert program.stdout.readline() == b"runs\n"
        yield
        program.stdin.close()


@contextmanager
def leased(path: Path) -> Iterator[None]:
    path.write_bytes(b"")
    command = [sys.executable, "-c", LEASE, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stdout.readline() == b"leased\n"
        yield
        program.stdin.close()


@pytest.mark.parametrize("used", [executed, leased])
def test_a_draft_in_use(tmp_path: Path, used) -> None:
    """A file that cannot be opened for writing now is left alone, and hinders nobody."""
    (tmp_path / DEAD).write_bytes(b"dead")
    with used(tmp_path / ODD), FilesystemStore("file", datadir=tmp_path) as store:
        (leftover,) = store.leftovers(older_than=0)
        assert leftover.name == f"{tmp_path}/{DEAD}"
        store.add("image", b"data")  # the first add clears up
        assert sorted(path.name for path in tmp_path.iterdir()) == [ODD, "image"]
        assert store.check() == []


@pytest.mark.parametrize("seconds", [-(2**40), 2**40])
def test_a_time_beyond_the_calendar(filesystems: Filesystems, seconds: int) -> None:
    """A modification time outside the years 1 to 9999 hides no other leftover."""
    root = filesystems.tmpfs()
    with FilesystemStore("file", datadir=root) as store:
        store.add("image", b"data")
        for name in (ODD, DEAD):
            (root / name).write_bytes(b"dead")
        os.utime(root / ODD, (seconds, seconds))
        listed = {leftover.name for leftover in store.leftovers(older_than=0)}
        expected = {ODD, DEAD} if seconds < 0 else {DEAD}
        assert listed == {f"{root}/{name}" for name in expected}
