"""How objects are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from imgstore.data.ranges import Got, whole_size
from imgstore.drivers.s3.client import Client, head, told, validator
from imgstore.drivers.s3.errors import status_of
from imgstore.errors import IntegrityError


@dataclass(frozen=True)
class Reading:
    """Asks for ranges of one object."""

    client: Client
    at: Mapping[str, str]

    def __call__(
        self,
        offset: int,
        length: int | None,
        version: str | None,
        is_cancelled: Callable[[], bool],
    ) -> Got:
        """Return what arrives, its body unread."""
        with self.client.watched(is_cancelled):
            try:
                answer = self._ask(offset, length, version)
            except Exception as exc:
                # Of some servers also where a range only ends beyond the object.
                is_beyond = status_of(exc) == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
                if not is_beyond or length is None:
                    raise
                length = None
                answer = self._ask(offset, length, version)
        try:
            size = self._size(answer, offset, is_range=bool(offset) or length is not None)
        except BaseException:
            answer["Body"].close()
            raise
        return Got(answer["Body"], size, validator(answer.get("ETag")))

    def _ask(self, offset: int, length: int | None, version: str | None) -> dict[str, Any]:
        request = dict(self.at)
        if offset or length is not None:
            request["Range"] = f"bytes={offset}-{'' if length is None else offset + length - 1}"
        if version is not None:
            request["IfMatch"] = version
        answer: dict[str, Any] = self.client.s3.get_object(**request)
        return answer

    def _size(self, answer: Mapping[str, Any], offset: int, *, is_range: bool) -> int:
        """Return the size of the whole object, which an answer in chunks does not tell."""
        declared = answer.get("ContentLength")
        if is_range and declared != 0:
            return whole_size(answer.get("ContentRange", ""), offset, declared)
        if declared is None:
            found = head(self.client.s3, self.at) or {}
            if found.get("ETag") != answer.get("ETag"):
                raise IntegrityError("the image changed while it was opened", retryable=True)
            declared = told(found, "ContentLength")
        return int(declared)
