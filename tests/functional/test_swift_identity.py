"""As whom a Swift store of one account asks, where, and what nobody may ever see of it."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from servers.certificates import Authority
from servers.containers import Container, empty_account, raw_swift
from servers.containers import container as make_container
from servers.hostile import Hostile
from servers.keystone import ApplicationCredential, Keystone, KeystoneUser
from servers.openstack import Logged
from servers.radosgw import SwiftUser
from servers.swift import OTHER, TESTER, Front, Swift
from servers.swift_stores import VersionOne, fails, login, old_url, place, serves

from imgstore import Location, StoreManager, errors
from imgstore.drivers.swift import SwiftStore
from imgstore.model import Ownership
from imgstore.testing.harness import content, new_id

pytestmark = pytest.mark.servers("swift", "keystone")

Make = Callable[..., SwiftStore]
Write = Callable[..., str]
Caplog = pytest.LogCaptureFixture
AnyUser = KeystoneUser | ApplicationCredential | SwiftUser


@pytest.fixture
def make(container: Container) -> Iterator[Make]:
    """Make stores in the test's container, for its user or another one."""
    with contextlib.ExitStack() as stack:

        def make(user: AnyUser = container.user, **options: Any) -> SwiftStore:
            known = {"container": container.name, **login(user)}
            return stack.enter_context(SwiftStore("swift", **known | options))

        yield make


@pytest.fixture
def sections(tmp_path: Path) -> Write:
    """Write a reference file: ``sections(name, reference=user, …)`` returns its path."""

    def write(name: str, **users: AnyUser) -> str:
        lines = []
        for reference, user in users.items():
            lines += [f"[{reference}]", *(f"{key} = {text}" for key, text in login(user).items())]
        (tmp_path / name).write_text("\n".join(lines))
        return str(tmp_path / name)

    return write


class TestTls:
    @pytest.fixture
    def front(self, swift: Swift) -> Front:
        front = swift.front(tls=True)
        front.requests.forget()
        return front

    @pytest.fixture
    def secure(self, make: Make, front: Front, keystone: Keystone) -> Make:
        """Make stores that get tokens and images by TLS alone."""
        known = {"service_type": "images", "region": "RegionTLS"}
        return lambda **more: make(**{"auth_address": keystone.secure_url} | known | more)

    @pytest.fixture
    def other_ca(self, tmp_path: Path) -> str:
        return str(Authority(tmp_path).ca)

    def test_both_are_verified(self, secure: Make, front: Front, keystone: Keystone) -> None:
        """Without a scheme the address is one of https."""
        service = keystone.secure_url.removeprefix("https://")
        for address in (keystone.secure_url, service):
            front.requests.forget()
            location = serves(secure(auth_address=address, cacert=str(keystone.ca)))
            assert location.url.startswith(f"swift+https://{service}/")
            assert front.requests.read("PUT") != []

    @pytest.mark.parametrize("ca", ["other", "system's"])
    def test_neither_is_trusted_blindly(
        self, secure: Make, front: Front, keystone: Keystone, other_ca: str, ca: str
    ) -> None:
        """The refusal names the option, and nothing secret was sent."""
        for address in (keystone.secure_url, keystone.url):
            store = secure(auth_address=address, cacert=other_ca if ca == "other" else None)
            keystone.requests.forget()
            fails(store, errors.PermissionDenied, "swift_store_cacert")
            assert front.requests.read() == []
            assert address == keystone.url or keystone.requests.read() == []

    @pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
    def test_nothing_is_verified_where_that_is_said(
        self, secure: Make, keystone: Keystone, other_ca: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whatever other CA the environment names."""
        serves(secure(auth_insecure=True, cacert=other_ca))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", other_ca)
        serves(secure(auth_insecure=True))
        serves(secure(cacert=str(keystone.ca)))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(keystone.ca))
        with pytest.raises(errors.PermissionDenied, match="swift_store_cacert"):
            secure(cacert=other_ca).add("image", b"1")

    @pytest.mark.parametrize("text", [None, "no certificate"])
    def test_a_ca_that_cannot_be_read(self, secure: Make, tmp_path: Path, text: str | None) -> None:
        path = tmp_path / "ca.pem"
        if text is not None:
            path.write_text(text)
        with pytest.raises(errors.ConfigError, match="swift_store_cacert"):
            secure(cacert=str(path)).add("image", b"1")


class TestEndpoints:
    @pytest.mark.parametrize(
        ("options", "host", "path"),
        [
            ({}, "127.0.0.1", "v1"),
            ({"region": "RegionOne"}, "127.0.0.1", "v1"),
            ({"endpoint_type": "internalURL"}, "localhost", "v1"),
            ({"endpoint_type": "adminURL"}, "127.0.0.1", "v1.0"),
            ({"service_type": "images", "region": "RegionOne"}, "127.0.0.1", "v1"),
            ({"service_type": "images", "region": "RegionTwo"}, "localhost", "v1.0"),
        ],
    )
    def test_one_of_the_catalogue_is_used(
        self, make: Make, swift: Swift, options: dict[str, str], host: str, path: str
    ) -> None:
        """By every request; no location tells which it was."""
        store = make(large_object_size=1, large_object_chunk_size=1, **options)
        swift.requests.forget()
        assert serves(store).url.startswith(f"{make().url_prefix}/")
        store.delete(store.add("image", bytes(3_000_000)).location)
        assert places(swift.requests.read()) == {(host, path)}

    def test_one_is_given(self, make: Make, swift: Swift, container: Container) -> None:
        """The catalogue does not matter then."""
        url = swift.account_url(container.user).replace("/v1/", "/v1.0/")
        store = make(endpoint=f"{url}/", region="nowhere", service_type="nothing")
        swift.requests.forget()
        assert serves(store).url.startswith(f"{make().url_prefix}/")
        assert places(swift.requests.read()) == {("127.0.0.1", "v1.0")}

    @pytest.mark.parametrize("type_", ["object-store", "images", "volume"])
    def test_there_is_none(self, make: Make, type_: str) -> None:
        options = {"service_type": type_, "endpoint_type": "adminURL", "region": "RegionTwo"}
        words = [type_, "admin", "RegionTwo", *(f"swift_store_{each}" for each in options)]
        match = "".join(f"(?=.*{each})" for each in (*words, "set swift_store_endpoint"))
        fails(make(**options), errors.ConfigError, match)


def places(requests: list[Logged]) -> set[tuple[str, str]]:
    """Return hosts and versions of the API that were asked for anything but what Swift can."""
    found = {(each.headers["host"], each.path) for each in requests if each.path != "/info"}
    return {(host.partition(":")[0], path.split("/")[1]) for host, path in found}


class TestUsers:
    @pytest.mark.parametrize("by", ["id", "name"])
    def test_domains_of_user_and_project(self, make: Make, swift: Swift, by: str) -> None:
        """Of users and projects of one name, in two domains, the right ones are meant."""
        keystone, name = swift.keystone, f"twin-{new_id()}"
        there = keystone.user(name, domain="Elsewhere")
        here = keystone.user(name, password=there.password)
        keystone.grant(replace(there, project_id=here.project_id), "member")
        options: dict[str, Any] = {"create_container_on_put": True, "container": name}
        for of_user, of_project, user in (
            ("Elsewhere", "Elsewhere", there),
            ("Default", "Default", here),
            ("Elsewhere", "Default", here),
        ):
            for key, domain in (("user_domain", of_user), ("project_domain", of_project)):
                options |= {f"{key}_name": "", f"{key}_id": ""}
                options[f"{key}_{by}"] = keystone.domain(domain) if by == "id" else domain
            serves(make(here, **options))
            with contextlib.closing(raw_swift(user)) as raw:
                assert [each["name"] for each in raw.get_account()[1]] == [name]
            empty_account(user)
        serves(make(user_domain_name=None, project_domain_name=None))  # the id is "default"

    @pytest.mark.parametrize("what", ["name", "project", "domain", "role"])
    def test_what_keystone_does_not_know(self, make: Make, container: Container, what: str) -> None:
        wrong = {"project": "service"} if what == "role" else {what: "nothing"}
        store = make(replace(container.user, **wrong))
        fails(store, errors.PermissionDenied, "Keystone.*project")
        assert container.names() == []

    @pytest.mark.parametrize("what", ["id", "secret"])
    def test_an_application_credential_that_is_wrong(
        self, make: Make, keystone: Keystone, container: Container, what: str
    ) -> None:
        """Keystone answers 404 for one that was deleted."""
        wrong = replace(keystone.application_credential(container.user), **{what: "wrong"})
        fails(make(wrong), errors.PermissionDenied, "application credential")

    @pytest.mark.parametrize("version", ["1", "3"])
    @pytest.mark.parametrize("what", ["swift", "other version", "no path", "web"])
    def test_an_address_of_something_else(
        self, make: Make, swift: Swift, hostile: Hostile, version: str, what: str
    ) -> None:
        keystone = swift.keystone.url
        address = {
            "swift": f"{swift.url}/v3",
            "other version": swift.v1_user().url if version == "3" else keystone,
            "no path": keystone.replace("v3", "nothing"),
            "web": hostile.url("good"),
        }[what]
        store = make(auth_address=address, auth_version=version)
        fails(store, errors.ConfigError, "auth_address.*auth_version")


class TestReferences:
    def test_several_of_all_kinds(
        self, make: Make, sections: Write, swift: Swift, container: Container
    ) -> None:
        """New images go to the default one; images of all are read and deleted."""
        tester, theirs = swift.v1_user(OTHER), swift.keystone.user(new_id(), password="%(user)s %%")
        credential = swift.keystone.application_credential(theirs)
        users: dict[str, AnyUser] = {"ours": container.user, "theirs": theirs}
        users |= {"credential": credential, "tempauth": tester}
        options = {"config_file": sections("file", **users), "create_container_on_put": True}
        stores = {name: make(default_swift_reference=name, **options) for name in users}
        locations = {
            name: store.add(f"image-{name}", name.encode()).location
            for name, store in stores.items()
        }
        assert container.names() == ["image-ours"]
        for name, location in locations.items():
            assert location.url == f"swift+config://{name}/{container.name}/image-{name}"
            for own, store in stores.items():
                assert content(store, location) == name.encode()
                assert (store.ownership(location) is Ownership.YES) == (name == own)
            stores["ours"].delete(location)
        assert container.names() == []
        for user in (theirs, tester):
            with contextlib.closing(raw_swift(user)) as raw:
                raw.delete_container(container.name)

    @pytest.mark.parametrize("password", ["50%", "%(auth_address)s", "$HOME", "a # b;c", "a=b: c"])
    def test_passwords_are_literal(
        self, make: Make, swift: Swift, tmp_path: Path, password: str
    ) -> None:
        """In quotes of either kind, or without."""
        user = swift.keystone.user(new_id(), project="tests", password=password)
        file = tmp_path / "swift.conf"
        for mark in ("", "'", '"'):
            lines = [f"{name} = {mark}{value}{mark}" for name, value in login(user).items()]
            file.write_text("\n".join(["[ref1]", *lines]))
            serves(make(config_file=str(file)))

    @pytest.mark.parametrize("name", ["a/b", "a@b"])
    def test_names_no_location_can_hold(
        self, make: Make, sections: Write, swift_user: KeystoneUser, name: str
    ) -> None:
        file = sections("file", **{name: swift_user})
        with pytest.raises(errors.ConfigError, match="default_swift_reference"):
            make(config_file=file, default_swift_reference=name)

    def test_two_files_never_mix(
        self, sections: Write, tmp_path: Path, swift: Swift, container: Container
    ) -> None:
        """Not even references of one name. A relative path is looked for beside the options."""
        user, third, file = container.user, f"{container.name}-3", tmp_path / "glance-api.conf"
        with make_container(swift.v1_user(OTHER)) as other:
            sections("one.conf", ref1=user, first=user)
            sections("two.conf", ref1=other.user, second=other.user)
            file.write_text(
                "[DEFAULT]\nenabled_backends = one:swift, two:swift, three:swift\n"
                "[glance_store]\ndefault_backend = one\n"
                f"[backend_defaults]\nswift_store_container = {container.name}\n"
                "[one]\nswift_store_config_file = one.conf\nswift_buffer_on_upload = true\n"
                f"[two]\nswift_store_config_file = {tmp_path}/two.conf\n"
                f"swift_store_container = {other.name}\n"
                f"[three]\nswift_store_auth_address = {user.url}\n"
                f"swift_store_user = {user.project}:{user.name}\n"
                f"swift_store_key = {user.password}\n"
                f"swift_store_container = {third}\nswift_store_create_container_on_put = true\n"
            )
            with StoreManager.from_file(file) as stores:
                for name, prefix, where in (
                    ("one", f"swift+config://ref1/{container.name}", container),
                    ("two", f"swift+config://ref1/{other.name}", other),
                    ("three", f"swift+{user.url}/{third}", Container(user, container.raw, third)),
                ):
                    image = stores.add("image", name.encode(), store=name)
                    assert image.location.url == f"{prefix}/image"
                    assert where.content("image") == name.encode()
                    with stores.get(image.location) as reader:
                        assert reader.read() == name.encode()
                    stores.delete(image.location)
                for name, reference in (("one", "second"), ("two", "first"), ("three", "ref1")):
                    with pytest.raises(errors.InvalidLocation):
                        stores[name].size(f"swift+config://{reference}/{container.name}/image")
                assert stores.check() == []
            container.raw.delete_container(third)


class TestVersionOne(VersionOne):
    """With Swift's own users; Ceph's are in test_swift_gateway_users."""

    @pytest.fixture
    def users(self, swift: Swift) -> list[SwiftUser]:
        return [swift.v1_user(TESTER), swift.v1_user(OTHER)]


class TestOldLocations:
    @pytest.mark.parametrize("key", ["a:b", "a/b", "a@b", "1%", "%41", "a+b c", ":/@%"])
    def test_any_key_is_read(
        self, make: Make, swift: Swift, swift_other: KeystoneUser, container: Container, key: str
    ) -> None:
        """It is that of a user who is not the store's own, in another project."""
        project, store = container.user.project, make(swift_other)
        user = swift.keystone.user(f"o%ld:{new_id()}", project=project, password=key)
        for safe in ("/", ""):
            url = old_url(user, f"{container.name}/image", safe=safe)
            container.put("image", b"1")
            assert store.ownership(Location.parse(url)) is Ownership.MAYBE
            assert content(store, url) == b"1"
            store.delete(url)
            assert container.names() == []

    @pytest.mark.parametrize("path", ["", "/v2.0", "/v3", "/v3/"])
    def test_scheme_version_and_an_old_key_do_not_matter(
        self, make: Make, container: Container, path: str
    ) -> None:
        """Where the address is the store's own, and the user."""
        user, name = container.user, f"{container.name}/image"
        container.put("image", b"1")
        other = replace(user, url=f"{user.url.removesuffix('/v3')}{path}")
        for store, there in ((make(), other), (make(other), user)):
            service = there.url.removeprefix("http://").rstrip("/")
            for url in (f"swift+http://{service}/{name}", old_url(there, name, key="old/k:e@y")):
                for scheme in ("swift", "swift+http", "swift+https"):
                    assert content(store, url.replace("swift+http", scheme)) == b"1"

    @pytest.mark.parametrize("who", ["", "tests%3Auser:key@", "tests:user:k/e@y@"])
    def test_nothing_is_sent_to_other_hosts(
        self, make: Make, container: Container, hostile: Hostile, who: str
    ) -> None:
        host, own = ":".join(map(str, hostile.address)), container.user.url.partition("://")[2]
        for service in (f"{host}/v3", f"{host}/{own}", f"{own}@{host}/v3"):
            for verb in (make().get, make().size, make().delete):
                with pytest.raises(errors.InvalidLocation):
                    verb(f"swift+http://{who}{service}/{container.name}/image")
        assert hostile.requests == []


@pytest.mark.parametrize("form", ["address", "old key", "reference"])
def test_former_addresses_are_the_default_accounts(
    make: Make, container: Container, hostile: Hostile, form: str
) -> None:
    container.put("image", b"1")
    name = f"{container.name}/image"
    former = replace(container.user, url=hostile.url("v2.0"))
    prefix = "swift+config://ref1" if form == "reference" else f"swift+{former.url}"
    url = old_url(former, name, key="old/k:e@y") if form == "old key" else f"{prefix}/{name}"
    with pytest.raises(errors.InvalidLocation):
        make().size(url)
    store = make(also_owns=[prefix])
    assert store.ownership(Location.parse(url)) is Ownership.YES
    assert content(store, url) == b"1"
    store.delete(url)
    assert container.names() == hostile.requests == []


def test_nothing_shows_secrets(
    make: Make, sections: Write, swift: Swift, container: Container, caplog: Caplog
) -> None:
    """No error and no record, whoever logs it, when all goes well and when nothing does."""
    user, tester = container.user, swift.v1_user(OTHER)
    credential = swift.keystone.application_credential(user)
    wrong = replace(user, password="wro%ng:p@ss/word")
    caplog.set_level("DEBUG", logger="")
    stores = [
        *(make(each, create_container_on_put=True) for each in (user, credential, tester)),
        *(make(each) for each in (wrong, replace(tester, key=wrong.password))),
        make(replace(credential, secret="wrong-secret")),
        make(region="nowhere"),
        make(endpoint=f"{swift.url}/v1/AUTH_nothing"),
        make(auth_address=f"{swift.url}/v3"),
    ]
    shown = [repr(store) for store in stores]

    def call(verb: Callable[[], object]) -> None:
        try:
            shown.append(repr(verb()))
        except errors.ImgStoreError as exc:
            shown.extend([repr(exc), *traceback.format_exception(exc)])

    old = [old_url(each, f"{container.name}/image") for each in (user, wrong, tester)]
    for store in stores:
        call(partial(serves, store))
        call(store.check)
        for url in (place(store), *old):
            call(partial(store.size, url))
            call(partial(store.delete, url))
    file = sections("swift.conf", ref1=user, half=replace(wrong, project=""))
    for more in ("", f"\n{credential.secret}"):
        Path(file).write_text(Path(file).read_text() + more)
        call(lambda: SwiftStore("swift", config_file=file).close())
    tokens = {each.headers.get("x-auth-token", "") for each in swift.requests.read()} - {""}
    assert len(tokens) > 3
    keys = (user.password, wrong.password, tester.key)
    text = "\n".join([*shown, caplog.text])
    assert all(each in text for each in ("urllib3", "keystoneauth", "'half'", "not an INI file"))
    for secret in {*tokens, *keys, *map(quote, keys), credential.secret, "wrong-secret"}:
        assert secret not in text, text[max(0, text.index(secret) - 300) :][:400]
    with contextlib.closing(raw_swift(tester)) as raw:
        raw.delete_container(container.name)
