"""The contract on an S3 store, whichever server it is on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from imgstore import Capability, Store
from imgstore.drivers.s3 import S3Store
from imgstore.testing.harness import Harness
from servers.everything import Slow
from servers.kept import Kept
from servers.radosgw import User


class S3Buckets(Slow):
    """A store in a bucket of the class's own, emptied after every test.

    A class names the fixture of boto3's `client` for the server, and has a fixture `given`: the
    keywords of its store, without the bucket.
    """

    client: ClassVar[str]

    capabilities = (
        Capability.READ | Capability.WRITE | Capability.DELETE | Capability.RANGES | Capability.COPY
    )
    # Without the one that has an "@" in it: in S3 locations that ends credentials.
    good_ids = tuple(name for name in Harness.good_ids if "@" not in name)
    foreign_locations = (
        "s3://elsewhere.example.org/bucket/image",
        "s3+https://127.0.0.1/bucket/image",
        "s3://127.0.0.1:1/bucket/image",
        "s3://127.0.0.1/image",
        "s3://image",
    )
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    def store(
        self, given: dict[str, Any], s3_images: tuple[Any, str], kept: Kept
    ) -> Iterator[Store]:
        raw, bucket = s3_images
        yield kept.get(lambda: S3Store("s3", bucket=bucket, **given))
        for key in keys(raw, bucket):
            raw.delete_object(Bucket=bucket, Key=key)

    @pytest.fixture
    def leaves(self, s3_images: tuple[Any, str]) -> Callable[[], list[str]]:
        return lambda: [*keys(*s3_images), *uploads(*s3_images)]


def login(user: User) -> dict[str, str]:
    """Return the keywords of a store by which it is this user."""
    return {"access_key": user.access_key, "secret_key": user.secret_key}


def keys(raw: Any, bucket: str) -> list[str]:
    """Return the keys of all objects."""
    pages = raw.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [found["Key"] for page in pages for found in page.get("Contents", ())]


def uploads(raw: Any, bucket: str) -> list[str]:
    """Return the ids of all uploads in parts that were neither completed nor aborted."""
    pages = raw.get_paginator("list_multipart_uploads").paginate(Bucket=bucket)
    return [found["UploadId"] for page in pages for found in page.get("Uploads", ())]
