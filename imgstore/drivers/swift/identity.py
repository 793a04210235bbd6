"""Tokens: got from Keystone or Swift itself, or lent by the caller, and renewed in time."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http import HTTPStatus
from typing import Any, Final, Protocol, TypeAlias

from imgstore.drivers import _keystone
from imgstore.drivers._told import told
from imgstore.drivers.swift.accounts import Account
from imgstore.drivers.swift.errors import INSTALL, AnswerError, no_keystone
from imgstore.drivers.swift.settings import Settings
from imgstore.errors import ConfigError, PermissionDenied
from imgstore.process.shared import Shared
from imgstore.secret import Secret

_KEYSTONE: Final = "Keystone"
# A trust outlives what it is made for only where its process dies.
_TRUST_LIFE: Final = timedelta(days=7)
_NEW: Final = 1.0  # seconds


@dataclass(frozen=True)
class Login:
    """A token, the URL of the account that it opens, and when it expires (time.monotonic).

    ``made`` is when the store got it, long ago for one that a caller lends.
    """

    url: str
    token: str = field(repr=False)
    expires: float | None = None
    life: float = 0.0
    made: float = -math.inf

    def left(self) -> float:
        """Return for how many seconds it is valid."""
        return math.inf if self.expires is None else self.expires - time.monotonic()

    @property
    def is_new(self) -> bool:
        """Return whether it was made a moment ago, so that it cannot be over."""
        return time.monotonic() - self.made < _NEW


class Asker(Protocol):
    """Who asks."""

    @property
    def has_others(self) -> bool:
        """Return whether there are other tokens than the one that was shown."""

    def login(self, *, instead_of: Login | None = None) -> Login:
        """Return a token that does not expire soon; not ``instead_of``, which was refused."""

    def refused(self) -> PermissionDenied:
        """Return what to say when Swift refuses all there is."""

    def prolong(self) -> None:
        """Let there be tokens until ``end``, for a transfer that may take long."""

    def end(self) -> None:
        """Undo ``prolong``."""


class Tokens:
    """The logins of one account, for all threads: made with ``log_in``, and renewed in time."""

    has_others = True

    def __init__(self, log_in: Callable[[], Login], expires_soon: float) -> None:
        self._log_in = log_in
        self._expires_soon = expires_soon
        self._shared = Shared(self._made, is_good=self._is_young)
        self._last: Login | None = None

    def login(self, *, instead_of: Login | None = None) -> Login:
        """Return a login that does not expire soon; not ``instead_of``, which was refused."""
        try:
            return self._shared.get(instead_of=instead_of)
        except Exception:
            last = self._last
            if last is None or last is instead_of or last.left() <= 0:
                raise
            return last  # for as long as it lives

    def _made(self) -> Login:
        self._last = self._log_in()
        return self._last

    def _is_young(self, login: Login) -> bool:
        # Tokens that live for less than the interval are used for half of their lives.
        return login.left() >= min(self._expires_soon, login.life / 2)

    def refused(self) -> PermissionDenied:
        """Return what to say when Swift refuses the tokens."""
        return PermissionDenied(
            "Swift answers 401 Unauthorized",
            remedy="check that Swift accepts this Keystone's tokens",
        )

    def prolong(self) -> None:
        """Do nothing: there are tokens as long as there is a password."""

    def end(self) -> None:
        """Do nothing."""


_Logins: TypeAlias = tuple["Login | None", "Login | None"]


class Shown:
    """The tokens that one request shows; once they were refused others, as far as there are any."""

    def __init__(self, asker: Asker, service: Asker | None) -> None:
        self._asker = asker
        self._service = service
        # The asker's, and the service's.
        self._last: _Logins = None, None
        self._refused: _Logins = None, None

    def get(self) -> tuple[Login, dict[str, str]]:
        """Return the asker's login, and the headers that show all tokens."""
        user, service = self._refused
        if self._service is not None:
            service = self._service.login(instead_of=service)
        try:
            user = self._asker.login(instead_of=user)
        except PermissionDenied:  # with a valid one beside it, an expired token is good
            if user is None or service is None:
                raise
        self._last = user, service
        beside = {} if service is None else {"X-Service-Token": service.token}
        return user, {"X-Auth-Token": user.token, **beside}

    def refuse(self, failure: AnswerError) -> None:
        """Show other tokens from now on, once; raises what ``failure`` means if there are none.

        Swift says 401 of a token that is over, old gateways of Ceph 403, as of what is forbidden:
        then a token is not replaced that was made a moment ago, or is all that the asker has.
        """
        last, _ = self._last
        if failure.status == HTTPStatus.FORBIDDEN:
            is_over = self._asker.has_others and last is not None and not last.is_new
            if self._refused[0] is not None or not is_over:
                raise failure
        elif self._refused[0] is not None:
            raise self._asker.refused()
        self._refused = self._last


class Keystone:
    """Keystone as a store needs it; makes the tokens of one account."""

    def __init__(self, settings: Settings, account: Account, session: Any) -> None:
        self._settings = settings
        self._account = account
        self._session = session

    def log_in(self, **scope: str) -> Login:
        """Return a new token, of the account's project or of the trust in ``scope``."""
        return self._login(self._plugin(**scope).get_access(self._session))

    @property
    def makes_trusts(self) -> bool:
        """Return whether its user can use trusts, which Keystone lets only passwords do."""
        return self._account.key is not None

    @functools.cached_property
    def _user_id(self) -> str:
        return str(self._plugin().get_access(self._session).user_id)

    def _plugin(self, **scope: str) -> Any:
        account = self._account
        options: dict[str, str | Secret]
        if account.credential is not None:
            names = "application_credential_id", "application_credential_secret"
            options = dict(zip(names, account.credential, strict=True))
        else:
            project, user = account.names()
            options = {"username": user, "password": account.key or "", **account.domain("user")}
            scope = scope or {"project_name": project, **account.domain("project")}
        return _keystone.plugin(account.url, {**options, **scope}, install=INSTALL)

    def _login(self, found: Any) -> Login:
        settings = self._settings
        url = settings.endpoint_of(self._account) or endpoint_in(
            found.service_catalog.catalog, settings
        )
        now, life = datetime.now(timezone.utc), None
        if found.expires is not None:
            life = (found.expires - now).total_seconds()
        made = time.monotonic()
        expires = None if life is None else made + life
        return Login(url, found.auth_token, expires, life or 0.0, made)

    # What is done with a caller's token.

    def catalogue(self, token: str) -> Sequence[Mapping[str, Any]]:
        """Return the catalogue that belongs to a token."""
        return self._json("GET", "/auth/catalog", token).get("catalog") or []

    def trust(self, token: str) -> str:
        """Let the account's own user act for the caller; return the trust's id."""
        answer = self._json("GET", "/auth/tokens", token, subject=token)
        about = functools.partial(told, answer, "token", service=_KEYSTONE)
        expires = datetime.now(timezone.utc) + _TRUST_LIFE
        request = {
            "trustor_user_id": about("user", "id"),
            "trustee_user_id": self._user_id,
            "project_id": about("project", "id"),
            "impersonation": True,
            "roles": [
                {"id": told(role, "id", service=_KEYSTONE)} for role in about().get("roles") or ()
            ],
            # Keystone makes no two trusts that are alike to the microsecond.
            "expires_at": expires.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
        found = self._json("POST", "/OS-TRUST/trusts", token, body={"trust": request})
        return str(told(found, "trust", "id", service=_KEYSTONE))

    def end_trust(self, trust: str, token: str) -> None:
        """Remove a trust."""
        self._request("DELETE", f"/OS-TRUST/trusts/{trust}", token)

    def _json(self, *arguments: str, **options: Any) -> dict[str, Any]:
        answer = self._request(*arguments, **options)
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise no_keystone(f"answers {answer.status_code} without JSON")
        return found

    def _request(
        self, method: str, path: str, token: str, *, body: object = None, subject: str = ""
    ) -> Any:
        headers = {"X-Auth-Token": token, "Accept": "application/json"}
        if subject:
            headers["X-Subject-Token"] = subject
        # The session would log the body, and headers but for those that it knows to be secret.
        return self._session.request(
            f"{self._account.url}{path}",
            method,
            headers=headers,
            json=body,
            authenticated=False,
            log=False,
        )


def endpoint_in(catalogue: Iterable[Mapping[str, Any]], settings: Settings) -> str:
    """Return Swift's endpoint in a catalogue of Keystone's form v3 or v2; raises ConfigError."""
    found = _keystone.endpoint_in(
        catalogue,
        settings.service_type,
        settings.interface,
        region=settings.region,
        install=INSTALL,
    )
    if found is not None:
        return found
    place = f" in region {settings.region}" if settings.region else ""
    raise ConfigError(
        f"the catalogue has no {settings.interface} endpoint of {settings.service_type}{place}",
        remedy="check swift_store_service_type, swift_store_endpoint_type and swift_store_region, "
        "or set swift_store_endpoint",
    )
