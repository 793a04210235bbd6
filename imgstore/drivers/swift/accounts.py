"""Whose account: what a reference file, the options or an old location say of it."""

from __future__ import annotations

import configparser
import dataclasses
import difflib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from imgstore.drivers._keystone import v3_of
from imgstore.errors import ConfigError
from imgstore.location import Location, same_service
from imgstore.secret import Secret

LOG = logging.getLogger(__name__)

_DOMAINS: Final = ("user_domain_id", "user_domain_name", "project_domain_id", "project_domain_name")
CREDENTIALS: Final = ("user", "key", "application_credential_id", "application_credential_secret")
# What a section may have; names of projects have no effect there.
_KEYS: Final = sorted(
    {"auth_version", "auth_address", "project_name", "project_id", *CREDENTIALS, *_DOMAINS}
)
# Names of keys have several words. Another text may be a line of a secret that has several.
_SHOWN: Final = re.compile(r"(?=.{1,64}$)[a-z][a-z0-9]*(?:_[a-z0-9]+)+")
_REMEDY: Final = (
    "give auth_address, and user with key or application_credential_id with "
    "application_credential_secret"
)


@dataclass(frozen=True)
class Account:
    """Where and as whom tokens are got; ``address`` is as it was configured.

    ``user`` is ``project:user``, of version 1 ``account:user``. With neither ``key`` nor
    ``credential`` the caller's context says who asks.
    """

    address: str
    version: str = "3"
    user: Secret | None = None
    key: Secret | None = None
    credential: tuple[Secret, Secret] | None = None
    domains: tuple[tuple[str, str], ...] = field(default=())

    @property
    def is_plain(self) -> bool:
        """Return whether the address is one of http; without a scheme it is https."""
        return self.address.startswith("http://")

    @property
    def service(self) -> str:
        """Return ``host[:port][/path]``, as locations have it."""
        return self.address.removeprefix("http://").removeprefix("https://").strip("/")

    @property
    def scheme(self) -> str:
        """Return the scheme of its locations."""
        return "swift+http" if self.is_plain else "swift+https"

    @property
    def url(self) -> str:
        """Return where tokens are got."""
        url = f"{'http' if self.is_plain else 'https'}://{self.service}"
        if self.version == "1":
            return url
        return v3_of(url)

    @property
    def has_credentials(self) -> bool:
        """Return whether tokens can be got without a caller's context."""
        return self.key is not None or self.credential is not None

    @property
    def is_complete(self) -> bool:
        """Return whether credentials, if there are any, are whole."""
        if self.user is None:
            return True
        return ":" in self.user.reveal() and bool(self.key and self.key.reveal())

    def names(self) -> tuple[str, str]:
        """Return project and user; raises ConfigError."""
        text = self.user.reveal() if self.user else ""
        project, colon, user = text.partition(":")
        if not (project and colon and user):
            raise ConfigError("the user is not of the form project:user", remedy="give both")
        return project, user

    def domain(self, whose: str) -> dict[str, str]:
        """Return the domain of the "user" or the "project"; its id is "default" by default."""
        given = {name: value for name, value in self.domains if name.startswith(f"{whose}_")}
        return given or {f"{whose}_domain_id": "default"}


def check_credential(name: str, value: str | Secret | None, *, version: str = "3") -> None:
    """Raise ConfigError, which does not quote it, for a credential that was read with a newline.

    Version 1 sends it in a header, which cannot end with a blank either.
    """
    text = Secret(value or "").reveal()
    if not text.isprintable() or (version == "1" and text != text.strip()):
        raise ConfigError(
            f"{name} holds characters that no credential has, such as a newline at its end",
            remedy="look at the file or variable that it comes from",
        )


def account_of(given: Mapping[str, Any], *, version: str) -> Account:
    """Return the account that options or a section describe; raises ConfigError."""
    address = _address(given.get("auth_address"))
    for name in CREDENTIALS:
        check_credential(name, given.get(name), version=version)
    credential = _pair(given, CREDENTIALS[2:], "half of an application credential is missing")
    if credential and version == "1":
        raise ConfigError("application credentials are Keystone's", remedy="use auth_version 3")
    fault = "one of user and key is set without the other"
    password = None if credential else _pair(given, CREDENTIALS[:2], fault)
    user, key = password or (None, None)
    domains = tuple((name, given[name]) for name in _DOMAINS if given.get(name))
    account = Account(address, version, user, key, credential, domains)
    if key and version == "3":
        account.names()
    return account


def _pair(
    given: Mapping[str, Any], names: Sequence[str], fault: str
) -> tuple[Secret, Secret] | None:
    """Return two options that are of use only together, None if neither is set."""
    one, other = (given.get(name) for name in names)
    if bool(one) != bool(other):
        raise ConfigError(fault, remedy=_REMEDY)
    return (Secret(one), Secret(other)) if one and other else None


def _address(given: object) -> str:
    text = str(given or "").strip()
    if not text:
        raise ConfigError("there is no auth_address", remedy=_REMEDY)
    scheme, separator, rest = text.rpartition("://")
    if not is_service(f"{scheme or 'https'}://{rest}"):
        # It is not quoted, for what stands before an "@" may be a password.
        raise ConfigError(
            "auth_address is not the URL of a service",
            remedy="write https://host:5000/v3, without user, '?' and '#'",
        )
    return f"{scheme.lower()}{separator}{rest}"


def is_service(text: str) -> bool:
    """Return whether text is a service's URL without credentials, which a location can hold."""
    try:
        parts = urlsplit(text)
        is_whole = bool(parts.hostname and parts.port != 0)
    except ValueError:
        return False
    is_plain = text.isprintable() and not set("@?# ") & set(text)
    return is_whole and is_plain and parts.scheme.lower() in {"http", "https"}


def references(path: str) -> dict[str, Account]:
    """Return the accounts of a reference file by their names; raises ConfigError.

    A section that lacks something is left out with a warning, as its siblings are of use.
    """
    parser = _parsed(path)
    found = {}
    for name in parser.sections():
        try:
            if set("/@?#") & set(name):
                raise ConfigError("no location can name it", remedy="call it otherwise")
            found[name] = _section(dict(parser[name]))
        except ConfigError as exc:
            LOG.warning("%s: the reference %r is left out: %s", path, name, exc)
    return found


def unread_in(path: str) -> Iterator[ConfigError]:
    """Yield the keys of a reference file that no account has; nothing of a file that is none."""
    try:
        parser = _parsed(path)
    except ConfigError:
        return
    shared = parser.defaults()
    groups = {parser.default_section: list(shared)}
    groups |= {
        name: [key for key in parser[name] if key not in shared] for name in parser.sections()
    }
    for name, keys in groups.items():
        for key in keys:
            if key not in _KEYS:
                near = next(iter(difflib.get_close_matches(key, _KEYS, 1, 0.75)), "")
                shown = key if near or _SHOWN.fullmatch(key) else "a key"
                reason = f"swift_store_config_file {path}: [{name}] {shown}"
                yield ConfigError(
                    f"{reason}: no reference has such a key",
                    remedy=f"did you mean {near}?" if near else "remove it",
                )


def _parsed(path: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file)
    except OSError as exc:
        raise ConfigError(
            f"swift_store_config_file {path} cannot be read: {exc.strerror or exc}",
            remedy="give the path of a file with a section for each account",
        ) from exc
    except (configparser.Error, UnicodeDecodeError) as exc:
        # The parser's own words quote lines, which may hold a password.
        raise ConfigError(
            f"swift_store_config_file {path} is not an INI file: {type(exc).__name__}",
            remedy="write [reference] and name = value, one a line",
        ) from None
    return parser


def _section(values: Mapping[str, str]) -> Account:
    given = {name: _unquoted(name, value) for name, value in values.items()}
    version = version_of(given.get("auth_version") or "3")
    account = account_of(given, version=version)
    if not account.has_credentials:
        raise ConfigError("there are no credentials", remedy=_REMEDY)
    return account


def version_of(text: str, *, name: str = "auth_version") -> str:
    """Return 1 or 3 for what was ever written for an auth version; raises ConfigError."""
    kind = {"1": "1", "1.0": "1", "2": "3", "2.0": "3", "3": "3", "3.0": "3"}.get(text.strip())
    if kind is None:
        raise ConfigError(f"{name} is {text!a}", remedy="write 3, or 1")
    return kind


def _unquoted(name: str, value: str) -> str:
    if not value.isprintable():  # a line that is indented goes on the one before
        raise ConfigError(f"{name} has several lines, or a control character in it")
    if value[:1] in {'"', "'"}:
        if len(value) < 2 or value[-1] != value[0]:
            raise ConfigError(f"the quote that {name} begins with is not closed")
        return value[1:-1]
    return value


def account_in(
    location: Location, service: str, accounts: Mapping[str, Account], default: str
) -> Account | None:
    """Return the account that a location of an authentication service means.

    That is one of the store's own with this address, by preference the one of the same user, or
    the default one; else, at an address of the store's own, the account that an old location's
    credentials name. None for other addresses: nothing is ever sent there.
    """
    first = {default: accounts[default]} if default in accounts else {}
    # Whatever the version of the API in the address.
    own = [
        each
        for each in {**first, **accounts}.values()
        if same_service(v3_of(each.service), v3_of(service))
    ]
    return account_named(location, own) if own else None


def account_named(location: Location, own: Sequence[Account]) -> Account:
    """Return the account of ``own``, or at the address of its first, that a location names."""
    user, key = _named(location)
    same = [each for each in own if each.user and each.user.reveal() == user]
    has_users = any(each.user for each in own) or not any(each.credential for each in own)
    if same or not user or not has_users:
        return (same or own)[0]
    return dataclasses.replace(own[0], user=Secret(user), key=Secret(key), credential=None)


def _named(location: Location) -> tuple[str, str]:
    """Return user and key of an old location, which has both percent-encoded; "" for neither."""
    if location.credentials is None:
        return "", ""
    text = location.credentials.reveal()
    # project:user:key; the colon between project and user may be encoded, one in a key may not.
    if "%3A" in text.partition(":")[0].upper():
        user, _, key = text.partition(":")
    else:
        project, _, rest = text.partition(":")
        name, colon, key = rest.partition(":")
        user, key = (f"{project}:{name}", key) if colon else (project, name)
    return unquote(user), unquote(key)
