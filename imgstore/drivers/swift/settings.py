"""What the options of a Swift store mean."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from imgstore.boundary.arguments import OWN
from imgstore.boundary.redaction import Redaction
from imgstore.boundary.settings import all_checked
from imgstore.data.units import MIB
from imgstore.drivers.swift.accounts import (
    CREDENTIALS,
    Account,
    account_of,
    check_credential,
    is_service,
    references,
    version_of,
)
from imgstore.drivers.swift.options import MB, OPTIONS
from imgstore.errors import ConfigError

SERVICE: Final = "Swift"
SEGMENTS: Final = "_segments"  # what the name of a container for segments ends with
CLAIM: Final = f"{OWN}claim-"
CHECK: Final = f"{OWN}check-"
TOKEN: Final = "X-Object-Meta-Imgstore-Add"  # noqa: S105  # a header: whose object it is
# https://docs.openstack.org/swift/latest/api/object_api_v1_overview.html: 256 bytes of UTF-8.
MAX_CONTAINER: Final = 256
LONGEST_PAUSE: Final = 16.0  # between two attempts, in seconds
_IDS: Final = 1 + 36  # what is put after it: "_" and a UUID, or fewer characters of one
_LONGEST: Final = MAX_CONTAINER - _IDS - len(SEGMENTS)


@dataclass(frozen=True)
class Settings:
    """The checked options of one store; sizes in bytes, times in seconds."""

    accounts: Mapping[str, Account]
    default: str  # the name of the account that takes new images
    has_references: bool
    container: str
    creates_container: bool
    seed: int
    multi_tenant: bool
    admins: tuple[str, ...]
    use_trusts: bool
    send_service_token: bool
    region: str | None
    endpoint: str | None
    interface: str
    service_type: str
    verify: bool | str
    large: int
    segment: int
    static: bool
    workers: int
    memory: int
    get_workers: int
    attempts: int
    connect_timeout: float
    read_timeout: float
    expires_soon: float
    redaction: Redaction = field(default_factory=Redaction, compare=False, repr=False)

    @property
    def account(self) -> Account | None:
        """Return the account that takes new images, None if the callers' do."""
        return self.accounts.get(self.default)

    @property
    def lease(self) -> int:
        """Return how long a claim holds: twice what a commit takes at the most."""
        attempt = self.connect_timeout + self.read_timeout
        return int(2 * self.attempts * (attempt + LONGEST_PAUSE)) + 1

    def endpoint_of(self, account: Account) -> str | None:
        """Return the endpoint that is set; it is that of the account that takes new images."""
        return self.endpoint if account == self.account else None

    def container_of(self, image_id: str) -> str:
        """Return the container for an image, as glance_store names it."""
        if self.multi_tenant:
            return f"{self.container}_{image_id}"
        if not self.seed:
            return self.container
        text = image_id.lower()
        dashes = text[: self.seed].count("-")
        return f"{self.container}_{text[: self.seed + dashes]}"


def read(given: Mapping[str, Any]) -> Settings:
    """Return what the options mean, by the keywords of ``OPTIONS``; raises ConfigError."""
    values = dict(given)
    with suppress(ConfigError):  # which the accounts raise
        values["auth_version"] = _version(given)
    accounts, container, endpoint, _ = all_checked(
        lambda: _checked_accounts(values),
        lambda: _container(values),
        lambda: _endpoint(values["endpoint"]),
        lambda: _check_tenancy(values),
    )
    has_references = values["config_file"] is not None
    return Settings(
        accounts=accounts,
        default=values["default_swift_reference"] if has_references else "",
        has_references=has_references,
        container=container,
        creates_container=values["create_container_on_put"],
        seed=values["multiple_containers_seed"],
        multi_tenant=values["multi_tenant"],
        admins=tuple(values["admin_tenants"]),
        use_trusts=values["use_trusts"],
        send_service_token=values["send_service_token"],
        region=values["region"] or None,
        endpoint=endpoint,
        interface=values["endpoint_type"].removesuffix("URL"),
        service_type=values["service_type"],
        verify=not values["auth_insecure"] and (values["cacert"] or True),
        large=values["large_object_size"] * MB,
        segment=values["large_object_chunk_size"] * MB,
        static=values["large_object_type"] == "slo",
        workers=values["upload_workers"],
        memory=values["upload_memory"] * MIB,
        get_workers=values["get_workers"],
        attempts=values["max_attempts"],
        connect_timeout=values["connect_timeout"],
        read_timeout=values["read_timeout"],
        expires_soon=values["expire_soon_interval"],
    )


def _accounts(values: Mapping[str, Any]) -> dict[str, Account]:
    """Return the accounts by reference; "" is the one that the options describe."""
    path = values["config_file"]
    if path is not None:
        found = references(path)
        default = values["default_swift_reference"]
        if default not in found:
            raise ConfigError(
                f"swift_store_config_file {path} has no usable section [{default}]",
                remedy="complete it, or set default_swift_reference to another one",
            )
        return found
    if not values["auth_address"]:
        if values["multi_tenant"]:
            return {}
        raise ConfigError(
            "neither swift_store_config_file nor swift_store_auth_address is set",
            remedy="name the reference file",
        )
    try:
        account = account_of(values, version=values["auth_version"])
    except ConfigError as exc:
        raise ConfigError(f"swift_store_…: {exc.reason}", remedy=exc.remedy) from None
    if not account.has_credentials and not values["multi_tenant"]:
        raise ConfigError(
            "there are no credentials for swift_store_auth_address",
            remedy="set swift_store_user and swift_store_key, or an application credential",
        )
    return {"": account}


def _version(values: Mapping[str, Any]) -> str:
    return version_of(values["auth_version"], name=OPTIONS["auth_version"].name)


def _checked_accounts(values: Mapping[str, Any]) -> dict[str, Account]:
    all_checked(
        lambda: _version(values),
        *(partial(check_credential, OPTIONS[each].name, values[each]) for each in CREDENTIALS),
    )
    return _accounts(values)


def _container(values: Mapping[str, Any]) -> str:
    name: str = values["container"]
    is_sound = name.isprintable() and not set("/@?#") & set(name) and name not in {"", ".", ".."}
    if not is_sound or len(name.encode()) > _LONGEST:
        raise ConfigError(
            f"swift_store_container is {name!a}",
            remedy=f"write a name without '/', '@', '?' and '#', of at most {_LONGEST} bytes",
        )
    return name


def _endpoint(text: str | None) -> str | None:
    if not text:
        return None
    if not is_service(text) or not urlsplit(text).path.strip("/"):
        # It is not quoted, for what stands before an "@" may be a password.
        raise ConfigError(
            "swift_store_endpoint is not the URL of an account",
            remedy="write the URL of the account: https://host/v1/AUTH_account",
        )
    return text.rstrip("/")


def _check_tenancy(values: Mapping[str, Any]) -> None:
    if not values["multi_tenant"]:
        return
    if values["config_file"]:
        raise ConfigError(
            "swift_store_multi_tenant and swift_store_config_file are both set",
            remedy="keep one of them: images lie in the users' accounts, or in the store's",
        )
    if values["auth_address"] and values["auth_version"] == "1":
        raise ConfigError(
            "swift_store_multi_tenant needs Keystone, and swift_store_auth_version is 1",
            remedy="set swift_store_auth_version to 3",
        )
    if values["multiple_containers_seed"]:
        raise ConfigError(
            "swift_store_multi_tenant and swift_store_multiple_containers_seed are both set",
            remedy="leave the latter out: each image has a container of its own",
        )
    has_user = values["key"] or values["application_credential_secret"]
    if values["send_service_token"] and not (has_user and values["auth_address"]):
        raise ConfigError(
            "swift_store_send_service_token is set, but the store has no user",
            remedy="set swift_store_auth_address, swift_store_user and swift_store_key",
        )
