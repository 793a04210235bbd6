"""What the options of a VMware store mean."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any, Final

from imgstore.boundary.redaction import Redaction
from imgstore.boundary.settings import all_checked
from imgstore.drivers._placement import parse_weighted
from imgstore.drivers.vmware.options import OPTIONS
from imgstore.drivers.vmware.places import Datastore
from imgstore.errors import ConfigError, InvalidArgument
from imgstore.process.patience import Patience
from imgstore.secret import Secret

_PORT: Final = 443
# A name or an IPv4 address, or an IPv6 address in brackets; and a port.
_HOST: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[\w.-]+)(?::(?P<port>\d{1,5}))?")
_FORM: Final = "write <path of the datacenter>:<datastore>[:<weight>]"


@dataclass(frozen=True)
class Settings:
    """The checked options of one store; times in seconds."""

    host: str  # an IPv6 address without brackets
    port: int
    username: str
    password: Secret = field(repr=False)
    datastores: Sequence[tuple[Datastore, int]]  # with their weights
    directory: str  # without slashes at either end
    verify: bool | str
    retries: int
    poll_interval: float
    connect_timeout: float
    read_timeout: float
    redaction: Redaction = field(default_factory=Redaction, compare=False, repr=False)

    @property
    def patience(self) -> Patience:
        """Return how long requests are repeated whose failure may pass."""
        return Patience(0.1, 2.0, seconds=self.read_timeout, times=self.retries)

    @property
    def service(self) -> str:
        """Return ``host[:port]`` as locations have it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORT else f"{host}:{self.port}"


def read(values: Mapping[str, Any]) -> Settings:
    """Return what options mean that have the values of their types; raises ConfigError."""
    (host, port), username, password, datastores, directory = all_checked(
        lambda: _server(values),
        lambda: _needed(values, "server_username"),
        lambda: _needed(values, "server_password"),
        lambda: _datastores(values),
        lambda: _directory(values["store_image_dir"]),
    )
    return Settings(
        host=host,
        port=port,
        username=username,
        password=Secret(password),
        datastores=datastores,
        directory=directory,
        verify=values["ca_file"] or not values["insecure"],
        retries=values["api_retry_count"],
        poll_interval=values["task_poll_interval"],
        connect_timeout=values["connect_timeout"],
        read_timeout=values["read_timeout"],
    )


def _needed(values: Mapping[str, Any], keyword: str) -> Any:
    if not values[keyword]:
        raise ConfigError(f"{OPTIONS[keyword].name} is not set", remedy="set it")
    return values[keyword]


def _server(values: Mapping[str, Any]) -> tuple[str, int]:
    text = str(_needed(values, "server_host")).strip()
    try:
        return str(IPv6Address(text)), values["server_port"] or _PORT
    except ValueError:
        match = _HOST.fullmatch(text)
    if match is None or (match["port"] and not 0 < int(match["port"]) < 65536):
        # It is not quoted, for what stands before an "@" may be a password.
        raise ConfigError(
            "vmware_server_host is no host[:port]", remedy="write a name or an address"
        )
    host, port = match["host"].strip("[]"), int(match["port"] or 0)
    if port and values["server_port"] not in {None, port}:
        raise ConfigError(
            f"vmware_server_host has the port {port}, vmware_server_port is another one",
            remedy="write it in one of them",
        )
    return host, port or values["server_port"] or _PORT


def _datastores(values: Mapping[str, Any]) -> list[tuple[Datastore, int]]:
    listed, single = values["datastores"], values["datastore_name"]
    if bool(listed) == bool(single):
        what = "both" if single else "neither"
        raise ConfigError(
            f"vmware_datastores and vmware_datastore_name: {what} are set", remedy=f"{_FORM} once"
        )
    if single:
        return [(Datastore(values["datacenter_path"], single), 0)]
    try:
        found = [parse_weighted(text, fields=2) for text in listed]
    except InvalidArgument as exc:
        raise ConfigError(f"vmware_datastores: {exc.reason}", remedy=_FORM) from None
    datastores = [(Datastore(*each.parts), each.weight) for each in found]
    keys = [datastore.key for datastore, _ in datastores]
    for datastore, _ in datastores:
        if keys.count(datastore.key) > 1:
            raise ConfigError(
                f"vmware_datastores has {str(datastore)!a} more than once",
                remedy="list it once, with or without slashes",
            )
    return datastores


def _directory(text: str) -> str:
    parts = text.strip("/").split("/")
    if any(part in {"", ".", ".."} or set(part) & set("?#[]") for part in parts):
        raise ConfigError(
            f"vmware_store_image_dir is {text!a}",
            remedy="write the path of a directory, without '?', '#' and brackets",
        )
    return "/".join(parts)
