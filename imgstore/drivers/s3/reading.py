"""How objects are read: as one stream, or as ranges side by side."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Final

from imgstore.errors import IntegrityError, Unsupported
from imgstore.hashing import MIB
from imgstore.streams import Opened
from imgstore.transfer import read_in_parts

RANGE: Final = 8 * MIB
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
    s3: Any,
    at: dict[str, str],
    offset: int,
    length: int | None,
    if_version: str | None,
    *,
    workers: int,
    is_retryable: Callable[[Exception], bool],
) -> Opened:
    """Open an object that is read in ranges, ``workers`` at once; a small one with one request."""
    first = RANGE if length is None else min(RANGE, length)
    try:
        answer, size = _request(s3, at, offset, first, if_version)
    except Unsupported:
        return open_stream(s3, at, offset, length, if_version)
    body, version = answer["Body"], answer.get("ETag")
    wanted = size - offset if length is None else min(length, size - offset)
    if wanted <= first or version is None:
        if version is None:  # ranges of what is not pinned may be of different images
            body.close()
            return open_stream(s3, at, offset, length, if_version)
        return Opened(_pieces(body), size, version, body.close)

    def fetch(at_byte: int, n: int) -> bytes:
        if at_byte == offset and (unread := _pop(held)):
            data: bytes = unread.read()
            return data
        part, _ = _request(s3, at, at_byte, n, version)
        try:
            return bytes(part["Body"].read())
        finally:
            part["Body"].close()

    held = [body]
    chunks = read_in_parts(
        fetch,
        offset=offset,
        length=wanted,
        part_size=RANGE,
        workers=workers,
        retries=_RETRIES,
        is_retryable=is_retryable,
    )

    def close() -> None:
        with ExitStack() as closing:
            closing.callback(body.close)
            closing.callback(chunks.close)

    return Opened(chunks, size, version, close)


def _pop(held: list[Any]) -> Any:
    try:
        return held.pop()
    except IndexError:
        return None


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
    while piece := body.read(MIB):
        yield piece
