"""Whether the server has what it was sent: MD5s and checksums."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

from imgstore.data.parts import Part
from imgstore.drivers.s3.client import Client
from imgstore.drivers.s3.probe import BYTES, MD5, probe_at
from imgstore.errors import IntegrityError
from imgstore.process.committing import attempted

_MD5: Final = re.compile(r"[0-9a-f]{32}")


class Checking:
    """Checks what one store uploads.

    The server compares an MD5 that it was sent, a signed SHA-256, or the SDK's checksum, which it
    then returns; one that does not know these returns an MD5 as ETag.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._settings = client.settings

    def md5(self, data: Part) -> str | None:
        """Return what to send, None where it is not needed."""
        return _md5(data) if self._settings.sends_md5 else None

    def is_proof(self, answer: Mapping[str, Any], data: Part, md5: str | None) -> bool:
        """Return whether an answer proves that ``data`` arrived; raises IntegrityError if not.

        An ETag that looks like an MD5 may be something else: that of an object which the server
        encrypts, say. The MD5 that the server has compared is the proof then.
        """
        etag = str(answer.get("ETag", "")).strip('"')
        is_kms = str(answer.get("ServerSideEncryption", "")).startswith("aws:kms")
        is_md5 = bool(_MD5.fullmatch(etag)) and not is_kms
        is_checked = bool(checksums(answer))
        if is_md5 and md5 is None and self._settings.relies_on_checksums and not is_checked:
            md5 = _md5(data)
        if is_md5 and md5 not in {None, etag}:
            if self._client.has_md5_tags(self._ask):
                raise IntegrityError("the server stored other bytes than it was sent")
            return self._settings.sends_md5
        return is_md5 or is_checked

    def _ask(self) -> None:
        """Put an object of no importance, and see what its ETag is."""
        settings, s3 = self._settings, self._client.s3
        at = probe_at(settings)
        new = {**at, **settings.encryption, **content_md5(MD5), "Body": BYTES}
        self._client.saw_tag(s3.put_object(**new), MD5)
        attempted(lambda: s3.delete_object(**at), f"the removal of {at['Key']}")


def _md5(data: Part) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for block in data:
        digest.update(block)
    return digest.hexdigest()


def content_md5(md5: str | None) -> dict[str, str]:
    """Return the parameters that let the server compare an MD5."""
    return {} if md5 is None else {"ContentMD5": base64.b64encode(bytes.fromhex(md5)).decode()}


def checksums(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the SDK's checksums in an answer."""
    found = {name: value for name, value in answer.items() if name.startswith("Checksum")}
    found.pop("ChecksumType", None)
    return found
