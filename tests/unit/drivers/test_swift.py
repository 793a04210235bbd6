"""The Swift store as far as it needs no server."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from keystoneauth1 import exceptions as keystone

from imgstore import Capability, Location, StoreManager, errors
from imgstore.drivers.swift import SwiftStore
from imgstore.drivers.swift.accounts import Account
from imgstore.drivers.swift.errors import AnswerError, classify
from imgstore.drivers.swift.identity import endpoint_in
from imgstore.drivers.swift.manifests import is_like_segment
from imgstore.drivers.swift.settings import MAX_CONTAINER, Settings
from imgstore.model import Ownership

MB = 1_024_000
MIB = 1024 * 1024
IMAGE = "fdae39a1-bac5-4238-aba4-69bcc726e848"
LOGIN: dict[str, Any] = {
    "auth_address": "https://keys.example.org:5000/v3",
    "user": "project:user",
    "key": "k%:e/y@",
}
REFERENCES = """
[ref1]
user = tenant:user1
key = key%1
auth_version = 2
auth_address = http://localhost:5000/v2.0

[ref2]
user = project_name:user_name2
key = 'quoted key'
user_domain_id = default
project_domain_id = default
auth_version = 3
auth_address = http://localhost:5000/v3

[credential]
application_credential_id = one
application_credential_secret = other
auth_address = other.example.org/identity

[broken]
user = tenant:user
auth_address = http://localhost:5000
"""


def store(**options: Any) -> SwiftStore:
    return SwiftStore("swift", **LOGIN | options)


def settings(**options: Any) -> Settings:
    with store(**options) as made:
        return made._settings


def account(made: SwiftStore, url: str) -> Account:
    """Return whose account a location is opened with."""
    from imgstore.drivers.swift.places import Place  # noqa: PLC0415

    location = Location.parse(url)
    place = Place.of(location)
    assert place is not None
    return made._account(location, place)


def revealed(found: Account) -> tuple[str, str]:
    assert found.user is not None
    assert found.key is not None
    return found.user.reveal(), found.key.reveal()


@pytest.fixture
def references(tmp_path: Path) -> str:
    path = tmp_path / "glance-swift.conf"
    path.write_text(REFERENCES)
    return str(path)


def referring(path: str, **options: Any) -> SwiftStore:
    known = {"config_file": path, "default_swift_reference": "ref2"}
    return SwiftStore("swift", **known | options)


def test_values_are_what_a_file_would_say() -> None:
    found = settings(large_object_size="3", create_container_on_put="yes", region="")
    assert found.large == 3 * MB
    assert found.segment == 200 * MB
    assert found.creates_container
    assert found.region is None
    assert found.memory == 224 * MIB


@pytest.mark.parametrize(
    ("written", "version"),
    [("1", "1"), ("1.0", "1"), ("2", "3"), ("2.0", "3"), ("3", "3"), ("3.0", "3"), (2, "3")],
)
def test_versions_of_authentication(written: Any, version: str) -> None:
    """Keystone's API v2 is gone; what is configured for it has v3 beside it."""
    found = settings(auth_version=written).account
    assert found is not None
    assert found.version == version


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("https://keys.example.org:5000", "https://keys.example.org:5000/v3"),
        ("https://keys.example.org:5000/v2.0/", "https://keys.example.org:5000/v3"),
        ("http://keys.example.org/identity/v3", "http://keys.example.org/identity/v3"),
        ("keys.example.org/identity", "https://keys.example.org/identity/v3"),
        ("http://[fd00::7]:5000/v3", "http://[fd00::7]:5000/v3"),
    ],
)
def test_addresses_of_keystone(address: str, url: str) -> None:
    found = settings(auth_address=address).account
    assert found is not None
    assert found.url == url


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"auth_version": "4"}, "auth_version"),
        ({"auth_address": "ftp://host"}, "auth_address"),
        ({"auth_address": "https://"}, "auth_address"),
        ({"auth_address": "https://user:s3cret@host"}, "auth_address"),
        ({"auth_address": "https://host:port"}, "auth_address"),
        ({"auth_address": None}, "swift_store_config_file"),
        ({"user": "nobody"}, "project:user"),
        ({"key": None}, "key"),
        ({"user": None, "key": None}, "credentials"),
        ({"application_credential_id": "one"}, "application credential"),
        (
            {
                "auth_version": "1",
                "application_credential_id": "a",
                "application_credential_secret": "b",
            },
            "Keystone",
        ),
        ({"container": "a/b"}, "swift_store_container"),
        ({"container": "a@b"}, "swift_store_container"),
        ({"container": "c" * 250}, "swift_store_container"),
        ({"container": ""}, "swift_store_container"),
        ({"multiple_containers_seed": 33}, "swift_store_multiple_containers_seed"),
        ({"endpoint": "http://host"}, "swift_store_endpoint"),
        ({"endpoint_type": "otherURL"}, "swift_store_endpoint_type"),
        ({"large_object_size": 0}, "swift_store_large_object_size"),
        ({"large_object_type": "tlo"}, "swift_store_large_object_type"),
        ({"upload_workers": 0}, "swift_store_upload_workers"),
        ({"config_file": "/nowhere/at/all"}, "swift_store_config_file"),
        ({"multi_tenant": True, "multiple_containers_seed": 2}, "swift_store_multi_tenant"),
        ({"multi_tenant": True, "auth_version": "1"}, "swift_store_multi_tenant"),
        ({"multi_tenant": True, "config_file": "x"}, "swift_store_"),
        (
            {"multi_tenant": True, "send_service_token": True, "user": None, "key": None},
            "swift_store_send_service_token",
        ),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        store(**options)
    assert said in str(caught.value)
    for secret in ("s3cret", "k%:e/y@"):
        assert secret not in str(caught.value)


def test_all_faults_are_told_together() -> None:
    with pytest.raises(errors.ConfigError) as caught:
        store(container="a/b", endpoint="x", auth_address="ftp://host")
    for said in ("swift_store_container", "swift_store_endpoint", "auth_address"):
        assert said in str(caught.value)


def test_secrets_are_not_shown() -> None:
    made = store()
    assert "k%:e/y@" not in repr(vars(made)) + repr(made._settings)


class TestContainers:
    @pytest.mark.parametrize(
        ("seed", "suffix"),
        [
            (1, "f"),
            (3, "fda"),
            (8, "fdae39a1"),
            (9, "fdae39a1-b"),
            (10, "fdae39a1-ba"),
            (12, "fdae39a1-bac5"),
            (13, "fdae39a1-bac5-"),
            (32, "fdae39a1-bac5-4238-aba4-69bcc726e848"),
        ],
    )
    def test_names_are_those_of_glance_store(self, seed: int, suffix: str) -> None:
        """As many characters, and the dashes among those."""
        found = settings(multiple_containers_seed=seed)
        assert found.container_of(IMAGE.upper()) == f"glance_{suffix}"

    def test_one_for_each_image_of_a_tenant(self) -> None:
        found = settings(multi_tenant=True, container="images")
        assert found.container_of(IMAGE) == f"images_{IMAGE}"

    def test_names_that_are_too_long(self) -> None:
        with store(multi_tenant=True) as made, pytest.raises(errors.InvalidArgument, match="long"):
            made.add("x" * (MAX_CONTAINER - len("glance_")), b"1", context=context())

    @pytest.mark.parametrize("image_id", ["a@b", "imgstore-claim-x", f"{IMAGE}-00001"])
    def test_ids_that_mean_something_else(self, image_id: str) -> None:
        with store() as made, pytest.raises(errors.InvalidArgument, match="UUID"):
            made.add(image_id, b"1")

    def test_ids_that_only_look_so(self) -> None:
        assert not is_like_segment("ubuntu-20240")
        assert not is_like_segment(f"{IMAGE}-1")
        assert is_like_segment(f"{IMAGE}-123456")


class TestReferences:
    def test_each_section_is_an_account(self, references: str) -> None:
        found = referring(references)._settings
        assert set(found.accounts) == {"ref1", "ref2", "credential"}
        assert revealed(found.accounts["ref1"]) == ("tenant:user1", "key%1")
        assert revealed(found.accounts["ref2"]) == ("project_name:user_name2", "quoted key")
        assert found.accounts["ref1"].version == "3"
        assert found.accounts["credential"].url == "https://other.example.org/identity/v3"

    def test_what_lacks_something_is_left_out(
        self, references: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            referring(references)
        (message,) = (each.getMessage() for each in caplog.records)
        assert "'broken'" in message
        with pytest.raises(errors.ConfigError, match=r"\[broken\]"):
            referring(references, default_swift_reference="broken")

    def test_stores_with_two_files_do_not_mix(self, references: str, tmp_path: Path) -> None:
        other = tmp_path / "other.conf"
        other.write_text(REFERENCES.replace("key%1", "changed"))
        one, two = referring(references), referring(str(other))
        assert revealed(one._settings.accounts["ref1"]) == ("tenant:user1", "key%1")
        assert revealed(two._settings.accounts["ref1"]) == ("tenant:user1", "changed")

    def test_passwords_are_not_in_messages(self, tmp_path: Path) -> None:
        path = tmp_path / "bad.conf"
        path.write_text("[ref1]\nkey s3cret without a sign\n")
        with pytest.raises(errors.ConfigError) as caught:
            referring(str(path))
        assert "s3cret" not in str(caught.value)
        assert caught.value.__cause__ is None

    def test_a_file_beside_the_configuration_is_found(
        self, references: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "images.conf"
        path.write_text(
            "[DEFAULT]\nenabled_backends = s:swift\n[s]\n"
            f"swift_store_config_file = {Path(references).name}\ndefault_swift_reference = ref1\n"
        )
        with StoreManager.from_file(path) as stores:
            assert stores.info("s").url_prefix == "swift+config://ref1/glance"

    def test_the_endpoint_is_the_default_references(self, references: str) -> None:
        found = referring(references, endpoint="https://swift.example.org/v1/AUTH_1")._settings
        assert found.endpoint_of(found.accounts["ref2"]) == "https://swift.example.org/v1/AUTH_1"
        assert found.endpoint_of(found.accounts["ref1"]) is None


class TestLocations:
    def test_urls_are_those_of_glance_store(self, references: str) -> None:
        assert referring(references).url_prefix == "swift+config://ref2/glance"
        assert store().url_prefix == "swift+https://keys.example.org:5000/v3/glance"
        plain = store(auth_address="http://keys.example.org/v3/", multiple_containers_seed=2)
        assert plain.url_prefix == "swift+http://keys.example.org/v3/glance_"
        assert store(multi_tenant=True).url_prefix is None

    @pytest.mark.parametrize(
        "base",
        [
            "swift+https://keys.example.org:5000/v3",
            "swift://keys.example.org:5000/v3",
            "swift+http://keys.example.org:5000/v3",
            "swift+https://keys.example.org:5000/v2.0",
            "swift+https://keys.example.org:5000",
            "swift+https://project%3Auser:k%25%3Ae%2Fy%40@keys.example.org:5000/v3",
            "swift+https://project%3Auser:k%25:e/y@@keys.example.org:5000/v3",
            "swift+https://project:user:k%25:e/y@@keys.example.org:5000/v3",
        ],
    )
    def test_every_form_leads_to_the_account(self, base: str) -> None:
        made = store()
        found = account(made, f"{base}/glance/{IMAGE}")
        assert revealed(found) == ("project:user", "k%:e/y@")
        assert made.ownership(Location.parse(f"{base}/glance/{IMAGE}")) is Ownership.YES

    @pytest.mark.parametrize("key", ["plain", "a:b", "a/b", "a@b", "50%", ":/@%"])
    @pytest.mark.parametrize("quoted", [True, False])
    def test_credentials_of_another_account(self, key: str, *, quoted: bool) -> None:
        """They are used at the store's own address, and nowhere else."""
        from urllib.parse import quote  # noqa: PLC0415

        written = quote(key, safe="") if quoted else key.replace("%", "%25")
        url = f"swift+https://other%3Aone:{written}@keys.example.org:5000/v3/images/{IMAGE}"
        made = store()
        assert revealed(account(made, url)) == ("other:one", key)
        assert made.ownership(Location.parse(url)) is Ownership.MAYBE
        assert key not in str(Location.parse(url)) or key == "plain"
        foreign = url.replace("keys.example.org", "evil.example.org")
        assert made.ownership(Location.parse(foreign)) is Ownership.NO
        with pytest.raises(errors.InvalidLocation):
            made.get(foreign)

    def test_the_default_reference_comes_first(self, references: str) -> None:
        url = f"swift+http://localhost:5000/v3/glance/{IMAGE}"
        assert revealed(account(referring(references), url))[0] == "project_name:user_name2"
        other = referring(references, default_swift_reference="ref1")
        assert revealed(account(other, url))[0] == "tenant:user1"

    def test_references_are_told_apart(self, references: str) -> None:
        made = referring(references)
        for reference, ownership in (
            ("ref2", Ownership.YES),
            ("ref1", Ownership.MAYBE),
            ("broken", Ownership.NO),
        ):
            location = Location.parse(f"swift+config://{reference}/glance/{IMAGE}")
            assert made.ownership(location) is ownership
        assert revealed(account(made, f"swift+config://ref1/glance/{IMAGE}"))[1] == "key%1"
        assert store().ownership(Location.parse("swift+config://ref1/glance/x")) is Ownership.NO

    def test_former_addresses_are_opened_with_the_stores_account(self) -> None:
        made = store(also_owns=["swift+https://old.example.org/v3"])
        url = f"swift+https://old.example.org/v3/glance/{IMAGE}"
        assert made.ownership(Location.parse(url)) is Ownership.YES
        assert account(made, url) == made._settings.account

    @pytest.mark.parametrize(
        "url",
        [
            "swift+https://keys.example.org:5000/v3",
            "swift+https://keys.example.org:5000/glance",
            "swift+https://glance/..",
            "swift+config://ref1/x/glance/1",
            "swift+https:///glance/1",
        ],
    )
    def test_what_names_no_object(self, url: str) -> None:
        assert store().ownership(Location.parse(url)) is Ownership.NO

    def test_tenants_accounts(self) -> None:
        made = store(multi_tenant=True)
        url = f"swift+https://swift.example.org/v1/AUTH_1/glance_{IMAGE}/{IMAGE}"
        assert made.ownership(Location.parse(url)) is Ownership.YES
        other = url.replace("glance_", "else_")
        assert made.ownership(Location.parse(other)) is Ownership.MAYBE
        bound = store(multi_tenant=True, endpoint="https://elsewhere.example.org/v1/AUTH_2")
        assert bound.ownership(Location.parse(url)) is Ownership.NO


def test_only_tenants_have_acls() -> None:
    assert Capability.ACLS not in store().capabilities
    assert Capability.ACLS in store(multi_tenant=True).capabilities


CATALOGUE = [
    {"type": "image", "endpoints": [{"interface": "public", "url": "http://images"}]},
    {
        "type": "object-store",
        "endpoints": [
            {"interface": "public", "region": "one", "url": "http://one/v1/AUTH_1/"},
            {"interface": "internal", "region_id": "one", "url": "http://inside/v1/AUTH_1"},
            {"interface": "public", "region": "two", "url": "http://two/v1/AUTH_1"},
        ],
    },
]


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({}, "http://one/v1/AUTH_1"),
        ({"region": "two"}, "http://two/v1/AUTH_1"),
        ({"endpoint_type": "internalURL"}, "http://inside/v1/AUTH_1"),
        ({"endpoint_type": "internalURL", "region": "one"}, "http://inside/v1/AUTH_1"),
        ({"service_type": "image"}, "http://images"),
    ],
)
def test_endpoints_are_found(options: dict[str, Any], url: str) -> None:
    assert endpoint_in(CATALOGUE, settings(**options)) == url


def test_endpoints_of_the_old_form() -> None:
    """Contexts of old services have catalogues as Keystone's API v2 wrote them."""
    old = [{"type": "object-store", "endpoints": [{"publicURL": "http://old", "region": "one"}]}]
    assert endpoint_in(old, settings(region="one")) == "http://old"


@pytest.mark.parametrize(
    "options", [{"region": "three"}, {"endpoint_type": "adminURL"}, {"service_type": "volume"}]
)
def test_a_missing_endpoint_names_the_options(options: dict[str, Any]) -> None:
    with pytest.raises(errors.ConfigError, match="swift_store_region"):
        endpoint_in(CATALOGUE, settings(**options))


def context() -> Any:
    from imgstore import RequestContext  # noqa: PLC0415

    return RequestContext(token="t0ken", service_catalog=CATALOGUE)


@pytest.mark.parametrize(
    "catalogue", [[1], [{"type": "object-store", "endpoints": [{"interface": "public"}]}], 1]
)
def test_what_is_no_catalogue(catalogue: Any) -> None:
    from imgstore import RequestContext  # noqa: PLC0415

    asker = RequestContext(token="t0ken", service_catalog=catalogue)
    with store(multi_tenant=True) as made, pytest.raises(errors.InvalidArgument, match="catalog"):
        made.add("image", b"1", context=asker)


def test_tokens_are_not_shown() -> None:
    assert "t0ken" not in repr(context())


@pytest.mark.parametrize(
    ("exc", "kind"),
    [
        (AnswerError(400, ""), errors.StoreError),
        (AnswerError(401, ""), errors.PermissionDenied),
        (AnswerError(403, ""), errors.PermissionDenied),
        (AnswerError(404, ""), errors.NotFound),
        (AnswerError(408, ""), errors.TimedOut),
        (AnswerError(409, ""), errors.Unavailable),
        (AnswerError(412, ""), errors.IntegrityError),
        (AnswerError(413, ""), errors.StorageFull),
        (AnswerError(416, ""), errors.InvalidRange),
        (AnswerError(422, ""), errors.IntegrityError),
        (AnswerError(429, ""), errors.Throttled),
        (AnswerError(498, ""), errors.Throttled),
        (AnswerError(500, ""), errors.Unavailable),
        (AnswerError(503, ""), errors.Unavailable),
        (AnswerError(507, ""), errors.StorageFull),
        (AnswerError(599, ""), errors.Unavailable),
        (keystone.Unauthorized(), errors.PermissionDenied),
        (keystone.NotFound(), errors.ConfigError),
        (keystone.ServiceUnavailable(), errors.Unavailable),
        (keystone.ConnectFailure(), errors.Unavailable),
        (keystone.DiscoveryFailure(), errors.ConfigError),
    ],
)
def test_errors_have_a_class(exc: Exception, kind: type[errors.ImgStoreError]) -> None:
    assert type(classify(exc)) is kind


def test_other_errors_have_none() -> None:
    assert classify(RuntimeError()) is None
