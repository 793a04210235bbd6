"""A running Glance with every kind of store, and Keystone in front of it.

Beside it runs another one on glance_store, with the same database and the same stores.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from servers.buckets import Bucket
from servers.buckets import bucket as make_bucket
from servers.cinder import Cinder
from servers.containers import Container
from servers.containers import container as make_container
from servers.glance import (
    PYTHON,
    Glance,
    cinder_store,
    file_store,
    rbd_store,
    s3_store,
    swift_store,
)
from servers.glance import glance as run_glance
from servers.glance_client import Images, digests, handed_on, interrupted, written
from servers.keystone import Keystone
from servers.pools import RbdPool
from servers.process import Process, until
from servers.radosgw import RadosGateway, User
from servers.scratch import Scratch
from servers.swift import Swift

from imgstore.testing.harness import pattern

pytestmark = [
    pytest.mark.servers("glance", "ceph", "radosgw", "keystone", "swift", "cinder"),
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:.cgi. is deprecated"),  # WebOb, in Glance's environment
]

KIB = 1024
MIB = 1024 * KIB
DATA = pattern(700 * KIB + 7)
LARGE = pattern(24 * MIB + 7)  # in S3 and Swift it goes in parts
S3_PARTS = {"s3_store_large_object_size": 8, "s3_store_large_object_chunk_size": 5}
SWIFT_PARTS = {"swift_store_large_object_size": 8, "swift_store_large_object_chunk_size": 5}
STORES = ["files", "objects", "container", "pool", "volumes"]
_CLEAN = """
import sys
from imgstore import StoreManager
with StoreManager.from_file(sys.argv[1]) as stores:
    stores.remove_leftovers(older_than=0)
"""
RENEWALS = 4  # of each process, an even number: each second one switches back


class Places:
    """What is in the stores, past Glance."""

    def __init__(
        self,
        directories: list[Path],
        bucket: Bucket,
        container: Container,
        pool: RbdPool,
        volumes: Cinder,
    ) -> None:
        self.directories = directories
        self.bucket = bucket
        self.container = container
        self.pool = pool
        self.volumes = volumes

    def left(self) -> dict[str, list[str]]:
        """Name all that is there, by the stores that have anything."""
        files = [str(at) for each in self.directories for at in each.rglob("*") if at.is_file()]
        found = {
            "files": files,
            "objects": [*self.bucket.keys(), *self.bucket.uploads()],
            "container": [*self.container.names(), *self.container.segments()],
            "pool": [*self.pool.images(), *self.pool.trash()],
            "volumes": self.volumes.states(),
        }
        return {name: names for name, names in found.items() if names}

    def emptied(self) -> None:
        """Wait until nothing is there: volumes and watched images go after a while."""
        until(lambda: self.left() == {}, seconds=60, what="nothing is left in any store")


@pytest.fixture(scope="module")
def places(
    scratch: Scratch,
    _radosgw: RadosGateway,
    s3_user: User,
    s3_raw: Any,
    _swift: Swift,
    rbd_pool: RbdPool,
    _cinder: Cinder,
) -> Iterator[Places]:
    directories = [scratch.directory("images") for _ in range(2)]
    with (
        make_bucket(_radosgw, s3_user, s3_raw) as bucket,
        make_container(_swift.keystone.user("images")) as container,
    ):
        yield Places(directories, bucket, container, rbd_pool, _cinder)


@pytest.fixture(scope="module")
def _glance(
    scratch: Scratch, _radosgw: RadosGateway, s3_user: User, _keystone: Keystone, places: Places
) -> Iterator[Glance]:
    user = places.container.user
    stores = {
        "files": file_store(*places.directories),
        "objects": s3_store(
            _radosgw.url(), s3_user, places.bucket.name, s3_store_max_attempts=1, **S3_PARTS
        ),
        "container": swift_store(
            scratch.directory("swift"), user, places.container.name, **SWIFT_PARTS
        ),
        "pool": rbd_store(places.pool.name, places.pool.user),
        "volumes": cinder_store(places.volumes),
    }
    with run_glance(scratch, stores, identity=_keystone) as server:
        yield server


@pytest.fixture
def images(
    _glance: Glance, radosgw: RadosGateway, swift: Swift, cinder: Cinder, places: Places
) -> Iterator[Images]:
    """The images of a Glance all of whose stores are well; a test's are deleted at its end."""
    _glance.process.revive()
    made = Images(_glance)
    yield made
    made.delete(*made.ids())
    places.emptied()


@pytest.mark.parametrize("store", STORES)
def test_an_image_comes_back(images: Images, places: Places, store: str) -> None:
    """Bytes, digests, size and ranges are right; a deleted image leaves nothing."""
    image = images.add(DATA, store=store)
    found = images.get(image)
    assert found | digests(DATA) | {"status": "active", "stores": store} == found
    assert images.read(image) == DATA
    answer = images.ask("GET", f"/v2/images/{image}/file", headers={"Range": "bytes=5000-5999"})
    assert (answer.status, answer.body) == (206, DATA[5000:6000])
    images.delete(image)
    places.emptied()


def test_what_the_stores_say_of_themselves(images: Images, places: Places) -> None:
    """Glance shows settings of each kind; that of files in two directories names the first."""
    said = {
        store["id"]: store["properties"]
        for store in images.client.images.get_stores_info_detail()["stores"]
    }
    assert list(said) == STORES
    assert said["files"]["data_dir"] == str(places.directories[0])
    assert said["container"]["container"] == places.container.name
    assert said["pool"]["pool"] == places.pool.name
    assert said["volumes"]["volume_type"] == "fast"


@pytest.mark.parametrize("store", STORES)
def test_both_libraries_write_the_same_locations(images: Images, old: Images, store: str) -> None:
    """A location and its metadata are those that glance_store writes, byte by byte."""
    assert written(images, DATA, store=store) == written(old, DATA, store=store)


@pytest.mark.parametrize("way", ["forward", "back"])
@pytest.mark.parametrize("store", STORES)
def test_each_library_takes_what_the_other_wrote(
    images: Images, old: Images, store: str, way: str
) -> None:
    """It reads it, copies it and deletes it from one store; the other one reads the copy."""
    one, other = (old, images) if way == "forward" else (images, old)
    copied = STORES[STORES.index(store) - 1]
    handed_on(one, other, DATA, store=store, copied=copied)


def test_an_import_into_every_store(images: Images, places: Places) -> None:
    """One staged image is in all stores, and each copy can be read when it is the last one."""
    image = images.stage(DATA)
    images.bring(image, STORES)
    assert images.stores(image) == sorted(STORES)
    for store in STORES[:-1]:
        assert images.read(image) == DATA
        images.client.images.delete_from_store(store, image)
    assert images.read(image) == DATA


def test_a_copy_into_every_store(images: Images) -> None:
    image = images.add(DATA, store="files")
    images.bring(image, [], method="copy-image", all_stores=True)
    assert images.stores(image) == sorted(STORES)


def test_an_import_while_one_store_is_down(images: Images, radosgw: RadosGateway) -> None:
    """The image is in all other stores, and Glance names the one that failed."""
    image = images.stage(DATA)
    radosgw.process.kill()
    images.bring(image, STORES, all_must=False)
    assert images.stores(image) == sorted(set(STORES) - {"objects"})
    assert images.get(image)["os_glance_failed_import"] == "objects"
    radosgw.heal()


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("seed", range(3))
def test_an_upload_that_is_cut(images: Images, places: Places, store: str, seed: int) -> None:
    """Where a client goes at any point of an upload, nothing of the image stays anywhere."""
    sent = random.Random(f"{store} {seed}").randrange(len(LARGE))
    image = images.create()
    with images.begun(image, len(LARGE), store=store) as connection:
        connection.send(LARGE[:sent])
        until(lambda: images.is_saving(image), seconds=60, what="the upload has begun")
    until(lambda: not images.is_saving(image), seconds=120, what="Glance gave the upload up")
    assert images.get(image)["status"] == "queued"
    places.emptied()


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("seed", range(3))
def test_a_service_that_is_killed(images: Images, places: Places, store: str, seed: int) -> None:
    """Where a service dies at any point of an upload, only leftovers of its stores stay."""
    told = environment_of(images.server)
    image = images.create()
    sent = random.Random(f"{store} {seed}").randrange(len(LARGE))
    interrupted(images, image, LARGE, sent=sent, store=store)
    images.delete(image)
    cleaned(told)
    places.emptied()


class Service:
    """One process of several, and the clients that a balancer sends to it."""

    def __init__(self, images: Images, renew: Callable[[], object]) -> None:
        self.renewed = 0
        self._images = images
        self._renew = renew
        self._is_away = False
        self._changes = 0
        self._turn = threading.Condition()

    @contextlib.contextmanager
    def changing(self) -> Iterator[Images]:
        """Give it to a client that adds or deletes, when it is there; so long it stays."""
        with self._turn:
            self._turn.wait_for(lambda: not self._is_away)
            self._changes += 1
        try:
            yield Images(self._images.server, url=self._images.url)
        finally:
            with self._turn:
                self._changes -= 1
                self._turn.notify_all()

    def read(self, image: str) -> bytes:
        """Read an image, once more where the process went away meanwhile."""
        while True:
            before = self.renewed
            try:
                return Images(self._images.server, url=self._images.url).read(image)
            except Exception:
                with self._turn:
                    if not self._is_away and self.renewed == before:
                        raise
                    self._turn.wait_for(lambda: not self._is_away)

    def renew(self) -> None:
        """End the process while clients read from it, and start another one in its place."""
        with self._turn:
            self._is_away = True
            self._turn.wait_for(lambda: not self._changes)
        try:
            self._renew()
        finally:
            with self._turn:
                self._is_away = False
                self.renewed += 1
                self._turn.notify_all()


def client(services: list[Service], number: int, stop: threading.Event) -> int:
    """Add, read and delete images, each by a service that is drawn; return how many."""
    chosen, at = random.Random(number), 0
    while not stop.is_set():
        writer, reader, remover = (chosen.choice(services) for _ in range(3))
        data = pattern(chosen.randrange(1, 4 * MIB))
        with writer.changing() as served:
            image = served.add(data, store=STORES[(number + at) % len(STORES)])
        assert reader.read(image) == data
        with remover.changing() as served:
            served.delete(image)
        at += 1
    return at


def test_two_kinds_of_glance_at_once(
    images: Images, old: Images, old_glance: tuple[str, Process], places: Places
) -> None:
    """While one process after the other is renewed and switched, both serve every image."""
    server, (_, process) = images.server, old_glance

    def switch() -> None:
        server.switch("glance_store" if server.library == "imgstore" else "imgstore")

    def restart() -> None:
        process.kill()
        process.start()

    services, stop = [Service(images, switch), Service(old, restart)], threading.Event()
    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(client, services, number, stop) for number in range(4)]
        try:
            for service in services * RENEWALS:
                service.renew()
        finally:
            stop.set()
            if server.library != "imgstore":
                switch()
        done = [each.result() for each in clients]
    assert min(done) > 0
    places.emptied()


def environment_of(server: Glance) -> dict[str, str]:
    """Return the variables that a running service was started with."""
    told = Path(f"/proc/{server.process.pid}/environ").read_text().rstrip("\0").split("\0")
    return dict(line.split("=", 1) for line in told)


def cleaned(environment: dict[str, str]) -> None:
    """Remove leftovers with a service's own configuration and environment, as its operator."""
    conf = Path(environment["OS_GLANCE_CONFIG_DIR"]) / "glance-api.conf"
    command = [os.fspath(PYTHON), "-P", "-c", _CLEAN, os.fspath(conf)]
    subprocess.run(command, env=environment, check=True, timeout=120)
