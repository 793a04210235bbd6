"""Copies that the server makes: in one request, or in parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from imgstore.data.parts import Parts
from imgstore.data.units import MIB
from imgstore.drivers.s3.adding import Upload, part_of
from imgstore.drivers.s3.client import Client, head, told, validator
from imgstore.drivers.s3.committing import Commit
from imgstore.drivers.s3.errors import classify, doubting
from imgstore.drivers.s3.settings import MAX_PARTS
from imgstore.errors import IntegrityError, PermissionDenied
from imgstore.process.committing import undone

# The limit of S3 is 5 GiB; servers that copy bytes would not answer in time.
_LARGEST: Final = 1024 * MIB
_PART: Final = 256 * MIB
_WORKERS: Final = 4


@dataclass(frozen=True)
class Original:
    """The object that is to be copied, in one version."""

    client: Client
    at: Mapping[str, str]
    size: int
    etag: str

    @property
    def parameters(self) -> dict[str, Any]:
        """Return what a request that copies it says of it."""
        etag = validator(self.etag)
        condition = {} if etag is None else {"CopySourceIfMatch": etag}
        return {"CopySource": dict(self.at), **condition}

    def is_seen(self) -> bool:
        """Return whether these credentials reach the same object; buckets have tenants."""
        try:
            found = head(self.client.s3, self.at)
        except Exception as exc:
            if not isinstance(classify(exc), PermissionDenied):
                raise
            return False
        seen = None if found is None else (found.get("ContentLength"), found.get("ETag"))
        return seen == (self.size, self.etag)

    def check(self) -> None:
        """Raise IntegrityError unless it is the same object still.

        Ceph 16 takes no notice of CopySourceIfMatch where parts are copied.
        """
        found = head(self.client.s3, self.at)
        if found is None or found.get("ETag") != self.etag:
            raise IntegrityError("the image changed while it was copied")


class Copying(Upload):
    """A copy of ``original``; with ``put``, ``finish``, ``cancel`` and ``abort`` for its parts."""

    def __init__(
        self, client: Client, commit: Commit, original: Original, *, live: set[str]
    ) -> None:
        """Prepare to copy an object; nothing is sent yet."""
        super().__init__(client, commit, live=live)
        self._original = original
        self._takes_condition = client.takes("CopyObject", "IfNoneMatch")

    def copy(self) -> None:
        """Copy in one request if that can do it, else in parts.

        Raises AlreadyExists, and IntegrityError if the original changed.
        """
        size = self._original.size
        # CopyObject is exclusive by its condition on AWS, by a claim elsewhere.
        is_exclusive = self._takes_condition or not self.commit.is_amazon
        if size == 0 or (size <= _LARGEST and is_exclusive):
            self._whole()
        else:
            self.in_parts(max(_PART, -(-size // MAX_PARTS)))

    def _whole(self) -> None:
        commit, original = self.commit, self._original
        request = {
            **commit.new,
            **original.parameters,
            "MetadataDirective": "REPLACE",
            "TaggingDirective": "REPLACE",
            **(commit.condition if self._takes_condition else {}),
        }
        is_exclusive = "IfNoneMatch" in request and commit.is_amazon

        send = partial(self._s3.copy_object, **request)
        with commit.alone(is_exclusive=is_exclusive):
            self.client.inside(lambda: commit.send(send, refused=original.check))
            found = commit.check_stored(original.size)
            if found.get("ETag") != original.etag:  # as of other bytes, or of encrypted ones
                self._check_copied()

    def _check_copied(self) -> None:
        """Take back a copy that may be of another image, which a server made all the same."""
        with doubting():  # a reader may have had it
            try:
                self._original.check()
            except Exception:
                self.commit.take_back()
                raise

    # In parts.

    def in_parts(self, part_size: int) -> None:
        """Copy in parts of so many bytes, a few at once."""
        size = self._original.size
        with Parts(_WORKERS, self.start) as parts:
            for start in range(0, size, part_size):
                parts.send(range(start, min(start + part_size, size)))
            parts.finish()

    def put(self, number: int, data: range) -> dict[str, Any]:
        """Let the server copy these bytes of the original as a part."""
        answer = self.send_part(
            self._s3.upload_part_copy,
            number,
            len(data),
            **self._original.parameters,
            CopySourceRange=f"bytes={data.start}-{data.stop - 1}",
        )
        return part_of(number, told(answer, "CopyPartResult"))

    def finish(self, parts: list[dict[str, Any]]) -> None:
        """Make the parts an object, if all are of the same original."""
        with undone(self.abort, "the abort of a copy"):
            self._original.check()
            super().finish(parts)
