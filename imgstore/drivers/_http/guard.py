"""Which hosts may be asked, and which addresses connected to."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Final

from imgstore.boundary.settings import all_checked
from imgstore.drivers._http.urls import Url, ascii_host
from imgstore.errors import ConfigError, InvalidLocation, PermissionDenied

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class AddressGuard:
    """Which hosts may be asked, and which addresses may be connected to.

    ``allowed_hosts`` are globs for the host of a Url, without its zone; none allow all.
    ``denied_networks`` are CIDRs. An address stands also for the IPv4 address inside it (mapped,
    NAT64, 6to4), and the unspecified address for this host. Raises ConfigError for a bad rule.
    """

    def __init__(
        self, *, allowed_hosts: Iterable[str] = (), denied_networks: Iterable[str] = ()
    ) -> None:
        """Check and keep the rules."""
        self._allowed: tuple[str, ...]
        self._denied: tuple[Network, ...]
        self._allowed, self._denied = all_checked(
            lambda: tuple(_pattern(glob) for glob in allowed_hosts),
            lambda: tuple(_network(cidr) for cidr in denied_networks),
        )

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


def _pattern(glob: str) -> str:
    name = glob.strip().lower().rstrip(".")
    if name.startswith("[") and name.endswith("]") and ":" in name:
        name = name[1:-1]
    with contextlib.suppress(InvalidLocation):
        if name and not re.search(r"[\s/@]", name):
            labels = name.split(".")
            return ".".join(each if each.isascii() else ascii_host(each) for each in labels)
    shown = repr(glob) if "@" not in glob else "an entry"  # which may hold a password
    raise ConfigError(
        f"http_allowed_hosts: {shown} is not a glob for host names",
        remedy="write host names or addresses without scheme and port, such as *.example.org",
    )


def _network(cidr: str) -> Network:
    try:
        return ipaddress.ip_network(cidr.strip())
    except ValueError as exc:
        fault = f"http_denied_networks: {exc if '@' not in cidr else 'an entry is no network'}"
        raise ConfigError(fault, remedy="write networks such as 169.254.0.0/16") from None
