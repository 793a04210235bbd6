"""How stores of each backend are used in a storm, on servers that run already."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from servers.buckets import Bucket
from servers.cinder import Cinder
from servers.cinder_stores import as_client
from servers.cinder_stores import login as cinder_login
from servers.containers import Container
from servers.keystone import Interface
from servers.pools import RbdPool
from servers.process import ServerFailed
from servers.proxy import Proxy
from servers.swift import Swift
from servers.vmware_stores import login
from servers.vsphere import VSphere

from storm.plan import Plan
from storm.storming import Backend, Found

KIB, MIB = 1 << 10, 1 << 20
_CLAIM = 300.0  # seconds that claims and probes of S3 are left alone at least
_WATCH = 6  # seconds; clients are not stopped for so long
_INTERFACES: tuple[Interface, ...] = ("public", "internal", "admin")
_REGION = "storm"  # whose Cinder is behind the proxy
_OWN = ".imgstore-"  # what names of unfinished data begin with


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def file(directory: Path, **options: Any) -> Iterator[Backend]:
    """A directory."""
    images = directory / "images"
    images.mkdir()
    plan = Plan(
        "imgstore.drivers.filesystem:FilesystemStore",
        {"datadir": str(images), **options},
        str(directory / "history"),
        places=[f"file://{images}/{{id}}"],
        sizes=[(1, 300 * KIB), (1, 20 * KIB), (MIB, 3 * MIB)],
        cleans=True,
    )

    def listing() -> tuple[list[Found], list[str]]:
        names = sorted(path.name for path in images.iterdir())
        # A file that processes lock is for good.
        rest = [name for name in names if name.startswith(_OWN) and not name.endswith("lock")]
        found = [name for name in names if not name.startswith(_OWN)]
        return [Found(name, _digest((images / name).read_bytes())) for name in found], rest

    yield Backend(plan, listing, pace=1.0)


@contextlib.contextmanager
def s3(directory: Path, bucket: Bucket, *, parts: bool) -> Iterator[Backend]:
    """A bucket of Ceph's gateway; images in parts, or whole."""
    gateway = bucket.gateway
    with Proxy(("127.0.0.1", gateway.ports["http"])) as proxy:
        host = f"127.0.0.1:{proxy.port}"
        options = {
            **bucket.options(),
            "host": f"http://{host}",
            "large_object_size": 1 if parts else 100,
            "large_object_chunk_size": 5,
            "connect_timeout": 3.0,
            "read_timeout": 3.0,
            "max_attempts": 4,
            "thread_pools": 3,
        }
        plan = Plan(
            "imgstore.drivers.s3:S3Store",
            options,
            str(directory / "history"),
            places=[f"s3://{host}/{bucket.name}/{{id}}"],
            # One in four is larger than a part, one less than what is sent in parts.
            sizes=[(1, 200 * KIB), (MIB, 2 * MIB), (MIB, 4 * MIB), (5 * MIB, 7 * MIB)]
            if parts
            else [(1, 200 * KIB), (1, 2 * MIB)],
        )

        def listing() -> tuple[list[Found], list[str]]:
            keys = bucket.keys()
            images = [key for key in keys if not key.startswith("imgstore-")]
            rest = [key for key in keys if key not in images and not _is_valid(bucket, key)]
            rest += bucket.uploads()
            get = bucket.raw.get_object
            return [
                Found(key, _digest(get(Bucket=bucket.name, Key=key)["Body"].read()))
                for key in images
            ], rest

        servers = [gateway.process]
        yield Backend(plan, listing, servers, [proxy], gateway.heal, waits=True, repeats=True)


def _is_valid(bucket: Bucket, key: str) -> bool:
    """Tell whether a key is a claim, or a probe, whose time is not over: who has it may live."""
    try:
        found = bucket.raw.head_object(Bucket=bucket.name, Key=key)
    except bucket.raw.exceptions.ClientError:  # gone by now
        return False
    lease = max(_CLAIM, float(found["Metadata"].get("imgstore-lease", 0)))
    return bool(time.time() < found["LastModified"].timestamp() + lease)


def _preferring(datastores: Sequence[str]) -> list[list[str]]:
    """Return what stores are given: one has no preference, the others prefer one of them each."""
    return [[f"{each}:{int(each == best)}" for each in datastores] for best in ("", *datastores)]


def _files(server: VSphere, where: Mapping[tuple[str, str], str]) -> tuple[list[Found], list[str]]:
    found, rest = [], []
    for (center, name), place in where.items():
        datastore = server.datastore(center, name)
        for path in datastore.names():
            image_id = path.rpartition("/")[2]
            if image_id.startswith(_OWN):
                rest.append(datastore.full(path))
                continue
            url = place.replace("{id}", image_id)
            found.append(Found(image_id, _digest(datastore.content(path)), url))
    return found, rest


@contextlib.contextmanager
def vmware(directory: Path, server: VSphere, *, datastores: Sequence[str]) -> Iterator[Backend]:
    """Datastores of a vCenter Server, "datacenter:name" each."""
    server.empty()
    with Proxy(("127.0.0.1", server.ports["https"])) as proxy:
        host = f"127.0.0.1:{proxy.port}"
        options = {
            **login(server),
            "server_host": host,
            "connect_timeout": 3.0,
            "read_timeout": 4.0,
            "task_poll_interval": 1,
        }
        prefix = f"vsphere://{host}/folder/openstack_glance/{{id}}"
        split = [place.split(":") for place in datastores]
        where = {
            (center, name): f"{prefix}?{urlencode({'dsName': name, 'dcPath': center})}"
            for center, name in split
        }
        plan = Plan(
            "imgstore.drivers.vmware:VmwareStore",
            options,
            str(directory / "history"),
            places=list(where.values()),
            distinct=True,
            varied={"datastores": _preferring(datastores)},
            sizes=[(1, 200 * KIB), (1, 20 * KIB), (MIB, 4 * MIB)],
            cleans=True,
        )

        yield Backend(plan, lambda: _files(server, where), [server.process], [proxy], server.heal)


@contextlib.contextmanager
def rbd(directory: Path, pool: RbdPool) -> Iterator[Backend]:
    """A pool of a Ceph cluster."""
    pool.empty()
    fsid = pool.client.get_fsid()
    plan = Plan(
        "imgstore.drivers.rbd:RbdStore",
        {**pool.options, "chunk_size": 1},
        str(directory / "history"),
        places=[
            f"rbd://{fsid}/{pool.name}/{{id}}/snap",
            f"rbd://{fsid}/{pool.name}/{{id}}/snap",
            "rbd://{id}",
        ],
        sizes=[(1, 200 * KIB), (MIB, 3 * MIB)],
        period=8.0,
        cleans=True,
    )

    def listing() -> tuple[list[Found], list[str]]:
        names = pool.images()
        found, rest = [], [f"trash {name}" for name in pool.trash()]
        for name in names:
            if name.startswith("imgstore-"):  # unfinished, even with its snapshot
                rest.append(f"image {name}")
                continue
            try:
                found.append(Found(name, _digest(pool.content(name))))
            except (pool.sdk.ImageNotFound, pool.sdk.ImageBusy):
                rest.append(f"image {name}")
        return found, rest

    with _short_watches(pool.client, _WATCH):
        yield Backend(plan, listing, [pool.cluster.osd], heal=pool.cluster.heal, clean=90)


@contextlib.contextmanager
def _short_watches(client: Any, seconds: int) -> Iterator[None]:
    """Let a cluster find out sooner than in half a minute that a client is dead."""

    def configure(verb: str, **about: Any) -> str:
        command = {"prefix": f"config {verb}", "var": "osd_client_watch_timeout", **about}
        status, said, why = client.osd_command(0, json.dumps(command), b"")
        if status:
            raise ServerFailed(f"config {verb}: {why}")
        return str(said.decode())

    before = json.loads(configure("get"))["osd_client_watch_timeout"]
    configure("set", val=[str(seconds)])
    try:
        yield
    finally:
        configure("set", val=[str(before)])


def _objects(container: Container) -> tuple[list[Found], list[str]]:
    def is_valid(name: str) -> bool:
        lease = name.rpartition("-")[2]
        since = float(container.headers(name)["x-timestamp"])
        return lease.isdigit() and time.time() < since + int(lease)

    names = container.names()
    images = [name for name in names if not name.startswith("imgstore-")]
    used = {
        segment["name"].partition("/")[2].partition("/")[2]
        for name in images
        if "x-static-large-object" in container.headers(name)
        for segment in container.manifest(name)
    }
    rest = [name for name in names if name not in images and not is_valid(name)]
    rest += [f"segment {name}" for name in container.segments() if name not in used]
    return [Found(name, _digest(container.content(name))) for name in images], rest


@contextlib.contextmanager
def swift(
    directory: Path, server: Swift, container: Container, *, segments: bool
) -> Iterator[Backend]:
    """A container of Swift; images in segments, or whole."""
    account = urlsplit(server.account_url(container.user))
    user = container.user
    with Proxy(("127.0.0.1", account.port or 0)) as proxy:
        plan = Plan(
            "imgstore.drivers.swift:SwiftStore",
            {
                "auth_address": user.url,
                "user": f"{user.project}:{user.name}",
                "key": user.password,
                "user_domain_name": user.domain,
                "project_domain_name": user.domain,
                "container": container.name,
                "endpoint": f"http://127.0.0.1:{proxy.port}{account.path}",
                "large_object_size": 1 if segments else 5,
                "large_object_chunk_size": 1 if segments else 4,
                "upload_workers": 3,
                "connect_timeout": 3.0,
                "read_timeout": 4.0,
            },
            str(directory / "history"),
            sizes=[(1, 200 * KIB), (MIB, 3 * MIB)] if segments else [(1, 200 * KIB), (1, MIB)],
        )
        plan = dataclasses.replace(plan, places=[_place(plan)])

        servers = [server.proxy, server.object, server.container]
        yield Backend(
            plan,
            lambda: _objects(container),
            servers,
            [proxy],
            server.heal,
            waits=True,
            repeats=True,
        )


def _volumes(server: Cinder, pool: Any) -> tuple[list[Found], list[str]]:
    found, rest = [], []
    for volume in server.volumes():
        about = volume["metadata"]
        is_image = "imgstore_unfinished" not in about and "image_size" in about
        if not is_image or volume["status"] not in ("available", "in-use"):
            rest.append(f"volume {volume['id']} {volume['status']} {about}")
            continue
        size = int(about["image_size"])
        data = pool.content(f"volume-{volume['id']}", None)[:size]
        url = f"cinder://storm/{volume['id']}"
        found.append(Found(about["glance_image_id"], _digest(data), url))
    rest += [
        f"attachment of {each['volume_id']}"
        for each in server.call("GET", "attachments/detail")["attachments"]
    ]
    return found, rest


@contextlib.contextmanager
def cinder(directory: Path, server: Cinder, pool: Any) -> Iterator[Backend]:
    """Volumes in a pool of Ceph, which ``pool`` sees from behind."""
    server.empty()
    with Proxy(("127.0.0.1", server.port)) as proxy, _region(server, proxy), as_client(server):
        server.quota(volumes=-1, gigabytes=-1)
        plan = Plan(
            "imgstore.drivers.cinder:CinderStore",
            {
                "volume_type": "fast",
                "mount_point_base": str(server.mounts),
                "poll_interval": 0.1,
                "wait_for_delete": True,
                "os_region_name": _REGION,
                **cinder_login(server.user),
            },
            str(directory / "history"),
            distinct=True,
            sizes=[(1, 200 * KIB), (MIB, 3 * MIB)],
            period=15.0,
            cleans=True,
        )

        api = server.services["api"]
        yield Backend(
            plan, lambda: _volumes(server, pool), [api], [proxy], server.heal, pace=5.0, clean=180
        )
        server.quota(volumes=10, gigabytes=1000)


@contextlib.contextmanager
def _region(server: Cinder, proxy: Proxy) -> Iterator[None]:
    """Have Cinder in another region, behind a proxy; tests without a region never meet it."""
    url, interfaces = f"http://127.0.0.1:{proxy.port}/v3/%(project_id)s", _INTERFACES
    made = [server.keystone.endpoint("volumev3", _REGION, each, url) for each in interfaces]
    try:
        yield
    finally:
        for endpoint in made:
            server.keystone.call("DELETE", f"endpoints/{endpoint}")


def _place(plan: Plan) -> str:
    """Return where images are, as a store says that writes one."""
    with plan.make() as store:
        image = store.add("sample", b"1")
        store.delete(image.location)
        url: str = image.location.url
        return url.replace("sample", "{id}")
