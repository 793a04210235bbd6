"""What one process has of the service: connections, tokens, and what it found out."""

from __future__ import annotations

import functools
import threading
import time
from http import HTTPStatus
from typing import Final

from imgstore.drivers import _keystone
from imgstore.drivers._keystone import check_sendable
from imgstore.drivers._numbers import whole_number
from imgstore.drivers.swift.accounts import Account
from imgstore.drivers.swift.client import Answer, Caller, Client
from imgstore.drivers.swift.errors import INSTALL, may_pass, no_tempauth
from imgstore.drivers.swift.identity import Keystone, Login, Tokens
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
        self._keystone = _keystone.session(
            verify=settings.verify,
            timeouts=(settings.connect_timeout, settings.read_timeout),
            redaction=settings.redaction,
            install=INSTALL,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._keystone.session.close()

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
            return Tokens(functools.partial(self._tempauth, account), settings.expires_soon)
        keystone = Keystone(settings, account, self._keystone)
        return Tokens(keystone.log_in, settings.expires_soon)

    def _tempauth(self, account: Account) -> Login:
        """Log in by version 1: that of Swift's own tempauth, and of Ceph's gateway."""
        user, key = (each.reveal() if each else "" for each in (account.user, account.key))
        check_sendable(user, key)
        answer = self._client.send("GET", account.url, {"X-Auth-User": user, "X-Auth-Key": key})
        if not answer.is_success:
            raise self._refused(answer)
        answer.close()
        url, token = answer.headers.get("X-Storage-Url"), answer.headers.get("X-Auth-Token")
        if not (url and token):
            raise no_tempauth("answers without a token")
        seconds = float(whole_number(answer.headers.get("X-Auth-Token-Expires")) or 0)
        made = time.monotonic()
        expires = made + seconds if seconds else None
        endpoint = self._settings.endpoint_of(account) or url.rstrip("/")
        return Login(endpoint, token, expires, seconds, made)

    def _refused(self, answer: Answer) -> Exception:
        failure = self._client.failure(answer)
        if may_pass(failure):
            return failure
        if answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            return PermissionDenied(
                f"the auth_address answers {answer.status}", remedy="check the user and its key"
            )
        return no_tempauth(f"answers {answer.status}")

    @functools.cached_property
    def tenants(self) -> Tenants:
        """Return who makes callers of contexts."""
        account = self._settings.account
        if account is None:
            return Tenants(self._client, None, None)
        service = self.caller(account).asker if account.has_credentials else None
        keystone = Keystone(self._settings, account, self._keystone)
        return Tenants(self._client, keystone, service)
