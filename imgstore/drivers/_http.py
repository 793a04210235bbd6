"""HTTP as image stores read it: URLs, whom to talk to, redirects, ranges, sizes, versions.

What is said here follows RFC 9110 (semantics) and RFC 3986 (URLs). Nothing here imports an SDK; the
bytes travel through ``imgstore.drivers._http_transport``.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime, parsedate_to_datetime
from fnmatch import fnmatchcase
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote, urljoin

from imgstore import _lazy
from imgstore.errors import (
    IntegrityError,
    InvalidArgument,
    InvalidLocation,
    InvalidRange,
    NotFound,
    PermissionDenied,
    StoreError,
    Throttled,
    Unavailable,
    Unsupported,
)
from imgstore.hashing import MIB
from imgstore.location import Location
from imgstore.secret import Secret
from imgstore.streams import Opened

if TYPE_CHECKING:
    import requests

    from imgstore.drivers._http_transport import Sender

INSTALL: Final = "imgstore[http]"

_PORTS: Final = {"http": 80, "https": 443}
_REDIRECTS: Final = 5
_REDIRECT_CODES: Final = frozenset({301, 302, 303, 307, 308})
# Servers refuse HEAD with these; a URL signed for GET answers HEAD with 403.
_HEAD_REFUSED: Final = frozenset({400, 403, 405, 501})
_DRAINED: Final = 16384  # bytes of an unwanted body that cost less than a new connection

_AUTHORITY: Final = re.compile(r"(\[[^\]]*\]|[^:]*)(?::(\d{0,5}))?")
_HOST: Final = re.compile(r"(?=.{1,254}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
_LEGAL: Final = "!#$%&'()*+,/:;=?@[]~"
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_CONTENT_RANGE: Final = re.compile(
    r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.IGNORECASE
)
_UNSATISFIED_RANGE: Final = re.compile(r"bytes \*/([0-9]{1,18})", re.IGNORECASE)
_STRONG_TAG: Final = re.compile(r'"[\x21\x23-\x7e\x80-\xff]*"')
# RFC 9110 8.8.2.2: a date is a strong validator only when clocks cannot be what sets it apart.
_STRONG_AGE: Final = timedelta(seconds=60)

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Url:
    """An http or https URL, decoded as far as a request needs it.

    ``host`` is in ASCII and lower case, without brackets. ``target`` is path and query as they
    were written; only what may not stand in a request line is percent-encoded.
    """

    scheme: str
    host: str
    port: int
    target: str = field(repr=False)
    authorization: Secret | None = None

    @classmethod
    def of(cls, location: Location) -> Url:
        """Decode ``http[s]://[user[:password]@]host[:port][/path][?query][#fragment]``.

        User and password are percent-decoded, the fragment is dropped. Raises InvalidLocation.
        """
        rest = location.rest.partition("#")[0]
        end = re.search(r"[/?]", rest)
        authority, target = (
            (rest, "") if end is None else (rest[: end.start()], rest[end.start() :])
        )
        match = _AUTHORITY.fullmatch(authority)
        if match is None:
            raise InvalidLocation("the URL has no well-formed host[:port]")
        port = int(match[2] or _PORTS[location.scheme])
        if not 0 < port < 65536:
            raise InvalidLocation(f"there is no port {port}")
        return cls(
            scheme=location.scheme,
            host=_literal(match[1]) if match[1].startswith("[") else ascii_host(match[1]),
            port=port,
            target=quote(target if target.startswith("/") else f"/{target}", safe=_LEGAL),
            authorization=_basic(location.credentials),
        )

    @property
    def origin(self) -> str:
        """Return scheme, host and port: credentials stay with these three."""
        return f"{self.scheme}://{self._bracketed(self.host.rstrip('.'))}:{self.port}"

    @property
    def text(self) -> str:
        """Return the whole URL without credentials; its query may be a signature."""
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{self._bracketed(self.host)}{port}{self.target}"

    def __str__(self) -> str:
        """Return the origin, which is fit for messages."""
        return self.origin

    @staticmethod
    def _bracketed(host: str) -> str:
        return f"[{host.replace('%', '%25')}]" if ":" in host else host


def ascii_host(host: str) -> str:
    """Return a host name in lower case and ASCII (IDNA), its final dot kept.

    Raises InvalidLocation for what is not a host name.
    """
    name = host.lower()
    if not host.isascii():
        idna = _lazy.load("idna", install=INSTALL)
        try:
            name = idna.encode(host, uts46=True).decode("ascii")
        except idna.IDNAError:
            name = ""
    if not _HOST.fullmatch(name):
        raise InvalidLocation("the URL's host is not a host name or address")
    return name


def _literal(text: str) -> str:
    """Return an IPv6 address without brackets, its zone (RFC 6874) decoded."""
    try:
        return str(ipaddress.IPv6Address(unquote(text[1:-1])))
    except ValueError:
        raise InvalidLocation("the URL's host is not an IPv6 address") from None


def _basic(credentials: Secret | None) -> Secret | None:
    """Return the value of an Authorization header (RFC 7617, in UTF-8)."""
    if not credentials:
        return None
    user, _, password = credentials.reveal().partition(":")
    try:
        user, password = (unquote(part, errors="strict") for part in (user, password))
    except UnicodeDecodeError:
        raise InvalidLocation("the URL's credentials are not UTF-8, percent-encoded") from None
    if ":" in user or not f"{user}{password}".isprintable():
        raise InvalidLocation("the URL's credentials hold characters that HTTP cannot send")
    return Secret("Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii"))


class AddressGuard:
    """Which hosts may be asked, and which addresses may be connected to.

    ``allowed_hosts`` are globs for the host as URLs name it; none allow all.
    ``denied_networks`` are CIDRs. An address stands also for the IPv4 address inside it (mapped,
    NAT64, 6to4), and the unspecified address for this host. Raises InvalidArgument for a bad rule.
    """

    def __init__(
        self, *, allowed_hosts: Iterable[str] = (), denied_networks: Iterable[str] = ()
    ) -> None:
        """Check and keep the rules."""
        self._allowed = tuple(_pattern(glob) for glob in _listed(allowed_hosts))
        self._denied = tuple(_network(cidr) for cidr in _listed(denied_networks))

    def check_host(self, host: str) -> None:
        """Raise PermissionDenied unless a glob matches the host."""
        name = host.rstrip(".")
        if self._allowed and not any(fnmatchcase(name, glob) for glob in self._allowed):
            raise PermissionDenied(
                f"no glob of http_allowed_hosts matches the host {name}",
                remedy="if images may be read from there, add it to http_allowed_hosts",
            )

    def addresses(self, host: str, port: int) -> list[str]:
        """Resolve a host, check every address it has, and return them.

        Raises PermissionDenied if a single one is denied, and OSError (``socket.gaierror``).
        """
        found = {}
        for *_, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            text, _, *flow_and_scope = where
            if flow_and_scope[1:] not in ([], [0]):
                text = f"{str(text).partition('%')[0]}%{flow_and_scope[1]}"
            self._check_address(host, ipaddress.ip_address(text))
            found[str(text)] = True
        return list(found)

    def _check_address(self, host: str, address: Address) -> None:
        for meaning in _meanings(address):
            for network in self._denied:
                if meaning.version == network.version and meaning in network:
                    shown = host if host == str(address) else f"{host} ({address})"
                    raise PermissionDenied(
                        f"{shown} lies in {network}, which http_denied_networks denies"
                    )


def _meanings(address: Address) -> Iterator[Address]:
    """Yield an address and every address that a connection to it may reach instead."""
    yield address
    if address.is_unspecified:
        yield ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    if isinstance(address, ipaddress.IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inside = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inside is not None:
            yield from _meanings(inside)


def _listed(rules: Iterable[str]) -> Iterable[str]:
    return [rules] if isinstance(rules, str) else rules


def _pattern(glob: str) -> str:
    name = glob.strip().lower().rstrip(".")
    if name.startswith("[") and name.endswith("]") and ":" in name:
        name = name[1:-1]
    if not name or re.search(r"[\s/@]", name):
        shown = repr(glob) if "@" not in glob else "an entry"  # which may hold a password
        raise InvalidArgument(
            f"http_allowed_hosts: {shown} is not a glob for host names",
            remedy="write host names or addresses without scheme and port, such as *.example.org",
        )
    labels = [label if label.isascii() else ascii_host(label) for label in name.split(".")]
    return ".".join(labels)


def _network(cidr: str) -> Network:
    try:
        return ipaddress.ip_network(cidr.strip())
    except ValueError as exc:
        fault = f"http_denied_networks: {exc if '@' not in cidr else 'an entry is no network'}"
        raise InvalidArgument(fault, remedy="write networks such as 169.254.0.0/16") from None


class Client:
    """Reads images over HTTP through a transport."""

    def __init__(self, transport: Sender, *, strong_age: timedelta = _STRONG_AGE) -> None:
        """Use ``transport``, which the client closes; dates that old are strong validators."""
        self._transport = transport
        self._strong_age = strong_age

    def close(self) -> None:
        """Close the pooled connections."""
        self._transport.close()

    def open(self, url: Url, offset: int, length: int | None, *, if_version: str | None) -> Opened:
        """Open an image at ``offset``; the contract of ``Store._get``."""
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
        except BaseException:
            settle(response)
            raise
        return Opened(_pieces(response), size, version, response.raw.close)  # takes no lock

    def size(self, url: Url) -> int:
        """Return an image's size: by HEAD and, where that does not tell, by a one-byte range."""
        response = self._ask("HEAD", url, {})
        settle(response)
        status = response.status_code
        if status == HTTPStatus.OK and not _codings(response.headers):
            size = _declared(response.headers)
            if size is not None:
                return size
        elif status != HTTPStatus.OK and status not in _HEAD_REFUSED:
            raise status_error(status)
        return self._size_by_range(url)

    def _size_by_range(self, url: Url) -> int:
        response = self._ask("GET", url, {"Range": "bytes=0-0"})
        settle(response)
        headers, status, total = response.headers, response.status_code, None
        if status == HTTPStatus.OK:
            _refuse_codings(headers)
            total = _declared(headers)
        elif status == HTTPStatus.PARTIAL_CONTENT:
            match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
            total = int(match[3]) if match and match[3] != "*" else None
        elif status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            match = _UNSATISFIED_RANGE.fullmatch(headers.get("Content-Range", ""))
            total = int(match[1]) if match else None
        else:
            raise status_error(status)
        if total is None:
            raise Unsupported("the server does not tell the image's size")
        return total

    def _size_of_whole(self, response: requests.Response, url: Url) -> int:
        if response.status_code != HTTPStatus.OK:
            raise status_error(response.status_code)
        _refuse_codings(response.headers)
        size = _declared(response.headers)
        return self.size(url) if size is None else size

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
        size = self.size(url) if match[3] == "*" else int(match[3])
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
        if location.scheme not in _PORTS:
            raise StoreError(f"{url} redirects to the scheme {location.scheme}")
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
            response.raw.read1(left or 1)


def _pieces(response: requests.Response) -> Iterator[bytes]:
    while piece := response.raw.read(MIB, decode_content=False):
        yield piece


def _codings(headers: Mapping[str, str]) -> list[str]:
    """Return what was done to the body's bytes, other than chunking."""
    found = [("identity", name) for name in headers.get("Content-Encoding", "").split(",")]
    found += [("chunked", name) for name in headers.get("Transfer-Encoding", "").split(",")]
    names = [(plain, name.strip().lower()) for plain, name in found]
    return [name for plain, name in names if name not in {"", plain}]


def _refuse_codings(headers: Mapping[str, str]) -> None:
    found = _codings(headers)
    if found:
        raise Unsupported(
            f"the server encodes the image ({found[0][:40]!a}) although it was asked not to",
            remedy="make the server send it as it is",
        )


def _declared(headers: Mapping[str, str]) -> int | None:
    """Return the length of the body, None where it is not told in advance."""
    text = headers.get("Content-Length")
    if text is None or "Transfer-Encoding" in headers:
        return None
    if not _NUMBER.fullmatch(text.strip()):
        raise StoreError("the server sends a Content-Length that is not one number")
    return int(text)


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


def status_error(status: int) -> StoreError | InvalidRange:
    """Return the error for an HTTP status that is not a success."""
    try:
        phrase = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        phrase = str(status)
    reason = f"the server answers {phrase}"
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return InvalidRange(reason)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED:
        return Unavailable(reason)
    return _STATUS.get(status, StoreError)(reason)


_STATUS: Final[dict[int, type[StoreError]]] = {
    HTTPStatus.UNAUTHORIZED: PermissionDenied,
    HTTPStatus.FORBIDDEN: PermissionDenied,
    HTTPStatus.NOT_FOUND: NotFound,
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: PermissionDenied,
    HTTPStatus.REQUEST_TIMEOUT: Unavailable,
    HTTPStatus.GONE: NotFound,
    HTTPStatus.TOO_MANY_REQUESTS: Throttled,
    HTTPStatus.NOT_IMPLEMENTED: Unsupported,
}
