"""Bytes of images that changed in Ceph's objects, past its clients and their checksums."""

from __future__ import annotations

from typing import Any

import pytest
from servers.buckets import Bucket
from servers.pools import RbdPool

from imgstore import Store, StoredImage, errors
from imgstore.drivers.s3 import S3Store
from imgstore.testing.harness import new_id, pattern

pytestmark = pytest.mark.servers("radosgw", "ceph")

POOL = "default.rgw.buckets.data"
MIB = 1024 * 1024
DATA = pattern(17 * MIB + 5)


def rot(context: Any, names: list[str]) -> None:
    """Change one byte in the middle of the last of these objects."""
    name = max(names)
    middle = context.stat(name)[0] // 2
    (byte,) = context.read(name, 1, middle)
    context.write(name, bytes([byte ^ 1]), middle)


def found(store: Store, image: StoredImage) -> None:
    """Assert that nobody gets the whole of the image for what it was."""
    with pytest.raises(errors.DigestMismatch):
        store.verify(image, image.digests)
    got: list[bytes] = []
    with store.get(image, expected=image.digests) as reader, pytest.raises(errors.DigestMismatch):
        got += reader
    assert sum(map(len, got)) < len(DATA)


def test_an_object_of_an_rbd_image(rbd_pool: RbdPool) -> None:
    """Ceph's client has no digests of what it reads."""
    with rbd_pool.store() as store:
        image = store.add(new_id(), DATA)
        store.verify(image, image.digests)
        rot(rbd_pool.context, [each for each in rbd_pool.objects() if "rbd_data" in each])
        found(store, image)
    rbd_pool.empty()


@pytest.mark.parametrize("size", [0, 100], ids=["in parts", "whole"])
def test_a_part_of_an_s3_object(bucket: Bucket, ceph_admin: Any, size: int) -> None:
    """The gateway sends what it finds, by the ETag of what it was given."""
    options = {"large_object_size": size, "large_object_chunk_size": 5}
    with S3Store("s3", **bucket.options() | options) as store:
        image = store.add(image_id := new_id(), DATA)
        store.verify(image, image.digests)
        with ceph_admin.open_ioctx(POOL) as context:
            parts = [each.key for each in context.list_objects() if image_id in each.key]
            rot(context, [each for each in parts if context.stat(each)[0]])
        found(store, image)
