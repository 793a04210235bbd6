"""A running Glance whose images are in files and in a bucket, as a client of it sees them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.glance import Glance, GlanceStore, file_store, s3_store
from servers.glance import glance as run_glance
from servers.glance_client import Images, digests, handed_on, interrupted, written
from servers.hostile import Hostile
from servers.moto import Moto, any_user
from servers.process import until
from servers.s3_stores import keys, uploads
from servers.scratch import Scratch

from imgstore import Store
from imgstore.drivers.filesystem import FilesystemStore
from imgstore.drivers.s3 import S3Store
from imgstore.testing.harness import pattern

pytestmark = pytest.mark.servers("glance", "moto")

KIB = 1024
MIB = 1024 * KIB
DATA = pattern(300 * KIB + 7)
LARGE = pattern(24 * MIB + 7)  # in S3 it goes in parts
BUCKET = "glance"
BOTH = ["files", "objects"]
# A bucket that is away is given up at once; an image of some MiB goes in parts.
BRIEF = {
    "s3_store_max_attempts": 1,
    "s3_store_large_object_size": 8,
    "s3_store_large_object_chunk_size": 5,
}
BINARY = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def places(scratch: Scratch) -> list[Path]:
    """Two directories of one store."""
    return [scratch.directory("images") for _ in range(2)]


@pytest.fixture(scope="module")
def _glance(scratch: Scratch, _moto: Moto, moto_raw: Any, places: list[Path]) -> Iterator[Glance]:
    moto_raw.create_bucket(Bucket=BUCKET)
    stores = {
        "files": file_store(*places),
        "objects": s3_store(_moto.url(), any_user(), BUCKET, **BRIEF),
        "nowhere": GlanceStore("s3", {}),
    }
    with run_glance(scratch, stores) as server:
        yield server


@pytest.fixture
def glance(_glance: Glance, moto: Moto, moto_raw: Any) -> Glance:
    """A Glance in health, whose bucket is there."""
    with contextlib.suppress(moto_raw.exceptions.BucketAlreadyOwnedByYou):
        moto_raw.create_bucket(Bucket=BUCKET)
    _glance.process.revive()
    return _glance


@pytest.fixture
def images(glance: Glance) -> Iterator[Images]:
    """Its images; those of a test are deleted at the test's end."""
    made = Images(glance)
    yield made
    made.delete(*made.ids())


@pytest.fixture
def left(places: list[Path], glance: Glance, moto_raw: Any) -> Callable[[], list[str]]:
    """Give a function that names all that is in the stores, and in the staging area."""

    def left() -> list[str]:
        files = [str(path) for place in places for path in place.rglob("*") if path.is_file()]
        return [*files, *keys(moto_raw, BUCKET), *uploads(moto_raw, BUCKET), *glance.staged]

    return left


@pytest.fixture
def stores(moto: Moto, places: list[Path]) -> Iterator[list[Store]]:
    """The stores by imgstore itself."""
    user = any_user()
    keys = {"access_key": user.access_key, "secret_key": user.secret_key}
    with (
        FilesystemStore("files", datadirs=places) as files,
        S3Store("objects", host=moto.url(), bucket=BUCKET, **keys) as objects,
    ):
        yield [files, objects]


@pytest.mark.parametrize("store", BOTH)
def test_an_image_comes_back(images: Images, left: Any, store: str) -> None:
    """Bytes, digests and size are those of the upload; a deleted image leaves nothing."""
    image = images.add(DATA, store=store)
    found = images.get(image)
    assert found | digests(DATA) | {"status": "active", "stores": store} == found
    assert images.read(image) == DATA
    images.delete(image)
    assert left() == []


@pytest.mark.parametrize("store", BOTH)
def test_an_image_of_known_size(images: Images, store: str) -> None:
    """An upload may tell its length, too; python-glanceclient's does not."""
    image = images.create()
    headers = {**BINARY, "X-Image-Meta-Store": store}
    answer = images.ask("PUT", f"/v2/images/{image}/file", headers=headers, body=DATA)
    assert answer.status == 204
    found = images.get(image)
    assert found | digests(DATA) | {"stores": store} == found
    assert images.read(image) == DATA


@pytest.mark.parametrize("store", BOTH)
@pytest.mark.parametrize(
    ("asked", "part"), [("bytes=0-9", slice(10)), ("bytes=300000-", slice(300000, None))]
)
def test_a_part_of_an_image(images: Images, store: str, asked: str, part: slice) -> None:
    """A range comes from the middle of the image."""
    image = images.add(DATA, store=store)
    answer = images.ask("GET", f"/v2/images/{image}/file", headers={"Range": asked})
    assert (answer.status, answer.body) == (206, DATA[part])


def test_an_import_into_both(images: Images, left: Any) -> None:
    """What was staged is in every store, and no longer staged."""
    image = images.stage(DATA)
    images.bring(image, BOTH)
    assert images.stores(image) == BOTH
    assert images.read(image) == DATA
    assert len(left()) == 2


def test_a_download_from_the_web(images: Images, hostile: Hostile) -> None:
    """Glance fetches by itself, and stores."""
    image = images.create()
    images.bring(image, BOTH, method="web-download", uri=hostile.url("good"))
    found = images.get(image)
    assert found | digests(hostile.content) | {"status": "active"} == found
    assert images.read(image) == hostile.content


@pytest.mark.parametrize(("one", "other"), [BOTH, BOTH[::-1]])
def test_a_copy_into_the_other_store(images: Images, one: str, other: str) -> None:
    image = images.add(DATA, store=one)
    images.bring(image, [other], method="copy-image")
    assert images.stores(image) == BOTH
    images.client.images.delete_from_store(one, image)
    assert images.stores(image) == [other]
    assert images.read(image) == DATA


def test_an_import_while_one_store_is_down(images: Images, moto: Moto) -> None:
    """Where not all must succeed, the image is in those that did; the other one is named."""
    image = images.stage(DATA)
    moto.process.kill()
    images.bring(image, ["objects", "files"], all_must=False)
    assert images.stores(image) == ["files"]
    assert images.get(image)["os_glance_failed_import"] == "objects"
    assert images.read(image) == DATA


def test_an_import_that_must_succeed_everywhere(
    images: Images, moto: Moto, moto_raw: Any, left: Any
) -> None:
    """Where all must succeed and one is down, no image is made and nothing stays."""
    image = images.stage(DATA)
    moto.process.kill()
    images.bring(image, ["files", "objects"])
    assert images.get(image)["status"] in ("queued", "importing", "uploading")
    assert images.stores(image) == []
    images.delete(image)
    moto.process.revive()
    moto_raw.create_bucket(Bucket=BUCKET)
    assert left() == []


def test_a_location_of_another_image(images: Images) -> None:
    """A client may say where an image is; the store then reads it from there."""
    (place,) = images.locations(images.add(DATA, store="objects"))
    added = images.create()
    images.client.images.add_image_location(
        added,
        place["url"],
        {"os_hash_algo": "sha512", "os_hash_value": digests(DATA)["os_hash_value"]},
    )
    assert images.settled(added) == "active"
    assert images.read(added) == DATA
    assert images.client.images.get_image_locations(added)[0]["url"] == place["url"]


@pytest.mark.parametrize("path", ["not-there", "../../etc/passwd"])
def test_a_location_that_is_not_there(images: Images, path: str) -> None:
    """No such location is taken, and the image stays without data."""
    (place,) = images.locations(images.add(DATA, store="objects"))
    added = images.create()
    where = f"{place['url'].rpartition('/')[0]}/{path}"
    body = [{"op": "add", "path": "/locations/-", "value": {"url": where, "metadata": {}}}]
    kind = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
    answer = images.ask("PATCH", f"/v2/images/{added}", headers=kind, body=body)
    assert answer.status == 400
    assert images.get(added)["status"] == "queued"


@pytest.mark.parametrize("store", BOTH)
def test_the_cache(glance: Glance, images: Images, moto: Moto, store: str) -> None:
    """An image that was read once is read without its store, and leaves the cache when deleted."""
    image = images.add(DATA, store=store)
    assert images.read(image) == DATA
    until(lambda: image in glance.cached, seconds=30, what="the image is in the cache")
    moto.process.kill()
    assert images.read(image) == DATA
    moto.heal()
    images.delete(image)
    assert image not in glance.cached


def test_an_upload_to_a_store_that_is_down(images: Images, moto: Moto) -> None:
    """The client is told to try again later."""
    image = images.create()
    upload = {"headers": {**BINARY, "X-Image-Meta-Store": "objects"}, "body": DATA}
    moto.process.kill()
    assert images.ask("PUT", f"/v2/images/{image}/file", **upload).status == 503
    assert images.get(image)["status"] == "queued"


def test_a_store_that_is_configured_badly(images: Images) -> None:
    """Glance starts and lists it; nothing can be uploaded to it."""
    listed = images.client.images.get_stores_info()["stores"]
    assert [store["id"] for store in listed] == [*BOTH, "nowhere"]
    image = images.create()
    headers = {**BINARY, "X-Image-Meta-Store": "nowhere"}
    answer = images.ask("PUT", f"/v2/images/{image}/file", headers=headers, body=DATA)
    assert answer.status == 410
    assert images.get(image)["status"] == "queued"


def test_a_file_that_vanished(images: Images, places: list[Path]) -> None:
    """Where an image's bytes are gone, Glance answers that there is no content."""
    image = images.add(DATA, store="files")
    (file,) = (path for place in places for path in place.rglob(image))
    file.unlink()
    assert images.ask("GET", f"/v2/images/{image}/file").status == 204


def test_an_upload_of_what_has_data(images: Images) -> None:
    """The second upload is refused, and the first one's bytes stay."""
    image = images.add(DATA, store="files")
    assert images.ask("PUT", f"/v2/images/{image}/file", headers=BINARY, body=b"2").status == 409
    assert images.read(image) == DATA


@pytest.mark.parametrize("store", BOTH)
@pytest.mark.parametrize("sent", [0, 1, 200_000])
def test_an_upload_that_is_cut(images: Images, left: Any, store: str, sent: int) -> None:
    """Where a client goes in the middle of an upload, nothing of the image stays."""
    image = images.create()
    with images.begun(image, len(DATA), store=store) as connection:
        connection.send(DATA[:sent])
        until(lambda: images.is_saving(image), seconds=30, what="the upload has begun")
    until(lambda: not images.is_saving(image), seconds=30, what="Glance gave the upload up")
    assert images.get(image)["status"] == "queued"
    assert left() == []


@pytest.mark.heavy
@pytest.mark.parametrize("run", [f"{store} {seed}" for store in BOTH for seed in range(4)])
def test_a_service_that_is_killed(images: Images, stores: list[Store], left: Any, run: str) -> None:
    """Where a service dies at any point of an upload, leftovers are all that stays."""
    image = images.create()
    sent = random.Random(run).randrange(len(LARGE))
    interrupted(images, image, LARGE, sent=sent, store=run.split(maxsplit=1)[0])
    images.delete(image)
    for store in stores:
        store.remove_leftovers(older_than=0)
    assert left() == []


@pytest.mark.parametrize("store", BOTH)
def test_both_libraries_write_the_same_locations(images: Images, old: Images, store: str) -> None:
    """A location and its metadata are those that glance_store writes, byte by byte."""
    assert written(images, DATA, store=store) == written(old, DATA, store=store)


@pytest.mark.parametrize("way", ["forward", "back"])
def test_each_library_takes_what_the_other_wrote(
    images: Images, old: Images, left: Any, way: str
) -> None:
    """It reads it, copies it and deletes it from one store; the other one reads the copy."""
    one, other = (old, images) if way == "forward" else (images, old)
    for store, copied in (BOTH, BOTH[::-1]):
        image = handed_on(one, other, DATA, store=store, copied=copied)
        one.delete(image)
    assert left() == []


@pytest.mark.heavy
def test_a_switch(glance: Glance, images: Images) -> None:
    """A service that is started with glance_store again serves what the façade wrote."""
    written = {images.add(DATA + name.encode(), store=name): name for name in BOTH}
    glance.switch("glance_store")
    try:
        old = Images(glance)
        for image, name in written.items():
            assert old.read(image) == DATA + name.encode()
    finally:
        glance.switch("imgstore")
