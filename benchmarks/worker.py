"""Carries out one task, given as JSON in the first argument, and prints its figures as JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import io
import json
import os
import random
import resource
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from cinder_raw import Volume
from measure import Sink, Stream, measured
from model import MIB, Figures, Task
from swift_raw import MB, Account


class Side(Protocol):
    """A contender: the same four verbs over one configured store."""

    def add(
        self, image_id: str, source: Any, *, size: int, algorithms: Sequence[str]
    ) -> tuple[str, Mapping[str, str]]:
        """Store the image, of a size that may be 0 for unknown; return its URL and digests."""

    def chunks(self, url: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Read the image or a range of it."""

    def send(self, url: str, sink: socket.socket) -> None:
        """Send the whole image to a socket, in the best way there is."""

    def delete(self, url: str) -> None:
        """Remove the image."""


def side_of(task: Task) -> Side:
    """Load the module of the task's side and open its store."""
    side: Side = importlib.import_module(f"side_{task.side}").Side(task.driver, task.options)
    if task.warm:
        url, _ = side.add(str(uuid.uuid4()), io.BytesIO(b"."), size=1, algorithms=("sha256",))
        side.delete(url)
    return side


def flush(url: str) -> None:
    """Put a stored file and its directory on the disk, as a careful caller would afterwards."""
    path = Path(unquote(urlsplit(url).path))
    for target in (path, path.parent):
        fd = os.open(target, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def add(task: Task) -> Figures:
    side = side_of(task)
    with open(task.source, "rb", buffering=0) as file:
        source = Path(task.source) if task.as_path else Stream(file)
        with measured() as meter:
            size = 0 if task.unknown else task.size
            url, digests = side.add(
                str(uuid.uuid4()), source, size=size, algorithms=task.algorithms
            )
            if task.then_fsync:
                flush(url)
    side.delete(url)
    return dataclasses.replace(meter.figures, digests=digests)


def small_adds(task: Task) -> Figures:
    """Add `count` images of `size` bytes from `threads` threads."""
    side = side_of(task)
    data = random.Random(0).randbytes(task.size)

    def one(image_id: str) -> str:
        source = Stream(io.BytesIO(data))
        url, _ = side.add(image_id, source, size=task.size, algorithms=task.algorithms)
        if task.then_fsync:
            flush(url)
        return url

    ids = [str(uuid.uuid4()) for _ in range(task.count)]
    with ThreadPoolExecutor(task.threads) as pool:
        with measured() as meter:
            urls = list(pool.map(one, ids))
        for url in urls if task.verify else ():
            if b"".join(side.chunks(url)) != data:
                raise RuntimeError(f"{url} holds other bytes than were added")
        list(pool.map(side.delete, urls))
    return meter.figures


def cycles(task: Task) -> Figures:
    """Add, read and delete `count` images of `size` bytes, each of `threads` one at a time."""
    side = side_of(task)
    data = random.Random(0).randbytes(task.size)

    def one(number: int) -> None:
        source = Stream(io.BytesIO(data))
        url, _ = side.add(str(uuid.uuid4()), source, size=task.size, algorithms=task.algorithms)
        if b"".join(side.chunks(url)) != data:
            raise RuntimeError("other bytes come back than were added")
        side.delete(url)

    one(0)  # a service's first request is not what counts
    with ThreadPoolExecutor(task.threads) as pool, measured() as meter:
        each = map if task.threads == 1 else pool.map
        for _ in each(one, range(task.count)):
            pass
    return meter.figures


def s3_client(task: Task) -> Any:
    """Return boto3's client with its defaults, for the store that the options describe."""
    boto3 = importlib.import_module("boto3")
    return boto3.client(
        "s3",
        endpoint_url=task.options["s3_store_host"],
        region_name=task.options["s3_store_region_name"],
        aws_access_key_id=task.options["s3_store_access_key"],
        aws_secret_access_key=task.options["s3_store_secret_key"],
    )


def s3_upload(task: Task) -> Figures:
    """Upload a file as boto3 does it by default."""
    client, bucket, key = s3_client(task), task.options["s3_store_bucket"], str(uuid.uuid4())
    with open(task.source, "rb") as file, measured() as meter:
        client.upload_fileobj(file, bucket, key)
    client.delete_object(Bucket=bucket, Key=key)
    return meter.figures


def s3_download(task: Task) -> Figures:
    """Download the object of a location into nothing, as boto3 does it by default."""
    client, bucket, key = s3_client(task), *task.url.rsplit("/", 2)[-2:]
    with open(os.devnull, "wb") as file, measured() as meter:
        client.download_fileobj(bucket, key, file)
    return meter.figures


def swift_upload(task: Task) -> Figures:
    """Upload a file in segments with python-swiftclient, from `threads` threads."""
    segment = int(task.options["swift_store_large_object_chunk_size"]) * MB
    with closing(Account(task.options, connections=task.threads)) as account:
        with measured() as meter:
            key = account.upload(Path(task.source), segment)
        account.delete(key)
    return meter.figures


def swift_download(task: Task) -> Figures:
    """Download the object of a location into nothing with python-swiftclient."""
    with closing(Account(task.options)) as account, measured() as meter:
        delivered = account.download(task.url.rsplit("/", 1)[-1])
    return complete(delivered, task.size, meter.figures)


def swift_delete(task: Task) -> Figures:
    """Delete an image of `count` segments, laid out as `arguments` says."""
    side = side_of(task)
    with closing(Account(task.options, connections=task.threads)) as account:
        url = account.url(account.lay_out(task.arguments[0], task.count))
        with measured() as meter:
            side.delete(url)
        if left := account.names():
            raise RuntimeError(f"{len(left)} objects are left: {left[:3]}")
    return meter.figures


class Blocks:
    """A file in blocks of 1 MiB, as requests sends what has a length and is no file."""

    def __init__(self, file: io.RawIOBase, size: int) -> None:
        self._file = file
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        while block := self._file.read(MIB):
            yield block


def requests_add(task: Task) -> Figures:
    """Put a file with requests; the next one replaces it."""
    requests = importlib.import_module("requests")
    url, cookie, ca = task.arguments
    options = {"headers": {"Cookie": cookie}, "verify": ca, "timeout": 60}
    with open(task.source, "rb", buffering=0) as file, measured() as meter:
        requests.put(url, data=Blocks(file, task.size), **options).raise_for_status()
    return meter.figures


def cinder_write(task: Task) -> Figures:
    """Write a file to a new volume with os-brick alone, which is detached and deleted."""
    with (
        closing(Volume(task.options, task.size)) as volume,
        open(task.source, "rb", buffering=0) as file,
        measured() as meter,
    ):
        volume.write(file)
    return meter.figures


def cinder_read(task: Task) -> Figures:
    """Read the volume of a location with os-brick alone."""
    known = task.url.rsplit("/", 1)[-1]
    with closing(Volume(task.options, task.size, known)) as volume, measured() as meter:
        delivered = volume.read()
    return complete(delivered, task.size, meter.figures)


def rbd_command(task: Task, *words: str) -> list[str]:
    """Return a command of Ceph's own program, for the cluster that the options describe."""
    conf, user = task.options["rbd_store_ceph_conf"], task.options["rbd_store_user"]
    return ["rbd", *words, "--no-progress", "--conf", conf, "--id", user]


def rbd_import(task: Task) -> Figures:
    """Import a file as Ceph's own program does it by default."""
    image = f"{task.options['rbd_store_pool']}/{uuid.uuid4()}"
    argv = rbd_command(task, "import", "--image-format", "2", task.source, image)
    with measured(resource.RUSAGE_CHILDREN) as meter:
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(rbd_command(task, "rm", image), check=True, stdout=subprocess.DEVNULL)
    return meter.figures


def rbd_export(task: Task) -> Figures:
    """Export the snapshot of a location into nothing, as Ceph's own program does it by default."""
    pool, image, snapshot = task.url.rsplit("/", 3)[-3:]
    argv = rbd_command(task, "export", f"{pool}/{image}@{snapshot}", "-")
    with measured(resource.RUSAGE_CHILDREN) as meter:
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return meter.figures


def evict(path: str) -> None:
    """Drop a flushed file from the page cache; an empty path is no file."""
    if path:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def get(task: Task) -> Figures:
    side = side_of(task)
    evict(task.evict)
    with measured() as meter:
        delivered = sum(map(len, side.chunks(task.url)))
    return complete(delivered, task.size, meter.figures)


def digest_of(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(MIB):
            digest.update(block)
    return digest.hexdigest()


def add_expected(task: Task) -> Figures:
    """Add an image whose SHA-256 is known before; only our side can."""
    side: Any = side_of(task)
    digest = digest_of(task.source)
    with open(task.source, "rb", buffering=0) as file, measured() as meter:
        url = side.add_expected(str(uuid.uuid4()), Stream(file), size=task.size, digest=digest)
    side.delete(url)
    return meter.figures


def verify(task: Task) -> Figures:
    """Compare the whole image with the SHA-256 of `source`; only our side can."""
    side: Any = side_of(task)
    digest = digest_of(task.source)
    with measured() as meter:
        side.verify(task.url, digest)
    return meter.figures


def get_expected(task: Task) -> Figures:
    """Read the whole image, whose SHA-256 has to be that of `source`; only our side can."""
    side: Any = side_of(task)
    digest = digest_of(task.source)
    with measured() as meter:
        delivered = sum(map(len, side.expected_chunks(task.url, digest)))
    return complete(delivered, task.size, meter.figures)


def get_and_hash(task: Task) -> Figures:
    """Read the whole image, and hash each chunk before the next one is asked for."""
    side, digest, delivered = side_of(task), hashlib.sha256(), 0
    with measured() as meter:
        for chunk in side.chunks(task.url):
            digest.update(chunk)
            delivered += len(chunk)
        digest.hexdigest()
    return complete(delivered, task.size, meter.figures)


def small_reads(task: Task) -> Figures:
    """Read the whole image by `count` bytes at a time; only our side can."""
    side: Any = side_of(task)
    with measured() as meter:
        delivered = side.pieces(task.url, task.count)
    return complete(delivered, task.size, meter.figures)


def check(task: Task) -> Figures:
    """Check the stores of a file within `arguments[1]` seconds, and close them.

    There are `count` problems.
    """
    path, timeout = task.arguments
    stores = importlib.import_module(f"side_{task.side}").Side.stores(path)
    with measured() as meter, stores:
        found = len(stores.check(timeout=float(timeout)))
    return complete(found, task.count, meter.figures)


def send(task: Task) -> Figures:
    side = side_of(task)
    with Sink(discard=task.discard) as sink, measured() as meter:
        side.send(task.url, sink.socket)
        delivered = sink.finish()
    return complete(delivered, task.size, meter.figures)


def send_chunks(task: Task) -> Figures:
    """Send by iteration, what `send` does where there is no file to hand to the kernel."""
    side = side_of(task)
    with Sink(discard=task.discard) as sink, measured() as meter:
        for chunk in side.chunks(task.url):
            sink.socket.sendall(chunk)
        delivered = sink.finish()
    return complete(delivered, task.size, meter.figures)


def offsets(task: Task) -> list[int]:
    """The same random offsets for every contender, not aligned to anything."""
    generator = random.Random(0)
    return [generator.randrange(task.size - MIB) for _ in range(task.count)]


def ranges(task: Task) -> Figures:
    """Read `count` ranges of 1 MiB of an image of `size` bytes."""
    side = side_of(task)
    evict(task.evict)
    with measured() as meter:
        delivered = sum(
            len(chunk)
            for offset in offsets(task)
            for chunk in side.chunks(task.url, offset=offset, length=MIB)
        )
    return complete(delivered, task.count * MIB, meter.figures)


def pread(task: Task) -> Figures:
    """Read the same ranges from the file itself, opened once."""
    evict(task.evict)
    with open(task.source, "rb") as file, measured() as meter:
        delivered = sum(len(os.pread(file.fileno(), MIB, offset)) for offset in offsets(task))
    return complete(delivered, task.count * MIB, meter.figures)


def complete(delivered: int, expected: int, figures: Figures) -> Figures:
    if delivered != expected:
        raise RuntimeError(f"there were {delivered} instead of {expected}")
    return figures


def hashes(task: Task) -> Figures:
    """Hash `size` bytes from memory, on one thread or on one thread for each algorithm."""
    block = os.urandom(MIB)

    def digest(names: Sequence[str]) -> None:
        digests = [hashlib.new(name) for name in names]
        for _ in range(task.size // MIB):
            for each in digests:
                each.update(block)

    shares = [task.algorithms] if task.threads == 1 else [(name,) for name in task.algorithms]
    with ThreadPoolExecutor(len(shares)) as pool, measured() as meter:
        list(pool.map(digest, shares))
    return meter.figures


def command(task: Task) -> Figures:
    evict(task.evict)
    with measured(resource.RUSAGE_CHILDREN) as meter:
        subprocess.run(task.arguments, check=True, capture_output=True)
    if task.creates:
        os.unlink(task.creates)
    return meter.figures


def imports(task: Task) -> Figures:
    """Sum what `-X importtime` shows for the modules in `arguments`, in a fresh interpreter."""
    code = f"import {', '.join(task.arguments)}"
    argv = [sys.executable, "-X", "importtime", "-c", code]
    # The first interpreter writes the bytecode, the second one counts. With -c the working
    # directory is searched for modules: a checkout there would hide what is installed.
    subprocess.run(argv, cwd="/", check=True, capture_output=True)
    with measured(resource.RUSAGE_CHILDREN) as meter:
        done = subprocess.run(argv, cwd="/", check=True, capture_output=True, text=True)
    rows = [line.split(":")[1].split("|") for line in done.stderr.splitlines()[1:]]
    start = max(number for number, row in enumerate(rows) if row[2].strip() == "site") + 1
    # A name after a single space is not nested in another import: its time includes the nested.
    total = sum(int(row[1]) for row in rows[start:] if not row[2].startswith("  "))
    return dataclasses.replace(meter.figures, seconds=total / 1e6)


OPERATIONS: dict[str, Callable[[Task], Figures]] = {
    each.__name__: each
    for each in (
        add,
        small_adds,
        cycles,
        s3_upload,
        s3_download,
        swift_upload,
        swift_download,
        swift_delete,
        requests_add,
        cinder_write,
        cinder_read,
        rbd_import,
        rbd_export,
        add_expected,
        verify,
        get_expected,
        get_and_hash,
        get,
        small_reads,
        check,
        send,
        send_chunks,
        ranges,
        pread,
        hashes,
        command,
        imports,
    )
}


def main() -> None:
    task = Task(**json.loads(sys.argv[1]))
    print(json.dumps(dataclasses.asdict(OPERATIONS[task.operation](task))))


if __name__ == "__main__":
    main()
