"""Callers of a multi-tenant store: their tokens, accounts and trusts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from urllib.parse import urlsplit

from imgstore.context import RequestContext
from imgstore.drivers.swift.client import Caller, Client
from imgstore.drivers.swift.identity import Access, Identity, Keystone, Lent, Tokens, endpoint_in
from imgstore.errors import ConfigError, InvalidArgument, InvalidLocation
from imgstore.location import same_service
from imgstore.translation import describe

LOG = logging.getLogger(__name__)


class Tenants:
    """Makes callers of requests' contexts; ``service`` are the store's own tokens, if any."""

    def __init__(self, client: Client, keystone: Keystone | None, service: Identity | None) -> None:
        self._client = client
        self._keystone = keystone
        self._own = service
        self._trustee: str | None = None

    def caller(self, context: RequestContext | None, *, base: str | None = None) -> Caller:
        """Return who acts for a context, in its own account or that of a location.

        Raises InvalidArgument without a token, InvalidLocation for another Swift's location.
        """
        access = self._access(context)
        return self._caller(Lent(access), access, base)

    def _caller(self, identity: Identity, access: Access, base: str | None) -> Caller:
        url = None
        if base is not None:
            own = urlsplit(access.url)
            host, _, path = base.partition("/")
            if not same_service(own.netloc, host) or not path:
                raise InvalidLocation(
                    "the location lies in another Swift than the user's token is for",
                    remedy="check swift_store_endpoint, swift_store_region and the catalogue",
                )
            url = f"{own.scheme}://{own.netloc}/{path}"
        service = self._own if self._client.settings.send_service_token else None
        return Caller(self._client, identity, url=url, service=service)

    def _access(self, context: RequestContext | None) -> Access:
        if context is None or context.auth_token is None:
            raise InvalidArgument(
                "images lie in the accounts of users, and no user asks",
                remedy="pass context=, with a token of the user's",
            )
        token, settings = context.auth_token.reveal(), self._client.settings
        if settings.endpoint is not None:
            return Access(settings.endpoint, token)
        catalogue = context.service_catalog
        if catalogue is None:
            if self._keystone is None:
                raise ConfigError(
                    "the context has no service catalogue, and the store no Keystone",
                    remedy="pass service_catalog, or set swift_store_auth_address",
                )
            catalogue = self._keystone.catalogue(token)
        return Access(endpoint_in(catalogue, settings), token)

    def trusted(
        self, context: RequestContext | None, *, base: str | None = None
    ) -> tuple[Caller, Callable[[], None]]:
        """Return who acts for a context for as long as a transfer takes, and how to end that.

        Without a user of the store's own, without trusts, or where Keystone makes none, that is
        the context's own token.
        """
        access = self._access(context)
        lent = self._caller(Lent(access), access, base), _nothing
        settings, keystone = self._client.settings, self._keystone
        if not settings.use_trusts or keystone is None or self._own is None or context is None:
            return lent
        try:
            if self._trustee is None:
                self._trustee = keystone.user_id()
            trust = keystone.trust(access.token, self._trustee)
        except Exception as exc:
            LOG.warning("no trust was made, the user's own token is used: %s", describe(exc))
            return lent
        renewing = Tokens(lambda: self._log_in(keystone, trust, access), settings.expires_soon)
        identity = _Trusted(access, renewing)

        def end() -> None:
            for token in (access.token, identity.token):
                if token is None:
                    continue
                try:
                    keystone.end_trust(trust, token)
                except Exception as exc:
                    LOG.debug("removing a trust: %s", describe(exc))
                else:
                    return
            LOG.warning("a trust could not be removed; it ends within a week")

        return self._caller(identity, access, base), end

    @staticmethod
    def _log_in(keystone: Keystone, trust: str, access: Access) -> Access:
        new = keystone.log_in(trust_id=trust)
        return Access(access.url, new.token, new.expires, new.life)


class _Trusted:
    """The user's own token, until it is refused; then one of the trust, and its successors."""

    def __init__(self, access: Access, renewing: Tokens) -> None:
        self._access = access
        self._renewing = renewing
        self._is_refused = False
        self.token: str | None = None

    def access(self, *, instead_of: Access | None = None) -> Access:
        """Return a token that is not ``instead_of``."""
        if instead_of is not None and instead_of is self._access:
            self._is_refused = True
            instead_of = None
        if not self._is_refused:
            return self._access
        found = self._renewing.access(instead_of=instead_of)
        self.token = found.token
        return found


def _nothing() -> None:
    return None
