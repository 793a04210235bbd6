"""What one process has of the service: connections, tokens, and what it found out."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from imgstore.drivers.swift.accounts import Account
from imgstore.drivers.swift.client import Caller, Client
from imgstore.drivers.swift.errors import may_pass, no_tempauth
from imgstore.drivers.swift.identity import Asker, Keystone, Tempauth, Tokens
from imgstore.drivers.swift.settings import Settings
from imgstore.drivers.swift.tenants import Tenants
from imgstore.errors import PermissionDenied

_FOREIGN: Final = 32  # accounts that locations name, whose tokens are kept


class Session:
    """Makes callers of accounts; those of one account share its tokens."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = Client(settings)
        self._lock = threading.Lock()
        self._callers: list[tuple[Account, Caller]] = []  # secrets are not hashable
        self._keystones: weakref.WeakSet[Keystone] = weakref.WeakSet()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        for keystone in list(self._keystones):
            keystone.close()

    def caller(self, account: Account) -> Caller:
        """Return who acts as an account."""
        with self._lock:
            for number, (known, caller) in enumerate(self._callers):
                if known == account:
                    self._callers.append(self._callers.pop(number))
                    return caller
            made = Caller(self._client, self._tokens(account))
            self._callers.append((account, made))
            if len(self._callers) > len(self._settings.accounts) + _FOREIGN:
                del self._callers[0]
            return made

    def _tokens(self, account: Account) -> Tokens:
        settings = self._settings
        if account.version == "1":
            tempauth = Tempauth(settings, account)
            return Tokens(lambda: tempauth.log_in(self._send), settings.expires_soon)
        return Tokens(self._keystone(account).log_in, settings.expires_soon)

    def _keystone(self, account: Account) -> Keystone:
        made = Keystone(self._settings, account)
        self._keystones.add(made)
        return made

    def _send(self, method: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        answer = self._client.send(method, url, headers)
        if HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            answer.close()
            return answer.headers
        failure = self._client.failure(answer)
        if may_pass(failure):
            raise failure
        if answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise PermissionDenied(
                f"the auth_address answers {answer.status}", remedy="check the user and its key"
            )
        raise no_tempauth(f"answers {answer.status}")

    @functools.cached_property
    def tenants(self) -> Tenants:
        """Return who makes callers of contexts."""
        account = self._settings.account
        if account is None:
            return Tenants(self._client, None, None)
        service: Asker | None = None
        if account.has_credentials:
            service = self.caller(account).asker
        return Tenants(self._client, self._keystone(account), service)
