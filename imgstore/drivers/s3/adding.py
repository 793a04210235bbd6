"""How an image becomes an object: in one request, or in parts."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from imgstore.data.parts import Part
from imgstore.drivers.s3.checking import checked, checksums
from imgstore.drivers.s3.client import Client, told
from imgstore.drivers.s3.committing import Commit, Outcome
from imgstore.drivers.s3.errors import error_code, status_of
from imgstore.process.committing import attempted, undone

if TYPE_CHECKING:
    from typing_extensions import Self

LOG = logging.getLogger(__name__)

_ABORTS: Final = 3
_ABORT: Final = "the abort of an upload"


class Upload:
    """An upload in parts of one object; ``live`` has those that this process is busy with."""

    def __init__(self, client: Client, commit: Commit, *, live: set[str]) -> None:
        """Prepare to add an object; nothing is sent yet."""
        self.client = client
        self._s3 = client.s3
        self.commit = commit
        self._live = live
        self._upload: dict[str, str] = {}  # what requests for it name
        self._sizes: dict[int, int] = {}
        self._is_cancelled = False

    def start(self) -> Self:
        """Begin an upload in parts; raises AlreadyExists before anything is sent."""
        try:
            self.commit.refuse_existing()
        except Exception as exc:
            # Without permission to list the bucket, AWS answers so for what is not there.
            is_hidden = status_of(exc) == HTTPStatus.FORBIDDEN
            if not (is_hidden and self.commit.is_amazon):
                raise
        request = self.commit.new
        if self.client.settings.request_checksums == "when_supported":
            # The SDK's for each part; all have to be of the kind that is announced here.
            request["ChecksumAlgorithm"] = "CRC32"
        begin = functools.partial(self._s3.create_multipart_upload, **request)
        upload_id = told(self.client.inside(begin), "UploadId")
        self._upload = {**self.commit.at, "UploadId": upload_id}
        self._live.add(upload_id)
        return self

    def send_part(self, call: Callable[..., Any], number: int, size: int, **request: Any) -> Any:
        """Send a request that makes a part of ``size`` bytes; return the answer."""
        with self.client.watched(lambda: self._is_cancelled):
            answer = call(**self._upload, PartNumber=number, **request)
        self._sizes[number] = size
        return answer

    def finish(self, parts: list[dict[str, Any]]) -> None:
        """Make the parts an object; raises AlreadyExists."""
        commit = self.commit
        request = {**self._upload, "MultipartUpload": {"Parts": parts}}
        is_exclusive = bool(commit.condition) and commit.is_amazon
        try:
            with undone(self.abort, _ABORT), commit.alone(is_exclusive=is_exclusive):
                commit.send(lambda: self._complete(request))
                commit.check_stored(sum(self._sizes.values()))
        finally:
            self._live.discard(request["UploadId"])
            if commit.outcome is Outcome.ANOTHER:  # also where ours may have been there before it
                attempted(self.abort, _ABORT)

    def _complete(self, request: dict[str, Any]) -> Any:
        try:
            return self._s3.complete_multipart_upload(**request, **self.commit.condition)
        except Exception as exc:
            if not self.commit.needs_claim or error_code(exc) != "NotImplemented":
                raise
            return self._s3.complete_multipart_upload(**request)

    def cancel(self) -> None:
        """Send no part again that fails from now on."""
        self._is_cancelled = True

    def abort(self) -> None:
        """Remove the parts, unless they are an object or may become one.

        Servers have been seen to abort an upload and to complete it, both with success.
        """
        upload, self._upload = self._upload, {}  # once, of all threads that ask
        self._live.discard(upload.get("UploadId", ""))
        if not upload or self.commit.outcome in {Outcome.OURS, Outcome.UNKNOWN}:
            return
        # A part that arrives late outlives an abort:
        # https://docs.aws.amazon.com/AmazonS3/latest/API/API_AbortMultipartUpload.html
        for _ in range(_ABORTS):
            if _is_gone(lambda: self._s3.abort_multipart_upload(**upload), HTTPStatus.NOT_FOUND):
                return
            # Who may not look has to believe it.
            statuses = (HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN)
            if _is_gone(lambda: self._s3.list_parts(**upload, MaxParts=1), *statuses):
                return
        LOG.warning("parts of an upload go on arriving after it was aborted")


class Adding(Upload):
    """One add of one object; with ``put``, ``finish``, ``cancel`` and ``abort`` for its parts."""

    def put_whole(self, data: Part) -> None:
        """Store an image that is in memory; raises AlreadyExists."""
        commit = self.commit
        is_exclusive = bool(commit.condition)

        def put(md5: Mapping[str, str]) -> Mapping[str, Any]:
            data.seek(0)  # it may be the second time
            request = {**commit.new, **md5, **commit.condition, "Body": data}
            return commit.send(lambda: self._s3.put_object(**request))

        def send(md5: Mapping[str, str]) -> Mapping[str, Any]:
            return self.client.inside(lambda: put(md5))

        with commit.alone(is_exclusive=is_exclusive):
            _, is_proven = checked(self.client, data, send)
            if not is_exclusive or not is_proven:
                commit.check_stored(len(data))

    def put(self, number: int, data: Part) -> dict[str, Any]:
        """Send a part, and see that it arrived as it was sent."""

        def send(md5: Mapping[str, str]) -> Any:
            data.seek(0)  # it may be the second time
            return self.send_part(self._s3.upload_part, number, len(data), **md5, Body=data)

        answer, _ = checked(self.client, data, send)
        return part_of(number, answer)


def _is_gone(call: Callable[[], object], *statuses: int) -> bool:
    try:
        call()
    except Exception as exc:
        if status_of(exc) not in statuses:
            raise
        return True
    return False


def part_of(number: int, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a completion has to say of a part."""
    return {"PartNumber": number, "ETag": told(answer, "ETag"), **checksums(answer)}
