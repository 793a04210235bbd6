"""A store of Swift shows no secret, whoever logs, when all goes well or nothing does."""

from __future__ import annotations

import pytest
from servers.containers import Container
from servers.secrecy import WRONG, Caplog, Shown, nowhere
from servers.swift_stores import login

from imgstore.drivers.swift import SwiftStore

pytestmark = pytest.mark.servers("swift", "keystone")


def test_passwords_and_tokens(container: Container, caplog: Caplog) -> None:
    """The password, and the tokens that Keystone gives for it."""
    shown = Shown(caplog)
    right = login(container.user) | {"container": container.name, "max_attempts": 1}
    tokens = []
    for options in ({}, {"key": WRONG}, {"auth_address": f"http://{nowhere()}/v3"}):
        store = SwiftStore("swift", **right | options)
        if not options:
            caller = store._session.get().caller(store._settings.account)
            tokens.append(caller.asker.login().token)
        shown.smoke(store, f"{store.url_prefix}/missing")
    assert "keystoneauth" in shown.text()
    shown.has_none_of([container.user.password, WRONG, *tokens])
