"""What the options of a Cinder store mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from imgstore.boundary.redaction import Redaction
from imgstore.boundary.settings import all_checked, is_web_url
from imgstore.drivers.cinder.options import OPTIONS
from imgstore.errors import ConfigError
from imgstore.process.patience import Patience
from imgstore.secret import Secret

_INTERFACES: Final = frozenset({"public", "internal", "admin"})
_FIRST_LOOK: Final = 0.05  # seconds until a volume is first looked at; then twice as many
USER: Final = ("auth_address", "user_name", "password", "project_name")
_APPLICATION: Final = (
    "auth_address",
    "application_credential_id",
    "application_credential_secret",
)


@dataclass(frozen=True)
class Credentials:
    """The store's own: a user in a project, or an application credential."""

    auth_address: str
    options: Mapping[str, str | Secret] = field(repr=False)  # as keystoneauth1 names them


@dataclass(frozen=True)
class Catalog:
    """Where a service catalog has Cinder."""

    service_type: str
    name: str | None
    interface: str
    region: str | None


@dataclass(frozen=True)
class Settings:
    """The checked options of one store; sizes in GiB, times in seconds."""

    credentials: Credentials | None  # None: the caller's
    incomplete: tuple[str, ...]  # options of credentials that are missing beside others
    catalog: Catalog
    endpoint_template: str | None
    verify: bool | str
    retries: int
    patience: Patience  # with a volume that is created, extended or deleted
    volume_type: str | None
    multipath: bool
    enforces_multipath: bool
    own_address: str | None  # None: that by which Cinder is reached
    mounts: str
    extends_attached: bool
    attachment_attempts: int
    initial_size: int
    extend_step: int
    waits_for_delete: bool
    lock_path: str | None = None
    redaction: Redaction = field(default_factory=Redaction, compare=False, repr=False)

    def next_size(self, size: int) -> int:
        """Return what a volume of ``size`` is extended to."""
        return size + max(1, size * self.extend_step // 100)


def read(values: Mapping[str, Any], *, lock_path: str | None = None) -> Settings:
    """Return what the options mean, by the keywords of ``OPTIONS``; raises ConfigError."""
    credentials, catalog, template = all_checked(
        lambda: _credentials(values),
        lambda: _catalog(values),
        lambda: _template(values["endpoint_template"]),
    )
    return Settings(
        credentials=credentials,
        incomplete=() if credentials else _missing(values),
        catalog=catalog,
        endpoint_template=template,
        verify=not values["api_insecure"] and (values["ca_certificates_file"] or True),
        retries=values["http_retries"],
        patience=Patience(
            min(_FIRST_LOOK, values["poll_interval"]),
            values["poll_interval"],
            seconds=values["state_transition_timeout"],
        ),
        volume_type=values["volume_type"] or None,
        multipath=values["use_multipath"],
        enforces_multipath=values["enforce_multipath"],
        own_address=values["my_ip"],
        mounts=values["mount_point_base"],
        extends_attached=values["do_extend_attached"],
        attachment_attempts=values["attachment_retry_attempts"],
        initial_size=values["initial_size"],
        extend_step=values["extend_step"],
        waits_for_delete=values["wait_for_delete"],
        lock_path=lock_path,
    )


def _credentials(values: Mapping[str, Any]) -> Credentials | None:
    address = values["auth_address"]
    if address and not is_web_url(address):
        # It is not quoted, for what stands before an "@" may be a password.
        raise ConfigError(
            "cinder_store_auth_address is no URL of a service",
            remedy="write the URL of Keystone, without user and password: https://…/v3",
        )
    if all(values[keyword] for keyword in _APPLICATION):
        named = {keyword: values[keyword] for keyword in _APPLICATION[1:]}
        return Credentials(address, named)
    if all(values[keyword] for keyword in USER):
        named = {
            "username": values["user_name"],
            "password": values["password"],
            "project_name": values["project_name"],
            "user_domain_name": values["user_domain_name"],
            "project_domain_name": values["project_domain_name"],
        }
        return Credentials(address, named)
    return None


def _missing(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the options without which others have no effect; glance_store ignores them, too."""
    kinds = (_APPLICATION, USER)
    wanted = next((kind for kind in kinds if any(values[each] for each in kind[1:])), ())
    if not wanted and values["auth_address"]:
        wanted = USER
    return tuple(OPTIONS[each].name for each in wanted if not values[each])


def _catalog(values: Mapping[str, Any]) -> Catalog:
    text = values["catalog_info"]
    parts = text.split(":")
    interface = parts[-1].removesuffix("URL")
    if len(parts) != 3 or not parts[0] or interface not in _INTERFACES:
        raise ConfigError(
            f"cinder_catalog_info is {text!a}", remedy="write <type>:<name>:<interface>"
        )
    service_type = "volumev3" if parts[0] == "volumev2" else parts[0]
    return Catalog(service_type, parts[1] or None, interface, values["os_region_name"] or None)


def _template(text: str | None) -> str | None:
    if not text:
        return None
    names = ("tenant", "tenant_id", "project_id", "user_id")
    try:
        url = text % dict.fromkeys(names, "x")
    except (KeyError, TypeError, ValueError, OverflowError):
        url = ""
    if not is_web_url(url):
        raise ConfigError(
            "cinder_endpoint_template is no URL with %(tenant)s or nothing in it",
            remedy="write such as https://cinder.example.org/v3/%(tenant)s, without user and "
            "password",
        )
    return text
