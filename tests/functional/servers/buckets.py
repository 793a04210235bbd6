"""Buckets on an S3 server, seen through a client of their own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import cache
from typing import Any, Literal

from servers.radosgw import RadosGateway, User


def raw_client(url: str, user: User, **options: Any) -> Any:
    """Return boto3's client for a user, as plain as it gets; the caller closes it."""
    import boto3  # noqa: PLC0415  # not every user of the servers has it
    from botocore.config import Config  # noqa: PLC0415

    plain: dict[str, Any] = {
        "s3": {"addressing_style": "path"},
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=user.access_key,
        aws_secret_access_key=user.secret_key,
        config=Config(**plain | options),
    )


class Bucket:
    """A bucket of `user`; `raw` is boto3's client for it."""

    def __init__(self, gateway: RadosGateway, user: User, raw: Any, name: str) -> None:
        self.gateway = gateway
        self.user = user
        self.raw = raw
        self.name = name

    def options(self, scheme: Literal["http", "https"] = "http") -> dict[str, Any]:
        """Return the keywords of an S3Store for this bucket; without waits worth mentioning."""
        found: dict[str, Any] = {
            "host": self.gateway.url(scheme),
            "bucket": self.name,
            "access_key": self.user.access_key,
            "secret_key": self.user.secret_key,
        }
        return found | ({"cacert": str(self.gateway.ca)} if scheme == "https" else {})

    def keys(self) -> list[str]:
        """Return the keys of all objects."""
        pages = self.raw.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return [found["Key"] for page in pages for found in page.get("Contents", ())]

    def holds(self, key: str) -> bool:
        """Tell whether there is an object of this key."""
        return key in self.keys()

    def uploads(self) -> list[str]:
        """Return the ids of all uploads in parts that were neither completed nor aborted."""
        return [upload["UploadId"] for upload in self._uploads()]

    def _uploads(self) -> list[Mapping[str, Any]]:
        pages = self.raw.get_paginator("list_multipart_uploads").paginate(Bucket=self.name)
        return [found for page in pages for found in page.get("Uploads", ())]

    def put(self, key: str, data: bytes) -> None:
        """Put an object."""
        self.raw.put_object(Bucket=self.name, Key=key, Body=data)

    def put_in_parts(self, key: str, *parts: bytes) -> None:
        """Put an object in parts, as glance_store does with a large image."""
        upload = {"Bucket": self.name, "Key": key}
        upload["UploadId"] = self.raw.create_multipart_upload(**upload)["UploadId"]
        sent = []
        for number, data in enumerate(parts, start=1):
            answer = self.raw.upload_part(**upload, PartNumber=number, Body=data)
            sent.append({"PartNumber": number, "ETag": answer["ETag"]})
        self.raw.complete_multipart_upload(**upload, MultipartUpload={"Parts": sent})

    def empty(self) -> None:
        """Remove all objects and uploads."""
        for key in self.keys():
            self.raw.delete_object(Bucket=self.name, Key=key)
        for upload in self._uploads():
            self.raw.abort_multipart_upload(
                Bucket=self.name, Key=upload["Key"], UploadId=upload["UploadId"]
            )


@contextmanager
def bucket(gateway: RadosGateway, user: User, raw: Any = None) -> Iterator[Bucket]:
    """Make a bucket that is removed afterwards, whatever is in it; `raw` is a client of `user`."""
    with ExitStack() as stack:
        if raw is None:
            raw = stack.enter_context(closing(raw_client(gateway.url(), user)))
        made = Bucket(gateway, user, raw, f"images-{uuid.uuid4().hex[:12]}")
        raw.create_bucket(Bucket=made.name)
        yield made
        made.empty()
        raw.delete_bucket(Bucket=made.name)


def share_models() -> None:
    """Let all sessions of botocore have what they read of its descriptions of S3 in common.

    Each reads and parses them anew, which takes ten times as long as all else of a new client.
    """
    import botocore.session  # noqa: PLC0415  # not every user of the servers has it

    botocore.session.create_loader = cache(botocore.session.create_loader)
