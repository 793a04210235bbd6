"""How an image becomes an object: in one request or in parts, and never over another one."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from typing import Any, Final, NoReturn, TypeVar

from imgstore.drivers.s3.claims import Claim
from imgstore.drivers.s3.client import Attempts, Client, classify, error_code, head, status_of
from imgstore.drivers.s3.settings import Settings
from imgstore.errors import AlreadyExists, ConfigError, IntegrityError, StoreError, Unavailable

LOG = logging.getLogger(__name__)

T = TypeVar("T")

# Metadata that tells the object of one add from that of another.
_TOKEN: Final = "imgstore-add"  # noqa: S105  # a name
_MD5: Final = re.compile(r"[0-9a-f]{32}")
_SETTLING: Final = 5.0  # seconds until the winner of a conflict is to be seen
_PAUSE: Final = 0.25
_ABORTS: Final = 3


class Adding:
    """One add of one object; with ``put``, ``finish`` and ``abort`` for ``upload_in_parts``.

    The object's metadata holds a token: it tells a success whose answer was lost from an object
    that somebody else put there.
    """

    def __init__(self, client: Client, settings: Settings, key: str, live: set[str]) -> None:
        """Prepare to add ``key``; ``live`` has the uploads that this process is busy with."""
        self._client = client
        self._s3 = client.s3
        self._settings = settings
        self._at = {"Bucket": settings.bucket, "Key": key}
        self._live = live
        self._token = uuid.uuid4().hex
        self._upload_id = ""
        self._sizes: dict[int, int] = {}

    # What both ways have in common.

    @property
    def _new(self) -> dict[str, Any]:
        return {**self._at, **self._settings.object_options, "Metadata": {_TOKEN: self._token}}

    @property
    def _condition(self) -> dict[str, str]:
        return {"IfNoneMatch": "*"} if self._settings.conditional_writes else {}

    def _find(self) -> dict[str, Any] | None:
        return head(self._s3, self._at)

    def _is_ours(self, found: Mapping[str, Any] | None) -> bool:
        return found is not None and found.get("Metadata", {}).get(_TOKEN) == self._token

    def _refuse_existing(self) -> None:
        if self._find() is not None:
            raise AlreadyExists("an image of this id exists")

    def _in_bucket(self, call: Callable[[], T]) -> T:
        """Call, and once more with a new bucket if there was none and one may be made."""
        try:
            return call()
        except Exception as exc:
            if error_code(exc) != "NoSuchBucket":
                raise
            if not self._settings.create_bucket:
                raise ConfigError(
                    f"the bucket {self._settings.bucket!r} does not exist",
                    remedy="create it, or set s3_store_create_bucket_on_put",
                ) from exc
        create_bucket(self._s3, self._settings)
        return call()

    @contextmanager
    def _committing(self, settle: Callable[[Exception, Attempts], None]) -> Iterator[None]:
        """Enclose the request that commits, and the look at what it did.

        ``settle`` returns if the object turned out to be ours after all, and raises otherwise.
        An interrupted commit is taken back, whatever became of it.
        """
        try:
            with self._client.watched() as attempts:
                try:
                    yield
                except Exception as exc:
                    settle(exc, attempts)
        except Exception:
            raise
        except BaseException:
            self.discard()
            raise

    def _settle_conflict(self, exc: Exception) -> None:
        """Find out who was first; it may have been this add, if its request was sent twice."""
        deadline = time.monotonic() + _SETTLING
        while True:
            found = self._find()
            if self._is_ours(found):
                return
            if found is not None:
                raise AlreadyExists("an image of this id exists") from exc
            if time.monotonic() > deadline:
                raise Unavailable("other requests for this object are in the way") from exc
            time.sleep(_PAUSE)

    def _check_stored(self, size: int) -> None:
        """See the object with our own eyes: whose it is, and how large."""
        try:
            found = self._find()
        except Exception as exc:
            self._raise_unknown(exc)
        if not self._is_ours(found):
            # The server took no notice of If-None-Match, or somebody deleted the object.
            raise AlreadyExists("another request replaced or removed the object at that moment")
        stored = found["ContentLength"]  # type: ignore[index]  # ours is not None
        if stored != size:
            self.discard()
            raise IntegrityError(f"the server stored {stored} of {size} bytes")

    def discard(self) -> None:
        """Remove what this add may have left; best effort, for one that fails anyway."""
        try:
            if self._upload_id:
                self.abort()
            if self._is_ours(self._find()):
                self._s3.delete_object(**self._at)
        except Exception as exc:  # what is left is for leftovers() to find
            LOG.warning("an add that failed could not be undone: %s", type(exc).__name__)

    @staticmethod
    def _raise_unknown(exc: Exception) -> NoReturn:
        error = classify(exc) or StoreError(type(exc).__name__)
        if isinstance(error, StoreError):
            error.indeterminate = True
        raise error from exc

    # In one request.

    def put_whole(self, data: bytes) -> None:
        """Store an image that is in memory; raises AlreadyExists."""
        if not self._settings.conditional_writes:
            self._refuse_existing()
        md5 = self._md5(data)
        request = {**self._new, **_content_md5(md5), **self._condition, "Body": data}
        answer: dict[str, Any] = {}
        with self._committing(self._settle_request):
            answer = self._in_bucket(lambda: self._s3.put_object(**request))
        with self._committing(_raise):
            if not self._is_proof(answer, data, md5):
                self._check_stored(len(data))

    def copy_whole(self, source: Mapping[str, str], *, etag: str, size: int) -> None:
        """Store a copy of ``source``, which the server makes; raises AlreadyExists."""
        request = {
            **self._new,
            "CopySource": dict(source),
            "CopySourceIfMatch": etag,
            "MetadataDirective": "REPLACE",
        }
        if self._client.takes("CopyObject", "IfNoneMatch"):
            request.update(self._condition)
        with self._alone(is_exclusive="IfNoneMatch" in request):
            with self._committing(self._settle_request):
                self._in_bucket(lambda: self._s3.copy_object(**request))
            with self._committing(_raise):
                self._check_stored(size)

    def _settle_request(self, exc: Exception, attempts: Attempts) -> None:
        """Find out what became of a request that stores a whole object."""
        if _is_conflict(exc):
            self._settle_conflict(exc)
            return
        if not attempts.unknown:
            raise exc
        try:
            found = self._find()
        except Exception:  # the first failure says more
            self._raise_unknown(exc)
        if self._is_ours(found):
            return
        if status_of(exc):
            raise exc
        # Not there yet: the server may be at it still.
        self._raise_unknown(exc)

    # In parts.

    def start(self) -> Adding:
        """Begin an upload in parts; raises AlreadyExists before anything is sent."""
        try:
            self._refuse_existing()
        except Exception as exc:
            # Without permission to list the bucket, AWS answers so for what is not there.
            if status_of(exc) != HTTPStatus.FORBIDDEN:
                raise
        answer = self._in_bucket(lambda: self._s3.create_multipart_upload(**self._new))
        self._upload_id = answer["UploadId"]
        self._live.add(self._upload_id)
        return self

    @property
    def _upload(self) -> dict[str, Any]:
        return {**self._at, "UploadId": self._upload_id}

    def put(self, number: int, data: bytes) -> dict[str, Any]:
        """Send a part, and compare what arrived with what was sent."""
        md5 = self._md5(data)
        request = {**self._upload, **_content_md5(md5), "PartNumber": number, "Body": data}
        answer = self._s3.upload_part(**request)
        self._is_proof(answer, data, md5)
        self._sizes[number] = len(data)
        return _part(number, answer)

    def put_copy(
        self, number: int, source: Mapping[str, str], etag: str, offset: int, length: int
    ) -> dict[str, Any]:
        """Let the server copy a range of ``source`` as a part."""
        answer = self._s3.upload_part_copy(
            **self._upload,
            PartNumber=number,
            CopySource=dict(source),
            CopySourceIfMatch=etag,
            CopySourceRange=f"bytes={offset}-{offset + length - 1}",
        )
        self._sizes[number] = length
        return _part(number, answer["CopyPartResult"])

    def check_source(self, source: Mapping[str, str], etag: str) -> None:
        """Raise IntegrityError unless ``source`` is the same object still.

        Ceph takes no notice of CopySourceIfMatch when it copies a part.
        """
        found = head(self._s3, source)
        if found is None or found["ETag"] != etag:
            raise IntegrityError("the image changed while it was copied")

    def finish(self, parts: list[dict[str, Any]]) -> None:
        """Make the parts an object; raises AlreadyExists."""
        request = {**self._upload, **self._condition, "MultipartUpload": {"Parts": parts}}
        with self._alone(is_exclusive=bool(self._condition)):
            with self._committing(self._settle_parts):
                self._s3.complete_multipart_upload(**request)
            with self._committing(_raise):
                self._check_stored(sum(self._sizes.values()))
        self._live.discard(self._upload_id)

    def _settle_parts(self, exc: Exception, attempts: Attempts) -> None:
        """Find out what became of the request to complete the upload."""
        if _is_conflict(exc):
            self._settle_conflict(exc)
            return
        is_gone = status_of(exc) == HTTPStatus.NOT_FOUND  # perhaps by an earlier attempt
        if not attempts.unknown and not is_gone:
            raise exc
        try:
            # Either it is aborted now, and can no longer become an object, or it did already.
            if not self._is_ours(self._find()) and (
                self.abort() or not self._is_ours(self._find())
            ):
                raise exc
        except Exception as failure:
            if failure is exc:
                raise
            self._raise_unknown(exc)

    def abort(self) -> bool:
        """Remove the parts; return whether there were any, False if the upload was gone."""
        self._live.discard(self._upload_id)
        was_there = False
        # A part that arrives late outlives an abort:
        # https://docs.aws.amazon.com/AmazonS3/latest/API/API_AbortMultipartUpload.html
        for _ in range(_ABORTS):
            try:
                self._s3.abort_multipart_upload(**self._upload)
                was_there = True
                self._s3.list_parts(**self._upload, MaxParts=1)
            except Exception as exc:
                if status_of(exc) != HTTPStatus.NOT_FOUND:
                    raise
                break
        return was_there

    @contextmanager
    def _alone(self, *, is_exclusive: bool) -> Iterator[None]:
        """Let no other add of the id commit meanwhile, as far as the server can.

        AWS heeds If-None-Match when an upload is completed; Ceph and others take no notice of it
        there, but heed it when an object is put: there whoever puts a claim beside the image may
        commit it.
        """
        settings = self._settings
        trusted = is_exclusive and settings.endpoint.is_amazon
        with ExitStack() as held:
            if settings.conditional_writes and not trusted:
                held.enter_context(Claim(self._s3, self._at, settings.key_prefix))
            if not trusted:
                self._refuse_existing()
            yield

    # What proves that the server has what was sent.

    def _md5(self, data: bytes) -> str | None:
        if not self._settings.sends_md5:
            return None
        return hashlib.md5(data, usedforsecurity=False).hexdigest()

    def _is_proof(self, answer: Mapping[str, Any], data: bytes, md5: str | None) -> bool:
        """Return whether an answer proves that ``data`` arrived; raises IntegrityError if not.

        A server that was sent an MD5 or a signed SHA-256 has compared it. One that returns a
        checksum of S3 has compared that; one that does not know them returns an MD5 as ETag.
        """
        etag = str(answer.get("ETag", "")).strip('"')
        encryption = str(answer.get("ServerSideEncryption", ""))
        is_md5 = bool(_MD5.fullmatch(etag)) and not encryption.startswith("aws:kms")
        if md5 is None and is_md5 and self._settings.relies_on_checksums and not _checksums(answer):
            md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if md5 is not None and is_md5 and md5 != etag:
            raise IntegrityError("the server stored other bytes than it was sent")
        return is_md5 or bool(_checksums(answer))


def create_bucket(s3: Any, settings: Settings) -> None:
    """Create the bucket; one that another add has just created is as good."""
    request: dict[str, Any] = {"Bucket": settings.bucket}
    if settings.region and settings.region != "us-east-1":  # which has no name there
        request["CreateBucketConfiguration"] = {"LocationConstraint": settings.region}
    try:
        s3.create_bucket(**request)
    except Exception as exc:
        if error_code(exc) != "BucketAlreadyOwnedByYou":
            raise


def _is_conflict(exc: Exception) -> bool:
    """Return whether the service refused a request because of If-None-Match."""
    is_refused = status_of(exc) == HTTPStatus.PRECONDITION_FAILED
    return is_refused or error_code(exc) == "ConditionalRequestConflict"


def _raise(exc: Exception, attempts: Attempts) -> NoReturn:
    raise exc


def _content_md5(md5: str | None) -> dict[str, str]:
    return {} if md5 is None else {"ContentMD5": base64.b64encode(bytes.fromhex(md5)).decode()}


def _checksums(answer: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in answer.items() if name.startswith("Checksum")}
    found.pop("ChecksumType", None)
    return found


def _part(number: int, answer: Mapping[str, Any]) -> dict[str, Any]:
    return {"PartNumber": number, "ETag": answer["ETag"], **_checksums(answer)}
