"""HTTP as image stores read it: redirects, ranges, sizes, versions.

What is said here follows RFC 9110 (semantics). Nothing here imports an SDK; the bytes travel
through ``imgstore.drivers._http.connections``.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime, parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urljoin

from imgstore.data.opened import Opened
from imgstore.data.units import MIB
from imgstore.drivers._http.errors import status_error
from imgstore.drivers._http.urls import PORTS, Url
from imgstore.drivers._numbers import whole_number
from imgstore.errors import (
    IntegrityError,
    InvalidRange,
    PermissionDenied,
    StoreError,
    Unsupported,
)
from imgstore.location import Location
from imgstore.model import Stat

if TYPE_CHECKING:
    import requests

_REDIRECTS: Final = 5
_REDIRECT_CODES: Final = frozenset({301, 302, 303, 307, 308})
_HEAD_REFUSED: Final = frozenset({400, 403, 405, 501})  # how servers refuse HEAD
_DRAINED: Final = 16384  # bytes of an unwanted body that cost less than a new connection
_WAIT: Final = 0.1  # seconds to wait for them

_CONTENT_RANGE: Final = re.compile(
    r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.IGNORECASE
)
_CODINGS: Final = frozenset(["br", "compress", "deflate", "gzip", "x-compress", "x-gzip", "zstd"])
_STRONG_TAG: Final = re.compile(r'"[\x21\x23-\x7e\x80-\xff]*"')
# RFC 9110 8.8.2.2: a date is a strong validator only when clocks cannot be what sets it apart.
_STRONG_AGE: Final = timedelta(seconds=60)


class Sender(Protocol):
    """What reads images: a transport, or what adds to its requests."""

    def send(self, method: str, url: Url, headers: Mapping[str, str]) -> requests.Response:
        """Send one request and return the answer, its body unread; redirects are answers."""

    def close(self) -> None:
        """Close the idle connections."""


class Client:
    """Reads images over HTTP through a transport."""

    def __init__(
        self,
        transport: Sender,
        *,
        strong_age: timedelta = _STRONG_AGE,
        trusts_head: bool = False,
    ) -> None:
        """Use ``transport``, which the client closes; dates that old are strong validators.

        ``trusts_head``: the server is known to answer HEAD with the length that GET has.
        """
        self._transport = transport
        self._trusts_head = trusts_head
        self._strong_age = strong_age

    def close(self) -> None:
        """Close the pooled connections."""
        self._transport.close()

    def open(self, url: Url, offset: int, length: int | None, *, if_version: str | None) -> Opened:
        """Open an image at ``offset``; the contract of ``Store._get``."""
        try:
            return self._open(url, offset, length, if_version)
        except InvalidRange:
            size = self.stat(url).size
            if length is None or not offset < size < offset + length:
                raise
        # RFC 9110 14.1.2 has a range cut that ends beyond the image; some servers refuse it.
        return self._open(url, offset, size - offset, if_version)

    def _open(self, url: Url, offset: int, length: int | None, if_version: str | None) -> Opened:
        headers = {}
        if offset or length is not None:
            last = "" if length is None else str(offset + length - 1)
            headers["Range"] = f"bytes={offset}-{last}"
        if if_version is not None:
            headers["If-Range"] = if_version
        response = self._ask("GET", url, headers)
        try:
            if "Range" in headers:
                size = self._size_of_part(response, url, offset, length, if_version)
            else:
                size = self._size_of_whole(response, url)
            version = _version(response.headers, if_version, self._strong_age)
            if size == 0 and response.raw.read(1):
                raise IntegrityError("the server sends bytes of an image that it says is empty")
        except BaseException:
            settle(response)
            raise
        return Opened(_pieces(response), size, version, response.raw.close)  # takes no lock

    def stat(self, url: Url) -> Stat:
        """Return what is told of an image, as GET tells it.

        Many servers answer HEAD without making the body, with a Content-Length of 0 for example.
        """
        if not self._trusts_head:
            return self._stat_by_get(url)
        response = self._ask("HEAD", url, {})
        settle(response)
        status = response.status_code
        if status == HTTPStatus.OK and _coding(response.headers) is None:
            size = _declared(response.headers)
            if size is not None:
                return self._stat(size, response.headers)
        elif status != HTTPStatus.OK and status not in _HEAD_REFUSED:
            raise status_error(status)
        return self._stat_by_get(url)

    def _stat(self, size: int, headers: Mapping[str, str]) -> Stat:
        version = _version(headers, None, self._strong_age)
        return Stat(size, version, _date(headers.get("Last-Modified")))

    def _stat_by_get(self, url: Url) -> Stat:
        """Ask for one byte and, where the answer does not tell the total, for all of them."""
        for headers in ({"Range": "bytes=0-0"}, {}):
            response = self._ask("GET", url, headers)
            settle(response)
            total = _total(response)
            if total is not None:
                return self._stat(total, response.headers)
            if response.status_code == HTTPStatus.OK:
                break
        raise Unsupported("the server does not tell the image's size")

    def _size_of_whole(self, response: requests.Response, url: Url) -> int:
        if response.status_code != HTTPStatus.OK:
            raise status_error(response.status_code)
        _refuse_codings(response.headers)
        size = _declared(response.headers)
        return self.stat(url).size if size is None else size

    def _size_of_part(
        self,
        response: requests.Response,
        url: Url,
        offset: int,
        length: int | None,
        if_version: str | None,
    ) -> int:
        headers = response.headers
        if response.status_code == HTTPStatus.OK:
            if if_version is not None and if_version not in {
                headers.get("ETag"),
                headers.get("Last-Modified"),
            }:
                raise IntegrityError("the image changed while it was read")
            if _declared(headers) == 0:
                return 0  # there is no range of an empty image, so this is a good answer
            raise Unsupported("the server ignores Range: it reads whole images only")
        if response.status_code != HTTPStatus.PARTIAL_CONTENT:
            error = status_error(response.status_code)
            if isinstance(error, InvalidRange) and if_version is not None:
                raise IntegrityError("the image shrank while it was read")
            raise error
        _refuse_codings(headers)
        match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if match is None:
            raise Unsupported("the server's partial answer does not say which single range it is")
        size = self.stat(url).size if match[3] == "*" else int(match[3])
        last = size - 1 if length is None else min(offset + length, size) - 1
        if (int(match[1]), int(match[2])) != (offset, last):
            asked = f"{offset}-{last}"
            raise IntegrityError(f"asked for bytes {asked}, the server sends {match[0]!r}")
        declared = _declared(headers)
        if declared not in {None, last - offset + 1}:
            raise IntegrityError(f"the server states {declared} bytes for {match[0]!r}")
        return size

    def _ask(self, method: str, url: Url, headers: Mapping[str, str]) -> requests.Response:
        """Send a request and follow its redirects; the caller closes the answer.

        Credentials go to the URL's own origin only, and no longer once a redirect has left it.
        """
        authorization = url.authorization
        for _ in range(_REDIRECTS + 1):
            sent = dict(headers)
            if authorization is not None:
                sent["Authorization"] = authorization.reveal()
            response = self._transport.send(method, url, sent)
            if response.status_code not in _REDIRECT_CODES:
                return response
            settle(response)
            following = redirected(url, response.headers.get("Location"))
            if following.origin != url.origin:
                authorization = None
            url = following
        raise StoreError(f"the server redirects more than {_REDIRECTS} times")


def redirected(url: Url, where: str | None) -> Url:
    """Return where a redirect leads; credentials that it names are not used."""
    if not where:
        raise StoreError(f"{url} redirects without saying where")
    # http.client decodes headers as Latin-1; servers that send more than ASCII mean UTF-8.
    where = where.encode("latin-1", "replace").decode("utf-8", "replace")
    try:
        location = Location.parse(urljoin(url.text, where))
        if location.scheme not in PORTS:
            raise ValueError
        following = Url.of(Location(location.scheme, location.rest))
    except ValueError:
        raise StoreError(f"{url} redirects to something that is not an http URL") from None
    if url.scheme == "https" and following.scheme == "http":
        raise PermissionDenied(f"{url} redirects from https to {following}")
    return following


def settle(response: requests.Response) -> None:
    """Give the connection back if the unwanted body is short and here; close it otherwise."""
    left = response.raw.length_remaining
    with contextlib.closing(response), contextlib.suppress(Exception):
        if left is not None and left <= _DRAINED:
            answer: Any = response.raw._original_response
            answer.hurry(_WAIT)
            response.raw.read1(left or 1)


def _pieces(response: requests.Response) -> Iterator[bytes]:
    while piece := response.raw.read(MIB, decode_content=False):
        yield piece


def _coding(headers: Mapping[str, str]) -> str | None:
    """Return what was done to the body's bytes, other than chunking, in words that are ours."""
    for name in headers.get("Content-Encoding", "").lower().split(","):
        if name.strip() not in {"", "identity"}:
            return name.strip() if name.strip() in _CODINGS else "an unknown coding"
    framing = headers.get("Transfer-Encoding", "chunked").lower()
    if framing == "chunked":  # once and alone (RFC 9112 6.1), or http.client reads on to the end
        return None
    names = (name.strip() for name in framing.split(","))
    return next((name for name in names if name in _CODINGS), "an unknown framing")


def _refuse_codings(headers: Mapping[str, str]) -> None:
    found = _coding(headers)
    if found is not None:
        raise Unsupported(
            f"the server encodes the image ({found}) although it was asked not to",
            remedy="make the server send it as it is",
        )


def _total(response: requests.Response) -> int | None:
    """Return the size of the whole image as an answer to GET tells it."""
    status, headers = response.status_code, response.headers
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return None  # an empty image has no first byte
    if status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
        raise status_error(status)
    _refuse_codings(headers)
    if status == HTTPStatus.OK:
        return _declared(headers)
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
    return int(match[3]) if match and match[3] != "*" else None


def _declared(headers: Mapping[str, str]) -> int | None:
    """Return the length of the body, None where it is not told in advance."""
    text = headers.get("Content-Length")
    if text is None or "Transfer-Encoding" in headers:
        return None
    length = whole_number(text.strip())
    if length is None:
        raise StoreError("the server sends a Content-Length that is not one number")
    return length


def _version(
    headers: Mapping[str, str], wanted: str | None, age: timedelta = _STRONG_AGE
) -> str | None:
    """Return the strong validator of an answer, fit for If-Range (RFC 9110 13.1.5).

    ``wanted`` is what If-Range asked for: an answer that says nothing else confirms it.
    """
    if wanted is not None:
        name = "ETag" if wanted.startswith('"') else "Last-Modified"
        if headers.get(name, wanted) != wanted:
            raise IntegrityError("the image changed while it was read")
        return wanted
    tag = headers.get("ETag")
    if tag is not None:
        return tag if _STRONG_TAG.fullmatch(tag) else None
    modified, now = (_date(headers.get(name)) for name in ("Last-Modified", "Date"))
    if modified is None or now is None or now - modified < age:
        return None
    return headers["Last-Modified"]


def _date(text: str | None) -> datetime | None:
    """Return a date that is written as HTTP wants it, None for any other text."""
    try:
        date = parsedate_to_datetime(text or "")
    except (TypeError, ValueError):
        return None
    return (
        date if date.tzinfo is timezone.utc and format_datetime(date, usegmt=True) == text else None
    )
