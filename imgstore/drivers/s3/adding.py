"""How an image becomes an object: in one request or in parts, and never over another one."""

from __future__ import annotations

import functools
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final, NoReturn, TypeVar

from imgstore.data.parts import Part
from imgstore.drivers.s3.claims import Claim
from imgstore.drivers.s3.client import (
    Client,
    classify,
    error_code,
    head,
    is_conflict,
    status_of,
    told,
)
from imgstore.drivers.s3.deleting import delete
from imgstore.drivers.s3.proving import Proving, checksums, content_md5
from imgstore.drivers.s3.settings import Settings
from imgstore.errors import (
    AlreadyExists,
    ConfigError,
    ImgStoreError,
    IntegrityError,
    StoreError,
    Unavailable,
)

LOG = logging.getLogger(__name__)

T = TypeVar("T")

# Metadata that tells the object of one add from that of another.
_TOKEN: Final = "imgstore-add"  # noqa: S105  # a name
_SETTLING: Final = 5.0  # seconds for an object to show up that may be on its way
_PAUSE: Final = 0.25
_ABORTS: Final = 3


class Adding:
    """One add of one object; with ``put``, ``finish``, ``cancel`` and ``abort`` for its parts.

    The object's metadata holds a token: it tells a success whose answer was lost from an object
    that somebody else put there. ``is_conditional`` says that the server honours If-None-Match
    when an object is put. ``live`` has the uploads that this process is busy with.
    """

    def __init__(
        self,
        client: Client,
        settings: Settings,
        key: str,
        *,
        is_conditional: bool,
        live: set[str],
    ) -> None:
        """Prepare to add ``key``; nothing is sent yet."""
        self._client = client
        self._s3 = client.s3
        self._settings = settings
        self._proving = Proving(client, settings)
        self._at = {"Bucket": settings.bucket, "Key": key}
        self._condition = {"IfNoneMatch": "*"} if is_conditional else {}
        # AWS heeds the condition whatever creates the object, others only when it is put.
        self._needs_claim = is_conditional and not settings.endpoint.is_amazon
        self._live = live
        self._token = uuid.uuid4().hex
        self._upload_id = ""
        self._sizes: dict[int, int] = {}
        self._is_cancelled = False
        self._is_committing = False

    # What all ways have in common.

    @property
    def _new(self) -> dict[str, Any]:
        return {**self._at, **self._settings.object_options, "Metadata": {_TOKEN: self._token}}

    def _find(self) -> dict[str, Any] | None:
        return head(self._s3, self._at)

    def _is_ours(self, found: Mapping[str, Any] | None) -> bool:
        return found is not None and found["Metadata"].get(_TOKEN) == self._token

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

    def _commit(
        self,
        request: Callable[[], dict[str, Any]],
        *,
        is_exclusive: bool,
        refused: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        """Send the request that makes the object, and find out what became of it.

        Returns when the object is there and ours: the answer, or nothing if that was lost.
        ``is_exclusive`` says that the request replaces nothing. ``refused`` is called first where
        it was refused because of its conditions, and not carried out before.
        """
        self._is_committing = True
        failure: Exception | None = None
        answer: dict[str, Any] = {}
        with self._client.watched() as attempts:
            try:
                answer = request()
            except Exception as exc:
                failure = exc
        self._is_committing = attempts.unknown and failure is not None
        if failure is not None:
            if is_conflict(failure) and not self._is_committing:
                refused()
            self._settle(failure, is_exclusive=is_exclusive)
        self._is_committing = False
        self._upload_id = ""
        return answer

    def _settle(self, exc: Exception, *, is_exclusive: bool) -> None:
        """Return if the request made the object after all; raise what is known otherwise.

        An upload is not aborted while its completion may be going on: servers have been seen to
        do both.
        """
        is_unknown = self._is_committing
        if not is_unknown and not is_conflict(exc):
            raise exc
        try:
            found = self._await(any_object=is_exclusive or not is_unknown)
        except Exception:  # the first failure says more
            if is_unknown:
                self._raise_unknown(exc)
            if status_of(exc) == HTTPStatus.PRECONDITION_FAILED:
                raise AlreadyExists("an image of this id exists") from exc
            raise Unavailable("other requests for this object are in the way") from exc
        if self._is_ours(found):
            return
        if found is not None and (is_exclusive or not is_unknown):
            self._is_committing = False
            if is_unknown:
                self.discard()
            # Where it is unknown, ours may have been there before it, and been deleted.
            raise AlreadyExists("an image of this id exists", indeterminate=is_unknown) from exc
        if is_unknown:
            self._raise_unknown(exc)
        raise Unavailable("other requests for this object are in the way") from exc

    def _await(self, *, any_object: bool = False) -> dict[str, Any] | None:
        """Wait for our object, or for any, to show up, as long as that usually takes."""
        deadline = time.monotonic() + _SETTLING
        while True:
            found = self._find()
            is_awaited = self._is_ours(found) or (any_object and found is not None)
            if is_awaited or time.monotonic() > deadline:
                return found
            time.sleep(_PAUSE)

    @staticmethod
    def _raise_unknown(exc: Exception) -> NoReturn:
        """Raise an error that says that the image may exist or not."""
        error = exc if isinstance(exc, ImgStoreError) else classify(exc)
        if is_conflict(exc) or not isinstance(error, StoreError):
            error = StoreError(f"the outcome is unknown: {type(exc).__name__}", retryable=True)
        error.indeterminate = True
        if error is exc:
            raise exc
        raise error from exc

    def _check_stored(self, size: int) -> Mapping[str, Any]:
        """See the object with our own eyes, and return it: whose it is, and how large."""
        try:
            found = self._find()
            stored = 0 if found is None else told(found, "ContentLength")
        except Exception as exc:
            self._raise_unknown(exc)
        # Whoever read meanwhile may have had ours, so nobody can say that nothing was stored.
        if found is None:
            raise Unavailable(
                "another request removed the object right after it was put",
                remedy="add the image again",
                indeterminate=True,
            )
        if not self._is_ours(found):  # as where a server takes no notice of If-None-Match
            raise AlreadyExists(
                "another add of this id replaced the image at that moment", indeterminate=True
            )
        if stored != size:
            self.discard()
            raise IntegrityError(f"the server stored {stored} of {size} bytes", indeterminate=True)
        return found

    @contextmanager
    def _undone_if_interrupted(self) -> Iterator[None]:
        """Leave nothing behind when the caller's thread is interrupted (Ctrl-C)."""
        try:
            yield
        except Exception:
            raise
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove what this add may have left; best effort, for one that fails anyway."""
        for undo in (self.abort, self._remove_ours):
            try:
                undo()
            except Exception as exc:  # what is left is for leftovers() to find
                LOG.warning("an add that failed could not be undone: %s", type(exc).__name__)

    def _remove_ours(self) -> None:
        found = self._await() if self._is_committing else self._find()
        if found is not None and self._is_ours(found):
            delete(self._client, self._at, found.get("ETag", ""), self._is_ours)

    @contextmanager
    def _alone(self, *, is_exclusive: bool) -> Iterator[None]:
        """Let no other add of the id commit meanwhile, as far as the server can.

        ``is_exclusive`` says that the request inside replaces nothing. Otherwise whoever has the
        claim looks for the image and commits.
        """
        if is_exclusive or not self._needs_claim:
            if not is_exclusive:
                self._refuse_existing()
            yield
            return
        claim = self._claim()
        self._in_bucket(claim.take)
        try:
            self._refuse_existing()
            claim.check()
            yield
            self._confirm(claim)
        finally:
            # What is in doubt stays guarded: the claim expires.
            if not self._is_committing:
                claim.give_up()

    def _claim(self) -> Claim:
        settings = self._settings
        return Claim(self._client, settings, self._at["Key"], lease=settings.lease)

    def _confirm(self, claim: Claim) -> None:
        """Raise if another add may have committed meanwhile: ours may have replaced its image."""
        try:
            is_held = claim.is_held()
        except Exception as exc:
            self._raise_unknown(exc)
        if not is_held:
            self.discard()
            raise Unavailable(
                "this add lost its claim while it committed, and was undone",
                remedy="add the image again",
                indeterminate=True,  # a reader may have had it
            )

    # In one request.

    def put_whole(self, data: Part) -> None:
        """Store an image that is in memory; raises AlreadyExists."""
        if not self._condition:
            self._refuse_existing()
        md5 = self._proving.md5(data)
        request = {**self._new, **content_md5(md5), **self._condition, "Body": data}
        is_exclusive = bool(self._condition)

        def put() -> dict[str, Any]:
            data.seek(0)  # it may be the second time
            return dict(self._s3.put_object(**request))

        with self._undone_if_interrupted():
            answer = self._in_bucket(lambda: self._commit(put, is_exclusive=is_exclusive))
            try:
                is_proven = self._proving.is_proof(answer, data, md5)
            except Exception:
                self.discard()
                raise
            if self._needs_claim:
                self._wait_for_others()
            if self._needs_claim or not is_exclusive or not is_proven:
                self._check_stored(len(data))

    def _wait_for_others(self) -> None:
        """Wait until no add that looked for the image before it was there can replace it."""
        try:
            self._claim().wait()
        except Exception as exc:
            self._raise_unknown(exc)

    def copy_whole(self, source: Mapping[str, str], *, etag: str, size: int) -> None:
        """Store a copy of ``source``, which the server makes; raises AlreadyExists."""
        request = {
            **self._new,
            "CopySource": dict(source),
            "CopySourceIfMatch": etag,
            "MetadataDirective": "REPLACE",
            "TaggingDirective": "REPLACE",
        }
        if self._client.takes("CopyObject", "IfNoneMatch"):
            request.update(self._condition)
        is_exclusive = "IfNoneMatch" in request and self._settings.endpoint.is_amazon
        with self._undone_if_interrupted(), self._alone(is_exclusive=is_exclusive):
            self._in_bucket(
                lambda: self._commit(
                    lambda: self._s3.copy_object(**request),
                    is_exclusive=is_exclusive,
                    refused=lambda: self.check_source(source, etag),
                )
            )
            found = self._check_stored(size)
            if found.get("ETag") != etag:  # as of other bytes, or of encrypted ones
                self._check_copied(source, etag)

    def _check_copied(self, source: Mapping[str, str], etag: str) -> None:
        """Take back a copy that may be of another image, which a server made all the same."""
        try:
            self.check_source(source, etag)
        except Exception as exc:
            self.discard()
            self._raise_unknown(exc)  # a reader may have had it

    def check_source(self, source: Mapping[str, str], etag: str) -> None:
        """Raise IntegrityError unless ``source`` is the same object still.

        Ceph 16 takes no notice of CopySourceIfMatch where parts are copied.
        """
        found = head(self._s3, source)
        if found is None or found.get("ETag") != etag:
            raise IntegrityError("the image changed while it was copied")

    # In parts.

    def start(self) -> Adding:
        """Begin an upload in parts; raises AlreadyExists before anything is sent."""
        try:
            self._refuse_existing()
        except Exception as exc:
            # Without permission to list the bucket, AWS answers so for what is not there.
            is_hidden = status_of(exc) == HTTPStatus.FORBIDDEN
            if not (is_hidden and self._settings.endpoint.is_amazon):
                raise
        request = self._new
        if self._settings.request_checksums == "when_supported":
            # The SDK's for each part; all have to be of the kind that is announced here.
            request["ChecksumAlgorithm"] = "CRC32"
        answer = self._in_bucket(lambda: self._s3.create_multipart_upload(**request))
        self._upload_id = told(answer, "UploadId")
        self._live.add(self._upload_id)
        return self

    @property
    def _upload(self) -> dict[str, Any]:
        return {**self._at, "UploadId": self._upload_id}

    def put(self, number: int, data: Part) -> dict[str, Any]:
        """Send a part, and see that it arrived as it was sent."""
        md5 = self._proving.md5(data)
        request = {**self._upload, **content_md5(md5), "PartNumber": number, "Body": data}
        with self._client.watched(lambda: self._is_cancelled):
            answer = self._s3.upload_part(**request)
        self._proving.is_proof(answer, data, md5)
        self._sizes[number] = len(data)
        return _part(number, answer)

    def put_copy(
        self, number: int, source: Mapping[str, str], etag: str, offset: int, length: int
    ) -> dict[str, Any]:
        """Let the server copy a range of ``source`` as a part."""
        with self._client.watched(lambda: self._is_cancelled):
            answer = self._s3.upload_part_copy(
                **self._upload,
                PartNumber=number,
                CopySource=dict(source),
                CopySourceIfMatch=etag,
                CopySourceRange=f"bytes={offset}-{offset + length - 1}",
            )
        self._sizes[number] = length
        return _part(number, told(answer, "CopyPartResult"))

    def finish(self, parts: list[dict[str, Any]]) -> None:
        """Make the parts an object; raises AlreadyExists."""
        request = {**self._upload, "MultipartUpload": {"Parts": parts}}
        is_exclusive = bool(self._condition) and self._settings.endpoint.is_amazon
        try:
            with self._undone_if_interrupted(), self._alone(is_exclusive=is_exclusive):
                self._commit(lambda: self._complete(request), is_exclusive=is_exclusive)
                self._check_stored(sum(self._sizes.values()))
        finally:
            self._live.discard(request["UploadId"])

    def _complete(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = self._s3.complete_multipart_upload(**request, **self._condition)
        except Exception as exc:
            if not self._needs_claim or error_code(exc) != "NotImplemented":
                raise
            answer = self._s3.complete_multipart_upload(**request)
        return dict(answer)

    def cancel(self) -> None:
        """Send no part again that fails from now on."""
        self._is_cancelled = True

    def abort(self) -> None:
        """Remove the parts, unless they are an object or may become one."""
        self._live.discard(self._upload_id)
        if self._is_committing or not self._upload_id:
            return
        # A part that arrives late outlives an abort:
        # https://docs.aws.amazon.com/AmazonS3/latest/API/API_AbortMultipartUpload.html
        for _ in range(_ABORTS):
            if self._is_gone(self._s3.abort_multipart_upload, HTTPStatus.NOT_FOUND):
                return
            # Who may not look has to believe it.
            looking = functools.partial(self._s3.list_parts, MaxParts=1)
            if self._is_gone(looking, HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN):
                return
        LOG.warning("parts of an upload go on arriving after it was aborted")

    def _is_gone(self, call: Callable[..., object], *statuses: int) -> bool:
        try:
            call(**self._upload)
        except Exception as exc:
            if status_of(exc) not in statuses:
                raise
            return True
        return False


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


def _part(number: int, answer: Mapping[str, Any]) -> dict[str, Any]:
    return {"PartNumber": number, "ETag": told(answer, "ETag"), **checksums(answer)}
