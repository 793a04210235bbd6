"""How objects are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from functools import partial
from http import HTTPStatus
from typing import Final

from imgstore.data.ranges import Arriving, Got, whole_size
from imgstore.data.units import MIB
from imgstore.drivers._numbers import whole_number
from imgstore.drivers.swift.breaks import Explained, lost_segment
from imgstore.drivers.swift.client import Answer, Caller
from imgstore.drivers.swift.errors import AnswerError
from imgstore.drivers.swift.manifests import MANIFEST, SIZE, is_static, split
from imgstore.errors import IntegrityError, NotFound, Unavailable, Unsupported
from imgstore.model import Stat

_TIME: Final = "time "
_OF_NOTHING: Final = "d41d8cd98f00b204e9800998ecf8427e"


class Reading:
    """Asks for ranges of one object."""

    def __init__(self, caller: Caller, container: str, name: str) -> None:
        self._caller = caller
        self._place = container, name
        self._size: int | None = None

    def __call__(
        self,
        offset: int,
        length: int | None,
        version: str | None,
        is_cancelled: Callable[[], bool],
    ) -> Got:
        """Return what arrives, its body unread."""
        try:
            answer = self._asked(offset, length, version, is_cancelled)
        except AnswerError as exc:
            # Some servers say so of a range that only ends beyond the object; a version is of one
            # whose size is known.
            is_beyond = exc.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            if not is_beyond or length is None or version is not None:
                raise
            length = None
            answer = self._asked(offset, length, version, is_cancelled)
        is_ranged = bool(offset) or length is not None
        try:
            if MANIFEST in answer.headers:
                got = self._dynamic(answer, offset, length, is_ranged=is_ranged)
            else:
                got = self._plain(answer, offset, is_ranged=is_ranged)
            if version is not None and got.version != version:
                raise IntegrityError("the image changed while it was read")
        except BaseException:
            answer.close()
            raise
        return got

    def _asked(
        self,
        offset: int,
        length: int | None,
        version: str | None,
        is_cancelled: Callable[[], bool],
    ) -> Answer:
        headers = {}
        if offset or length is not None:
            last = "" if length is None else offset + length - 1
            headers["Range"] = f"bytes={offset}-{last}"
        if version is not None and not version.startswith(_TIME):
            headers["If-Match"] = version
        try:
            return self._caller.ask("GET", *self._place, headers=headers, is_cancelled=is_cancelled)
        except AnswerError as exc:
            # The first answer told the size, so all that is asked for afterwards is within it.
            is_range = exc.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            if exc.status != HTTPStatus.CONFLICT and not (is_range and version is not None):
                raise
            raise IntegrityError("a segment of the image is missing, or was changed") from exc

    def _plain(self, answer: Answer, offset: int, *, is_ranged: bool) -> Got:
        """Return what arrives of an object whose size Swift knows."""
        headers = answer.headers
        size = whole_number(headers.get("Content-Length"))
        if is_ranged and size != 0:
            is_partial = answer.status == HTTPStatus.PARTIAL_CONTENT
            told = headers.get("Content-Range", "") if is_partial else ""
            size = whole_size(told, offset, size)
        elif size is None:
            size = self._told_size(version_of(headers))
        check_size(headers, size)
        body: Arriving = self._explained(answer, offset) if is_static(headers) else answer
        return Got(body, size, version_of(headers))

    def _told_size(self, version: str | None) -> int:
        """Return the size of an object whose answer in chunks does not tell it."""
        found = self._caller.head(*self._place) or {}
        if version_of(found) != version:
            raise IntegrityError("the image changed while it was opened", retryable=True)
        return length_of(found)

    def _dynamic(self, answer: Answer, offset: int, length: int | None, *, is_ranged: bool) -> Got:
        """Return what arrives of a dynamic large object, whose size Swift may not know."""
        headers, version = answer.headers, version_of(answer.headers)
        is_whole = answer.status != HTTPStatus.PARTIAL_CONTENT
        body: Arriving = self._explained(answer, 0 if is_whole else offset)
        size = whole_number(headers.get("Content-Length"))
        if is_ranged and is_whole:
            body, size = Cut(body, offset, length), None
        elif is_ranged:
            if size != 0:
                size = whole_size(headers.get("Content-Range", ""), offset, size)
            if size != whole_number(headers.get(SIZE)) and size != self._dynamic_size():
                # Beyond the first page of segments there are no ranges.
                size, version = None, None
        size = self._dynamic_size() if size is None else size
        check_size(headers, size)
        return Got(body, size, version)

    def _explained(self, answer: Answer, offset: int) -> Arriving:
        size = whole_number(answer.headers.get("Content-Length"))
        return Explained(answer, offset, size, partial(lost_segment, self._caller, *self._place))

    def _dynamic_size(self) -> int:
        if self._size is None:
            self._size = stat_of(self._caller, *self._place).size
        return self._size


class Cut:
    """A part of a body that begins too early: Swift sends all of what has too many segments."""

    def __init__(self, answer: Arriving, offset: int, length: int | None) -> None:
        self._answer = answer
        self._skip = offset
        self._left = length

    def read(self, n: int | None = None, /) -> bytes:
        """Return at most ``n`` bytes, none at the end."""
        while self._skip and (skipped := self._answer.read(min(self._skip, MIB))):
            self._skip -= len(skipped)
        if n is None:
            return b"".join(iter(lambda: self.read(MIB), b""))
        if self._left == 0:
            return b""
        data = self._answer.read(n if self._left is None else min(n, self._left))
        if self._left is not None:
            self._left -= len(data)
        return data

    def close(self) -> None:
        """Give up the rest."""
        self._answer.close()


def stat_of(caller: Caller, container: str, name: str) -> Stat:
    """Return what is told of an image; raises NotFound, Unavailable while segments are missing."""
    headers = caller.head(container, name)
    if headers is None:
        raise NotFound("there is no such image")
    size = whole_number(headers.get("Content-Length"))
    if not size and MANIFEST in headers:  # Swift says so of what has more than a page of segments
        found = caller.entries(*split(headers[MANIFEST]))
        size = sum(whole_number(each.get("bytes")) or 0 for each in found)
    size = length_of(headers) if size is None else size
    check_size(headers, size)
    return Stat(size, version_of(headers), _modified(headers))


def _modified(headers: Mapping[str, str]) -> datetime | None:
    try:
        return datetime.fromtimestamp(float(headers["X-Timestamp"]), timezone.utc)
    except (KeyError, ValueError, OverflowError):
        return None


def length_of(headers: Mapping[str, str]) -> int:
    """Return the size that an answer tells; raises Unsupported."""
    size = whole_number(headers.get("Content-Length"))
    if size is None:
        raise Unsupported(
            "the server does not tell the image's size",
            remedy="let what stands before Swift keep the header Content-Length",
        )
    return size


def version_of(headers: Mapping[str, str]) -> str | None:
    """Return what pins an object: its ETag; of manifests that have none, when it was put."""
    etag = headers.get("Etag")
    if etag and not (MANIFEST in headers and etag.strip('"') == _OF_NOTHING):
        return etag
    time = headers.get("X-Timestamp")
    return f"{_TIME}{time}" if time else None


def check_size(headers: Mapping[str, str], size: int) -> None:
    """Raise Unavailable for a dynamic large object whose segments are not all listed yet."""
    stored = whole_number(headers.get(SIZE))
    if stored is not None and stored != size:
        raise Unavailable(
            f"Swift finds segments of {size} bytes for an image of {stored}",
            remedy="wait until its listings are up to date",
        )
