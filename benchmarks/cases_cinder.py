"""The Cinder store on Cinder, Keystone and a Ceph cluster on this machine; "nfs" is in memory."""

from __future__ import annotations

import contextlib
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal
from unittest.mock import patch

from cases_file import BOTH, adding
from model import GIB, MIB, Bench, Case, SourceFile, Target, Task, duration, memory, speed

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "functional"))

from servers.ceph import ceph
from servers.cinder import Cinder, cinder
from servers.cinder_stores import as_client, cinder_store, login
from servers.keystone import keystone
from servers.scratch import Scratch

ENVIRONMENTS = Path(__file__).resolve().parent.parent / ".venv"
INCUMBENT = ("glance-store[cinder]==5.7.0",)
NAME = "8c9f2b1e-6c57-4b3c-9f0e-3d5a7b1c2d4e"
MEMORY = 100  # MiB
SMALL = 4096

Backend = Literal["rbd", "nfs"]
_TYPES = {"rbd": "fast", "nfs": "slow"}


class Volumes:
    """The tasks of each side for volumes of one backend; every other option has its default."""

    def __init__(self, server: Cinder, backend: Backend) -> None:
        self.backend = backend
        self._server = server
        self._options = {
            "cinder_volume_type": _TYPES[backend],
            "cinder_mount_point_base": str(server.mounts),
            **{f"cinder_store_{name}": value for name, value in login(server.user).items()},
        }

    def ours(self, work: Task) -> Task:
        return replace(work, side="imgstore", driver="cinder", options=self._options, warm=True)

    def theirs(self, work: Task) -> Task:
        return replace(self.ours(work), side="incumbent")

    def raw(self, work: Task) -> Task:
        """os-brick alone, of the same source or volume; it does not hash."""
        operation = {"add": "cinder_write", "get": "cinder_read"}[work.operation]
        return replace(self.ours(work), side="raw", operation=operation)

    def holding(self, image: SourceFile) -> str:
        """Keep the image to read there, as long as the servers run; return its volume."""
        image.make()
        with cinder_store(self._server, _TYPES[self.backend]) as store:
            added = store.add(str(uuid.uuid4()), image.path)
            return str(added.location.rest.rpartition("/")[2])


@contextmanager
def cases(bench: Bench) -> Iterator[list[Case]]:
    """Yield the cases; the servers run as long as they are in use."""
    images = bench.tmpfs / "images"
    size, large = bench.sized(GIB, 8 * MIB), bench.sized(3 * GIB, GIB + 8 * MIB)
    image = SourceFile(path=images / NAME, size=size, data=size)
    grown = SourceFile(path=images / "grown", size=large, data=large)
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(Scratch(bench.disk))
        identity = stack.enter_context(keystone(scratch))
        cluster = stack.enter_context(ceph(scratch, store="bluestore", size=10 * GIB, mgr=True))
        export = bench.tmpfs / "export"
        export.mkdir()
        server = stack.enter_context(cinder(scratch, identity, cluster, export=export))
        stack.enter_context(as_client(server))
        # The incumbent's helper for privileged steps.
        path = f"{os.environ['PATH']}:{ENVIRONMENTS / 'bench-incumbent' / 'bin'}"
        stack.enter_context(patch.dict(os.environ, PATH=path))
        backends = [Volumes(server, "rbd"), Volumes(server, "nfs")]
        yield [
            *(add(each, image) for each in backends),
            *(add_unknown(each, grown) for each in backends),
            *(get(each, image) for each in backends),
            *(small_adds(bench, each) for each in backends),
            *(small_gets(each, images) for each in backends),
        ]


def add(store: Volumes, image: SourceFile) -> Case:
    work = adding(image)
    return Case(
        name=f"add-{store.backend}",
        title=f"add {image.size // MIB} MiB of known size, md5+sha512, {store.backend}",
        runs={
            "imgstore": store.ours(work),
            "glance_store": store.theirs(work),
            "os-brick, no digests": store.raw(work),
        },
        targets=(
            speed("imgstore", "glance_store", 1.5 if store.backend == "rbd" else 1.7),
            memory("imgstore", at_most=MEMORY),
        ),
        sources=(image,),
        amount=image.size / MIB,
    )


def add_unknown(store: Volumes, image: SourceFile) -> Case:
    work = replace(adding(image), unknown=True)
    theirs = "glance_store" if store.backend == "rbd" else "glance_store, image corrupt"
    return Case(
        name=f"add-unknown-{store.backend}",
        title=f"add {image.size // MIB} MiB of unknown size, md5+sha512, {store.backend}",
        runs={"imgstore": store.ours(work), theirs: store.theirs(work)},
        targets=(
            speed("imgstore", theirs, 1.6 if store.backend == "rbd" else 2.5),
            memory("imgstore", at_most=MEMORY),
        ),
        sources=(image,),
        amount=image.size / MIB,
    )


def get(store: Volumes, image: SourceFile) -> Case:
    targets = (speed("imgstore", "glance_store", 1.2), memory("imgstore", at_most=MEMORY))
    return _getting(store, image, f"get-{store.backend}", *targets)


def small_gets(store: Volumes, images: Path) -> Case:
    image = SourceFile(path=images / "small", size=MIB, data=MIB)
    target = duration("imgstore", "glance_store", 0.7)
    return _getting(store, image, f"get-small-{store.backend}", target)


def _getting(store: Volumes, image: SourceFile, name: str, *targets: Target) -> Case:
    work = Task(operation="get", url=f"cinder://bench/{store.holding(image)}", size=image.size)
    return Case(
        name=name,
        title=f"get {image.size // MIB} MiB by iteration, {store.backend}",
        runs={
            "imgstore": store.ours(work),
            "glance_store": store.theirs(work),
            "os-brick": store.raw(work),
        },
        targets=targets,
        sources=(image,),
        amount=image.size / MIB,
    )


def small_adds(bench: Bench, store: Volumes) -> Case:
    """What an add takes that is not data."""
    count = bench.sized(5, 1)
    work = Task(operation="small_adds", size=SMALL, algorithms=BOTH, count=count)
    return Case(
        name=f"add-small-{store.backend}",
        title=f"add {count} images of 4 KiB, one after the other, {store.backend}",
        runs={"imgstore": store.ours(work), "glance_store": store.theirs(work)},
        targets=(duration("imgstore", "glance_store", 0.7),),
        amount=count,
        unit="images",
    )
