"""How objects are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from imgstore.drivers.swift.adding import SIZE
from imgstore.drivers.swift.client import Caller
from imgstore.errors import IntegrityError, Unavailable
from imgstore.ranges import Got, whole_size


class Reading:
    """Asks for ranges of one object."""

    def __init__(self, caller: Caller, container: str, name: str) -> None:
        self._caller = caller
        self._place = container, name

    def __call__(
        self,
        offset: int,
        length: int | None,
        version: str | None,
        is_cancelled: Callable[[], bool],
    ) -> Got:
        """Return what arrives, its body unread."""
        headers = {}
        if offset or length is not None:
            last = "" if length is None else offset + length - 1
            headers["Range"] = f"bytes={offset}-{last}"
        if version is not None and not version.startswith(_TIME):
            headers["If-Match"] = version
        answer = self._caller.ask("GET", *self._place, headers=headers, is_cancelled=is_cancelled)
        try:
            size = int(answer.headers.get("Content-Length", -1))
            if size < 0:
                raise IntegrityError("Swift does not tell the image's size")
            if "Range" in headers and size:
                size = whole_size(answer.headers.get("Content-Range", ""), offset, size)
            check_size(answer.headers, size)
            found = version_of(answer.headers)
            if version is not None and found != version:
                raise IntegrityError("the image changed while it was read")
        except BaseException:
            answer.close()
            raise
        return Got(answer, size, found)


_TIME = "time "


def version_of(headers: Mapping[str, str]) -> str | None:
    """Return what pins an object: its ETag; of manifests that have none, when it was put."""
    etag = headers.get("Etag")
    if etag:
        return etag
    time = headers.get("X-Timestamp")
    return f"{_TIME}{time}" if time else None


def check_size(headers: Mapping[str, str], size: int) -> None:
    """Raise Unavailable for a dynamic large object whose segments are not all listed yet."""
    stored = headers.get(SIZE)
    if stored is not None and stored.isdigit() and int(stored) != size:
        raise Unavailable(
            f"Swift finds segments of {size} bytes for an image of {stored}",
            remedy="wait until its listings are up to date",
        )
