"""What a Swift store is told: options, configuration files, reference files; and its secrets."""

from __future__ import annotations

import logging
import re
import socket
import traceback
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

import pytest
from oslo_config import cfg

from imgstore import Location, RequestContext, StoreManager, errors
from imgstore.drivers.swift import SwiftStore
from imgstore.drivers.swift.accounts import Account
from imgstore.drivers.swift.identity import Keystone
from imgstore.drivers.swift.settings import Settings
from imgstore.model import Ownership
from imgstore.secret import Secret

IMAGE = "fdae39a1-bac5-4238-aba4-69bcc726e848"
SECRETS = ("pr0ject:us3r", "k%:e/y@", "cr3dential", "s3cret")
LOGIN: dict[str, Any] = {
    "auth_address": "https://keys.example.org:5000/v3",
    "user": "pr0ject:us3r",
    "key": "k%:e/y@",
}
CREDENTIAL: dict[str, Any] = {
    "auth_address": "https://keys.example.org:5000/v3",
    "application_credential_id": "cr3dential",
    "application_credential_secret": "s3cret",
}
# Of glance_store 5.7.0, without those of which users decide.
DEFAULTS: dict[str, Any] = {
    "default_swift_reference": "ref1",
    "swift_store_config_file": None,
    "swift_store_auth_insecure": False,
    "swift_store_cacert": None,
    "swift_store_region": None,
    "swift_store_endpoint": None,
    "swift_store_endpoint_type": "publicURL",
    "swift_store_service_type": "object-store",
    "swift_store_container": "glance",
    "swift_store_large_object_size": 5120,
    "swift_store_large_object_chunk_size": 200,
    "swift_store_create_container_on_put": False,
    "swift_store_multi_tenant": False,
    "swift_store_multiple_containers_seed": 0,
    "swift_store_admin_tenants": [],
    "swift_store_ssl_compression": True,
    "swift_store_expire_soon_interval": 60,
    "swift_store_use_trusts": True,
    "swift_buffer_on_upload": False,
    "swift_upload_buffer_dir": None,
    "swift_store_auth_version": "3",
    "swift_store_auth_address": None,
    "swift_store_user": None,
    "swift_store_key": None,
    "swift_store_application_credential_id": None,
    "swift_store_application_credential_secret": None,
    "swift_store_project_name": None,
    "swift_store_project_id": None,
}


def store(**options: Any) -> SwiftStore:
    return SwiftStore("swift", **LOGIN | options)


def settings(**options: Any) -> Settings:
    with closing(store(**options)) as made:
        return made._settings


def referring(path: Path, text: str, **options: Any) -> Settings:
    """Return the settings of a store with a reference file that says ``text``."""
    path.write_text(text)
    with closing(SwiftStore("swift", config_file=str(path), **options)) as made:
        return made._settings


def revealed(account: Account) -> tuple[str, str]:
    assert account.user is not None
    assert account.key is not None
    return account.user.reveal(), account.key.reveal()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "glance-swift.conf"


class TestOptions:
    def test_defaults_are_those_of_glance_store(self) -> None:
        """Downloads alone are resumed more often: three times, not never."""
        found = {opt.name: opt.default for opt in SwiftStore.OPTIONS.values()}
        assert found.pop("swift_store_retry_get_count") == 3
        assert {name: found[name] for name in DEFAULTS} == DEFAULTS

    def test_keywords_are_names_without_their_prefix(self) -> None:
        for keyword, opt in SwiftStore.OPTIONS.items():
            assert keyword == re.sub(r"^swift_(store_)?", "", opt.name)

    def test_credentials_are_secret_options(self) -> None:
        secret = {keyword for keyword, opt in SwiftStore.OPTIONS.items() if opt.secret}
        credentials = {"application_credential_id", "application_credential_secret"}
        assert secret == {"user", "key"} | credentials

    def test_options_of_old_files_are_accepted(self) -> None:
        assert settings() == settings(
            buffer_on_upload=True,
            upload_buffer_dir="/nowhere",
            ssl_compression=False,
            project_name="project",
            project_id="1",
        )

    @pytest.mark.parametrize("version", ["", "0", "4", "1.1", "2.1", "v3", "3.00", None, True])
    def test_other_versions_of_authentication(self, version: Any) -> None:
        with pytest.raises(errors.ConfigError, match="auth_version"):
            store(auth_version=version)

    @pytest.mark.parametrize(
        ("options", "verify"),
        [
            ({}, True),
            ({"cacert": Path("/ca.pem")}, "/ca.pem"),
            ({"auth_insecure": "true"}, False),
            ({"auth_insecure": True, "cacert": "/ca.pem"}, False),
        ],
    )
    def test_certificates(self, options: dict[str, Any], *, verify: bool | str) -> None:
        """``swift_store_auth_insecure`` overrides ``swift_store_cacert``."""
        assert settings(**options).verify == verify

    @pytest.mark.parametrize("given", ["service:glance, *:admin", ["service:glance", "*:admin"]])
    def test_admins_stay_as_they_are_written(self, given: Any) -> None:
        assert settings(admin_tenants=given).admins == ("service:glance", "*:admin")

    def test_an_endpoint_loses_its_last_slash(self) -> None:
        found = settings(endpoint="https://swift.example.org/v1/AUTH_1/")
        assert found.endpoint_of(found.accounts[""]) == "https://swift.example.org/v1/AUTH_1"

    def test_a_constructor_connects_to_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> NoReturn:
            raise AssertionError("a socket")

        monkeypatch.setattr(socket, "socket", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)
        for options in ({}, CREDENTIAL, {"auth_version": "1"}, {"multi_tenant": True}):
            with store(**options) as made:
                made.ownership(Location.parse(f"swift://keys.example.org/v1/glance/{IMAGE}"))
                assert made.url_prefix is None or made.url_prefix.startswith("swift+https://")


class TestContainers:
    # glance_store's own, by seed.
    LENGTHS = (
        *range(1, 9),
        *range(10, 15),
        *range(16, 21),
        *range(22, 27),
        *range(28, 37),
    )

    @pytest.mark.parametrize("seed", range(1, 33))
    def test_every_seed_names_as_glance_store(self, seed: int) -> None:
        expected = f"images_{IMAGE[: self.LENGTHS[seed - 1]]}"
        found = settings(container="images", multiple_containers_seed=seed)
        assert found.container_of(IMAGE) == found.container_of(IMAGE.upper()) == expected

    def test_without_a_seed_there_is_one(self) -> None:
        assert settings().container_of(IMAGE) == settings().container_of("other") == "glance"

    def test_ids_without_dashes_and_short_ones(self) -> None:
        found = settings(multiple_containers_seed=10)
        assert found.container_of("0123456789abcdef") == "glance_0123456789"
        assert found.container_of("Web") == "glance_web"

    def test_tenants_containers_keep_the_case_of_ids(self) -> None:
        assert settings(multi_tenant=True).container_of("Web") == "glance_Web"

    @pytest.mark.parametrize("char", ["c", "é"])
    def test_the_longest_name(self, char: str) -> None:
        """With a whole UUID and ``_segments`` after it, Swift's 256 bytes of UTF-8 are full."""
        longest = char * (210 // len(char.encode()))
        name = settings(container=longest, multiple_containers_seed=32).container_of(IMAGE)
        assert len(f"{name}_segments".encode()) == 256
        with pytest.raises(errors.ConfigError, match="at most 210 bytes"):
            store(container=longest + char)

    @pytest.mark.parametrize("char", ["x", "é"])
    def test_the_longest_id_of_a_tenant(self, char: str) -> None:
        """A name is checked before anything is asked for."""
        longest = char * (240 // len(char.encode()))  # "glance_", and "_segments"
        with store(multi_tenant=True) as made:
            with pytest.raises(errors.InvalidArgument, match="no user asks"):
                made.add(longest, b"")
            with pytest.raises(errors.InvalidArgument, match="too long"):
                made.add(longest + char, b"")


class TestConfigurationFiles:
    def test_a_single_store(self, tmp_path: Path) -> None:
        """Names of options, their units, and blank ones, in the group of the old form."""
        path = tmp_path / "images.conf"
        path.write_text(
            "[glance_store]\nstores = swift\ndefault_store = swift\n"
            "swift_store_config_file =\nswift_store_region =\n"
            "swift_store_auth_address = http://keys.example.org:5000/v2.0\n"
            "swift_store_auth_version = 2\n"
            "swift_store_user = pr0ject:us3r\nswift_store_key = k%:e/y@\n"
            "swift_store_large_object_chunk_size = 3\n"
            "swift_buffer_on_upload = true\nswift_upload_buffer_dir = /var/tmp\n"
        )
        with StoreManager.from_file(path) as stores:
            made = stores.default
            assert isinstance(made, SwiftStore)
            assert made.url_prefix == "swift+http://keys.example.org:5000/v2.0/glance"
            assert made._settings.segment == 3 * 1_024_000
            found = made._settings.account
            assert found is not None
            assert found.url == "http://keys.example.org:5000/v3"
            assert revealed(found) == ("pr0ject:us3r", "k%:e/y@")

    def test_stores_have_groups_and_defaults_of_all(self, tmp_path: Path) -> None:
        path = tmp_path / "images.conf"
        path.write_text(
            "[DEFAULT]\nenabled_backends = one:swift, two:swift\n"
            "[backend_defaults]\nswift_store_auth_address = keys.example.org\n"
            "swift_store_user = p:u\nswift_store_key = k\n"
            "[one]\nswift_store_container = ones\n"
            "[two]\nswift_store_multiple_containers_seed = 2\nswift_store_key = other\n"
        )
        with StoreManager.from_file(path) as stores:
            assert stores.info("one").url_prefix == "swift+https://keys.example.org/ones"
            assert stores.info("two").url_prefix == "swift+https://keys.example.org/glance_"
            for name, key in (("one", "k"), ("two", "other")):
                made = stores[name]
                assert isinstance(made, SwiftStore)
                assert revealed(made._settings.accounts[""])[1] == key

    def test_tenants_stores_have_their_defaults_too(self, tmp_path: Path) -> None:
        """In a group of their own glance_store lost those of container and trusts."""
        path = tmp_path / "images.conf"
        path.write_text(
            "[DEFAULT]\nenabled_backends = s:swift\n[s]\nswift_store_multi_tenant = true\n"
        )
        with StoreManager.from_file(path) as stores:
            made = stores["s"]
            assert isinstance(made, SwiftStore)
            assert made._settings.container_of(IMAGE) == f"glance_{IMAGE}"
            assert made._settings.use_trusts

    @pytest.mark.parametrize("written", ["glance-swift.conf", "keys/glance-swift.conf"])
    @pytest.mark.parametrize("option", ["--config-file", "--config-dir"])
    def test_reference_files_lie_beside_configuration(
        self, written: str, option: str, tmp_path: Path
    ) -> None:
        """``swift_store_config_file`` is relative to the files' directories, not to the process."""
        (tmp_path / "keys").mkdir()
        (tmp_path / written).write_text(
            "[ref1]\nauth_address = keys.example.org\nuser = p:u\nkey = k\n"
        )
        path = tmp_path / "01-swift.conf"
        path.write_text(
            "[DEFAULT]\nenabled_backends = s:swift\n"
            f"[s]\nswift_store_config_file = {written}\nstore_also_owns = swift+config://old\n"
        )
        conf = cfg.ConfigOpts()
        conf([option, str(path if option == "--config-file" else tmp_path)], project="none")
        with StoreManager.from_conf(conf) as stores:
            made = stores["s"]
            assert isinstance(made, SwiftStore)
            assert made.url_prefix == "swift+config://ref1/glance"
            assert revealed(made._settings.accounts["ref1"]) == ("p:u", "k")
            former = Location.parse(f"swift+config://old/glance/{IMAGE}")
            assert made.ownership(former) is Ownership.YES

    def test_a_reference_file_that_is_nowhere(self, tmp_path: Path) -> None:
        path = tmp_path / "images.conf"
        path.write_text(
            "[DEFAULT]\nenabled_backends = s:swift\n[s]\nswift_store_config_file = none.conf\n"
        )
        with pytest.raises(
            errors.ConfigError, match=r"\[s\].*swift_store_config_file none\.conf cannot be read"
        ):
            StoreManager.from_file(path)


class TestReferenceFiles:
    LOGIN = "auth_address = https://keys.example.org\nuser = p:u\nkey = k\n"

    @pytest.mark.parametrize(
        ("written", "key"),
        [
            ("plain", "plain"),
            ("'single'", "single"),
            ('"double"', "double"),
            ('"it\'s"', "it's"),
            ("it's", "it's"),
            ("' padded '", " padded "),
            ("50%", "50%"),
            ("%(user)s%%", "%(user)s%%"),
            ("$user ${user}", "$user ${user}"),
            ("a:b/c@d=e", "a:b/c@d=e"),
            ("a#b ;c", "a#b ;c"),
            ("ключ", "ключ"),
        ],
    )
    def test_values_are_literal_and_may_be_quoted(self, written: str, key: str, path: Path) -> None:
        text = f"[ref1]\nauth_address = 'http://keys.example.org'\nuser = p:u\nkey = {written}\n"
        found = referring(path, text).accounts["ref1"]
        assert revealed(found) == ("p:u", key)
        assert found.url == "http://keys.example.org/v3"

    @pytest.mark.parametrize(
        "section",
        [
            "user = p:u\nkey = s3cret\n",
            "auth_address = https://h\nuser = p:u\n",
            "auth_address = https://h\nkey = s3cret\n",
            "auth_address = https://h\nuser = p:u\nkey =\n",
            "auth_address = https://h\nuser = s3cret\nkey = s3cret\n",
            "auth_address = https://h\nuser = :s3cret\nkey = s3cret\n",
            "auth_address = https://h\nuser = s3cret:\nkey = s3cret\n",
            "auth_address = https://h\nuser = p:u\nkey = 's3cret\n",
            'auth_address = https://h\nuser = p:u\nkey = "\n',
            "auth_address = https://h\n",
            "auth_address = https://h\napplication_credential_id = s3cret\n",
            "auth_address = https://h\napplication_credential_secret = s3cret\n",
            "auth_address = https://h\nuser = p:u\nkey = k\napplication_credential_id = s3cret\n",
            "auth_address = https://p:s3cret@h\nuser = p:u\nkey = k\n",
            "auth_address = ftp://h\nuser = p:u\nkey = s3cret\n",
            "auth_address = https://\nuser = p:u\nkey = s3cret\n",
            "auth_version = 4\nauth_address = https://h\nuser = p:u\nkey = s3cret\n",
            (
                "auth_version = 1\nauth_address = https://h\napplication_credential_id = a\n"
                "application_credential_secret = s3cret\n"
            ),
        ],
    )
    def test_a_useless_section_is_left_out(
        self, section: str, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Its siblings are of use; a warning names it and shows no secret."""
        with caplog.at_level(logging.WARNING):
            found = referring(path, f"[useless]\n{section}[ref1]\n{self.LOGIN}")
        assert set(found.accounts) == {"ref1"}
        (record,) = caplog.records
        assert str(path) in record.getMessage()
        assert "'useless'" in record.getMessage()
        assert "s3cret" not in caplog.text
        with pytest.raises(errors.ConfigError, match=r"no usable section \[useless\]") as caught:
            referring(path, f"[useless]\n{section}", default_swift_reference="useless")
        assert "s3cret" not in str(caught.value)

    @pytest.mark.parametrize("name", ["a/b", "a@b", "a?b", "a#b"])
    def test_a_section_that_no_location_can_name(self, name: str, path: Path) -> None:
        found = referring(path, f"[{name}]\n{self.LOGIN}[ref1]\n{self.LOGIN}")
        assert set(found.accounts) == {"ref1"}

    def test_the_default_is_ref1(self, path: Path) -> None:
        with pytest.raises(errors.ConfigError, match=r"\[ref1\].*default_swift_reference"):
            referring(path, f"[other]\n{self.LOGIN}")

    def test_an_application_credential_is_preferred(self, path: Path) -> None:
        credential = "application_credential_id = a\napplication_credential_secret = b%\n"
        more = "project_name = p\nproject_id = 1\n"
        found = referring(path, f"[ref1]\n{self.LOGIN}{credential}{more}").accounts["ref1"]
        assert (found.user, found.key) == (None, None)
        assert found.credential == (Secret("a"), Secret("b%"))
        assert not Keystone(settings(), found, None).makes_trusts

    @pytest.mark.parametrize(
        ("written", "version", "url"),
        [
            ("1", "1", "http://rgw.example.org/auth/v1.0"),
            ("'1.0'", "1", "http://rgw.example.org/auth/v1.0"),
            ("2", "3", "http://rgw.example.org/auth/v1.0/v3"),
            ("", "3", "http://rgw.example.org/auth/v1.0/v3"),
        ],
    )
    def test_each_has_its_version(self, written: str, version: str, url: str, path: Path) -> None:
        """Those of the options say nothing of a file's accounts."""
        address = "auth_address = http://rgw.example.org/auth/v1.0/\n"
        text = f"[ref1]\nauth_version = {written}\n{address}user = a:u\nkey = k\n"
        found = referring(path, text, auth_version="1").accounts["ref1"]
        assert (found.version, found.url) == (version, url)

    @pytest.mark.parametrize(
        "text",
        [
            "key = s3cret\n",
            "[ref1]\ns3cret\n",
            "[ref1]\nkey = s3cret\nkey = s3cret\n",
            "[ref1]\nkey = s3cret\n[ref1]\nkey = s3cret\n",
            "[ref1\nkey = s3cret\n",
        ],
    )
    def test_what_is_no_reference_file(self, text: str, path: Path) -> None:
        """Messages and what they chain quote no line of it."""
        with pytest.raises(errors.ConfigError, match="is not an INI file") as caught:
            referring(path, text)
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))

    def test_what_is_no_text(self, path: Path) -> None:
        path.write_bytes(b"[ref1]\nkey = \xff\n")
        with pytest.raises(errors.ConfigError, match="is not an INI file"):
            SwiftStore("swift", config_file=str(path))
        with pytest.raises(errors.ConfigError, match="cannot be read: Is a directory"):
            SwiftStore("swift", config_file=str(path.parent))


class TestDomains:
    """By id 'default' unless a domain is given, for user and project each."""

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({}, ("default", None, "default", None)),
            ({"user_domain_name": "u"}, (None, "u", "default", None)),
            ({"project_domain_id": "p"}, ("default", None, "p", None)),
            (
                {"user_domain_id": "1", "user_domain_name": "u", "project_domain_name": "p"},
                ("1", "u", None, "p"),
            ),
        ],
    )
    def test_what_keystone_is_told(
        self, given: dict[str, str], expected: tuple[str | None, ...]
    ) -> None:
        found = settings(user="project:us:er", **given)
        plugin = Keystone(found, found.accounts[""], None)._plugin()
        (method,) = plugin.auth_methods
        assert (method.username, method.password) == ("us:er", "k%:e/y@")
        assert plugin.project_name == "project"
        assert expected == (
            method.user_domain_id,
            method.user_domain_name,
            plugin.project_domain_id,
            plugin.project_domain_name,
        )


class TestSecrets:
    @pytest.mark.parametrize(
        "options",
        [LOGIN, CREDENTIAL, LOGIN | CREDENTIAL, {**LOGIN, "key": Secret("k%:e/y@")}],
        ids=["user", "credential", "both", "wrapped"],
    )
    def test_nothing_prints_them(self, options: dict[str, Any]) -> None:
        with closing(SwiftStore("swift", **options)) as made:
            found = made._settings
            text = f"{made!r} {made} {vars(made)} {found} {found.account!r} {found.accounts}"
            text += f"{made.url_prefix} {made._session.get()!r} {vars(made._session.get())}"
            assert found.account is not None
            text += f"{Keystone(found, found.account, None)!r}"
        assert not [each for each in SECRETS if each in text]

    def test_a_reference_file_is_not_printed(self, path: Path) -> None:
        text = f"[ref1]\n{TestReferenceFiles.LOGIN}".replace("key = k", "key = s3cret")
        found = referring(path, text)
        assert "s3cret" not in f"{found!r} {found.accounts!r}"
        assert revealed(found.accounts["ref1"])[1] == "s3cret"

    @pytest.mark.parametrize(
        "options",
        [
            {"auth_address": "https://user:s3cret@host"},
            {"auth_address": "s3cret@host"},
            {"auth_address": "https://s3cret@"},
            {"endpoint": "https://user:s3cret@host"},
            {"user": "us3r"},
            {"key": None},
            {"container": "a/b", "auth_version": "4"},
        ],
    )
    def test_faults_do_not_tell_them(self, options: dict[str, Any]) -> None:
        with pytest.raises(errors.ConfigError) as caught:
            store(**options)
        assert not [each for each in (*SECRETS, "us3r") if each in str(caught.value)]

    def test_configuration_files_do_not_tell_them(self, tmp_path: Path) -> None:
        path = tmp_path / "images.conf"
        path.write_text(
            "[DEFAULT]\nenabled_backends = s:swift\n[s]\n"
            "swift_store_auth_address = https://s3cret@host\n"
            "swift_store_user = pr0ject:us3r\nswift_store_key = k%:e/y@$unknown\n"
        )
        with pytest.raises(errors.ConfigError, match="swift_store_key") as caught:
            StoreManager.from_file(path)
        assert not [each for each in SECRETS if each in str(caught.value)]

    def test_locations_are_faults_without_credentials(self) -> None:
        url = f"swift+https://pr0ject%3Aus3r:s3cret@elsewhere.example.org/v3/glance/{IMAGE}"
        with store() as made:
            for verb in (made.get, made.size, made.delete):
                with pytest.raises(errors.InvalidLocation) as caught:
                    verb(url)
                assert not [each for each in SECRETS if each in str(caught.value)]

    def test_tokens_are_not_told(self) -> None:
        asker = RequestContext(token="s3cret\n", service_catalog=[])
        with store(multi_tenant=True) as made:
            with pytest.raises(errors.PermissionDenied) as caught:
                made.add(IMAGE, b"", context=asker)
            assert "s3cret" not in f"{caught.value} {asker!r}"
