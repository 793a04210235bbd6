"""The S3 store on Ceph's object gateway, kept in memory, on this machine."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cases_file import BOTH, SHA256, hashes
from model import GIB, MIB, Bench, Case, SourceFile, Task, memory, processor, speed

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "functional"))

from servers.buckets import bucket
from servers.ceph import ceph
from servers.link import link
from servers.radosgw import radosgw
from servers.scratch import Scratch

INCUMBENT = ("glance-store==5.7.0", "boto3")
NAME = "8c9f2b1e-6c57-4b3c-9f0e-3d5a7b1c2d4e"


class S3:
    """The tasks of each side against one bucket."""

    def __init__(self, options: dict[str, str]) -> None:
        self._options = options

    def at(self, host: str, port: int) -> S3:
        """The same bucket by another way."""
        return S3(self._options | {"s3_store_host": f"http://{host}:{port}"})

    def ours(self, work: Task, **options: object) -> Task:
        more = {f"s3_store_{name}": str(value) for name, value in options.items()}
        both = self._options | more
        return replace(work, side="imgstore", driver="s3", options=both, warm=True)

    def theirs(self, work: Task) -> Task:
        return replace(self.ours(work), side="incumbent")

    def raw(self, work: Task) -> Task:
        """boto3's own transfers, of the same source or object."""
        operation = {"add": "s3_upload", "get": "s3_download"}[work.operation]
        return replace(self.ours(work), side="raw", operation=operation)

    def url(self, key: str) -> str:
        service = self._options["s3_store_host"].removeprefix("http://")
        return f"s3://{service}/{self._options['s3_store_bucket']}/{key}"


@contextmanager
def cases(bench: Bench) -> Iterator[list[Case]]:
    """Yield the cases; the server runs as long as they are in use."""
    size = bench.sized(GIB, 32 * MIB)
    image = SourceFile(path=bench.tmpfs / "images" / NAME, size=size, data=size)
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(Scratch())
        gateway = stack.enter_context(
            radosgw(scratch, stack.enter_context(ceph(scratch)), cache=True)
        )
        made = stack.enter_context(bucket(gateway, gateway.user("bench")))
        target = ("127.0.0.1", gateway.ports["http"])
        store = S3(
            {
                "s3_store_host": gateway.url(),
                "s3_store_region_name": "us-east-1",
                "s3_store_bucket": made.name,
                "s3_store_access_key": made.user.access_key,
                "s3_store_secret_key": made.user.secret_key,
            }
        )
        far = store.at(*stack.enter_context(link(scratch, target, delay=0.02, window=MIB)).address)
        slow = store.at(*stack.enter_context(link(scratch, target, bandwidth=8 * MIB)).address)
        image.make()
        made.raw.upload_file(str(image.path), made.name, NAME)
        yield [
            add(store, image),
            add_sha256(store, image),
            add_unknown(store, image),
            get(store, size),
            small_reads(store, size),
            get_far(far, size),
            at_once(bench, store),
            cycles(bench, store),
            slow_server(bench, slow),
        ]


def adding(source: SourceFile, algorithms: tuple[str, ...] = BOTH, **more: Any) -> Task:
    path = str(source.path)
    return Task(operation="add", source=path, size=source.size, algorithms=algorithms, **more)


def add(store: S3, image: SourceFile) -> Case:
    work = adding(image)
    return Case(
        name="add",
        title=f"add {image.size // MIB} MiB of known size, md5+sha512, http",
        runs={
            "imgstore, unsigned payload": store.ours(work, payload_signing=False),
            "glance_store": store.theirs(work),
            "imgstore, signed payload": store.ours(work),
            "hashes alone, a thread each": hashes(image.size, *BOTH, threads=2),
        },
        targets=(
            speed("imgstore, unsigned payload", "glance_store", 1.2),
            processor("imgstore, unsigned payload", "glance_store", 0.85),
        ),
        once=("hashes alone, a thread each",),
        sources=(image,),
        amount=image.size / MIB,
    )


def add_sha256(store: S3, image: SourceFile) -> Case:
    work = adding(image, SHA256)
    return Case(
        name="add-sha256",
        title=f"add {image.size // MIB} MiB, sha256 only, http",
        runs={
            "imgstore": store.ours(work),
            "boto3 upload_fileobj": store.raw(work),
            "imgstore, unsigned payload": store.ours(work, payload_signing=False),
            "glance_store, md5+sha256": store.theirs(work),
        },
        targets=(speed("imgstore", "boto3 upload_fileobj", 0.9),),
        sources=(image,),
        amount=image.size / MIB,
    )


def add_unknown(store: S3, image: SourceFile) -> Case:
    work = adding(image)
    return Case(
        name="add-unknown",
        title=f"add {image.size // MIB} MiB of unknown size, md5+sha512, http",
        runs={
            "imgstore": store.ours(replace(work, unknown=True)),
            "imgstore, known size": store.ours(work),
            "glance_store": store.theirs(replace(work, unknown=True)),
        },
        targets=(
            speed("imgstore", "glance_store", 5),
            speed("imgstore", "imgstore, known size", 0.95),
        ),
        once=("glance_store",),
        sources=(image,),
        amount=image.size / MIB,
    )


def getting(store: S3, size: int) -> Task:
    return Task(operation="get", url=store.url(NAME), size=size)


def get(store: S3, size: int) -> Case:
    work = getting(store, size)
    return Case(
        name="get",
        title=f"get {size // MIB} MiB by iteration, http",
        runs={
            "imgstore": store.ours(work),
            "glance_store": store.theirs(work),
            "boto3 download_fileobj": store.raw(work),
            "imgstore, 4 workers": store.ours(work, get_workers=4),
        },
        targets=(speed("imgstore", "glance_store", 1),),
        amount=size / MIB,
    )


def small_reads(store: S3, size: int) -> Case:
    work = getting(store, size)
    return Case(
        name="small-reads",
        title=f"get {size // MIB} MiB by read(8192), 3 workers, http",
        runs={
            "imgstore, read(8192)": store.ours(
                replace(work, operation="small_reads", count=8192), get_workers=3
            ),
            "imgstore, iteration": store.ours(work, get_workers=3),
        },
        targets=(speed("imgstore, read(8192)", "imgstore, iteration", 0.6),),
        amount=size / MIB,
    )


def get_far(far: S3, size: int) -> Case:
    work = getting(far, size)
    return Case(
        name="get-far",
        title=f"get {size // MIB} MiB through 20 ms each way, 1 MiB in flight per connection",
        runs={
            "imgstore, 4 workers": far.ours(work, get_workers=4),
            "glance_store": far.theirs(work),
            "boto3 download_fileobj": far.raw(work),
            "imgstore": far.ours(work),
        },
        targets=(speed("imgstore, 4 workers", "glance_store", 3),),
        once=("boto3 download_fileobj", "imgstore"),
        amount=size / MIB,
    )


def at_once(bench: Bench, store: S3) -> Case:
    count, size = bench.sized(32, 8), bench.sized(64 * MIB, 6 * MIB)
    work = Task(
        operation="small_adds", size=size, count=count, threads=8, algorithms=BOTH, verify=True
    )
    bound = 8 * (size // MIB + 32)  # each holds its image, and what the digests lag behind
    return Case(
        name="at-once",
        title=f"{count} adds of {size // MIB} MiB, md5+sha512, each read back and compared",
        runs={
            "imgstore, 8 threads": store.ours(work),
            "imgstore, one after another": store.ours(replace(work, threads=1)),
            "glance_store, 8 threads": store.theirs(work),
        },
        targets=(
            speed("imgstore, 8 threads", "imgstore, one after another", 1),
            memory("imgstore, 8 threads", at_most=bound),
        ),
        amount=count,
        unit="adds",
    )


def cycles(bench: Bench, store: S3) -> Case:
    ours, theirs = bench.sized(1000, 50), bench.sized(20, 1)
    work = Task(operation="cycles", size=1024, algorithms=BOTH)
    labels = f"imgstore, {ours} of them", f"glance_store, {theirs} of them"
    return Case(
        name="cycles",
        title="add, get and delete of 1 KiB, one after the other",
        runs={
            labels[0]: store.ours(replace(work, count=ours)),
            labels[1]: store.theirs(replace(work, count=theirs)),
        },
        targets=(rate(labels[0], ours, labels[1], theirs, 15),),
    )


def rate(run: str, count: int, against: str, other: int, at_least: float) -> Any:
    """So many times as many per second, where the contenders do different numbers of them."""
    return replace(
        speed(run, against, at_least),
        text=f"≥ {at_least:g} × as many per second as glance_store",
        measure=lambda medians: (medians[against].seconds / other) / (medians[run].seconds / count),
    )


def slow_server(bench: Bench, slow: S3) -> Case:
    size = bench.sized(4 * GIB, 64 * MIB)
    zeros = SourceFile(path=bench.tmpfs / "zeros", size=size, data=0)
    work = adding(zeros, SHA256, unknown=True)
    return Case(
        name="slow-server",
        title=f"add {size // GIB or size / GIB:g} GiB of unknown size to a slow server, "
        "8 MiB/s for each connection, 10 parts of 10 MiB",
        runs={"imgstore": slow.ours(work)},
        targets=(memory("imgstore", at_most=140),),
        once=("imgstore",),
        sources=(zeros,),
        amount=size / MIB,
    )
