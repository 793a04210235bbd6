"""What the Swift store refuses: names and addresses that would mean something else."""

from __future__ import annotations

import time
import traceback
from pathlib import Path
from typing import Any

import pytest

from imgstore import Location, errors
from imgstore.drivers.swift import SwiftStore, claims, leftovers
from imgstore.drivers.swift.client import _TAG
from imgstore.drivers.swift.places import Place
from imgstore.model import Ownership

LOGIN: dict[str, Any] = {"auth_address": "https://keys.example.org", "user": "p:u", "key": "k"}


def store(**options: Any) -> SwiftStore:
    return SwiftStore("swift", **LOGIN | options)


@pytest.mark.parametrize(
    "base",
    ["h/v1/AUTH_1/c/o?", "h/v1/AUTH_1/c/o#", "h/v1/AUTH_1/../AUTH_2", "h/v1/./AUTH_1"],
)
def test_a_location_names_its_last_two_parts_and_nothing_else(base: str) -> None:
    url = f"swift+https://{base}/glance_x/x"
    assert Place.of(Location.parse(url)) is None
    assert store(multi_tenant=True).ownership(Location.parse(url)) is Ownership.NO


def test_tenants_accounts_have_a_path() -> None:
    url = "swift+https://h//glance_x/x"
    assert store(multi_tenant=True).ownership(Location.parse(url)) is Ownership.NO


@pytest.mark.parametrize("name", ["a\tb", "a\n", "\x7f", "\udc80"])
def test_containers_that_no_location_can_name(name: str) -> None:
    with pytest.raises(errors.ConfigError, match="swift_store_container"):
        store(container=name)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("user", "p:u\n"),
        ("key", "s3cret-value\n"),
        ("application_credential_id", "c\r"),
        ("application_credential_secret", "s3cret-value\x00"),
    ],
)
def test_credentials_that_were_read_with_a_newline(option: str, value: str) -> None:
    """The fault names the option and shows nothing of it, wherever it is printed."""
    with pytest.raises(errors.ConfigError, match=f"swift_store_{option}") as caught:
        store(**{option: value})
    assert "s3cret-value" not in "".join(traceback.format_exception(caught.value))


def test_version_1_sends_credentials_in_headers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """These cannot end with a blank; a password of Keystone may."""
    store(key="k ")
    with pytest.raises(errors.ConfigError, match="key holds"):
        store(key="k ", auth_version="1")
    path = tmp_path / "swift.conf"
    section = "auth_address = https://keys.example.org\nuser = a:u\nkey = 's3cret-value '\n"
    path.write_text(f"[ref1]\n{section}[ref2]\nauth_version = 1\n{section}")
    made = store(config_file=str(path))
    assert list(made._settings.accounts) == ["ref1"]
    assert "key holds" in caplog.text
    assert "s3cret-value" not in caplog.text


def test_a_page_of_errors_is_read_in_linear_time() -> None:
    """What a server answers may be anything: a quadratic search would take minutes here."""
    began = time.monotonic()
    assert _TAG.sub("", "<" * 1_000_000 + "a>").count("<") == 999_999
    assert time.monotonic() - began < 30
    assert _TAG.sub(" ", "<h1 class='x'>Not <b>here</b></h1>").split() == ["Not", "here"]


@pytest.mark.parametrize("lease", ["", "x", "\u00b2", "\u0663", "9" * 5000])
def test_names_that_are_no_claims(lease: str) -> None:
    """Somebody else's object in the container hinders no add, whatever its name ends with."""
    entry = {"name": f"imgstore-claim-image/0-{lease}", "last_modified": "2026-01-01T00:00:00"}
    assert claims.is_expired(entry, {"Date": "Thu, 01 Jan 2026 00:00:00 GMT"})
    entry["name"] = "imgstore-claim-image/0-60"
    assert not claims.is_expired(entry, {"Date": "Thu, 01 Jan 2026 00:01:00 GMT"})


@pytest.mark.parametrize("scheme", ["HTTP", "Https"])
def test_schemes_of_addresses_have_no_case(scheme: str) -> None:
    made = store(auth_address=f"{scheme}://keys.example.org/v3")
    assert made.url_prefix == f"swift+{scheme.lower()}://keys.example.org/v3/glance"


@pytest.mark.parametrize(
    "text", ["https://a b/v3", "https://h\t/v3", "https://h/v3\nx", "h/\udc80"]
)
def test_addresses_that_no_location_can_name(text: str) -> None:
    with pytest.raises(errors.ConfigError, match="auth_address"):
        store(auth_address=text)


@pytest.mark.parametrize(
    "text",
    [
        "http://[::1/v1/AUTH_x",
        "https://h:port/v1/AUTH_x",
        "https://h/v1/AUTH_x?a=b",
        "https://h/v1/AUTH_x#a",
        "https://h/v1/AUTH\t_x",
        "https://user:s3cret@h/v1/AUTH_x",
    ],
)
def test_endpoints_that_are_none(text: str) -> None:
    with pytest.raises(errors.ConfigError, match="swift_store_endpoint") as caught:
        store(endpoint=text)
    assert "s3cret" not in str(caught.value)


def test_service_tokens_need_an_address() -> None:
    with pytest.raises(errors.ConfigError, match="swift_store_send_service_token"):
        store(multi_tenant=True, auth_address=None, send_service_token=True)


@pytest.mark.parametrize("version", ["4", ""])
def test_a_bad_version_names_its_option(version: str) -> None:
    with pytest.raises(errors.ConfigError, match="swift_store_auth_version"):
        store(auth_version=version)


@pytest.mark.parametrize("credentials", ["user:key", "user", "project:user:"])
def test_locations_with_half_a_login(credentials: str) -> None:
    """Attempts only to connect to a port of this machine where nobody listens."""
    made = store(auth_address="http://127.0.0.1:9", max_attempts=1)
    with made, pytest.raises(errors.InvalidLocation):
        made.size(f"swift+http://{credentials}@127.0.0.1:9/glance/x")


def test_leftovers_of_short_ids_are_looked_for() -> None:
    found = store(multiple_containers_seed=10)._settings

    class Account:
        def entries(self, container: str = "", prefix: str = "") -> list[dict[str, str]]:
            return [{"name": found.container_of("web")}]

    assert leftovers._containers(Account(), found) == ["glance_web"]  # type: ignore[arg-type]
