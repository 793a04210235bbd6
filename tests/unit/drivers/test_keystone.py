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


def service(kind: str, *, interface: str = "public") -> dict[str, Any]:
    endpoint = {"interface": interface, "url": f"http://{kind}.example.org/"}
    return {"type": kind, "endpoints": [endpoint]}


@pytest.mark.parametrize(
    ("asked", "listed"),
    [
        ("volumev3", "block-storage"),
        ("block-storage", "volumev3"),
        ("block-store", "volumev3"),
        ("volumev3", "block-store"),
        ("volumev3", "volume"),
        ("object-store", "object-storage"),
        ("object-storage", "object-store"),
        ("images", "images"),
    ],
)
def test_a_service_is_found_by_its_aliases(asked: str, listed: str) -> None:
    """Whichever of them is asked for, and whichever the catalogue has."""
    found = _keystone.endpoint_in(
        [service("volumev2"), service(listed)], asked, "public", install=INSTALL
    )
    assert found == f"http://{listed}.example.org"


def test_the_name_that_is_asked_for_comes_first() -> None:
    """If it has such an endpoint; a service whose API is gone comes never."""
    both = [service("block-storage"), service("volumev3")]
    kinds = {"volumev3": "volumev3", "block-storage": "block-storage", "volume": "block-storage"}
    for asked, listed in kinds.items():
        found = _keystone.endpoint_in(both, asked, "public", install=INSTALL)
        assert found == f"http://{listed}.example.org"
    inside = [service("volumev3", interface="internal"), service("block-storage")]
    found = _keystone.endpoint_in(inside, "volumev3", "public", install=INSTALL)
    assert found == "http://block-storage.example.org"
    gone = [service("volumev2"), service("image")]
    assert _keystone.endpoint_in(gone, "volumev3", "public", install=INSTALL) is None
