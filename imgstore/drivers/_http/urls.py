"""Where a request goes: a URL that is taken apart once.

Hosts and their rules, the socket, the Host header and what a proxy is told all come from one Url.
Its host is made of characters that no parser takes for a delimiter (RFC 3986, RFC 6874), so that
whatever parses the printed URL again finds the same host in it.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import socket
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, unquote

from imgstore.errors import InvalidLocation
from imgstore.location import Location
from imgstore.process import lazy
from imgstore.secret import Secret

INSTALL: Final = "imgstore[http]"

PORTS: Final = {"http": 80, "https": 443}

_AUTHORITY: Final = re.compile(r"(\[[^\]]*\]|[^:]*)(?::([0-9]{0,5}))?")
_HOST: Final = re.compile(r"(?=.{1,254}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
_LITERAL: Final = re.compile(r"\[([0-9A-Fa-f:.]+)(?:%25([A-Za-z0-9._~-]+))?\]")
# What inet_aton(3), and with it every resolver, takes for an IPv4 address or a part of one.
_NUMERIC: Final = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*\.?")
_LEGAL: Final = "!#$%&'()*+,/:;=?@[]~"


@dataclass(frozen=True)
class Url:
    """An http or https URL, decoded as far as a request needs it.

    ``host`` is in ASCII and lower case, without brackets; numbers that stand for an IPv4 address
    are written as one. ``target`` is path and query as they were written; only what may not stand
    in a request line is percent-encoded.
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
        port = int(match[2] or PORTS[location.scheme])
        if not 0 < port < 65536:
            raise InvalidLocation(f"there is no port {port}")
        return cls(
            scheme=location.scheme,
            host=_literal(match[1]) if match[1].startswith("[") else _named(match[1]),
            port=port,
            target=quote(target if target.startswith("/") else f"/{target}", safe=_LEGAL),
            authorization=_basic(location.credentials),
        )

    @property
    def origin(self) -> str:
        """Return scheme, host and port: credentials stay with these three."""
        return f"{self.scheme}://{_bracketed(self.host.rstrip('.'))}:{self.port}"

    @property
    def literal(self) -> str:
        """Return the host, in brackets and with its zone encoded where it is an IPv6 address."""
        return _bracketed(self.host)

    @property
    def host_field(self) -> str:
        """Return the Host field; a zone (RFC 6874 4) and a final dot mean nothing elsewhere."""
        return _bracketed(self.host.partition("%")[0].rstrip(".")) + self._port

    @property
    def text(self) -> str:
        """Return the whole URL without credentials; its query may be a signature."""
        return f"{self.scheme}://{self.literal}{self._port}{self.target}"

    @property
    def _port(self) -> str:
        return "" if self.port == PORTS[self.scheme] else f":{self.port}"

    def __str__(self) -> str:
        """Return the origin, which is fit for messages."""
        return self.origin


def _bracketed(host: str) -> str:
    return f"[{host.replace('%', '%25')}]" if ":" in host else host


def ascii_host(host: str) -> str:
    """Return a host name in lower case and ASCII (IDNA), its final dot kept.

    Raises InvalidLocation for what is not a host name.
    """
    name = host.lower()
    if not host.isascii() and len(host) < 255:  # of which every character becomes one or more
        idna = lazy.load("idna", install=INSTALL)
        try:
            name = idna.encode(host, uts46=True).decode("ascii")
        except idna.IDNAError:
            name = ""
    if not _HOST.fullmatch(name):
        raise InvalidLocation("the URL's host is not a host name or address")
    return name


def _named(text: str) -> str:
    """Return a host name, or an IPv4 address in its usual form.

    0x7f.1 and 2130706433 are 127.0.0.1 for one resolver, and names or something else for another.
    """
    name = ascii_host(text)
    if not _NUMERIC.fullmatch(name):
        return name
    try:
        return socket.inet_ntoa(socket.inet_aton(name.removesuffix(".")))
    except OSError:
        raise InvalidLocation("the URL's host is a number, but no IPv4 address") from None


def _literal(text: str) -> str:
    """Return an IPv6 address without brackets, its zone (RFC 6874) behind a plain ``%``."""
    match = _LITERAL.fullmatch(text)
    try:
        address = str(ipaddress.IPv6Address(match[1])) if match else ""
    except ValueError:
        address = ""
    if match is None or not address:
        raise InvalidLocation("the URL's host is not an IPv6 address")
    return f"{address}%{match[2]}" if match[2] else address


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
