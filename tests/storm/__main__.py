"""``python -m storm BACKEND SECONDS``."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

from servers.scratch import Scratch

from storm import starting
from storm.storming import Backend, seed_of, storm

BACKENDS: dict[str, Callable[[Scratch, Path], contextlib.AbstractContextManager[Backend]]] = {
    "file": starting.file,
    "s3": starting.s3_whole,
    "s3-parts": starting.s3_parts,
    "swift": starting.swift_whole,
    "swift-segments": starting.swift_segments,
    "rbd": starting.rbd,
    "cinder": starting.cinder,
    "vmware": starting.vmware_one,
    "vmware-two": starting.vmware_two,
}


def main() -> int:
    """Return 1 if something is wrong."""
    parser = argparse.ArgumentParser(prog="storm", description=__doc__)
    parser.add_argument("backend", choices=BACKENDS)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--seed", type=int, help="of an earlier storm")
    parser.add_argument("--clients", type=int, help="processes at a time")
    asked = parser.parse_args()
    seed = seed_of() if asked.seed is None else asked.seed
    directory = Path(mkdtemp(prefix="imgstore-storm-"))
    with Scratch() as scratch, BACKENDS[asked.backend](scratch, directory) as backend:
        report = storm(backend, asked.seconds, seed=seed, clients=asked.clients)
    sys.stdout.write(f"{report}\n")
    if not report.violations:
        shutil.rmtree(directory)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
