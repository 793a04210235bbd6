"""How objects are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from imgstore.data.ranges import Got, whole_size
from imgstore.drivers.s3.client import Client, told


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
        request = dict(self.at)
        if offset or length is not None:
            request["Range"] = f"bytes={offset}-{'' if length is None else offset + length - 1}"
        if version is not None:
            request["IfMatch"] = version
        with self.client.watched(is_cancelled):
            answer: dict[str, Any] = self.client.s3.get_object(**request)
        body = answer["Body"]
        try:
            size = int(told(answer, "ContentLength"))
            if "Range" in request and size:
                size = whole_size(answer.get("ContentRange", ""), offset, size)
        except BaseException:
            body.close()
            raise
        return Got(body, size, answer.get("ETag"))
