"""moto's server itself: whether it is what the tests of S3 take it for."""

from __future__ import annotations

import ssl
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from botocore.exceptions import ClientError
from servers import moto as server
from servers.buckets import raw_client
from servers.moto import NAME, Moto, any_user
from servers.names import resolving
from servers.scratch import Scratch

pytestmark = [pytest.mark.servers("moto"), pytest.mark.lab]


@pytest.fixture
def bucket(moto_raw: Any, moto: Moto) -> str:
    """A bucket that is kept."""
    name = f"images-{uuid.uuid4().hex[:12]}"
    moto_raw.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    return name


@pytest.fixture
def upload(moto_raw: Any, bucket: str) -> dict[str, Any]:
    """An upload of one part that waits for its completion."""
    named = {"Bucket": bucket, "Key": "image"}
    named["UploadId"] = moto_raw.create_multipart_upload(**named)["UploadId"]
    part = moto_raw.upload_part(**named, PartNumber=1, Body=b"part")
    return {**named, "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}}


def test_a_completion_heeds_its_condition(moto_raw: Any, upload: dict[str, Any]) -> None:
    moto_raw.put_object(Bucket=upload["Bucket"], Key="image", Body=b"first")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        moto_raw.complete_multipart_upload(**upload, IfNoneMatch="*")


def test_a_lock_wants_a_digest(moto_raw: Any, bucket: str) -> None:
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
    configuration = {"ObjectLockEnabled": "Enabled", "Rule": rule}
    moto_raw.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=configuration)
    with pytest.raises(ClientError, match="Content-MD5"):
        moto_raw.put_object(Bucket=bucket, Key="image", Body=b"data")


def test_a_bucket_has_a_host_of_its_own(moto_raw: Any, moto: Moto, bucket: str) -> None:
    virtual = {"s3": {"addressing_style": "virtual"}}
    with (
        resolving(NAME, "127.0.0.1"),
        closing(raw_client(moto.url(host=NAME), any_user(), **virtual)) as client,
    ):
        client.put_object(Bucket=bucket, Key="image", Body=b"data")
    assert moto_raw.get_object(Bucket=bucket, Key="image")["Body"].read() == b"data"


def test_it_comes_back(moto: Moto) -> None:
    moto.process.kill()
    moto.heal()
    with closing(raw_client(moto.url(), any_user())) as client:
        assert client.list_buckets()["Buckets"] == []


@pytest.fixture
def over_https(scratch: Scratch) -> Iterator[Moto]:
    with server.moto(scratch, "https") as running:
        yield running


def test_https_has_a_certificate_of_its_own_authority(over_https: Moto) -> None:
    trusted = ssl.create_default_context(cafile=over_https.ca)
    with urllib.request.urlopen(over_https.url(), context=trusted, timeout=30) as answer:
        assert answer.status == 200
