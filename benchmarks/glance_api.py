"""Times one Glance on glance_store and on imgstore: uploads and downloads through its API.

Both serve the same database and the same stores, in turns; a pair of runs is made one right after
the other, and the sides take turns in being first.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "functional"))

from servers.ceph import GIB, ceph
from servers.glance import (
    Glance,
    GlanceStore,
    Library,
    file_store,
    glance,
    rbd_store,
    s3_store,
)
from servers.radosgw import radosgw
from servers.scratch import Scratch

MIB = 1024 * 1024
SIDES: tuple[Library, ...] = ("glance_store", "imgstore")
AT_ONCE = 8  # uploads, where memory is looked at
BLOCK = random.Random(1).randbytes(4 * MIB)


@dataclass(frozen=True)
class Figures:
    """What one run took: seconds, processor seconds of Glance, and bytes that its memory grew."""

    seconds: float
    processor: float
    growth: int


class Service:
    """A Glance on one library."""

    def __init__(self, url: str, pid: int) -> None:
        self._port = int(url.rpartition(":")[2])
        self._pid = pid

    def upload(self, store: str, size: int) -> str:
        """Make an image of `size` bytes in a store and return its id."""
        image = str(uuid.uuid4())
        about = {"id": image, "disk_format": "raw", "container_format": "bare"}
        with self._connection() as connection:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v2/images", json.dumps(about), headers)
            self._expect(connection, 201)
            connection.putrequest("PUT", f"/v2/images/{image}/file")
            connection.putheader("Content-Type", "application/octet-stream")
            connection.putheader("X-Image-Meta-Store", store)
            connection.putheader("Content-Length", str(size))
            connection.endheaders()
            for at in range(0, size, len(BLOCK)):
                connection.send(BLOCK[: size - at])
            self._expect(connection, 204)
        return image

    def download(self, image: str, size: int) -> None:
        """Read an image to its end."""
        buffer = memoryview(bytearray(MIB))
        with self._connection() as connection:
            connection.request("GET", f"/v2/images/{image}/file")
            answer = connection.getresponse()
            done = 0
            while count := answer.readinto(buffer):
                done += count
            if (answer.status, done) != (200, size):
                raise SystemExit(f"a download ended with {answer.status} after {done} bytes")

    def delete(self, image: str) -> None:
        """Delete an image."""
        with self._connection() as connection:
            connection.request("DELETE", f"/v2/images/{image}")
            self._expect(connection, 204)

    def measured(self, work: Callable[[], object]) -> Figures:
        """Do some work and tell what it took."""
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")
        before, processor, began = self._peak(), self._processor(), time.perf_counter()
        work()
        seconds = time.perf_counter() - began
        return Figures(seconds, self._processor() - processor, self._peak() - before)

    def _peak(self) -> int:
        for line in Path(f"/proc/{self._pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("no VmHWM")

    def _processor(self) -> float:
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @contextlib.contextmanager
    def _connection(self) -> Iterator[http.client.HTTPConnection]:
        made = http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)
        with contextlib.closing(made):
            yield made

    @staticmethod
    def _expect(connection: http.client.HTTPConnection, status: int) -> None:
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != status:
            raise SystemExit(f"Glance answered {answer.status}: {said[:500]!r}")


class Table:
    """The runs of each kind of work, and lines of Markdown that tell them."""

    def __init__(self, services: dict[Library, Service], runs: int) -> None:
        self._services = services
        self._runs = runs

    def add(self, title: str, size: int, work: Callable[[Service], Callable[[], object]]) -> None:
        """Measure work on both sides and print its line; `work` prepares it for a service."""
        found: dict[Library, list[Figures]] = {side: [] for side in SIDES}
        for run in range(self._runs):
            for side in SIDES if run % 2 else SIDES[::-1]:
                service = self._services[side]
                found[side].append(service.measured(work(service)))
        seconds, processor, growth = (
            [statistics.median(getattr(run, name) for run in found[side]) for side in SIDES]
            for name in ("seconds", "processor", "growth")
        )
        rates = [size / MIB / each for each in seconds]
        print(
            f"| {title} | {rates[0]:.0f} | {rates[1]:.0f} | {rates[1] / rates[0]:.2f}"
            f" | {processor[0]:.1f} | {processor[1]:.1f}"
            f" | {growth[0] / MIB:.0f} | {growth[1] / MIB:.0f} |",
            flush=True,
        )


def measure(table: Table, store: str, size: int) -> None:
    """Measure uploads and downloads of one store, and eight uploads at once."""
    made: list[tuple[Service, str]] = []

    def upload(service: Service) -> Callable[[], object]:
        forget(made)
        return lambda: made.append((service, service.upload(store, size)))

    def download(service: Service) -> Callable[[], object]:
        forget(made)
        image = service.upload(store, size)
        made.append((service, image))
        return lambda: service.download(image, size)

    def together(service: Service) -> Callable[[], object]:
        forget(made)

        def work() -> None:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                jobs = [pool.submit(service.upload, store, size // AT_ONCE) for _ in range(AT_ONCE)]
                made.extend((service, job.result()) for job in jobs)

        return work

    table.add(f"{store}: upload", size, upload)
    table.add(f"{store}: download", size, download)
    table.add(f"{store}: {AT_ONCE} uploads at once", size, together)
    forget(made)


def forget(made: list[tuple[Service, str]]) -> None:
    """Delete what runs have made."""
    for service, image in made:
        service.delete(image)
    made.clear()


@contextlib.contextmanager
def stores(
    scratch: Scratch, wanted: list[str], directory: Path
) -> Iterator[dict[str, GlanceStore]]:
    """Start what the stores need."""
    made: dict[str, GlanceStore] = {}
    with contextlib.ExitStack() as stack:
        if "file" in wanted:
            made["file"] = file_store(directory)
        if {"rbd", "s3"} & set(wanted):
            cluster = stack.enter_context(ceph(scratch, store="bluestore", size=24 * GIB))
        if "rbd" in wanted:
            cluster.pool("images")
            rights = "profile rbd pool=images"
            user = cluster.user("glance", mon="profile rbd", osd=rights)
            made["rbd"] = rbd_store("images", user)
        if "s3" in wanted:
            gateway = stack.enter_context(radosgw(scratch, cluster))
            client = gateway.user("glance")
            gateway.bucket(client, "images")
            made["s3"] = s3_store(gateway.url(), client, "images")
        yield made


@contextlib.contextmanager
def both(server: Glance) -> Iterator[dict[Library, Service]]:
    """Give a service on each library."""
    with server.another("glance_store") as (url, process):
        new = Service(server.url, server.process.pid)
        yield {"glance_store": Service(url, process.pid), "imgstore": new}


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stores", default="file,rbd,s3")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="of the file store; by default temporary")
    given = parser.parse_args()
    with Scratch() as scratch, contextlib.ExitStack() as stack:
        directory = given.directory or scratch.directory("images")
        made = stack.enter_context(stores(scratch, given.stores.split(","), directory))
        server = stack.enter_context(glance(scratch, made, cache=False))
        services = stack.enter_context(both(server))
        print(f"{given.mib} MiB, medians of {given.runs} runs: MiB/s, processor s, MiB of memory\n")
        print("| Work | old | imgstore | × | old s | imgstore s | old MiB | imgstore MiB |")
        print("|---|--:|--:|--:|--:|--:|--:|--:|", flush=True)
        table = Table(services, given.runs)
        for store in made:
            measure(table, store, given.mib * MIB)


if __name__ == "__main__":
    main()
