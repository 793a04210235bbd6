"""A read-only store for images that web servers hold."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Final

from oslo_config import cfg

from imgstore.boundary.settings import all_checked, check_ca_file, read_options
from imgstore.context import RequestContext
from imgstore.data.opened import Opened
from imgstore.drivers._http.connections import Transport
from imgstore.drivers._http.errors import classify
from imgstore.drivers._http.guard import AddressGuard
from imgstore.drivers._http.reading import Client
from imgstore.drivers._http.urls import INSTALL, Url
from imgstore.errors import ConfigError, ImgStoreError, InvalidLocation
from imgstore.location import Location
from imgstore.model import Capability, Ownership, Stat
from imgstore.process import lazy
from imgstore.process.per_process import PerProcess
from imgstore.store import Store

# Of clouds: link-local addresses, where most are, that of AWS over IPv6, and that of Alibaba Cloud.
_METADATA_SERVICES: Final = (
    "169.254.0.0/16",
    "fe80::/10",
    "fd00:ec2::254/128",
    "100.100.100.200/32",
)
_NO_PROXIES: Final[Mapping[str, str]] = MappingProxyType({})


class HttpStore(Store):
    """Images of any web server: ``http[s]://[user:password@]host[:port]/path[?query]``.

    ``ca_certificates_file`` is a PEM bundle to trust instead of requests' own, and makes
    ``insecure``, which trusts every server, have no effect. ``proxy_information`` maps a URL
    scheme to a proxy. Timeouts are in seconds. ``allowed_hosts`` are globs, none allow all;
    ``denied_networks`` are CIDRs no connection goes to. Raises ConfigError for bad values and
    DriverUnavailable without requests.
    """

    driver = "http"
    schemes = ("http", "https")
    sdk_loggers = ("urllib3.connection", "urllib3.connectionpool", "urllib3.util.retry")
    capabilities = Capability.READ | Capability.RANGES
    OPTIONS: ClassVar[Mapping[str, cfg.Opt]] = {
        "ca_certificates_file": cfg.StrOpt(
            "https_ca_certificates_file",
            help="Path of a PEM file with the certificate authorities that https servers are "
            "verified by. Unset, the bundle that comes with requests is used.",
        ),
        "insecure": cfg.BoolOpt(
            "https_insecure",
            default=False,
            help="Accept every https server without verifying its certificate. "
            "Has no effect where https_ca_certificates_file is set.",
        ),
        "proxy_information": cfg.DictOpt(
            "http_proxy_information",
            default={},
            help="Proxies as scheme:host:port or scheme:http://host:port, one for each of http "
            "and https. Unset, servers are asked directly; the environment is not looked at.",
        ),
        "connect_timeout": cfg.FloatOpt(
            "http_connect_timeout",
            default=10.0,
            min=0.001,
            help="Seconds that connecting to a server may take. "
            "The TLS handshake has the same time again.",
        ),
        "read_timeout": cfg.FloatOpt(
            "http_read_timeout",
            default=60.0,
            min=0.001,
            help="Seconds to wait for the head of an answer and for each piece of its body. "
            "A transfer that goes on may take as long as it needs.",
        ),
        "allowed_hosts": cfg.ListOpt(
            "http_allowed_hosts",
            default=[],
            help="Globs for the hosts that images may be read from, redirects included. "
            "Empty allows every host.",
        ),
        "denied_networks": cfg.ListOpt(
            "http_denied_networks",
            default=list(_METADATA_SERVICES),
            help="Networks in CIDR notation that are never connected to, whatever name led there. "
            "The default holds link-local addresses and the metadata services of AWS over IPv6 and "
            "of Alibaba Cloud.",
        ),
    }

    def __init__(
        self,
        name: str,
        *,
        ca_certificates_file: str | None = None,
        insecure: bool = False,
        proxy_information: Mapping[str, str] = _NO_PROXIES,
        connect_timeout: float = 10.0,
        read_timeout: float = 60.0,
        allowed_hosts: Sequence[str] = (),
        denied_networks: Sequence[str] = _METADATA_SERVICES,
        **common: Any,
    ) -> None:
        """Check the options; ``common`` are the keywords of Store."""
        given = read_options(self.OPTIONS, locals(), check=_meanings)
        super().__init__(name, **common)
        lazy.require("requests", "urllib3", install=INSTALL)
        guard, urls, _ = _meanings(given)
        transport = functools.partial(
            Transport,
            guard=guard,
            verify=given["ca_certificates_file"] or not given["insecure"],
            proxies=urls,
            connect_timeout=min(given["connect_timeout"], threading.TIMEOUT_MAX),
            read_timeout=min(given["read_timeout"], threading.TIMEOUT_MAX),
        )
        self._client = PerProcess(lambda: Client(transport()), Client.close)

    def owns(self, location: Location) -> Ownership:
        """Own nothing for certain: every http URL may be read."""
        return Ownership.MAYBE if location.scheme in self.schemes else Ownership.NO

    def _get(
        self,
        location: Location,
        offset: int,
        length: int | None,
        *,
        if_version: str | None,
        context: RequestContext | None,
    ) -> Opened:
        url = Url.of(location)
        return self._client.get().open(url, offset, length, if_version=if_version)

    def _stat(self, location: Location, *, context: RequestContext | None) -> Stat:
        return self._client.get().stat(Url.of(location))

    def _classify(self, exc: Exception) -> ImgStoreError | None:
        return classify(exc)

    def _close(self) -> None:
        self._client.close()


def _check_ca(path: str | None) -> None:
    if path is not None:
        check_ca_file("https_ca_certificates_file", path)


def _meanings(given: Mapping[str, Any]) -> list[Any]:
    """Return what options mean: a guard of addresses, and proxies by scheme; raises ConfigError."""
    hosts, networks = given["allowed_hosts"], given["denied_networks"]
    proxies = given["proxy_information"]
    return all_checked(
        lambda: AddressGuard(allowed_hosts=hosts, denied_networks=networks),
        lambda: {scheme: _proxy(scheme, proxy) for scheme, proxy in proxies.items()},
        lambda: _check_ca(given["ca_certificates_file"]),
    )


def _proxy(scheme: str, proxy: str) -> Url:
    """Return a proxy's URL; messages do not show it, for it may hold a password."""
    with contextlib.suppress(InvalidLocation):
        found = Location.parse(proxy if "://" in proxy else f"http://{proxy}")
        if {scheme, found.scheme} <= {"http", "https"}:
            return Url.of(found)
    # Where it was split in another way than meant, the scheme may be a part of the password.
    shown = scheme if scheme in {"http", "https"} else "another scheme than http and https"
    raise ConfigError(
        f"http_proxy_information: the entry for {shown} is not usable",
        remedy="write http:host:port or https:host:port, with http:// or https:// before the host "
        "if need be, and no line breaks or other control characters",
    )
