"""How long `check(timeout=5)` of many stores takes: of dead ones, and of healthy ones."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from model import Bench, Case, Task, seconds

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "functional"))

from servers.buckets import bucket
from servers.ceph import ceph
from servers.radosgw import radosgw
from servers.scratch import Scratch

INCUMBENT = ("glance-store==5.7.0",)
TIMEOUT = 5
Stores = Mapping[str, tuple[str, Mapping[str, str]]]  # name to driver and options


@contextmanager
def cases(bench: Bench) -> Iterator[list[Case]]:
    """Yield the cases; the servers run as long as they are in use."""
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(Scratch())
        dead = configure(bench.disk / "dead.conf", dead_stores(stack, bench))
        healthy = configure(bench.disk / "healthy.conf", healthy_stores(stack, scratch, bench))
        runs = {
            f"{len(dead_names)} stores that do not answer": checking(dead, len(dead_names)),
            "6 healthy stores": checking(healthy, 0),
        }
        yield [
            Case(
                name="check",
                title=f"check(timeout={TIMEOUT}) and close",
                runs=runs,
                targets=tuple(
                    seconds(run, limit) for run, limit in zip(runs, (5.5, 1.5), strict=True)
                ),
            )
        ]


dead_names = ("s3", "refused", "swift", "cinder", "vmware", "rbd", "multi")


def checking(path: Path, problems: int) -> Task:
    arguments = (str(path), str(TIMEOUT))
    return Task(operation="check", side="imgstore", arguments=arguments, count=problems)


def configure(path: Path, stores: Stores) -> Path:
    """Write a file with the stores, by their names."""
    enabled = ", ".join(f"{name}:{driver}" for name, (driver, _) in stores.items())
    lines = [f"[DEFAULT]\nenabled_backends = {enabled}"]
    for name, (_, options) in stores.items():
        lines += [f"[{name}]", *(f"{option} = {value}" for option, value in options.items())]
    path.write_text("\n".join(lines) + "\n")
    return path


def dead_stores(stack: contextlib.ExitStack, bench: Bench) -> Stores:
    """Stores whose servers take connections and say nothing; one whose server takes none."""

    def silent() -> int:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=100))
        port: int = server.getsockname()[1]
        return port

    def s3(port: int) -> dict[str, str]:
        return {
            "s3_store_host": f"http://127.0.0.1:{port}",
            "s3_store_region_name": "us-east-1",
            "s3_store_bucket": "images",
            "s3_store_access_key": "key",
            "s3_store_secret_key": "secret",
        }

    def swift() -> dict[str, str]:
        return {
            "swift_store_auth_address": f"http://127.0.0.1:{silent()}/v3",
            "swift_store_user": "service:glance",
            "swift_store_key": "key",
        }

    ceph_conf = bench.disk / "dead-ceph.conf"
    keyring = bench.disk / "dead.keyring"
    keyring.write_text("[client.dead]\nkey = AQBLrr1mAAAAABAA2fYw7LdRk4C1iM2q8pYbGw==\n")
    ceph_conf.write_text(f"[global]\nmon_host = v1:127.0.0.1:{silent()}\nkeyring = {keyring}\n")
    cinder = {
        "cinder_store_auth_address": f"http://127.0.0.1:{silent()}/v3",
        "cinder_store_user_name": "cinder",
        "cinder_store_password": "password",
        "cinder_store_project_name": "service",
    }
    vmware = {
        "vmware_server_host": f"127.0.0.1:{silent()}",
        "vmware_server_username": "user",
        "vmware_server_password": "password",
        "vmware_datastores": "DC0:images",
        "vmware_insecure": "true",
    }
    rbd = {"rbd_store_ceph_conf": str(ceph_conf), "rbd_store_user": "dead"}
    return {
        "s3": ("s3", s3(silent())),
        "refused": ("s3", s3(1)),
        "swift": ("swift", swift()),
        "cinder": ("cinder", cinder),
        "vmware": ("vmware", vmware),
        "rbd": ("rbd", rbd),
        "multi": ("swift", swift() | {"swift_store_multi_tenant": "true"}),
    }


def healthy_stores(stack: contextlib.ExitStack, scratch: Scratch, bench: Bench) -> Stores:
    """Files on tmpfs and on disk, a bucket, and a pool of the same cluster."""
    cluster = stack.enter_context(ceph(scratch))
    gateway = stack.enter_context(radosgw(scratch, cluster, cache=True))
    made = stack.enter_context(bucket(gateway, gateway.user("bench")))
    cluster.pool("images")
    user = cluster.user("bench", mon="profile rbd", osd="profile rbd pool=images")
    roots = (bench.tmpfs / "one", bench.tmpfs / "two", bench.disk / "three", bench.disk / "four")
    files = {root.name: ("file", {"filesystem_store_datadir": str(root)}) for root in roots}
    s3 = {
        "s3_store_host": gateway.url(),
        "s3_store_region_name": "us-east-1",
        "s3_store_bucket": made.name,
        "s3_store_access_key": made.user.access_key,
        "s3_store_secret_key": made.user.secret_key,
    }
    rbd = {
        "rbd_store_pool": "images",
        "rbd_store_user": user.name,
        "rbd_store_ceph_conf": str(user.conf),
    }
    return files | {"s3": ("s3", s3), "rbd": ("rbd", rbd)}
