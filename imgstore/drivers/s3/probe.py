"""Whether a server honours If-None-Match when an object is put."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from imgstore.drivers.s3.client import head
from imgstore.drivers.s3.errors import error_code, is_conflict, status_of
from imgstore.drivers.s3.places import PROBE
from imgstore.drivers.s3.settings import Settings
from imgstore.errors import PermissionDenied
from imgstore.process.committing import attempted

BYTES: Final = b"check"
MD5: Final = hashlib.md5(BYTES, usedforsecurity=False).hexdigest()
_REFUSALS: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_IMPLEMENTED})


def probe_at(settings: Settings) -> dict[str, str]:
    """Return where to put an object of no importance: nobody else ever has this key."""
    key = f"{settings.key_prefix}{PROBE}{uuid.uuid4().hex}"
    return {"Bucket": settings.bucket, "Key": key}


def honours_conditions(
    s3: Any,
    settings: Settings,
    saw_tag: Callable[[Mapping[str, Any], str], object] = lambda answer, md5: None,
) -> bool | None:
    """Put an object of no importance, and again, and delete it; None where there is no bucket.

    A server that refuses the header does not honour it. ``saw_tag`` is called with the answer to
    the put, and the MD5 of what was put. Raises what the SDK raises, and
    PermissionDenied where the credentials do not let see that an object is missing, but should.
    """
    at = probe_at(settings)
    new = {**at, **settings.encryption, "Body": BYTES}
    try:
        saw_tag(s3.put_object(**new, IfNoneMatch="*"), MD5)
        answer = _is_refused(s3, new)
    except Exception as exc:
        if error_code(exc) == "NoSuchBucket":
            return None
        answer = is_conflict(exc)  # sent twice, and put the first time
        if not answer and status_of(exc) not in _REFUSALS:
            raise
        if not answer:
            s3.put_object(**new)  # raises if it was refused for another reason
    is_removed = attempted(lambda: s3.delete_object(**at), f"the removal of {at['Key']}")
    # AWS needs no look before a commit.
    if is_removed and not settings.endpoint.is_amazon:
        _check_sight(s3, at)
    return answer


def is_there(s3: Any, settings: Settings) -> bool | None:
    """Return whether the bucket can be listed, which adds need; None where there is no bucket."""
    try:
        s3.head_bucket(Bucket=settings.bucket)
        s3.list_objects_v2(Bucket=settings.bucket, Prefix=settings.key_prefix, MaxKeys=1)
    except Exception as exc:
        if status_of(exc) != HTTPStatus.NOT_FOUND:
            raise
        return None
    return True


def _check_sight(s3: Any, at: dict[str, str]) -> None:
    """Raise PermissionDenied if what is not there looks like what may not be seen."""
    try:
        head(s3, at)
    except Exception as exc:
        if status_of(exc) != HTTPStatus.FORBIDDEN:
            raise
        raise PermissionDenied(
            "the server does not tell whether an object exists",
            remedy="grant s3:ListBucket for the bucket, without which adds cannot be exclusive",
        ) from exc


def _is_refused(s3: Any, new: dict[str, Any]) -> bool:
    try:
        s3.put_object(**new, IfNoneMatch="*")
    except Exception as exc:
        if not is_conflict(exc):
            raise
        return True
    return False
