"""Sessions of Keystone's SDK, and what logs in with them."""

from __future__ import annotations

from typing import Any

import pytest
from keystoneauth1.identity import v3
from requests import PreparedRequest, Response
from requests.adapters import BaseAdapter

from imgstore.boundary.redaction import Redaction
from imgstore.drivers import _keystone
from imgstore.secret import Secret

INSTALL = "imgstore[swift]"
ADDRESS = "https://keys.example.org:5000"
TOKEN = "t0ken-of-keystone"


class Redirecting(BaseAdapter):
    """A server that gives out a token, and redirects."""

    def __init__(self) -> None:
        super().__init__()
        self.timeouts: list[object] = []

    def send(  # type: ignore[override]
        self, request: PreparedRequest, *, timeout: object = None, **_: object
    ) -> Response:
        self.timeouts.append(timeout)
        answer = Response()
        answer.status_code, answer.request, answer.url = 302, request, str(request.url)
        answer.headers.update({"X-Subject-Token": TOKEN, "Location": "https://evil.example.org/"})
        answer._content = b"s3cret"
        return answer

    def close(self) -> None:
        pass


@pytest.mark.parametrize("is_logged", [True, False])
def test_sessions(is_logged: bool, caplog: pytest.LogCaptureFixture) -> None:  # noqa: FBT001
    """They follow nobody elsewhere, have time-outs, and tell their tokens to a redaction alone."""
    caplog.set_level("DEBUG", logger="keystoneauth")
    redaction, server = Redaction(), Redirecting()
    session = _keystone.session(
        verify=True, timeouts=(1.0, 2.0), redaction=redaction, install=INSTALL, is_logged=is_logged
    )
    session.session.mount("https://", server)
    session.get(ADDRESS, authenticated=False, raise_exc=False)
    assert server.timeouts == [(1.0, 2.0)]
    assert TOKEN not in redaction.text(f"a {TOKEN}")
    assert bool(caplog.records) == is_logged


def test_logins() -> None:
    """A password is sent where there is no application credential; nothing stays a Secret."""
    options: dict[str, Any] = {
        "username": "user",
        "password": Secret("s3cret"),
        "user_domain_name": "u",
        "project_name": "p",
    }
    plugin = _keystone.plugin(ADDRESS, options, install=INSTALL)
    assert isinstance(plugin, v3.Password)
    assert (plugin.auth_url, plugin.project_name) == (f"{ADDRESS}/v3", "p")
    (method,) = plugin.auth_methods
    assert (method.username, method.password) == ("user", "s3cret")
    credential: dict[str, Any] = {
        "application_credential_id": "one",
        "application_credential_secret": Secret("other"),
    }
    plugin = _keystone.plugin(f"{ADDRESS}/v2.0/", credential, install=INSTALL)
    assert isinstance(plugin, v3.ApplicationCredential)
    assert plugin.auth_url == f"{ADDRESS}/v3"
    (method,) = plugin.auth_methods
    assert method.application_credential_secret == "other"
