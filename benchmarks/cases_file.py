"""The filesystem store, on tmpfs (what the code costs) and on disk (with fsync)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from model import GIB, MIB, Bench, Case, SourceFile, Task, duration, memory, processor, speed

INCUMBENT = ("glance-store==5.7.0",)
BOTH = ("md5", "sha512")
SHA256 = ("sha256",)
NAME = "8c9f2b1e-6c57-4b3c-9f0e-3d5a7b1c2d4e"
rss = partial(memory, at_most=40)


def ours(work: Task, store: Path, *, fsync: bool = True, thin: bool = False) -> Task:
    options = {
        "filesystem_store_datadir": str(store),
        "filesystem_store_fsync": str(fsync),
        "filesystem_thin_provisioning": str(thin),
    }
    return replace(work, side="imgstore", options=options)


def theirs(work: Task, store: Path, *, thin: bool = False) -> Task:
    """The same options: the incumbent ignores the one about fsync, it never flushes."""
    return replace(ours(work, store, thin=thin), side="incumbent")


def hashes(size: int, *algorithms: str, threads: int = 1) -> Task:
    return Task(operation="hashes", size=size, algorithms=algorithms, threads=threads)


def cp(source: SourceFile, copy: Path) -> Task:
    arguments = ("cp", str(source.path), str(copy))
    return Task(operation="command", arguments=arguments, creates=str(copy))


def dd(source: SourceFile, copy: Path | None = None) -> Task:
    target = (f"of={copy}", "conv=fsync") if copy else ("of=/dev/null",)
    arguments = ("dd", f"if={source.path}", "bs=1M", *target)
    return Task(operation="command", arguments=arguments, creates=str(copy or ""))


@contextmanager
def cases(bench: Bench) -> Iterator[list[Case]]:
    """Yield the cases; the files they need are made when a case is run."""
    size = bench.sized(2 * GIB, 32 * MIB)
    image = SourceFile(path=bench.tmpfs / "images" / NAME, size=size, data=size)
    on_disk = SourceFile(path=bench.disk / "images" / NAME, size=size, data=size)
    yield [
        add(bench, image),
        add_sha256(bench, image),
        add_to_disk(bench, image),
        *thin_adds(bench, size),
        sparse_add(bench),
        *gets(image),
        *small_reads(image),
        *judged(bench, image),
        get_from_disk(on_disk),
        ranges(bench, image),
        ranges(bench, on_disk, cold=True),
        small_adds(bench, "tmpfs", bench.tmpfs / "store"),
        small_adds(bench, "disk", bench.disk / "store"),
    ]


def adding(source: SourceFile, algorithms: tuple[str, ...] = BOTH) -> Task:
    path = str(source.path)
    return Task(operation="add", source=path, size=source.size, algorithms=algorithms)


def add(bench: Bench, image: SourceFile) -> Case:
    work, store = adding(image), bench.tmpfs / "store"
    return Case(
        name="add",
        title=f"add {image.size // MIB} MiB of random bytes, md5+sha512, tmpfs",
        runs={
            "imgstore": ours(work, store),
            "glance_store": theirs(work, store),
            "imgstore, source is a path": ours(replace(work, as_path=True), store),
            "hashes alone, one thread": hashes(image.size, *BOTH),
            "hashes alone, a thread each": hashes(image.size, *BOTH, threads=2),
            "cp": cp(image, bench.tmpfs / "copy"),
        },
        targets=(
            speed("imgstore", "glance_store", 1.7),
            speed("imgstore", "hashes alone, a thread each", 0.75),
            rss("imgstore", "imgstore, source is a path"),
        ),
        once=("hashes alone, one thread",),
        sources=(image,),
        amount=image.size / MIB,
    )


def add_sha256(bench: Bench, image: SourceFile) -> Case:
    work, store = adding(image, SHA256), bench.tmpfs / "store"
    return Case(
        name="add-sha256",
        title=f"add {image.size // MIB} MiB of random bytes, sha256, tmpfs",
        runs={
            "imgstore": ours(work, store),
            "glance_store, md5+sha512": theirs(adding(image), store),
            "glance_store, md5+sha256": theirs(work, store),
            "imgstore, source is a path": ours(replace(work, as_path=True), store),
            "hash alone": hashes(image.size, *SHA256),
            "cp": cp(image, bench.tmpfs / "copy"),
        },
        targets=(
            speed("imgstore", "glance_store, md5+sha512", 3.5),
            rss("imgstore", "imgstore, source is a path"),
        ),
        once=("glance_store, md5+sha256",),
        sources=(image,),
        amount=image.size / MIB,
    )


def add_to_disk(bench: Bench, image: SourceFile) -> Case:
    work, store = adding(image), bench.disk / "store"
    return Case(
        name="add-disk",
        title=f"add {image.size // MIB} MiB of random bytes, md5+sha512, disk",
        runs={
            "imgstore, with fsync": ours(work, store),
            "glance_store (never flushes)": theirs(work, store),
            "glance_store, then fsync": theirs(replace(work, then_fsync=True), store),
            "imgstore, without fsync": ours(work, store, fsync=False),
            "imgstore, sha256, with fsync": ours(adding(image, SHA256), store),
            "cp (never flushes)": cp(image, bench.disk / "copy"),
            "dd conv=fsync": dd(image, bench.disk / "copy"),
        },
        targets=(rss("imgstore, with fsync"),),
        once=("imgstore, without fsync",),
        sources=(image,),
        amount=image.size / MIB,
    )


def thin_adds(bench: Bench, size: int) -> Iterator[Case]:
    """One with the digests of Glance, on tmpfs and on disk, and one with sha256."""
    zeros, store = SourceFile(path=bench.tmpfs / "zeros", size=size, data=0), bench.tmpfs / "store"
    thin_case = partial(Case, sources=(zeros,), amount=size / MIB)
    incumbent = theirs(adding(zeros), store, thin=True)
    yield thin_case(
        name="thin-zeros",
        title=f"thin add of {size // MIB} MiB of zeros, md5+sha512, tmpfs",
        runs={
            "imgstore": ours(adding(zeros), store, thin=True),
            "glance_store": incumbent,
            "hashes alone, one thread": hashes(size, *BOTH),
            "hashes alone, a thread each": hashes(size, *BOTH, threads=2),
        },
        targets=(speed("imgstore", "glance_store", 6), rss("imgstore")),
        once=("hashes alone, one thread", "hashes alone, a thread each"),
    )
    yield thin_case(
        name="thin-zeros-sha256",
        title=f"thin add of {size // MIB} MiB of zeros, sha256, tmpfs",
        runs={
            "imgstore": ours(adding(zeros, SHA256), store, thin=True),
            "glance_store, md5+sha512": incumbent,
            "glance_store, md5+sha256": theirs(adding(zeros, SHA256), store, thin=True),
            "hash alone": hashes(size, *SHA256),
        },
        targets=(speed("imgstore", "glance_store, md5+sha512", 14), rss("imgstore")),
        once=("glance_store, md5+sha256",),
    )
    yield thin_case(
        name="thin-zeros-disk",
        title=f"thin add of {size // MIB} MiB of zeros, md5+sha512, disk",
        runs={
            "imgstore, with fsync": ours(adding(zeros), bench.disk / "store", thin=True),
            "glance_store (never flushes)": theirs(adding(zeros), bench.disk / "store", thin=True),
        },
        once=("glance_store (never flushes)",),
    )


def sparse_add(bench: Bench) -> Case:
    """Equal data in files of different sizes, and half the data; the incumbent reads it all."""
    unit, store = bench.sized(GIB, 16 * MIB), bench.tmpfs / "store"

    def sparse(size: int, data: int) -> SourceFile:
        path = bench.tmpfs / f"sparse-{size}-{data}"
        return SourceFile(path=path, size=size, data=data)

    def label(file: SourceFile) -> str:
        return f"{file.size // MIB} MiB with {file.data // MIB} MiB of data"

    large, small, half = (
        sparse(20 * unit, unit),
        sparse(5 * unit, unit),
        sparse(20 * unit, unit // 2),
    )
    mine = {
        f"imgstore, {label(file)}": ours(replace(adding(file, ()), as_path=True), store, thin=True)
        for file in (large, small, half)
    }
    incumbent = {f"glance_store, {label(small)}": theirs(adding(small), store, thin=True)}
    raw = {f"cp, {label(large)}": cp(large, bench.tmpfs / "copy")}
    return Case(
        name="sparse",
        title="add from a sparse file, no digests, tmpfs",
        runs=mine | incumbent | raw,
        targets=(
            duration(f"imgstore, {label(large)}", f"imgstore, {label(small)}", 1.25),
            duration(f"imgstore, {label(half)}", f"imgstore, {label(large)}", 0.75),
            rss(*mine),
        ),
        once=tuple(incumbent),
        sources=(large, small, half),
    )


def gets(image: SourceFile) -> Iterator[Case]:
    store = image.path.parent
    get_case = partial(Case, amount=image.size / MIB)
    get = Task(operation="get", url=f"file://{image.path}", size=image.size)
    yield get_case(
        name="get",
        title=f"get {image.size // MIB} MiB by iteration, tmpfs",
        runs={
            "imgstore": ours(get, store),
            "glance_store": theirs(get, store),
            "dd": dd(image),
        },
        targets=(speed("imgstore", "glance_store", 1), rss("imgstore")),
        sources=(image,),
    )
    for reader, discard in (("copies", False), ("discards", True)):
        send = replace(get, operation="send", discard=discard)
        yield get_case(
            name=f"sendfile-{reader}",
            title=f"get {image.size // MIB} MiB into a loopback connection whose reader {reader}",
            runs={
                "imgstore, sendfile": ours(send, store),
                "glance_store, iteration": theirs(send, store),
                "imgstore, iteration": ours(replace(send, operation="send_chunks"), store),
            },
            targets=(
                speed("imgstore, sendfile", "glance_store, iteration", 1.5),
                rss("imgstore, sendfile"),
            ),
            sources=(image,),
        )


def judged(bench: Bench, image: SourceFile) -> Iterator[Case]:
    """What it costs to compare an image with a SHA-256 that is known before."""
    work, size, path = adding(image, SHA256), image.size, str(image.path)
    store, title = bench.tmpfs / "store", f"{image.size // MIB} MiB, sha256, tmpfs"
    yield Case(
        name="add-expected",
        title=f"add {title}, expected",
        runs={
            "imgstore, expected": ours(replace(work, operation="add_expected"), store),
            "imgstore": ours(work, store),
        },
        targets=(processor("imgstore, expected", "imgstore", 1.03),),
        sources=(image,),
        amount=size / MIB,
    )
    read = Task(operation="verify", url=f"file://{image.path}", source=path, size=size)
    read = ours(read, image.path.parent)
    yield Case(
        name="verify",
        title=f"verify {title}",
        runs={"imgstore": read, "hash alone": hashes(size, *SHA256)},
        targets=(speed("imgstore", "hash alone", 0.95),),
        sources=(image,),
        amount=size / MIB,
    )
    yield Case(
        name="get-expected",
        title=f"get {title}, expected",
        runs={
            "imgstore, expected": replace(read, operation="get_expected"),
            "imgstore, hashed by hand": replace(read, operation="get_and_hash"),
        },
        targets=(speed("imgstore, expected", "imgstore, hashed by hand", 0.9),),
        sources=(image,),
        amount=size / MIB,
    )


def small_reads(image: SourceFile) -> Iterator[Case]:
    """`read(8192)`, as libraries of the standard library do, whatever the store's chunks are."""
    store = image.path.parent
    get = Task(operation="get", url=f"file://{image.path}", size=image.size)
    for label, chunk in (("64 KiB", 64 * 1024), ("8 MiB", 8 * MIB), ("64 MiB", 64 * MIB)):
        more = {"filesystem_store_chunk_size": str(chunk)}
        iterating = ours(get, store)
        iterating = replace(iterating, options={**iterating.options, **more})
        reading = replace(iterating, operation="small_reads", count=8192)
        yield Case(
            name=f"small-reads-{chunk // 1024}",
            title=f"get {image.size // MIB} MiB by read(8192), chunks of {label}, tmpfs",
            runs={"imgstore, read(8192)": reading, "imgstore, iteration": iterating},
            targets=(speed("imgstore, read(8192)", "imgstore, iteration", 0.6),),
            sources=(image,),
            amount=image.size / MIB,
        )


def get_from_disk(image: SourceFile) -> Case:
    path, store = str(image.path), image.path.parent
    cold = Task(operation="get", url=f"file://{path}", size=image.size, evict=path)
    return Case(
        name="get-disk",
        title=f"get {image.size // MIB} MiB by iteration, disk, nothing cached",
        runs={
            "imgstore": ours(cold, store),
            "glance_store": theirs(cold, store),
            "dd": replace(dd(image), evict=path),
        },
        targets=(rss("imgstore"),),
        sources=(image,),
        amount=image.size / MIB,
    )


def ranges(bench: Bench, image: SourceFile, *, cold: bool = False) -> Case:
    count, store, path = bench.sized(4000, 100), image.path.parent, str(image.path)
    work = Task(
        operation="ranges",
        url=f"file://{path}",
        evict=path if cold else "",
        size=image.size,
        count=count,
    )
    return Case(
        name="ranges-disk" if cold else "ranges",
        title=f"ranges of 1 MiB at random offsets, {'disk, nothing cached' if cold else 'tmpfs'}",
        runs={
            "imgstore": ours(work, store),
            "glance_store": theirs(work, store),
            "pread": replace(work, operation="pread", source=path),
        },
        targets=() if cold else (speed("imgstore", "glance_store", 1), rss("imgstore")),
        sources=(image,),
        amount=count,
        unit="ranges",
    )


def small_adds(bench: Bench, place: str, store: Path) -> Case:
    count, size = bench.sized(4000, 80), 64 * 1024
    work = Task(operation="small_adds", size=size, count=count, threads=8, algorithms=BOTH)
    return Case(
        name=f"small-adds-{place}",
        title=f"adds of 64 KiB from 8 threads, md5+sha512, {place}",
        runs={
            "imgstore, without fsync": ours(work, store, fsync=False),
            "glance_store (never flushes)": theirs(work, store),
            "imgstore, with fsync": ours(work, store),
            "glance_store, then fsync": theirs(replace(work, then_fsync=True), store),
        },
        targets=(
            speed("imgstore, without fsync", "glance_store (never flushes)", 1),
            rss("imgstore, without fsync", "imgstore, with fsync"),
        ),
        amount=count,
        unit="adds",
    )
