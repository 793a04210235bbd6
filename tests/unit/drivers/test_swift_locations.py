"""Whose a location of Swift is: every form that was ever written, and what is refused."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imgstore import Location, RequestContext, errors
from imgstore.drivers.swift import SwiftStore
from imgstore.drivers.swift.accounts import Account
from imgstore.drivers.swift.places import Place
from imgstore.model import Ownership

YES, MAYBE, NO = Ownership.YES, Ownership.MAYBE, Ownership.NO
IMAGE = "fdae39a1-bac5-4238-aba4-69bcc726e848"
OBJECT = f"glance/{IMAGE}"
LOGIN: dict[str, Any] = {
    "auth_address": "https://keys.example.org:5000/v3",
    "user": "project:user",
    "key": "own",
}
# Three accounts of one Keystone, and one of another.
REFERENCES = """
[ref1]
user = project:one
key = first
auth_address = http://keys.example.org:5000/v2.0

[ref2]
user = project:two
key = second
auth_address = https://keys.example.org:5000/v3

[credential]
application_credential_id = i
application_credential_secret = s
auth_address = https://keys.example.org:5000

[far]
user = project:two
key = far
auth_address = https://far.example.org/identity
"""


def store(**options: Any) -> SwiftStore:
    return SwiftStore("swift", **LOGIN | options)


@pytest.fixture
def references(tmp_path: Path) -> str:
    path = tmp_path / "glance-swift.conf"
    path.write_text(REFERENCES)
    return str(path)


def referring(path: str, default: str = "ref2", **options: Any) -> SwiftStore:
    return SwiftStore("swift", config_file=path, default_swift_reference=default, **options)


def ownership(made: SwiftStore, url: str) -> Ownership:
    return made.ownership(Location.parse(url))


def account(made: SwiftStore, url: str) -> Account:
    """Return as whom a location is opened."""
    location = Location.parse(url)
    place = Place.of(location)
    assert place is not None
    return made._account(location, place)


def login(made: SwiftStore, url: str) -> tuple[str, str]:
    found = account(made, url)
    assert found.user is not None
    assert found.key is not None
    return found.user.reveal(), found.key.reveal()


class TestAddresses:
    @pytest.mark.parametrize("path", ["", "/identity"])
    @pytest.mark.parametrize("configured", ["", "/", "/v2.0", "/v2.0/", "/v3", "/v3/"])
    @pytest.mark.parametrize("written", ["", "/v2.0", "/v3"])
    def test_versions_of_one_keystone_are_one(
        self, path: str, configured: str, written: str
    ) -> None:
        """What was written while v2.0 was configured is owned after v3 is, and back."""
        made = store(auth_address=f"http://keys.example.org:5000{path}{configured}")
        url = f"swift+http://keys.example.org:5000{path}{written}/{OBJECT}"
        assert ownership(made, url) is YES
        assert login(made, url) == ("project:user", "own")

    @pytest.mark.parametrize(
        "service",
        [
            "keys.example.org/v3",
            "keys.example.org:443/v3",
            "keys.example.org:80",
            "Keys.Example.ORG/v2.0",
        ],
    )
    def test_default_ports_and_case_of_hosts_do_not_count(self, service: str) -> None:
        made = store(auth_address="https://keys.example.org/v3")
        assert ownership(made, f"swift://{service}/{OBJECT}") is YES

    @pytest.mark.parametrize(
        "service",
        [
            "keys.example.org/v3",
            "keys.example.org:5001/v3",
            "keys.example.org:5000/identity/v3",
            "keys.example.org:5000/v1",
            "keys.example.org:5000/v3/v3/v3",
            "keys.example.org:5000/V3",
            "sub.keys.example.org:5000/v3",
            "keys.example.org:5000.evil.example/v3",
            "evil.example/keys.example.org:5000/v3",
            "project:user:own@evil.example/v3",
            "a@keys.example.org:5000/v3@evil.example",
        ],
    )
    def test_other_addresses_are_not_owned(self, service: str) -> None:
        """Nothing is sent there, whatever credentials a location has."""
        url = f"swift+https://{service}/{OBJECT}"
        with closing(store()) as made:
            assert ownership(made, url) is NO
            for verb in (made.get, made.size, made.delete):
                with pytest.raises(errors.InvalidLocation):
                    verb(url)

    @pytest.mark.parametrize(
        ("address", "base"),
        [
            ("http://swift.example.org/auth/v1.0", "swift+http://swift.example.org/auth/v1.0"),
            ("https://rgw.example.org:7480/auth/", "swift+https://rgw.example.org:7480/auth"),
            ("rgw.example.org", "swift+https://rgw.example.org"),
        ],
    )
    def test_version_1_has_its_address_as_it_is(self, address: str, base: str) -> None:
        made = store(auth_version="1", auth_address=address, user="account:us:er")
        assert made.url_prefix == f"{base}/glance"
        assert account(made, f"{base}/{OBJECT}").url == base.removeprefix("swift+")
        assert ownership(made, f"{base}/{OBJECT}") is YES
        scheme, _, rest = base.partition("://")
        assert login(made, f"{scheme}://account%3Aus%3Aer:old@{rest}/{OBJECT}")[1] == "own"

    @pytest.mark.parametrize(
        ("options", "prefix"),
        [
            ({}, "swift+https://keys.example.org:5000/v3/glance"),
            ({"auth_address": "keys.example.org"}, "swift+https://keys.example.org/glance"),
            ({"auth_address": "http://[fd00::7]:5000"}, "swift+http://[fd00::7]:5000/glance"),
            (
                {"container": "images", "multiple_containers_seed": 2},
                "swift+https://keys.example.org:5000/v3/images_",
            ),
        ],
    )
    def test_url_prefixes_begin_what_is_written(self, options: dict[str, Any], prefix: str) -> None:
        """They hold no credentials, and own what follows them."""
        made = store(**options)
        assert made.url_prefix == prefix
        container = made._settings.container_of(IMAGE)
        found = made._settings.account
        assert found is not None
        url = f"{made._base(found)}/{container}/{IMAGE}"
        assert url.startswith(prefix)
        assert Location.parse(url).credentials is None
        assert ownership(made, url) is YES


class TestCredentials:
    """Of old locations, as glance_store wrote them and as people did."""

    # What glance_store 5.7.0 writes for each: it quotes all but "/".
    WRITTEN = (
        ("project:user", "plain", "project%3Auser:plain"),
        ("project:user", "a:b", "project%3Auser:a%3Ab"),
        ("project:user", "a/b", "project%3Auser:a/b"),
        ("project:user", "a@b", "project%3Auser:a%40b"),
        ("project:user", "50%", "project%3Auser:50%25"),
        ("project:user", "%41", "project%3Auser:%2541"),
        ("project:user", "x%3Ay", "project%3Auser:x%253Ay"),
        ("project:user", ":/@%", "project%3Auser:%3A/%40%25"),
        ("project:user", "://", "project%3Auser:%3A//"),
        ("project:user", "a+b", "project%3Auser:a%2Bb"),
        ("project:user", "a b", "project%3Auser:a%20b"),
        ("project:user", "ü", "project%3Auser:%C3%BC"),
        ("project:user", "a?b#c", "project%3Auser:a%3Fb%23c"),
        ("pro ject:us/er", "a/b@c", "pro%20ject%3Aus/er:a/b%40c"),
        ("project:user@domain", "k", "project%3Auser%40domain:k"),
        ("project:us:er", "k:", "project%3Aus%3Aer:k%3A"),
    )

    @pytest.mark.parametrize(("user", "key", "written"), WRITTEN)
    def test_what_glance_store_wrote(self, user: str, key: str, written: str) -> None:
        made = store(user="another:one")
        url = f"swift+https://{written}@keys.example.org:5000/v3/{OBJECT}"
        assert login(made, url) == (user, key)
        assert ownership(made, url) is MAYBE
        assert written not in f"{Location.parse(url)} {Location.parse(url)!r}"
        assert Location.parse(url).url == f"swift+https://keys.example.org:5000/v3/{OBJECT}"

    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            ("project:user:key", ("project:user", "key")),
            ("project:user:a:b", ("project:user", "a:b")),
            ("project:user:a/b:c@d@e", ("project:user", "a/b:c@d@e")),
            ("project:user:100%25", ("project:user", "100%")),
            ("project:user:a%zz%", ("project:user", "a%zz%")),
            ("project%3auser:a:b", ("project:user", "a:b")),
            ("project%3Auser:a@b/c", ("project:user", "a@b/c")),
        ],
    )
    def test_what_people_wrote(self, written: str, expected: tuple[str, str]) -> None:
        made = store(user="another:one")
        assert login(made, f"swift://{written}@keys.example.org:5000/v3/{OBJECT}") == expected

    @given(
        key=st.text(st.characters(min_codepoint=32, exclude_categories=["Cc", "Cs"]), min_size=1),
        user=st.text("abc:@/%? é", min_size=1),
        safe=st.sampled_from(["", "/"]),
    )
    @example(key=":/@%", user="u", safe="/")
    def test_any_credentials_survive_quoting(self, key: str, user: str, safe: str) -> None:
        whose = f"project:{user}"
        written = f"{quote(whose, safe=safe)}:{quote(key, safe=safe)}"
        with closing(store(user="another:one")) as made:
            url = f"swift+https://{written}@keys.example.org:5000/v3/{OBJECT}"
            assert login(made, url) == (whose, key)

    def test_the_stores_key_is_used_for_the_stores_user(self) -> None:
        """A password that changed does not lose the images."""
        made = store()
        url = f"swift+https://project%3Auser:former@keys.example.org:5000/v2.0/{OBJECT}"
        assert login(made, url) == ("project:user", "own")
        assert ownership(made, url) is YES

    def test_other_users_keep_the_stores_domains_and_address(self) -> None:
        made = store(user_domain_name="d", auth_version="2")
        url = f"swift+http://other%3Aone:k@keys.example.org:5000/v2.0/{OBJECT}"
        found = account(made, url)
        assert (found.address, found.version) == (LOGIN["auth_address"], "3")
        assert found.domains == (("user_domain_name", "d"),)

    def test_an_application_credential_serves_all_users(self) -> None:
        """It is all that the store has: what a location says of users may be void long since."""
        made = SwiftStore(
            "swift",
            auth_address=LOGIN["auth_address"],
            application_credential_id="i",
            application_credential_secret="s",
        )
        for credentials in ("", "project%3Auser:k@"):
            url = f"swift+https://{credentials}keys.example.org:5000/v3/{OBJECT}"
            assert account(made, url) == made._settings.account
            assert ownership(made, url) is YES


class TestReferences:
    @pytest.mark.parametrize("default", ["ref1", "ref2", "credential"])
    @pytest.mark.parametrize("base", ["swift://", "swift+http://", "swift+https://"])
    @pytest.mark.parametrize("version", ["", "/v2.0", "/v3"])
    def test_the_default_is_meant_where_addresses_are_one(
        self, default: str, base: str, version: str, references: str
    ) -> None:
        made = referring(references, default)
        url = f"{base}keys.example.org:5000{version}/{OBJECT}"
        assert account(made, url) == made._settings.accounts[default]
        assert ownership(made, url) is YES

    def test_the_first_is_meant_at_other_addresses(self, references: str) -> None:
        made = referring(references, "far")
        url = f"swift+http://keys.example.org:5000/{OBJECT}"
        assert login(made, url) == ("project:one", "first")
        assert ownership(made, url) is MAYBE

    @pytest.mark.parametrize(
        ("service", "user", "expected", "owned"),
        [
            ("keys.example.org:5000/v3", "project%3Aone", ("project:one", "first"), MAYBE),
            ("keys.example.org:5000/v2.0", "project%3Atwo", ("project:two", "second"), YES),
            ("far.example.org/identity", "project%3Atwo", ("project:two", "far"), MAYBE),
            ("keys.example.org:5000/v3", "project%3Amore", ("project:more", "old"), MAYBE),
        ],
    )
    def test_users_tell_references_apart(
        self, service: str, user: str, expected: tuple[str, str], owned: Ownership, references: str
    ) -> None:
        made = referring(references)
        url = f"swift+https://{user}:old@{service}/{OBJECT}"
        assert login(made, url) == expected
        assert ownership(made, url) is owned

    @pytest.mark.parametrize(
        ("rest", "owned"),
        [
            (f"ref2/{OBJECT}", YES),
            (f"ref2/other/{IMAGE}", MAYBE),
            (f"ref1/{OBJECT}", MAYBE),
            (f"far/{OBJECT}", MAYBE),
            (f"REF2/{OBJECT}", NO),
            (f"unknown/{OBJECT}", NO),
            (f"None/{OBJECT}", NO),
            (f"ref2/v3/{OBJECT}", NO),
            (f"ref2/{IMAGE}", NO),
            ("ref2", NO),
        ],
    )
    def test_locations_that_name_a_reference(
        self, rest: str, owned: Ownership, references: str
    ) -> None:
        made = referring(references)
        assert ownership(made, f"swift+config://{rest}") is owned
        assert ownership(store(), f"swift+config://{rest}") is NO

    def test_a_reference_is_no_host(self, references: str) -> None:
        """Neither is a host called like a reference one of them."""
        assert ownership(referring(references), f"swift+https://ref2/{OBJECT}") is NO
        assert ownership(store(auth_address="ref2"), f"swift+config://ref2/{OBJECT}") is NO

    def test_an_endpoint_is_that_of_the_default(self, references: str) -> None:
        endpoint = "https://swift.example.org/v1/AUTH_1"
        found = referring(references, endpoint=endpoint)._settings
        overridden = {name: found.endpoint_of(each) for name, each in found.accounts.items()}
        assert overridden == {"ref1": None, "ref2": endpoint, "credential": None, "far": None}


class TestContainers:
    @pytest.mark.parametrize(
        ("container", "owned"),
        [
            ("glance_fda", YES),
            ("glance_fdae", MAYBE),
            ("glance_FDA", MAYBE),
            ("glance", MAYBE),
            ("glance_fda_segments", MAYBE),
        ],
    )
    def test_a_seed_tells_where_an_image_lies(self, container: str, owned: Ownership) -> None:
        """What lay elsewhere before the seed was set may be read still."""
        made = store(multiple_containers_seed=3)
        url = f"swift+https://keys.example.org:5000/v3/{container}/{IMAGE}"
        assert ownership(made, url) is owned

    @pytest.mark.parametrize(
        ("rest", "place"),
        [
            ("h:5000/v3/a%2Fb/c%20d", Place("h:5000/v3", "a%2Fb", "c%20d")),
            ("h/c/o", Place("h", "c", "o")),
            ("h/v1/AUTH_1/c/o/", Place("h/v1/AUTH_1", "c", "o")),
            ("[fd00::7]:5000/c/o", Place("[fd00::7]:5000", "c", "o")),
            ("h/c", None),
            ("h", None),
            ("h/./o", None),
            ("h/c/.", None),
            ("h/../o", None),
            ("h/c/..", None),
            ("h//o", None),
        ],
    )
    def test_the_last_two_parts_are_container_and_object(
        self, rest: str, place: Place | None
    ) -> None:
        """They are not decoded: glance_store encodes neither."""
        assert Place.of(Location.parse(f"swift://{rest}")) == place

    def test_a_reference_is_one_part(self) -> None:
        assert Place.of(Location.parse("swift+config://ref/c/o")) == Place("ref", "c", "o")
        assert Place.of(Location.parse("swift+config://ref/v3/c/o")) is None


class TestFormerPlaces:
    @pytest.mark.parametrize(
        ("prefix", "url", "owned"),
        [
            ("swift+https://old.example.org/v3", f"old.example.org/v3/{OBJECT}", YES),
            ("swift+https://old.example.org/v3/", f"old.example.org/v3/other/{IMAGE}", YES),
            ("swift+https://old.example.org", f"old.example.org/v2.0/{OBJECT}", YES),
            ("swift+https://old.example.org", f"p%3Au:a/b@old.example.org/v3/{OBJECT}", YES),
            ("swift+https://p%3Au:k@old.example.org", f"old.example.org/v3/{OBJECT}", YES),
            ("swift+https://old.example.org/v3/glance", f"old.example.org/v3/{OBJECT}", YES),
            ("swift+https://old.example.org/v3/glan", f"old.example.org/v3/{OBJECT}", NO),
            ("swift+https://old.example.org/v3", f"old.example.org/v3.0/{OBJECT}", NO),
            ("swift+https://old.example.org", f"old.example.org.evil.example/{OBJECT}", NO),
        ],
    )
    def test_prefixes_are_owned_by_whole_parts(
        self, prefix: str, url: str, owned: Ownership
    ) -> None:
        assert ownership(store(also_owns=[prefix]), f"swift+https://{url}") is owned

    def test_they_are_opened_where_the_store_is_now(self) -> None:
        """A location's own user is asked for, too; nothing goes to the old address."""
        made = store(also_owns=["swift+http://old.example.org"])
        for credentials, expected in (
            ("", ("project:user", "own")),
            ("project%3Auser:former@", ("project:user", "own")),
            ("other%3Aone:k@", ("other:one", "k")),
        ):
            url = f"swift+http://{credentials}old.example.org/v2.0/{OBJECT}"
            assert login(made, url) == expected
            assert account(made, url).address == LOGIN["auth_address"]

    def test_references_that_are_gone(self, references: str) -> None:
        """A store without a file, or with another one, reads what one with it wrote."""
        url = f"swift+config://gone/{OBJECT}"
        for made in (
            store(also_owns=["swift+config://gone"]),
            referring(references, also_owns=["swift+config://gone"]),
        ):
            assert ownership(made, url) is YES
            assert account(made, url) == made._settings.account

    def test_a_reference_that_exists_is_meant_itself(self, references: str) -> None:
        made = referring(references, also_owns=["swift+config://far"])
        url = f"swift+config://far/{OBJECT}"
        assert ownership(made, url) is YES
        assert login(made, url) == ("project:two", "far")


class TestTenants:
    MINE = f"swift.example.org/v1/AUTH_1/glance_{IMAGE}/{IMAGE}"

    @pytest.mark.parametrize("scheme", ["swift", "swift+http", "swift+https", "SWIFT+HTTPS"])
    def test_containers_are_those_of_the_image(self, scheme: str) -> None:
        """Any account's, for only a context tells which is meant."""
        made = store(multi_tenant=True)
        assert ownership(made, f"{scheme}://{self.MINE}") is YES
        assert ownership(made, f"{scheme}://{self.MINE.replace('AUTH_1', 'AUTH_2')}") is YES
        assert ownership(made, f"{scheme}://{self.MINE.replace('glance_', 'images_')}") is MAYBE
        assert ownership(made, f"{scheme}://{self.MINE}x") is MAYBE

    @pytest.mark.parametrize(
        "url",
        [
            f"swift+config://swift.example.org/v1/AUTH_1/glance_{IMAGE}/{IMAGE}",
            f"swift+config://ref1/glance_{IMAGE}/{IMAGE}",
            f"swift+https://swift.example.org/glance_{IMAGE}/{IMAGE}",
            f"swift+https://swift.example.org/{IMAGE}",
        ],
    )
    def test_what_names_no_account(self, url: str) -> None:
        assert ownership(store(multi_tenant=True), url) is NO

    @pytest.mark.parametrize(
        ("endpoint", "owned"),
        [
            ("https://swift.example.org/v1/AUTH_9", YES),
            ("http://SWIFT.example.org:80/v1/AUTH_9", YES),
            ("https://swift.example.org:8080/v1/AUTH_9", NO),
            ("https://swift.example.org.evil.example/v1/AUTH_9", NO),
        ],
    )
    def test_an_endpoint_says_which_swift(self, endpoint: str, owned: Ownership) -> None:
        made = store(multi_tenant=True, endpoint=endpoint)
        assert ownership(made, f"swift+https://{self.MINE}") is owned

    def test_former_hosts(self) -> None:
        made = store(
            multi_tenant=True,
            endpoint="https://new.example.org/v1/AUTH_9",
            also_owns=["swift+https://swift.example.org"],
        )
        assert ownership(made, f"swift+https://{self.MINE}") is YES
        other = self.MINE.replace("swift.", "other.")
        assert ownership(made, f"swift+https://{other}") is NO

    def test_a_store_alone_does_without_keystone(self) -> None:
        """Contexts bring catalogue and token."""
        made = SwiftStore("swift", multi_tenant=True)
        assert made._settings.account is None
        assert ownership(made, f"swift+https://{self.MINE}") is YES
        assert made.url_prefix is None

    @pytest.mark.parametrize(
        ("asker", "error", "said"),
        [
            (None, errors.InvalidArgument, "no user asks"),
            (RequestContext(), errors.InvalidArgument, "no user asks"),
            (RequestContext(token="t"), errors.ConfigError, "swift_store_auth_address"),
            (
                RequestContext(token="t", service_catalog=[]),
                errors.ConfigError,
                "swift_store_endpoint",
            ),
        ],
    )
    def test_what_a_context_lacks(
        self, asker: RequestContext | None, error: type[errors.ImgStoreError], said: str
    ) -> None:
        with SwiftStore("swift", multi_tenant=True) as made:
            url = f"swift+https://{self.MINE}"
            for verb in (made.get, made.size, made.delete, made.set_acls):
                with pytest.raises(error, match=said):
                    verb(url, context=asker)
            with pytest.raises(error, match=said):
                made.add(IMAGE, b"", context=asker)

    def test_tokens_go_to_no_other_swift(self) -> None:
        """The catalogue says where the user's token is good, not the location."""
        catalogue = [
            {
                "type": "object-store",
                "endpoints": [{"interface": "public", "url": "https://here.example.org/v1/AUTH_1"}],
            }
        ]
        asker = RequestContext(token="t", service_catalog=catalogue)
        with store(multi_tenant=True) as made:
            for verb in (made.get, made.size, made.delete, made.set_acls):
                with pytest.raises(errors.InvalidLocation, match="another Swift"):
                    verb(f"swift+https://{self.MINE}", context=asker)
