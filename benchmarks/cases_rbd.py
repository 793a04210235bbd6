"""The RBD store on two Ceph clusters on this machine: one in memory, one on disk."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

from cases_file import BOTH, SHA256, adding, hashes
from model import GIB, MIB, Bench, Case, SourceFile, Target, Task, duration, memory, speed

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "functional"))

from servers.ceph import Ceph, ceph
from servers.scratch import Scratch

INCUMBENT = ("glance-store==5.7.0",)
NAME = "8c9f2b1e-6c57-4b3c-9f0e-3d5a7b1c2d4e"
POOL = "images"
MEMORY = 4 * 8 + 60  # MiB: what may be under way by default, and what it takes to send it
# What is deleted from a cluster in memory would go back to the system, and on a virtual machine to
# its host: every run would wait for memory, the more the larger its requests are (mallopt(3)).
KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(64 * GIB),
}


class Rbd:
    """The tasks of each side against one pool of one cluster."""

    def __init__(self, cluster: Ceph, store: str) -> None:
        cluster.pool(POOL)
        user = cluster.user("bench", mon="profile rbd", osd=f"profile rbd pool={POOL}")
        self.store = store
        self._cluster = cluster
        # The user is named: left out, the incumbent takes None for its name.
        self._options = {
            "rbd_store_pool": POOL,
            "rbd_store_user": user.name,
            "rbd_store_ceph_conf": str(user.conf),
        }

    def ours(self, work: Task, *, thin: bool = False) -> Task:
        options = self._options | {"rbd_thin_provisioning": str(thin)}
        return replace(work, side="imgstore", driver="rbd", options=options, warm=True)

    def theirs(self, work: Task, *, thin: bool = False) -> Task:
        return replace(self.ours(work, thin=thin), side="incumbent")

    def raw(self, work: Task) -> Task:
        """Ceph's own command, of the same source or image."""
        operation = {"add": "rbd_import", "get": "rbd_export"}[work.operation]
        return replace(self.ours(work), side="raw", operation=operation)

    def getting(self, size: int) -> Task:
        url = f"rbd://{self._cluster.fsid}/{POOL}/{NAME}/snap"
        return Task(operation="get", url=url, size=size)

    @contextmanager
    def holding(self, image: SourceFile) -> Iterator[None]:
        """Keep the image to read there, in objects as large as both sides make them."""
        self._rbd("import", "--object-size", "8M", str(image.path), f"{POOL}/{NAME}")
        for verb in ("create", "protect"):
            self._rbd("snap", verb, f"{POOL}/{NAME}@snap")
        yield
        for verb in ("unprotect", "rm"):
            self._rbd("snap", verb, f"{POOL}/{NAME}@snap")
        self._rbd("rm", f"{POOL}/{NAME}")

    @contextmanager
    def counting(self, image: SourceFile) -> Iterator[None]:
        """Hold an image, and tell at the end how much was read of it."""
        with self.holding(image):
            before = self._sent()
            yield
            sent = (self._sent() - before) / image.data
            print(
                f"the cluster sent {sent:.2f} times the data of the image, in all runs",
                file=sys.stderr,
            )

    def _sent(self) -> int:
        """Return how many bytes the cluster has sent to clients."""
        counted = json.loads(self._cluster.command("tell", "osd.0", "perf", "dump"))
        sent: int = counted["osd"]["op_r_out_bytes"]
        return sent

    @contextmanager
    def warm(self, image: SourceFile, *, count: int = 1) -> Iterator[None]:
        """Have memory or disk space at hand for `count` such images.

        An image in new memory takes up to four times as long as a later one. Objects, and with
        them requests, are the largest that a contender sends: smaller ones fit into their memory.
        """
        image.make()
        names = [f"{POOL}/warm-{number}" for number in range(count)]
        for _ in range(2):
            for name in names:
                self._rbd("import", "--object-size", "8M", str(image.path), name)
            for name in names:
                self._rbd("rm", name)
        yield

    def _rbd(self, *words: str) -> None:
        self._cluster.run(["rbd", *words], seconds=600)


@contextmanager
def cases(bench: Bench) -> Iterator[list[Case]]:
    """Yield the cases; the clusters run as long as they are in use.

    The one in memory takes twice what it holds: 10 GiB with the incumbent's thin adds.
    """
    size = bench.sized(2 * GIB, 32 * MIB)
    image = SourceFile(path=bench.tmpfs / "images" / NAME, size=size, data=size)
    sparse = SourceFile(
        path=bench.tmpfs / "images" / "sparse",
        size=bench.sized(4 * GIB, 64 * MIB),
        data=bench.sized(410 * MIB, 6 * MIB),
    )
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(Scratch(bench.disk))
        with patch.dict(os.environ, KEEP_MEMORY):
            in_memory = stack.enter_context(ceph(scratch, store="memstore", size=12 * GIB))
        on_disk = stack.enter_context(ceph(scratch, store="bluestore", size=6 * GIB))
        fast, real = Rbd(in_memory, "memstore"), Rbd(on_disk, "bluestore")
        yield [
            add(fast, image),
            add_to_disk(real, image),
            add_unknown(fast, image),
            add_sha256(fast, image),
            add_thin(fast, sparse, image),
            add_thin_sha256(fast, sparse, image),
            get(fast, image),
            get_from_disk(real, image),
            verify_sparse(bench, real),
            cycles(bench, fast),
        ]


def add(store: Rbd, image: SourceFile) -> Case:
    work = adding(image)
    return Case(
        name="add",
        title=f"add {image.size // MIB} MiB of known size, md5+sha512, {store.store}",
        runs={
            "imgstore": store.ours(work),
            "glance_store": store.theirs(work),
            "hashes alone, a thread each": hashes(image.size, *BOTH, threads=2),
        },
        targets=(speed("imgstore", "glance_store", 1.6), memory("imgstore", at_most=MEMORY)),
        once=("hashes alone, a thread each",),
        sources=(image,),
        around=partial(store.warm, image),
        amount=image.size / MIB,
    )


def add_to_disk(store: Rbd, image: SourceFile) -> Case:
    work = adding(image)
    return Case(
        name="add-bluestore",
        title=f"add {image.size // MIB} MiB of known size, md5+sha512, {store.store}",
        runs={"imgstore": store.ours(work), "glance_store": store.theirs(work)},
        targets=(speed("imgstore", "glance_store", 1.8),),
        sources=(image,),
        around=partial(store.warm, image),
        amount=image.size / MIB,
    )


def add_unknown(store: Rbd, image: SourceFile) -> Case:
    work = adding(image)
    return Case(
        name="add-unknown",
        title=f"add {image.size // MIB} MiB of unknown size, md5+sha512, {store.store}",
        runs={
            "imgstore": store.ours(replace(work, unknown=True)),
            "imgstore, known size": store.ours(work),
            "glance_store": store.theirs(replace(work, unknown=True)),
        },
        targets=(
            speed("imgstore", "glance_store", 1.6),
            speed("imgstore", "imgstore, known size", 0.95),
            memory("imgstore", at_most=MEMORY),
        ),
        sources=(image,),
        around=partial(store.warm, image),
        amount=image.size / MIB,
    )


def add_sha256(store: Rbd, image: SourceFile) -> Case:
    work = adding(image, SHA256)
    return Case(
        name="add-sha256",
        title=f"add {image.size // MIB} MiB of known size, sha256 only, {store.store}",
        runs={
            "imgstore": store.ours(work),
            "imgstore, no digests": store.ours(adding(image, ())),
            "rbd import": store.raw(work),
            "sha256 alone": hashes(image.size, *SHA256, threads=1),
            "glance_store, md5+sha256": store.theirs(work),
        },
        targets=(speed("imgstore", "rbd import", 0.85),),
        once=("sha256 alone",),
        sources=(image,),
        around=partial(store.warm, image),
        amount=image.size / MIB,
    )


def add_thin(store: Rbd, sparse: SourceFile, image: SourceFile) -> Case:
    work = adding(sparse)
    return Case(
        name="add-thin",
        title=f"thin add of {sparse.size // MIB} MiB, {sparse.data // MIB} MiB of it not zeros, "
        f"md5+sha512, {store.store}",
        runs={
            "imgstore": store.ours(work, thin=True),
            "glance_store": store.theirs(work, thin=True),
        },
        targets=(speed("imgstore", "glance_store", 4.5),),
        sources=(sparse,),
        amount=sparse.size / MIB,
        # The incumbent writes nearly all: few of its chunks of 8 MiB hold nothing but zeros.
        around=partial(store.warm, image, count=2),
    )


def add_thin_sha256(store: Rbd, sparse: SourceFile, image: SourceFile) -> Case:
    work = adding(sparse, SHA256)
    return Case(
        name="add-thin-sha256",
        title=f"thin add of {sparse.size // MIB} MiB, {sparse.data // MIB} MiB of it not zeros, "
        f"sha256 only, {store.store}",
        runs={
            "imgstore": store.ours(work, thin=True),
            "glance_store, md5+sha256": store.theirs(work, thin=True),
        },
        targets=(speed("imgstore", "glance_store, md5+sha256", 8),),
        sources=(sparse,),
        amount=sparse.size / MIB,
        around=partial(store.warm, image, count=2),
    )


def get(store: Rbd, image: SourceFile) -> Case:
    targets = (speed("imgstore", "glance_store", 0.95), memory("imgstore", at_most=MEMORY))
    return getting(store, image, "get", *targets)


def get_from_disk(store: Rbd, image: SourceFile) -> Case:
    return getting(store, image, "get-bluestore", speed("imgstore", "glance_store", 1.7))


def getting(store: Rbd, image: SourceFile, name: str, *targets: Target) -> Case:
    """All throw away what they read; rbd does so for nothing, as it writes to /dev/null."""
    work, export = store.getting(image.size), "rbd export - to /dev/null"
    return Case(
        name=name,
        title=f"get {image.size // MIB} MiB by iteration, {store.store}",
        runs={
            "imgstore": store.ours(work),
            "glance_store": store.theirs(work),
            export: store.raw(work),
        },
        targets=(*targets, speed("imgstore", export, 1)),
        sources=(image,),
        amount=image.size / MIB,
        least_runs=9,  # each takes a second or less: what else the machine does shows
        around=partial(store.holding, image),
    )


def verify_sparse(bench: Bench, store: Rbd) -> Case:
    """On disk, where the cluster knows holes within objects, too."""
    size, data = bench.sized(20 * GIB, 64 * MIB), bench.sized(GIB, 4 * MIB)
    image = SourceFile(path=bench.tmpfs / "images" / "mostly-holes", size=size, data=data)
    work = replace(store.getting(size), operation="verify", source=str(image.path))
    return Case(
        name="verify-sparse",
        title=f"verify {size // MIB} MiB, {data // MIB} MiB of it data, sha256, {store.store}",
        runs={"imgstore": store.ours(work), "hash alone": hashes(size, *SHA256)},
        targets=(duration("imgstore", "hash alone", 1.1), memory("imgstore", at_most=MEMORY)),
        sources=(image,),
        amount=size / MIB,
        around=partial(store.counting, image),
    )


def cycles(bench: Bench, store: Rbd) -> Case:
    count = bench.sized(160, 16)
    work = Task(operation="cycles", size=4096, algorithms=BOTH, count=count, threads=8)
    return Case(
        name="cycles",
        title=f"{count} times add, get and delete of 4 KiB from 8 threads, {store.store}",
        runs={"imgstore": store.ours(work), "glance_store": store.theirs(work)},
        targets=(speed("imgstore", "glance_store", 1.5),),
        amount=count,
        unit="cycles",
    )
