"""Checks: what the server can, and whether it has what it was sent."""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

from imgstore.data.parts import Part
from imgstore.drivers.s3.client import Client, head
from imgstore.drivers.s3.errors import error_code, is_conflict, status_of, wants_md5
from imgstore.drivers.s3.places import PROBE
from imgstore.drivers.s3.settings import Settings
from imgstore.errors import IntegrityError, PermissionDenied
from imgstore.process.committing import attempted

_MD5: Final = re.compile(r"[0-9a-f]{32}")
# What a probe holds.
_BYTES: Final = b"check"
_REFUSALS: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_IMPLEMENTED})


def md5_of(blocks: Iterable[bytes]) -> str:
    """Return the MD5 of all blocks together."""
    digest = hashlib.md5(usedforsecurity=False)
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


_MD5_OF_BYTES: Final = md5_of([_BYTES])


def checked(
    client: Client, data: Part, send: Callable[[Mapping[str, str]], Mapping[str, Any]]
) -> tuple[Mapping[str, Any], bool]:
    """Send ``data``; return the answer, and whether it proves that the data arrived.

    ``send`` is called with the parameters that let the server compare an MD5, where it is not to
    compare a signed SHA-256, or the SDK's checksum, which it then returns; one that does not know
    these returns an MD5 as ETag. Where the bucket wants an MD5 all the same, as with Object Lock,
    data is sent again with one, and all that follows. Raises IntegrityError for other data.
    """
    md5 = md5_of(data) if client.sends_md5 else None
    try:
        answer = send(content_md5(md5))
    except Exception as exc:
        if md5 is not None or not wants_md5(exc):
            raise
        md5 = md5_of(data)
        answer = send(content_md5(md5))
        client.sends_md5 = True
    return answer, _is_proof(client, answer, data, md5)


def _is_proof(client: Client, answer: Mapping[str, Any], data: Part, md5: str | None) -> bool:
    """Return whether an answer proves that ``data`` arrived; raises IntegrityError if not.

    An ETag that looks like an MD5 may be something else: that of an object which the server
    encrypts, say. The MD5 that the server has compared is the proof then.
    """
    etag = str(answer.get("ETag", "")).strip('"')
    is_kms = str(answer.get("ServerSideEncryption", "")).startswith("aws:kms")
    is_md5 = bool(_MD5.fullmatch(etag)) and not is_kms
    is_checked = bool(checksums(answer))
    was_sent = md5 is not None
    if is_md5 and not was_sent and not (is_checked or client.settings.is_signed):
        md5 = md5_of(data)
    if is_md5 and md5 not in {None, etag}:
        if client.has_md5_tags(lambda: _put_probe(client)):
            raise IntegrityError("the server stored other bytes than it was sent")
        return was_sent
    return is_md5 or is_checked


def _put_probe(client: Client) -> None:
    """Put an object of no importance, and see what its ETag is."""
    s3 = client.s3
    at, new = _probe(client.settings)
    client.saw_tag(s3.put_object(**new), _MD5_OF_BYTES)
    attempted(lambda: s3.delete_object(**at), f"the removal of {at['Key']}")


def content_md5(md5: str | None) -> dict[str, str]:
    """Return the parameters that let the server compare an MD5."""
    return {} if md5 is None else {"ContentMD5": base64.b64encode(bytes.fromhex(md5)).decode()}


def checksums(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the SDK's checksums in an answer."""
    found = {name: value for name, value in answer.items() if name.startswith("Checksum")}
    found.pop("ChecksumType", None)
    return found


def _probe(settings: Settings) -> tuple[dict[str, str], dict[str, Any]]:
    """Return where to put an object of no importance, and the request: nobody else has this key."""
    at = {"Bucket": settings.bucket, "Key": f"{settings.key_prefix}{PROBE}{uuid.uuid4().hex}"}
    return at, {**at, **settings.encryption, **content_md5(_MD5_OF_BYTES), "Body": _BYTES}


def honours_conditions(client: Client) -> bool | None:
    """Put an object of no importance, and again, and delete it; None where there is no bucket.

    A server that refuses the header does not honour it. Raises what the SDK raises, and
    PermissionDenied where the credentials do not let see that an object is missing, but should.
    """
    s3, settings = client.s3, client.settings
    at, new = _probe(settings)

    def is_put() -> bool:
        try:
            client.saw_tag(s3.put_object(**new, IfNoneMatch="*"), _MD5_OF_BYTES)
        except Exception as exc:
            if not is_conflict(exc):
                raise
            return False
        return True

    try:
        answer = not (is_put() and is_put())  # refused at first if it was sent twice
    except Exception as exc:
        if error_code(exc) == "NoSuchBucket":
            return None
        if status_of(exc) not in _REFUSALS:
            raise
        s3.put_object(**new)  # raises if it was refused for another reason
        answer = False
    is_removed = attempted(lambda: s3.delete_object(**at), f"the removal of {at['Key']}")
    # AWS needs no look before a commit.
    if is_removed and not settings.endpoint.is_amazon:
        _check_sight(s3, at)
    return answer


def is_there(client: Client) -> bool | None:
    """Return whether the bucket can be listed, which adds need; None where there is no bucket."""
    s3, settings = client.s3, client.settings
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
