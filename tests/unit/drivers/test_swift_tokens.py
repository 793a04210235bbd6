"""How long a login is used, and which tokens a request shows."""

from __future__ import annotations

import time

import pytest

from imgstore.drivers.swift.errors import AnswerError
from imgstore.drivers.swift.identity import Login, Shown, Tokens
from imgstore.errors import PermissionDenied, Unavailable

UNAUTHORIZED, FORBIDDEN = (AnswerError(status, "") for status in (401, 403))
URL = "https://swift.example.org/v1/AUTH_1"


class Server:
    """Gives out logins that live for some seconds, while it is up."""

    def __init__(self, life: float = 3600.0) -> None:
        self.life = life
        self.is_up = True
        self.given: list[Login] = []

    def log_in(self) -> Login:
        if not self.is_up:
            raise Unavailable("the server is down")
        number = len(self.given)
        now = time.monotonic()
        self.given.append(Login(URL, f"token-{number}", now + self.life, self.life, now))
        return self.given[-1]

    def tokens(self, expires_soon: float = 60.0) -> Tokens:
        return Tokens(self.log_in, expires_soon)


class Refusing:
    """An asker whose only token was refused."""

    has_others = False

    def __init__(self) -> None:
        self.own = Login(URL, "lent")

    def login(self, *, instead_of: Login | None = None) -> Login:
        if instead_of is not None:
            raise self.refused()
        return self.own

    def refused(self) -> PermissionDenied:
        return PermissionDenied("not any more")

    def prolong(self) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""


def test_a_login_is_used_as_long_as_it_is_young() -> None:
    """One that lives for less than the interval is used for half of its life."""
    for life, expires_soon, is_kept in ((3600, 60, True), (3600, 3600, True), (0, 60, False)):
        server = Server(life)
        tokens = server.tokens(expires_soon)
        first = tokens.login()
        assert (tokens.login() is first) == is_kept
    endless = Tokens(lambda: Login(URL, "token"), 60)
    assert endless.login() is endless.login()


def test_an_old_login_is_used_while_there_is_no_other() -> None:
    """Until its end, and not if it was refused."""
    server = Server(life=40)
    tokens = server.tokens()
    old = tokens.login()
    object.__setattr__(old, "expires", time.monotonic() + 10)
    server.is_up = False
    assert tokens.login() is old
    with pytest.raises(Unavailable):
        tokens.login(instead_of=old)
    object.__setattr__(old, "expires", time.monotonic() - 1)
    with pytest.raises(Unavailable):
        tokens.login()
    server.is_up = True
    assert tokens.login() is server.given[1]


class TestShown:
    def test_refused_tokens_are_replaced_once(self) -> None:
        """Those that come after are the caller's fault, or Swift's."""
        shown = Shown(Server().tokens(), Server().tokens())
        assert shown.get()[1] == {"X-Auth-Token": "token-0", "X-Service-Token": "token-0"}
        shown.refuse(UNAUTHORIZED)
        assert shown.get()[1] == {"X-Auth-Token": "token-1", "X-Service-Token": "token-1"}
        with pytest.raises(PermissionDenied, match="401"):
            shown.refuse(UNAUTHORIZED)

    def test_an_expired_token_beside_a_valid_one(self) -> None:
        """Swift takes it; without a service's it is refused."""
        shown = Shown(Refusing(), Server().tokens())
        shown.get()
        shown.refuse(UNAUTHORIZED)
        assert shown.get()[1] == {"X-Auth-Token": "lent", "X-Service-Token": "token-1"}
        alone = Shown(Refusing(), None)
        assert alone.get()[1] == {"X-Auth-Token": "lent"}
        alone.refuse(UNAUTHORIZED)
        with pytest.raises(PermissionDenied, match="any more"):
            alone.get()

    def test_what_is_forbidden(self) -> None:
        """It may be forbidden because the token is over, unless it is new, or there is no other."""
        server = Server()
        shown = Shown(server.tokens(), None)
        first, _ = shown.get()
        with pytest.raises(AnswerError, match="403"):
            shown.refuse(FORBIDDEN)
        object.__setattr__(first, "made", time.monotonic() - 10)
        shown.refuse(FORBIDDEN)
        second, _ = shown.get()
        assert second is not first
        object.__setattr__(second, "made", time.monotonic() - 10)
        with pytest.raises(AnswerError, match="403"):
            shown.refuse(FORBIDDEN)
        lent = Shown(Refusing(), None)
        lent.get()
        with pytest.raises(AnswerError, match="403"):
            lent.refuse(FORBIDDEN)
