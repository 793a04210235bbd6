"""Callers of a multi-tenant store: their tokens, accounts and trusts."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from urllib.parse import urlsplit

from imgstore.boundary.translation import describe
from imgstore.context import RequestContext
from imgstore.drivers._keystone import check_sendable
from imgstore.drivers.swift.client import Caller, Client
from imgstore.drivers.swift.errors import classify
from imgstore.drivers.swift.identity import Asker, Keystone, Login, Tokens, endpoint_in
from imgstore.errors import (
    ConfigError,
    InvalidArgument,
    OutsideStore,
    PermissionDenied,
    Unsupported,
)
from imgstore.location import same_service

LOG = logging.getLogger(__name__)


class Tenants:
    """Makes callers of requests' contexts; ``service`` are the store's own tokens, if any."""

    def __init__(self, client: Client, keystone: Keystone | None, service: Asker | None) -> None:
        self._client = client
        self._keystone = keystone
        self._own = service

    def caller(
        self,
        context: RequestContext | None,
        *,
        base: str | None = None,
        is_former: bool = False,
    ) -> Caller:
        """Return who acts for a context, in its own account or that of a location.

        With ``is_former`` the location's host is a former one of the same Swift.

        Raises InvalidArgument without a token, OutsideStore for another Swift's location.
        """
        login, url = self._login(context), None
        if base is not None:
            own = urlsplit(login.url)
            host, _, path = base.rstrip("/").partition("/")
            if not (is_former or same_service(own.netloc, host)) or not path:
                raise OutsideStore(
                    "the location lies in another Swift than the user's token is for",
                    remedy="check swift_store_endpoint, swift_store_region and the catalogue",
                )
            url = f"{own.scheme}://{own.netloc}/{path}"
        service = self._own if self._client.settings.send_service_token else None
        return Caller(self._client, Loan(login, self._trust), url=url, service=service)

    def _login(self, context: RequestContext | None) -> Login:
        if context is None or context.auth_token is None:
            raise InvalidArgument(
                "images lie in the accounts of users, and no user asks",
                remedy="pass context=, with a token of the user's",
            )
        token, settings = context.auth_token.reveal(), self._client.settings
        check_sendable(token)
        if settings.endpoint is not None:
            return Login(settings.endpoint, token)
        catalogue = context.service_catalog
        if catalogue is None:
            keystone = self._keystone
            if keystone is None:
                raise ConfigError(
                    "the context has no service catalogue, and the store no Keystone",
                    remedy="pass service_catalog, or set swift_store_auth_address",
                )
            try:
                catalogue = self._client.repeated(lambda: keystone.catalogue(token))
            except Exception as exc:
                if isinstance(classify(exc), PermissionDenied):
                    raise _refused() from exc
                raise
        try:
            url = endpoint_in(catalogue, settings)
        except (AttributeError, TypeError, Unsupported):
            raise InvalidArgument(
                "the service catalogue is none of Keystone's",
                remedy="pass the catalog that came with the token, or none",
            ) from None
        return Login(url, token)

    def _trust(self, login: Login) -> Trust | None:
        """Let the store's own user act for a caller; return None where it may not."""
        keystone = self._keystone
        if keystone is None or not keystone.makes_trusts or not self._client.settings.use_trusts:
            return None
        try:
            return Trust(keystone, login, self._client.settings.expires_soon)
        except Exception as exc:
            LOG.warning("no trust was made, the user's own token is used: %s", describe(exc))
            return None


class Trust:
    """A trust of Keystone that lets the store's own user act for a caller."""

    def __init__(self, keystone: Keystone, login: Login, expires_soon: float) -> None:
        """Make it."""
        self._keystone = keystone
        self._login = login
        self._last: Login | None = None
        self._id = keystone.trust(login.token)
        self._tokens = Tokens(self._log_in, expires_soon)

    def _log_in(self) -> Login:
        return dataclasses.replace(self._keystone.log_in(trust_id=self._id), url=self._login.url)

    def login(self, *, instead_of: Login | None) -> Login:
        """Return a token of the trust, for the caller's account."""
        self._last = self._tokens.login(instead_of=instead_of)
        return self._last

    def end(self) -> None:
        """Remove it; best effort, for it expires."""
        for login in filter(None, (self._login, self._last)):
            try:
                self._keystone.end_trust(self._id, login.token)
            except Exception as exc:
                LOG.debug("removing a trust: %s", describe(exc))
            else:
                return
        try:
            self._keystone.end_trust(self._id, self.login(instead_of=self._last).token)
        except Exception as exc:
            LOG.warning("a trust could not be removed, it ends in a week: %s", describe(exc))


class Loan:
    """The token of a caller, which nobody else can renew; with a trust, its tokens after it."""

    def __init__(self, login: Login, make_trust: Callable[[Login], Trust | None]) -> None:
        self._login = login
        self._make_trust = make_trust
        self._trust: Trust | None = None
        self._is_refused = False

    @property
    def has_others(self) -> bool:
        """Return whether there is a trust."""
        return self._trust is not None

    def login(self, *, instead_of: Login | None = None) -> Login:
        """Return a token that is not ``instead_of``; raises PermissionDenied."""
        trust = self._trust
        if instead_of is self._login:
            if trust is None:
                raise self.refused()
            self._is_refused, instead_of = True, None
        if not self._is_refused or trust is None:
            return self._login
        return trust.login(instead_of=instead_of)

    def refused(self) -> PermissionDenied:  # as the protocol has it
        """Return what to say when Swift refuses the token."""
        return _refused()

    def prolong(self) -> None:
        """Make a trust, if that may be."""
        if self._trust is None:
            self._trust = self._make_trust(self._login)

    def end(self) -> None:
        """Remove the trust."""
        trust, self._trust = self._trust, None
        if trust is not None:
            trust.end()


def _refused() -> PermissionDenied:
    return PermissionDenied(
        "the user's token is not valid, or not any more", remedy="pass a context with a new token"
    )
