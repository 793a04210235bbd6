"""A store of Cinder shows no secret, whoever logs, when all goes well or nothing does."""

from __future__ import annotations

from typing import Any, Final

import pytest
from servers.cinder import Cinder
from servers.cinder_stores import as_client, cinder_store
from servers.secrecy import WRONG, Caplog, Shown, nowhere

pytestmark = pytest.mark.servers("cinder", "keystone")

ID: Final = "5d0a0a5e-7c4b-4c3a-9b1f-0a1b2c3d4e5f"


def test_passwords_and_keyrings(cinder: Cinder, caplog: Caplog) -> None:
    """The password, its tokens, and the keyrings with which volumes are attached."""
    shown = Shown(caplog)
    quick: dict[str, Any] = {"http_retries": 0}
    with as_client(cinder):
        for options in (
            {},
            {"password": WRONG},
            {"auth_address": f"http://{nowhere()}/v3"},
        ):
            shown.smoke(cinder_store(cinder, **quick, **options), f"cinder://{ID}")
    key = cinder.key_file.read_text().partition("key = ")[2].split()[0]
    assert "keystoneauth" in shown.text()
    shown.has_none_of([cinder.user.password, WRONG, key])
