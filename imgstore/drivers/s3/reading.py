"""How objects are read: as one stream, or as ranges side by side."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from imgstore.drivers.s3.client import Client
from imgstore.errors import IntegrityError, Unavailable, Unsupported
from imgstore.hashing import MIB
from imgstore.streams import Opened
from imgstore.transfer import read_in_parts

RANGE: Final = 8 * MIB
_PIECE: Final = MIB // 2  # larger ones are slower: they wait for more at a time
_RETRIES: Final = 3
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


def open_stream(
    s3: Any, at: dict[str, str], offset: int, length: int | None, if_version: str | None
) -> Opened:
    """Open an object with one request."""
    answer, size = _request(s3, at, offset, length, if_version)
    body = answer["Body"]
    return Opened(_pieces(body), size, answer.get("ETag"), body.close)


def open_ranges(
    client: Client,
    at: dict[str, str],
    offset: int,
    length: int | None,
    if_version: str | None,
    *,
    workers: int,
) -> Opened:
    """Open an object that is read in ranges, ``workers`` at once; a small one with one request."""
    first = RANGE if length is None else min(RANGE, length)
    try:
        answer, size = _request(client.s3, at, offset, first, if_version)
    except Unsupported:
        return open_stream(client.s3, at, offset, length, if_version)
    body, version = answer["Body"], answer.get("ETag")
    wanted = size - offset if length is None else min(length, size - offset)
    if version is None:  # ranges of what is not pinned may be of different images
        body.close()
        return open_stream(client.s3, at, offset, length, if_version)
    if wanted <= first:
        return Opened(_pieces(body), size, version, body.close)
    ranges = _Ranges(client, at, version, offset, body)
    chunks = read_in_parts(
        ranges.fetch,
        offset=offset,
        length=wanted,
        part_size=RANGE,
        workers=workers,
        retries=_RETRIES,
        is_retryable=lambda exc: isinstance(exc, _BrokenError),
    )

    def close() -> None:
        ranges.close()
        chunks.close()

    return Opened(chunks, size, version, close)


class _BrokenError(Unavailable):
    """A body that broke off; requests are repeated by the SDK."""


class _Ranges:
    """Fetches ranges of one version of an object; ``body`` is that of the first, open already."""

    def __init__(
        self, client: Client, at: dict[str, str], version: str, offset: int, body: Any
    ) -> None:
        self._client = client
        self._at = at
        self._version = version
        self._offset = offset
        self._first = [body]
        self._body = body
        self._is_closed = False

    def fetch(self, offset: int, length: int) -> bytes:
        """Return a range; from several threads."""
        body = self._open(offset, length)
        try:
            return bytes(body.read())
        except Exception as exc:
            if self._is_closed:
                raise
            raise _BrokenError("the connection broke while data arrived") from exc
        finally:
            body.close()

    def _open(self, offset: int, length: int) -> Any:
        if offset == self._offset and self._first:  # not when it broke off and is fetched again
            return self._first.pop()
        with self._client.watched(lambda: self._is_closed):
            answer, _ = _request(self._client.s3, self._at, offset, length, self._version)
        return answer["Body"]

    def close(self) -> None:
        """Let requests under way be the last, and none be repeated."""
        self._is_closed = True
        self._body.close()


def _request(
    s3: Any, at: dict[str, str], offset: int, length: int | None, if_version: str | None
) -> tuple[dict[str, Any], int]:
    """Return the answer, its body unread, and the size of the whole object."""
    request = dict(at)
    if offset or length is not None:
        request["Range"] = f"bytes={offset}-{'' if length is None else offset + length - 1}"
    if if_version is not None:
        request["IfMatch"] = if_version
    answer: dict[str, Any] = s3.get_object(**request)
    try:
        return answer, _whole_size(answer, offset, is_range="Range" in request)
    except BaseException:
        answer["Body"].close()
        raise


def _whole_size(answer: dict[str, Any], offset: int, *, is_range: bool) -> int:
    declared = int(answer["ContentLength"])
    if not is_range or declared == 0:
        return declared
    match = _CONTENT_RANGE.fullmatch(answer.get("ContentRange", ""))
    if match is None:
        raise Unsupported("the server takes no notice of ranges: it reads whole objects only")
    first, last, size = map(int, match.groups())
    if first != offset or last - first + 1 != declared:
        raise IntegrityError(f"asked for bytes from {offset} on, the server sends {match[0]!r}")
    return size


def _pieces(body: Any) -> Iterator[bytes]:
    while piece := body.read(_PIECE):
        yield piece
