"""rbd-mirror, from the distribution's package of that name, between two clusters."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from servers.ceph import Ceph, environment
from servers.missing import tool
from servers.process import Process
from servers.scratch import Scratch


@contextmanager
def mirror(scratch: Scratch, origin: Ceph, target: Ceph, pool: str) -> Iterator[Process]:
    """Replicate the images of a pool of `origin` that are mirrored one by one to `target`."""
    program = tool("rbd-mirror", what="ceph", package="rbd-mirror")
    rbd = tool("rbd", what="ceph", package="ceph-common")
    place = scratch.directory("rbd-mirror")
    for cluster in (origin, target):
        cluster.run([rbd, "mirror", "pool", "enable", pool, "image"])
    peer = [rbd, "mirror", "pool", "peer", "bootstrap"]
    token = place / "token"
    token.touch(mode=0o600)
    token.write_text(origin.run([*peer, "create", "--site-name", "origin", pool]))
    way = ["--site-name", "target", "--direction", "rx-only", pool, os.fspath(token)]
    target.run([*peer, "import", *way])
    with Process(
        "rbd-mirror",
        [program, "--conf", target.conf, "-f", "--id", "admin"],
        directory=place,
        ready=lambda: True,
        environment=environment() | {"CEPH_CONF": os.fspath(target.conf)},
    ) as process:
        yield process
