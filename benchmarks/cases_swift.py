"""The Swift store on Swift and Keystone on this machine, objects and their lists in memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from cases_file import BOTH, SHA256, adding, hashes
from model import MIB, Bench, Case, SourceFile, Task, memory, speed
from swift_raw import MB, Account

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "functional"))

from servers.keystone import keystone
from servers.link import link
from servers.scratch import Scratch
from servers.swift import LARGE, swift

INCUMBENT = ("glance-store[swift]==5.7.0",)
NAME = "8c9f2b1e-6c57-4b3c-9f0e-3d5a7b1c2d4e"
SEGMENTS = 20


class Swift:
    """The tasks of each side against one container of one account."""

    def __init__(self, options: dict[str, str]) -> None:
        self._options = options

    def having(self, **options: object) -> Swift:
        """The same with more options."""
        more = {f"swift_store_{name}": str(value) for name, value in options.items()}
        return Swift(self._options | more)

    def account(self, *, connections: int = 1) -> Account:
        return Account(self._options, connections=connections)

    def ours(self, work: Task) -> Task:
        return replace(work, side="imgstore", driver="swift", options=self._options, warm=True)

    def theirs(self, work: Task) -> Task:
        return replace(self.ours(work), side="incumbent")

    def raw(self, work: Task, *, connections: int = 1) -> Task:
        """python-swiftclient alone, of the same source or object."""
        operation = {"add": "swift_upload", "get": "swift_download"}[work.operation]
        return replace(self.ours(work), side="raw", operation=operation, threads=connections)


@contextmanager
def cases(bench: Bench) -> Iterator[list[Case]]:
    """Yield the cases; the servers run as long as they are in use."""
    segment = bench.sized(50, 1)  # "MB"
    size = SEGMENTS * segment * MB
    images = bench.tmpfs / "images"
    image = SourceFile(path=images / NAME, size=size, data=size)
    odd = SourceFile(path=images / "odd", size=size - 654_321, data=size - 654_321)
    zeros = SourceFile(path=images / "zeros", size=bench.sized(2000, 60) * MB, data=0)
    with serving(bench.tmpfs / "devices") as (plain, behind):
        store = plain.having(large_object_size=segment, large_object_chunk_size=segment)
        far = behind(store, delay=0.02)
        emptied = plain.having(container="deletes")
        for each in (store, emptied):
            with closing(each.account()) as account:
                account.make_containers()
        image.make()
        with closing(store.account(connections=2)) as account:
            account.upload(image.path, segment * MB, key=NAME)
        yield [
            add(store, image),
            add_sha256(store, image),
            add_unknown(store, odd),
            add_far(far, image),
            get(store, size),
            get_far(far, size),
            cycles(bench, store),
            delete(bench, emptied),
            add_memory(plain, behind(plain, bandwidth=32 * MIB), zeros),
        ]


@contextmanager
def serving(devices: Path) -> Iterator[tuple[Swift, Callable[..., Swift]]]:
    """Run the servers; yield a store there, and what puts a worse way between it and them."""
    devices.mkdir()
    as_usual = partial(swift, max_file_size=LARGE, cache=True, token_cache_seconds=300)
    with ExitStack() as stack:
        scratch = stack.enter_context(Scratch())
        identity = stack.enter_context(keystone(scratch))
        servers = stack.enter_context(as_usual(scratch, identity, devices=devices))
        user = identity.user("bench")
        # In no reference file: glance_store reads that anew for each location, by one parser that
        # threads share, and fails.
        plain = Swift(
            {
                "swift_store_auth_address": user.url,
                "swift_store_user": f"{user.project}:{user.name}",
                "swift_store_key": user.password,
                "swift_store_container": "images",
            }
        )

        def behind(store: Swift, **quality: float) -> Swift:
            target = ("127.0.0.1", int(servers.url.rpartition(":")[2]))
            way = stack.enter_context(link(scratch, target, window=MIB, **quality))
            endpoint = servers.account_url(user).replace(f":{target[1]}/", f":{way.port}/")
            return store.having(endpoint=endpoint)

        yield plain, behind


def named(size: int) -> str:
    return f"{size / 1_000_000:.0f} MB"


def add(store: Swift, image: SourceFile) -> Case:
    work = adding(image)
    return Case(
        name="add",
        title=f"add {named(image.size)} of known size in {SEGMENTS} segments, md5+sha512",
        runs={
            "imgstore": store.ours(work),
            "glance_store": store.theirs(work),
            "imgstore, dlo": store.having(large_object_type="dlo").ours(work),
            "hashes alone, a thread each": hashes(image.size, *BOTH, threads=2),
        },
        targets=(speed("imgstore", "glance_store", 1.3),),
        once=("imgstore, dlo", "hashes alone, a thread each"),
        sources=(image,),
        amount=image.size / MIB,
    )


def add_sha256(store: Swift, image: SourceFile) -> Case:
    work = adding(image, SHA256)
    raw = "swiftclient, 4 connections, no hash"
    return Case(
        name="add-sha256",
        title=f"add {named(image.size)} of known size in {SEGMENTS} segments, sha256 only",
        runs={
            "imgstore": store.ours(work),
            raw: store.raw(work, connections=4),
            "glance_store, md5+sha256": store.theirs(work),
            "swiftclient, 1 connection, no hash": store.raw(work),
        },
        targets=(speed("imgstore", raw, 0.7),),
        once=("swiftclient, 1 connection, no hash",),
        sources=(image,),
        amount=image.size / MIB,
    )


def add_unknown(store: Swift, odd: SourceFile) -> Case:
    """Of a known size that is no multiple of a segment, the incumbent stores nothing."""
    work = adding(odd)
    return Case(
        name="add-unknown",
        title=f"add {named(odd.size)} of unknown size, no multiple of a segment, md5+sha512",
        runs={
            "imgstore": store.ours(replace(work, unknown=True)),
            "imgstore, known size": store.ours(work),
            "glance_store": store.theirs(replace(work, unknown=True)),
        },
        targets=(speed("imgstore", "imgstore, known size", 0.95),),
        once=("glance_store",),
        sources=(odd,),
        amount=odd.size / MIB,
    )


def add_far(far: Swift, image: SourceFile) -> Case:
    work, raw = adding(image), "swiftclient, 4 connections, no hash"
    return Case(
        name="add-far",
        title=f"add {named(image.size)} in {SEGMENTS} segments through 20 ms each way, "
        "1 MiB in flight per connection, md5+sha512",
        runs={
            "imgstore": far.ours(work),
            "glance_store": far.theirs(work),
            raw: far.raw(work, connections=4),
        },
        targets=(speed("imgstore", "glance_store", 2.5),),
        once=(raw,),
        sources=(image,),
        amount=image.size / MIB,
    )


def getting(store: Swift, size: int) -> Task:
    with closing(store.account()) as account:
        return Task(operation="get", url=account.url(NAME), size=size)


def get(store: Swift, size: int) -> Case:
    work = getting(store, size)
    return Case(
        name="get",
        title=f"get {named(size)} in {SEGMENTS} segments by iteration",
        runs={
            "imgstore": store.ours(work),
            "glance_store": store.theirs(work),
            "imgstore, 4 workers": store.having(get_workers=4).ours(work),
            "swiftclient": store.raw(work),
        },
        targets=(
            speed("imgstore", "glance_store", 1),
            replace(
                speed("imgstore, 4 workers", "glance_store", 1.15),
                text="with 4 workers ≥ 1.15 × glance_store",
            ),
        ),
        amount=size / MIB,
    )


def get_far(far: Swift, size: int) -> Case:
    work = getting(far, size)
    return Case(
        name="get-far",
        title=f"get {named(size)} through 20 ms each way, 1 MiB in flight per connection",
        runs={
            "imgstore, 4 workers": far.having(get_workers=4).ours(work),
            "glance_store": far.theirs(work),
            "imgstore": far.ours(work),
        },
        targets=(speed("imgstore, 4 workers", "glance_store", 3),),
        once=("imgstore",),
        amount=size / MIB,
    )


def cycles(bench: Bench, store: Swift) -> Case:
    count = bench.sized(200, 16)
    work = Task(operation="cycles", size=1024, algorithms=BOTH, count=count, threads=8)
    return Case(
        name="cycles",
        title=f"{count} times add, get and delete of 1 KiB from 8 threads",
        runs={"imgstore": store.ours(work), "glance_store": store.theirs(work)},
        targets=(speed("imgstore", "glance_store", 3),),
        amount=count,
        unit="cycles",
    )


def delete(bench: Bench, store: Swift) -> Case:
    """Each run fails if anything is left; the incumbent writes dynamic large objects only."""
    count = bench.sized(1000, 50)

    def layout(kind: str) -> Task:
        return Task(operation="swift_delete", arguments=(kind,), count=count, threads=8)

    return Case(
        name="delete",
        title=f"delete an image of {count} segments",
        runs={
            "imgstore, slo": store.ours(layout("slo")),
            "imgstore, dlo": store.ours(layout("dlo")),
            "glance_store, dlo": store.theirs(layout("glance_store")),
            "imgstore, glance_store's dlo": store.ours(layout("glance_store")),
            "glance_store, imgstore's slo": store.theirs(layout("slo")),
        },
        once=("glance_store, imgstore's slo",),
        amount=count,
        unit="segments",
    )


def add_memory(plain: Swift, slow: Swift, zeros: SourceFile) -> Case:
    """With default options an image of known size is one object up to 5.2 GB."""
    work, segmented = adding(zeros), plain.having(large_object_size=1)
    runs = {
        "imgstore, unknown size": plain.ours(replace(work, unknown=True)),
        "imgstore, known size, one object": plain.ours(work),
        "imgstore, known size, in segments": segmented.ours(work),
        "imgstore, unknown size, sha256": plain.ours(
            replace(work, unknown=True, algorithms=SHA256)
        ),
        "imgstore, unknown size, slow server": slow.ours(replace(work, unknown=True)),
    }
    return Case(
        name="memory",
        title=f"add {named(zeros.size)} with default options: segments of 205 MB, 4 workers, "
        "md5+sha512; a slow server takes 32 MiB/s for each connection",
        runs=runs | {"glance_store, unknown size": plain.theirs(replace(work, unknown=True))},
        targets=(memory(*runs, at_most=290),),
        once=("imgstore, unknown size, slow server", "glance_store, unknown size"),
        sources=(zeros,),
        amount=zeros.size / MIB,
    )
