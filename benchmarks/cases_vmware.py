"""The VMware store on a vCenter simulator on this machine, its files in memory.

The incumbent knows port 443 only, so that has to be free.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import vsphere_wsdl
from cases_file import BOTH, SHA256, adding, hashes
from model import GIB, MIB, Bench, Case, SourceFile, Task, memory, speed

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "functional"))

from servers.datacenters import raw_vsphere, session_cookie
from servers.scratch import Scratch
from servers.vsphere import VSphere, vsphere

INCUMBENT = ("glance-store[vmware]==5.7.0",)
NAME = "8c9f2b1e-6c57-4b3c-9f0e-3d5a7b1c2d4e"
TYPES = "bench-incumbent/lib/python3*/site-packages/oslo_vmware/wsdl/6.5"
rss = partial(memory, at_most=40)


@dataclass
class Datastore:
    """The tasks of each side against one datastore."""

    server: VSphere
    service: Any

    @property
    def options(self) -> dict[str, str]:
        return {
            "vmware_server_host": "127.0.0.1",
            "vmware_server_username": self.server.user,
            "vmware_server_password": self.server.password,
            "vmware_ca_file": str(self.server.ca),
            "vmware_datastores": "DC0:images",
        }

    def ours(self, work: Task) -> Task:
        return replace(work, side="imgstore", driver="vmware", options=self.options, warm=True)

    def theirs(self, work: Task) -> Task:
        return replace(self.ours(work), side="incumbent")

    @property
    def cookie(self) -> str:
        return session_cookie(self.service)

    def curl(self, *words: str, path: str, creates: str = "") -> Task:
        ca, url = str(self.server.ca), self.server.datastore().url(path)
        command = ("curl", "-sS", "--fail", "--cacert", ca, "-H", f"Cookie: {self.cookie}")
        return Task(operation="command", arguments=(*command, *words, url), creates=creates)

    def upload(self, image: SourceFile) -> Task:
        path = f"{NAME}-curl"
        copy = self.server.datastore().root / path
        return self.curl("-T", str(image.path), path=path, creates=str(copy))

    def requests(self, work: Task) -> Task:
        """The same with requests, which does nothing but that."""
        arguments = (self.server.datastore().url(f"{NAME}-raw"), self.cookie, str(self.server.ca))
        return replace(work, operation=f"requests_{work.operation}", arguments=arguments)


@contextmanager
def cases(bench: Bench) -> Iterator[list[Case]]:
    """Yield the cases; the server runs as long as they are in use."""
    size = bench.sized(GIB, 32 * MIB)
    image = SourceFile(path=bench.tmpfs / "sources" / NAME, size=size, data=size)
    image.make()
    environments = Path(__file__).resolve().parent.parent / ".venv"
    (types,) = environments.glob(TYPES)
    wsdl = bench.tmpfs / "wsdl"
    vsphere_wsdl.write(wsdl, types)
    with (
        Scratch(bench.tmpfs) as scratch,
        vsphere(scratch, port=443, wsdl=wsdl) as server,
        raw_vsphere(server) as service,
    ):
        store = Datastore(server, service)
        server.datastore().put(f"openstack_glance/{NAME}", b"")
        stored = server.datastore().root / "openstack_glance" / NAME
        stored.write_bytes(image.path.read_bytes())
        yield [
            add(store, image),
            add_sha256(store, image),
            add_unknown(store, image),
            get(store, size),
            cycles(bench, store),
        ]


def add(store: Datastore, image: SourceFile) -> Case:
    work = adding(image)
    return Case(
        name="add",
        title=f"add {image.size // MIB} MiB of known size, md5+sha512",
        runs={
            "imgstore": store.ours(work),
            "glance_store": store.theirs(work),
            "hashes alone, a thread each": hashes(image.size, *BOTH, threads=2),
        },
        targets=(speed("imgstore", "glance_store", 1.7), rss("imgstore")),
        once=("hashes alone, a thread each",),
        sources=(image,),
        amount=image.size / MIB,
    )


def add_sha256(store: Datastore, image: SourceFile) -> Case:
    work = adding(image, SHA256)
    return Case(
        name="add-sha256",
        title=f"add {image.size // MIB} MiB of known size, sha256 only",
        runs={
            "imgstore": store.ours(work),
            "curl, no hash": store.upload(image),
            "requests, blocks of 1 MiB, no hash": store.requests(work),
            "glance_store, md5+sha256": store.theirs(work),
        },
        targets=(speed("imgstore", "curl, no hash", 0.8), rss("imgstore")),
        once=("glance_store, md5+sha256",),
        sources=(image,),
        amount=image.size / MIB,
    )


def add_unknown(store: Datastore, image: SourceFile) -> Case:
    work = adding(image)
    return Case(
        name="add-unknown",
        title=f"add {image.size // MIB} MiB of unknown size, md5+sha512",
        runs={
            "imgstore": store.ours(replace(work, unknown=True)),
            "glance_store": store.theirs(replace(work, unknown=True)),
        },
        targets=(rss("imgstore"),),
        sources=(image,),
        amount=image.size / MIB,
    )


def get(store: Datastore, size: int) -> Case:
    path = f"openstack_glance/{NAME}"
    url = f"vsphere://127.0.0.1/folder/{path}?dsName=images&dcPath=DC0"
    work = Task(operation="get", url=url, size=size)
    return Case(
        name="get",
        title=f"get {size // MIB} MiB by iteration",
        runs={
            "imgstore": store.ours(work),
            "glance_store": store.theirs(work),
            "curl": store.curl("-o", "/dev/null", path=path),
        },
        targets=(
            speed("imgstore", "glance_store", 1),
            speed("imgstore", "curl", 0.85),
            rss("imgstore"),
        ),
        amount=size / MIB,
    )


def cycles(bench: Bench, store: Datastore) -> Case:
    """Tasks of the simulator are over at once, so nobody waits for a look at them."""
    count = bench.sized(400, 16)
    work = Task(operation="cycles", size=4096, algorithms=BOTH, count=count, threads=8)
    return Case(
        name="cycles",
        title=f"{count} times add, get and delete of 4 KiB from 8 threads",
        runs={"imgstore": store.ours(work), "glance_store": store.theirs(work)},
        targets=(speed("imgstore", "glance_store", 3), rss("imgstore")),
        amount=count,
        unit="cycles",
    )
