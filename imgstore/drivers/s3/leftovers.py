"""What adds of dead processes left in a bucket."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

from imgstore.boundary.arguments import is_safe_image_id
from imgstore.drivers.s3 import claims
from imgstore.drivers.s3.client import Client, head, server_time, told
from imgstore.drivers.s3.deleting import delete
from imgstore.drivers.s3.errors import status_of
from imgstore.drivers.s3.places import CLAIM, PROBE
from imgstore.errors import NotFound
from imgstore.model import Leftover

# Claims and probes that are younger may be in use.
_YOUNGEST: Final = timedelta(seconds=300)


@dataclass(frozen=True)
class _Upload:
    """An upload in parts, as far as it got."""

    at: Mapping[str, str]
    size: int
    active: datetime


@dataclass(frozen=True)
class _Object:
    """A claim or a probe."""

    at: Mapping[str, str]
    etag: str


def find(
    client: Client, store: str, *, live: Collection[str], older_than: timedelta
) -> Iterator[Leftover]:
    """Yield uploads that got no part for ``older_than``, and claims and probes as old.

    S3 does not tell whose an upload is or whether its process lives. ``live`` are those of this
    process; those of others show that they live by the parts that arrive.
    """
    yield from _uploads(client, store, live=live, older_than=older_than)
    for prefix in (CLAIM, PROBE):
        yield from _objects(client, store, prefix, older_than=older_than)


def _uploads(
    client: Client, store: str, *, live: Collection[str], older_than: timedelta
) -> Iterator[Leftover]:
    s3, bucket, prefix = client.s3, client.settings.bucket, client.settings.key_prefix
    pages = s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
    for page in pages:
        now = server_time(page)
        for found in page.get("Uploads", ()):
            key, upload_id = told(found, "Key"), told(found, "UploadId")
            begun = told(found, "Initiated")
            is_image = is_safe_image_id(key.removeprefix(prefix))
            if not is_image or upload_id in live or _age(now, begun) < older_than:
                continue
            at = {"Bucket": bucket, "Key": key, "UploadId": upload_id}
            upload = _look_at(s3, at, begun)
            # Looked up again: an add of this process may have begun since the list was made.
            is_dead = upload is not None and _age(now, upload.active) >= older_than
            if upload is not None and is_dead and upload_id not in live:
                yield Leftover(store, f"upload of {key}", upload.active, upload.size, upload)


def _age(now: datetime, then: datetime) -> timedelta:
    return max(now - then, timedelta(0))  # the server's Date has no fractions of a second


def _look_at(s3: Any, at: Mapping[str, str], initiated: datetime) -> _Upload | None:
    size, active = 0, initiated
    try:
        for page in s3.get_paginator("list_parts").paginate(**at):
            for part in page.get("Parts", ()):
                size += told(part, "Size")
                active = max(active, told(part, "LastModified"))
    except Exception as exc:
        if status_of(exc) != HTTPStatus.NOT_FOUND:
            raise
        return None
    return _Upload(at, size, active)


def _objects(
    client: Client, store: str, prefix: str, *, older_than: timedelta
) -> Iterator[Leftover]:
    age = max(older_than, _YOUNGEST)
    s3, settings = client.s3, client.settings
    request = {"Bucket": settings.bucket, "Prefix": settings.key_prefix + prefix}
    for page in s3.get_paginator("list_objects_v2").paginate(**request):
        now = server_time(page)
        for listed in page.get("Contents", ()):
            at = {"Bucket": settings.bucket, "Key": told(listed, "Key")}
            found = head(s3, at) if _age(now, told(listed, "LastModified")) >= age else None
            if found is not None and claims.is_expired(found):
                key = _Object(at, found.get("ETag", ""))
                modified, size = told(found, "LastModified"), told(listed, "Size")
                yield Leftover(store, at["Key"], modified, size, key)


def remove(client: Client, leftover: Leftover) -> None:
    """Remove one; raises NotFound for what is gone or turned out to be alive."""
    found, s3 = leftover.key, client.s3
    if isinstance(found, _Object):
        _remove_object(client, found)
        return
    upload = _look_at(s3, found.at, leftover.modified)
    if upload is None or (upload.active, upload.size) != (found.active, found.size):
        raise NotFound("the upload is gone, or goes on")
    try:
        s3.abort_multipart_upload(**found.at)
    except Exception as exc:
        if status_of(exc) != HTTPStatus.NOT_FOUND:
            raise
        raise NotFound("the upload is gone") from exc


def _remove_object(client: Client, known: _Object) -> None:
    def is_same(found: Mapping[str, Any]) -> bool:
        return bool(found.get("ETag", "") == known.etag)  # a claim's is its own

    now = head(client.s3, known.at)
    if (
        now is None
        or not is_same(now)
        or not delete(client, known.at, known.etag, is_same, attempts=1)
    ):
        raise NotFound("the object is gone, or another one")
