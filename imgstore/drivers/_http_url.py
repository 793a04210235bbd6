"""Where a request goes: a URL that is taken apart once, and the rules for hosts and addresses.

Hosts and their rules, the socket, the Host header and what a proxy is told all come from one Url.
Its host is made of characters that no parser takes for a delimiter (RFC 3986, RFC 6874), so that
whatever parses the printed URL again finds the same host in it.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import quote, unquote

from imgstore.errors import InvalidArgument, InvalidLocation, PermissionDenied
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
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


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


class AddressGuard:
    """Which hosts may be asked, and which addresses may be connected to.

    ``allowed_hosts`` are globs for the host of a Url, without its zone; none allow all.
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
        name = host.partition("%")[0].rstrip(".")
        if self._allowed and not any(fnmatchcase(name, glob) for glob in self._allowed):
            raise PermissionDenied(
                f"no glob of http_allowed_hosts matches the host {name}",
                remedy="if images may be read from there, add it to http_allowed_hosts",
            )

    def check_proxied(self, url: Url) -> None:
        """Raise PermissionDenied where it is known here that a proxy must not connect to it.

        A name that only the proxy can resolve is up to the proxy. Raises InvalidLocation for a
        zone, which is a name of this host's interfaces.
        """
        if "%" in url.host:
            raise InvalidLocation("the URL's host has a zone, which a proxy cannot know")
        with contextlib.suppress(OSError):
            self.addresses(url.host, url.port)

    def addresses(self, host: str, port: int) -> list[str]:
        """Resolve a host, check every address it has, and return them.

        Raises PermissionDenied if a single one is denied, and OSError (``socket.gaierror``).
        """
        with contextlib.suppress(ValueError):  # an address, whatever the resolver makes of it
            self._check_address(host, ipaddress.ip_address(host))
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
