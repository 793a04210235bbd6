"""The multi-tenant Swift store: whose token, account and container, and for how long."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from servers.containers import empty_account, expired, raw_swift, session
from servers.hostile import Hostile
from servers.keystone import ApplicationCredential, Keystone, KeystoneUser
from servers.openstack import ask
from servers.process import until
from servers.swift import MIB, Swift

from imgstore import Location, RequestContext, StoredImage, StoreManager, errors
from imgstore.drivers.swift import SwiftStore
from imgstore.model import Ownership
from imgstore.testing.doubles import Failing, Paused
from imgstore.testing.harness import difference, new_id, pattern

pytestmark = pytest.mark.servers("swift", "keystone")

IN_SEGMENTS = {"large_object_size": 1, "large_object_chunk_size": 4}
LARGE = 40 * MIB  # more than is read ahead

Make = Callable[..., SwiftStore]
Caplog = pytest.LogCaptureFixture
Verb = Callable[[SwiftStore, Location, RequestContext | None], object]

VERBS: dict[str, Verb] = {
    "get": lambda store, at, context: content(store, at, context=context),
    "size": lambda store, at, context: store.size(at, context=context),
    "set_acls": lambda store, at, context: store.set_acls(at, public=True, context=context),
    "delete": lambda store, at, context: store.delete(at, context=context),
}


def login(user: KeystoneUser | ApplicationCredential) -> dict[str, str]:
    if isinstance(user, ApplicationCredential):
        return {
            "auth_address": user.url,
            "application_credential_id": user.id,
            "application_credential_secret": user.secret,
        }
    return {
        "auth_address": user.url,
        "user": f"{user.project}:{user.name}",
        "key": user.password,
        "user_domain_name": user.domain,
        "project_domain_name": user.domain,
    }


def content(store: SwiftStore, at: Location, context: RequestContext | None) -> bytes:
    with store.get(at, context=context) as reader:
        return reader.read()


@pytest.fixture
def make(keystone: Keystone) -> Iterator[Make]:
    """Make stores whose own user may act for others, or another one."""
    with contextlib.ExitStack() as stack:

        def make(
            own: KeystoneUser | ApplicationCredential = keystone.service, /, **options: Any
        ) -> SwiftStore:
            known = {"multi_tenant": True, **login(own), **IN_SEGMENTS}
            return stack.enter_context(SwiftStore("swift", **known | options))

        yield make


@pytest.fixture(scope="module")
def tenant(_swift: Swift) -> KeystoneUser:
    """A user of these tests."""
    return _swift.keystone.user(f"te%st:{new_id()}")


@pytest.fixture
def user(swift: Swift, tenant: KeystoneUser) -> Iterator[KeystoneUser]:
    """A user with an empty account."""
    yield tenant
    empty_account(tenant)


@pytest.fixture
def context(keystone: Keystone, user: KeystoneUser) -> RequestContext:
    return RequestContext(keystone.token(user))


@pytest.fixture
def other(keystone: Keystone, swift_other: KeystoneUser) -> RequestContext:
    """Somebody of another project."""
    return RequestContext(keystone.token(swift_other))


@pytest.fixture
def raw(user: KeystoneUser) -> Iterator[Any]:
    with contextlib.closing(raw_swift(user)) as connection:
        yield connection


def containers(raw: Any) -> list[str]:
    return [each["name"] for each in raw.get_account()[1]]


@contextlib.contextmanager
def adding(
    store: SwiftStore,
    data: bytes,
    context: RequestContext,
    *,
    size: int | None = None,
    name: str = "image",
) -> Iterator[Future[StoredImage]]:
    """Add an image; the block runs when half of it was read. Raises what adding raises."""
    source = Paused(data)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(store.add, name, source, size=size, context=context)
        until(lambda: source.reached.is_set() or future.done(), seconds=60, what="half is read")
        try:
            yield future
        finally:
            source.go_on.set()
        future.result(60)


class TestContext:
    @pytest.mark.parametrize("context", [None, RequestContext(), RequestContext(project_id="1")])
    def test_every_verb_needs_one(
        self, make: Make, swift: Swift, user: KeystoneUser, context: RequestContext | None
    ) -> None:
        store, at = make(), Location.parse(f"swift+{swift.account_url(user)}/glance_image/image")
        swift.requests.forget()
        with pytest.raises(errors.InvalidArgument, match="context="):
            store.add("image", b"1", context=context)
        for verb in VERBS.values():
            with pytest.raises(errors.InvalidArgument, match="context="):
                verb(store, at, context)
        assert swift.requests.read() == []

    def test_every_request_has_its_token(
        self, make: Make, swift: Swift, user: KeystoneUser, context: RequestContext
    ) -> None:
        assert context.auth_token is not None
        store = make()
        swift.requests.forget()
        for size in (1, 2 * MIB):
            at = store.add("image", bytes(size), context=context).location
            assert at.url == f"swift+{swift.account_url(user)}/glance_image/image"
            for verb in VERBS.values():
                verb(store, at, context)
        asked = [each for each in swift.requests.read() if each.path != "/info"]
        tokens = {each.headers["x-auth-token"] for each in asked}
        assert tokens == {context.auth_token.reveal()}

    def test_the_stores_own_user_needs_no_account(self, make: Make) -> None:
        """It is for trusts and service tokens; a check sees whether it can log in."""
        assert make().check() == []
        (fault,) = make(key="wrong").check()
        assert "Keystone" in fault

    @pytest.mark.parametrize("size", [1, 2 * MIB])
    def test_others_may_do_nothing(
        self, make: Make, context: RequestContext, other: RequestContext, size: int
    ) -> None:
        store = make()
        at = store.add("image", bytes(size), context=context).location
        for verb in VERBS.values():
            with pytest.raises(errors.PermissionDenied):
                verb(store, at, other)
            assert content(store, at, context) == bytes(size)

    @pytest.mark.parametrize("catalogue", ["asked for", "passed"])
    def test_a_token_that_is_not_valid(
        self, make: Make, swift: Swift, user: KeystoneUser, catalogue: str
    ) -> None:
        """The message says that it is the token, and not the store's user."""
        known = catalogue_of(swift, user) if catalogue == "passed" else None
        revoked = swift.keystone.token(user)
        swift.keystone.revoke(revoked)
        store, at = make(), Location.parse(f"swift+{swift.account_url(user)}/glance_image/image")
        for token in ("nonsense", revoked):
            context = RequestContext(token, service_catalog=known)
            with pytest.raises(errors.PermissionDenied, match="token"):
                store.add("image", b"1", context=context)
            for verb in VERBS.values():
                with pytest.raises(errors.PermissionDenied, match="token"):
                    verb(store, at, context)

    @pytest.mark.parametrize("catalogue", ["asked for", "passed"])
    def test_a_token_that_cannot_be_sent(
        self, make: Make, swift: Swift, user: KeystoneUser, catalogue: str
    ) -> None:
        known = catalogue_of(swift, user) if catalogue == "passed" else None
        context = RequestContext("nonsense-token\n", service_catalog=known)
        with pytest.raises(errors.PermissionDenied, match="token") as caught:
            make(max_attempts=1).add("image", b"1", context=context)
        assert "nonsense" not in "".join(traceback.format_exception(caught.value))

    def test_a_catalogue_that_is_passed_is_not_asked_for(
        self, make: Make, swift: Swift, user: KeystoneUser, context: RequestContext
    ) -> None:
        """In the form of Keystone's API v3, and in that of its middleware."""
        new = catalogue_of(swift, user)
        endpoint = {"region": "RegionOne", "publicURL": swift.account_url(user)}
        old = [{"type": "object-store", "endpoints": [endpoint]}]
        for catalogue in (new, old):
            swift.keystone.requests.forget()
            known = replace(context, service_catalog=catalogue)
            store = make(auth_address=None, user=None, key=None)
            at = store.add("image", b"1", context=known).location
            assert content(store, at, known) == b"1"
            store.delete(at, context=known)
            paths = {each.path.rpartition("/")[2] for each in swift.keystone.requests.read()}
            assert "catalog" not in paths
        alone = make(auth_address=None, user=None, key=None)
        with pytest.raises(errors.ConfigError, match="swift_store_auth_address"):
            alone.add("image", b"1", context=context)

    @pytest.mark.parametrize(
        ("place", "options"),
        [
            ("localhost:{}/v1", {"endpoint_type": "internalURL"}),
            ("127.0.0.1:{}/v1.0", {"endpoint_type": "adminURL"}),
            ("localhost:{}/v1.0", {"service_type": "images", "region": "RegionTwo"}),
            ("127.0.0.1:{}/v1", {"service_type": "images", "region": "RegionOne"}),
        ],
    )
    def test_the_options_choose_the_endpoint(
        self, make: Make, swift: Swift, user: KeystoneUser, place: str, options: dict[str, str]
    ) -> None:
        context = RequestContext(swift.keystone.token(user))
        at = make(**options).add("image", b"1", context=context).location
        host = place.format(swift.url.rpartition(":")[2])
        assert at.url.startswith(f"swift+http://{host}/AUTH_{user.project_id}/")
        assert content(make(**options), at, context) == b"1"
        with pytest.raises(errors.ConfigError, match="swift_store_region"):
            make(**options | {"region": "nowhere"}).add("image", b"1", context=context)

    @pytest.mark.parametrize("who", ["", "project%3Auser:key@"])
    def test_no_token_goes_to_other_hosts(
        self, make: Make, swift: Swift, context: RequestContext, hostile: Hostile, who: str
    ) -> None:
        host, own = ":".join(map(str, hostile.address)), swift.url.partition("://")[2]
        for service in (f"{host}/v1/AUTH_1", f"{own}@{host}/v1/AUTH_1", f"{host}/{own}/v1/AUTH_1"):
            at = Location.parse(f"swift+http://{who}{service}/glance_image/image")
            for verb in VERBS.values():
                with pytest.raises(errors.InvalidLocation):
                    verb(make(), at, context)
        assert hostile.requests == []

    def test_former_addresses_are_the_users_accounts(
        self, make: Make, context: RequestContext, hostile: Hostile
    ) -> None:
        at = make().add("image", b"1", context=context).location
        _, account, rest = at.url.partition("/v1/AUTH_")
        former = f"swift+{hostile.url('').rstrip('/')}"
        store, old = make(also_owns=[former]), Location.parse(f"{former}{account}{rest}")
        assert store.ownership(old) is Ownership.YES
        assert content(store, old, context) == b"1"
        store.delete(old, context=context)
        assert hostile.requests == []

    def test_in_a_configuration_file(
        self, make: Make, keystone: Keystone, tmp_path: Path, context: RequestContext, raw: Any
    ) -> None:
        user = keystone.service
        file = tmp_path / "glance-api.conf"
        file.write_text(
            "[DEFAULT]\nenabled_backends = users:swift\n[glance_store]\ndefault_backend = users\n"
            f"[users]\nswift_store_multi_tenant = true\nswift_store_auth_address = {user.url}\n"
            f"swift_store_user = {user.project}:{user.name}\nswift_store_key = {user.password}\n"
            "swift_store_admin_tenants = service:glance,admin:*\nswift_store_container = images\n"
        )
        with StoreManager.from_file(file) as stores:
            at = stores.add("image", b"1", context=context).location
            assert containers(raw) == ["images_image"]
            assert stores.size(at, context=context) == 1
            stores.set_acls(at, read=["project"], context=context)
            found = raw.head_container("images_image")
            assert found["x-container-read"] == "project:*,service:glance,admin:*"
            stores.delete(at, context=context)
            assert containers(raw) == []


def catalogue_of(swift: Swift, user: KeystoneUser) -> list[dict[str, Any]]:
    """Return the catalogue that came with a token."""
    made = session(user)
    found: list[dict[str, Any]] = made.auth.get_access(made).service_catalog.catalog
    return found


class TestAcls:
    ADMINS = ("service:glance", "*:image_admin")

    def test_headers(self, make: Make, context: RequestContext, raw: Any) -> None:
        """The admins are in both of both containers, verbatim, and what is new replaces all."""
        store, admins = make(admin_tenants=list(self.ADMINS)), ",".join(self.ADMINS)
        at = store.add("image", bytes(2 * MIB), context=context).location
        for options, read, write in (
            (None, "", ""),
            ({"read": ["1", "2"]}, "1:*,2:*,", ""),
            ({"write": ["1", "2"]}, "", "1:*,2:*,"),
            ({"public": True, "read": ["3"], "write": ["4"]}, "*:*,", "4:*,"),
            ({}, "", ""),
        ):
            if options is not None:
                store.set_acls(at, context=context, **options)
            for name in ("glance_image", "glance_image_segments"):
                found = raw.head_container(name)
                assert found["x-container-read"] == f"{read}{admins}"
                assert found["x-container-write"] == f"{write}{admins}"

    def test_readers_read(
        self,
        make: Make,
        swift_other: KeystoneUser,
        context: RequestContext,
        other: RequestContext,
    ) -> None:
        """And no more than that, until they may not any more."""
        store, data = make(), pattern(9 * MIB)
        images = [
            store.add(name, data[:size], context=context).location
            for name, size in (("small", MIB // 2), ("large", 9 * MIB))
        ]
        for at in images:
            for options in ({"read": [swift_other.project_id]}, {"public": True}):
                store.set_acls(at, context=context, **options)
                assert data.startswith(content(store, at, other))
                assert store.size(at, context=other) == store.size(at, context=context)
                for verb in ("set_acls", "delete"):
                    with pytest.raises(errors.PermissionDenied):
                        VERBS[verb](store, at, other)
            store.set_acls(at, context=context)
            for verb in VERBS.values():
                with pytest.raises(errors.PermissionDenied):
                    verb(store, at, other)
            assert data.startswith(content(store, at, context))

    def test_writers_delete(
        self,
        make: Make,
        swift_other: KeystoneUser,
        context: RequestContext,
        other: RequestContext,
        raw: Any,
    ) -> None:
        """The image, not the containers, which are the owner's."""
        store, project = make(), swift_other.project_id
        at = store.add("image", bytes(9 * MIB), context=context).location
        store.set_acls(at, read=[project], write=[project], context=context)
        store.delete(at, context=other)
        with pytest.raises(errors.NotFound):
            store.size(at, context=context)
        assert containers(raw) == ["glance_image", "glance_image_segments"]
        assert all(raw.get_container(name)[1] == [] for name in containers(raw))

    def test_admins_may_at_once(
        self,
        make: Make,
        swift_other: KeystoneUser,
        context: RequestContext,
        other: RequestContext,
    ) -> None:
        store = make(admin_tenants=[f"{swift_other.project_id}:*"])
        at = store.add("image", bytes(2 * MIB), context=context).location
        assert content(store, at, other) == bytes(2 * MIB)
        store.delete(at, context=other)

    def test_public_is_not_anonymous(
        self, make: Make, swift: Swift, user: KeystoneUser, context: RequestContext
    ) -> None:
        store = make()
        at = store.add("image", b"1", context=context).location
        store.set_acls(at, public=True, context=context)
        url = f"{swift.account_url(user)}/glance_image/image"
        assert ask("GET", url).status == 401

    def test_no_image(
        self, make: Make, swift: Swift, user: KeystoneUser, context: RequestContext
    ) -> None:
        at = Location.parse(f"swift+{swift.account_url(user)}/glance_image/image")
        with pytest.raises(errors.NotFound):
            make().set_acls(at, public=True, context=context)


class TestContainers:
    def test_each_image_has_its_own(self, make: Make, context: RequestContext, raw: Any) -> None:
        store = make()
        small, large = (
            store.add(name, bytes(size), context=context).location
            for name, size in (("small", 1), ("large", 2 * MIB))
        )
        assert containers(raw) == ["glance_large", "glance_large_segments", "glance_small"]
        store.delete(small, context=context)
        assert containers(raw) == ["glance_large", "glance_large_segments"]
        store.delete(large, context=context)
        assert containers(raw) == []

    @pytest.mark.parametrize("size", [1, 9 * MIB])
    def test_what_others_put_there_stays(
        self, make: Make, context: RequestContext, raw: Any, size: int
    ) -> None:
        store = make()
        at = store.add("image", bytes(size), context=context).location
        raw.put_object("glance_image", "other", b"other")
        store.delete(at, context=context)
        assert containers(raw) == ["glance_image"]
        assert raw.get_object("glance_image", "other")[1] == b"other"

    @pytest.mark.parametrize("size", [3, 12 * MIB])
    @pytest.mark.parametrize("there", ["nothing", "empty ones", "one in use"])
    def test_a_failed_add_removes_its_own(
        self, make: Make, context: RequestContext, raw: Any, size: int, there: str
    ) -> None:
        if there != "nothing":
            raw.put_container("glance_image")
            raw.put_container("glance_image_segments")
        if there == "one in use":
            raw.put_object("glance_image", "other", b"other")
        store, before, failure = make(), containers(raw), RuntimeError("the source fails")
        for source, known, error in (
            (Failing(failure, after=size - 1), size, RuntimeError),
            (Failing(failure, after=size - 1), None, RuntimeError),
            (iter([bytes(size - 1)]), size, errors.SizeMismatch),
            (iter([bytes(size + 1)]), size, errors.SizeMismatch),
        ):
            with pytest.raises(error):
                store.add("image", source, size=known, context=context)
            assert containers(raw) == before
        if there == "one in use":
            assert raw.get_object("glance_image", "other")[1] == b"other"

    @pytest.mark.parametrize("size", [MIB // 2, 12 * MIB])
    def test_nor_where_there_is_no_room(
        self, make: Make, swift: Swift, user: KeystoneUser, raw: Any, size: int
    ) -> None:
        context = RequestContext(swift.keystone.token(user))
        swift.quota(user, 1000)
        with pytest.raises(errors.StorageFull):
            make().add("image", bytes(size), context=context)
        assert containers(raw) == []
        swift.quota(user, None)

    def test_one_for_many_images(
        self, make: Make, swift: Swift, user: KeystoneUser, context: RequestContext, raw: Any
    ) -> None:
        """Such as the user made: it stays, and has no ACLs of a single image."""
        raw.put_container("many")
        raw.put_object("many", "image", b"1")
        store, at = make(), Location.parse(f"swift+{swift.account_url(user)}/many/image")
        assert content(store, at, context) == b"1"
        with pytest.raises(errors.InvalidLocation):
            store.set_acls(at, public=True, context=context)
        store.delete(at, context=context)
        assert containers(raw) == ["many"]

    @pytest.mark.parametrize("size", [1, 9 * MIB])
    def test_an_image_that_is_there_is_not_touched(
        self, make: Make, context: RequestContext, raw: Any, size: int
    ) -> None:
        store = make()
        at = store.add("image", bytes(size), context=context).location
        for known in (size, None):
            with pytest.raises(errors.AlreadyExists):
                store.add("image", iter([b"1" * size]), size=known, context=context)
        assert content(store, at, context) == bytes(size)
        store.delete(at, context=context)
        assert containers(raw) == []

    def test_two_adds_of_one_id(self, make: Make, context: RequestContext, raw: Any) -> None:
        """The one that fails leaves the containers to the other, whoever made them."""
        store, data = make(), pattern(12 * MIB)
        with adding(store, data, context) as first, pytest.raises(RuntimeError):
            store.add("image", Failing(RuntimeError(), after=9 * MIB), context=context)
        assert not difference(content(store, first.result(60).location, context), data)
        store.delete(first.result().location, context=context)
        with pytest.raises(errors.AlreadyExists), adding(store, bytes(12 * MIB), context):
            at = store.add("image", data, context=context).location
        assert not difference(content(store, at, context), data)
        store.delete(at, context=context)
        assert containers(raw) == []


class TestTrusts:
    @pytest.mark.parametrize("size", [LARGE, None])
    def test_one_is_there_while_an_image_is_transferred(
        self,
        make: Make,
        keystone: Keystone,
        user: KeystoneUser,
        context: RequestContext,
        size: int | None,
    ) -> None:
        """And ends with it, however that ends."""
        store, data = make(), pattern(LARGE)
        with adding(store, data, context, size=size) as done:
            (trust,) = keystone.trusts()
            assert trust["trustor_user_id"] == user.id
            assert trust["trustee_user_id"] == keystone.service.id
        assert keystone.trusts() == []
        at = done.result().location
        with store.get(at, context=context) as reader:
            start = reader.read(MIB)
            assert len(keystone.trusts()) == 1
            assert not difference(start + reader.read(), data)
        assert keystone.trusts() == []
        with store.get(at, offset=MIB, context=context):
            assert len(keystone.trusts()) == 1
        assert keystone.trusts() == []
        with pytest.raises(RuntimeError):
            store.add("other", Failing(RuntimeError(), after=LARGE - 1), size=size, context=context)
        with pytest.raises(errors.AlreadyExists):
            store.add("image", data, size=size, context=context)
        reader = store.get(at, context=context)
        store.close()
        reader.close()
        assert keystone.trusts() == []

    def test_transfers_at_once_have_one_each(
        self, make: Make, keystone: Keystone, context: RequestContext
    ) -> None:
        """Keystone takes no two that differ in nothing, not even the time when they end."""
        store = make()
        at = store.add("image", bytes(9 * MIB), context=context).location
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                stack.enter_context(store.get(at, context=context))
            assert len(keystone.trusts()) == 4
        assert keystone.trusts() == []

    def test_none_is_made_for_little(
        self, make: Make, keystone: Keystone, context: RequestContext
    ) -> None:
        store = make()
        large = store.add("large", bytes(LARGE), context=context).location
        keystone.requests.forget()
        at = store.add("image", bytes(8 * MIB), context=context).location
        for verb in VERBS.values():
            verb(store, at, context)
        with store.get(large, offset=LARGE - MIB, context=context) as reader:
            reader.read()
        with store.get(large, length=MIB, context=context) as reader:
            reader.read()
        with store.get(large, length=0, context=context) as reader:
            reader.read()
        with pytest.raises(errors.InvalidRange):
            store.get(large, offset=LARGE + 1, context=context)
        store.delete(large, context=context)
        assert trusts_asked_for(keystone) == 0

    @pytest.mark.parametrize("how", ["expires", "is revoked"])
    def test_transfers_outlive_the_token(
        self, make: Make, swift: Swift, user: KeystoneUser, how: str
    ) -> None:
        """An add of known size, one of unknown size, and a read."""
        keystone, store, data = swift.keystone, make(), pattern(LARGE)
        tokens = []

        def asker() -> RequestContext:
            tokens.append(keystone.token(user, url=keystone.short_url if how == "expires" else ""))
            return RequestContext(tokens[-1])

        good = RequestContext(keystone.token(user))
        at = store.add("stored", data, context=good).location
        with (
            adding(store, data, asker(), size=LARGE, name="known") as known,
            adding(store, data, asker(), name="unknown") as unknown,
            store.get(at, context=asker()) as reader,
        ):
            start = reader.read(MIB)
            for token in tokens:
                if how == "expires":
                    expired(swift.account_url(user), token)
                else:
                    keystone.revoke(token)
            assert not difference(start + reader.read(), data)
        for done in (known, unknown):
            assert not difference(content(store, done.result().location, good), data)
        assert keystone.trusts() == []

    def test_so_does_a_clean_up(
        self, make: Make, swift: Swift, user: KeystoneUser, raw: Any
    ) -> None:
        token = swift.keystone.token(user, url=swift.keystone.short_url)

        def breaks() -> Iterator[bytes]:
            yield bytes(LARGE)
            expired(swift.account_url(user), token)
            raise RuntimeError

        with pytest.raises(RuntimeError):
            make().add("image", breaks(), context=RequestContext(token))
        assert containers(raw) == swift.keystone.trusts() == []

    def test_its_own_tokens_are_renewed(self, make: Make, swift: Swift, user: KeystoneUser) -> None:
        keystone, data = swift.keystone, pattern(LARGE)
        store = make(replace(keystone.service, url=keystone.short_url))
        token = keystone.token(user, url=keystone.short_url)

        def shown() -> set[str]:
            return {each.headers.get("x-auth-token", "") for each in swift.requests.read("PUT")}

        def slow() -> Iterator[bytes]:
            for number, start in enumerate(range(0, LARGE, 16 * MIB)):
                yield data[start : start + 16 * MIB]
                until(lambda: len(shown()) > number, seconds=60, what="a new token is shown")  # noqa: B023
                for each in (token, *shown()):
                    expired(swift.account_url(user), each)

        swift.requests.forget()
        at = store.add("image", slow(), size=len(data), context=RequestContext(token)).location
        assert len(shown()) > 2
        assert not difference(content(store, at, RequestContext(keystone.token(user))), data)
        assert keystone.trusts() == []

    def test_without_one_transfers_end_with_the_token(
        self, make: Make, swift: Swift, user: KeystoneUser
    ) -> None:
        """The error says that it is the user's token."""
        keystone, store, data = swift.keystone, make(use_trusts=False), pattern(LARGE)
        keystone.requests.forget()
        at = store.add("stored", data, context=RequestContext(keystone.token(user))).location
        tokens = [keystone.token(user, url=keystone.short_url) for _ in range(3)]
        contexts = [RequestContext(token) for token in tokens]
        refused = partial(pytest.raises, errors.PermissionDenied, match="user's token")
        with store.get(at, context=contexts[0]) as reader:
            reader.read(MIB)
            with (
                refused(),
                adding(store, data, contexts[1], size=LARGE, name="known"),
                refused(),
                adding(store, data, contexts[2], name="unknown"),
            ):
                for token in tokens:
                    expired(swift.account_url(user), token)
            with refused():
                reader.read()
        assert trusts_asked_for(keystone) == 0

    def test_where_there_can_be_none(
        self, make: Make, swift: Swift, user: KeystoneUser, context: RequestContext, caplog: Caplog
    ) -> None:
        """The user's own token serves; where one was expected a warning says why."""
        keystone, data = swift.keystone, pattern(9 * MIB)
        credential = keystone.application_credential(user)
        limited = RequestContext(session(credential).get_token())
        own = keystone.application_credential(keystone.service)
        for store, asker, warns in (
            (make(own), context, False),
            (make(user=None, key=None), context, False),
            (make(key="wr%ng:p@ss"), context, True),
            (make(), limited, True),
        ):
            caplog.clear()
            at = store.add("image", data, context=asker).location
            assert not difference(content(store, at, asker), data)
            store.delete(at, context=asker)
            warnings = [each.getMessage() for each in caplog.records if each.levelno >= 30]
            assert bool(warnings) == warns
            assert all("trust" in each for each in warnings)
        assert keystone.trusts() == []


def trusts_asked_for(keystone: Keystone) -> int:
    return sum("/OS-TRUST/" in each.path for each in keystone.requests.read("POST"))


class TestServiceTokens:
    @pytest.mark.parametrize("kind", ["password", "application credential"])
    def test_every_request_has_one(
        self, make: Make, swift: Swift, context: RequestContext, kind: str
    ) -> None:
        keystone = swift.keystone
        own = (
            keystone.service
            if kind == "password"
            else keystone.application_credential(keystone.service)
        )
        for sends in (True, False):
            store = make(own, send_service_token=sends)
            swift.requests.forget()
            at = store.add("image", pattern(9 * MIB), context=context).location
            for verb in VERBS.values():
                verb(store, at, context)
            found = {each.service for each in swift.requests.read() if each.path != "/info"}
            assert found == {"Confirmed" if sends else ""}

    def test_an_expired_token_is_good_beside_one(
        self, make: Make, swift: Swift, user: KeystoneUser
    ) -> None:
        keystone, data = swift.keystone, pattern(LARGE)
        store = make(send_service_token=True, use_trusts=False)
        token = keystone.token(user, url=keystone.short_url)
        context = RequestContext(token, service_catalog=catalogue_of(swift, user))
        with (
            adding(store, data, context, size=LARGE, name="known") as known,
            adding(store, data, context, name="unknown") as unknown,
        ):
            expired(swift.account_url(user), token)
        for at in (known.result().location, unknown.result().location):
            for verb in VERBS.values():
                verb(store, at, context)
        with pytest.raises(errors.PermissionDenied, match="token"):
            store.size(
                at, context=RequestContext("nonsense", service_catalog=context.service_catalog)
            )

    @pytest.mark.parametrize("how", ["expires", "is revoked"])
    def test_one_that_was_refused_is_renewed(
        self, make: Make, swift: Swift, context: RequestContext, how: str
    ) -> None:
        """Wherever in an operation that is; the user's token is still good."""
        keystone, data = swift.keystone, pattern(LARGE)
        own = replace(
            keystone.service, url=keystone.short_url if how == "expires" else keystone.url
        )
        images = {
            name: make().add(name, data[:size], context=context).location
            for name, size in {**dict.fromkeys(VERBS, 2 * MIB), "read": LARGE}.items()
        }
        # One for each operation, as each has a token of its own.
        stores = {
            name: make(own, send_service_token=True, expire_soon_interval=0)
            for name in (*images, "add")
        }
        ended = {}
        for name, at in images.items():
            swift.requests.forget()
            stores[name].size(at, context=context)
            ended[name] = shown(swift)
        with stores["read"].get(images["read"], context=context) as reader:
            ended["read"], start = shown(swift), reader.read(MIB)
            with adding(stores["add"], data, context) as added:
                ended["add"] = shown(swift)
                for token in ended.values():
                    if how == "expires":
                        expired(swift.account_url(own), token)
                    else:
                        keystone.revoke(token)
                for name, verb in VERBS.items():
                    verb(stores[name], images[name], context)
                    assert shown(swift) not in ended.values()
                    ended[f"{name}, the next"] = shown(swift)
                assert not difference(start + reader.read(), data)
                assert shown(swift) not in ended.values()
                ended["read, the next"] = shown(swift)
        assert added.result().size == len(data)
        assert shown(swift) not in ended.values()


def shown(swift: Swift) -> str:
    """Return the last service token that Swift was shown."""
    tokens = [each.headers.get("x-service-token", "") for each in swift.requests.read()]
    return [token for token in tokens if token][-1]


def test_nothing_shows_secrets(
    make: Make, swift: Swift, user: KeystoneUser, context: RequestContext, caplog: Caplog
) -> None:
    """No error and no record, whoever logs it, when all goes well and when nothing does."""
    keystone, revoked = swift.keystone, swift.keystone.token(user)
    keystone.revoke(revoked)
    caplog.set_level("DEBUG", logger="")
    keystone.requests.forget()
    swift.requests.forget()
    shown = []
    at = Location.parse(f"swift+{swift.account_url(user)}/glance_image/image")
    for store in (
        make(send_service_token=True),
        make(key="wr%ng:p@ss"),
        make(key="wr%ng:p@ss", send_service_token=True),
        make(region="nowhere"),
    ):
        for asker in (
            context,
            RequestContext("nonsense-token"),
            RequestContext(revoked),
        ):
            shown += [repr(asker), repr(store)]
            for verb in (
                lambda store, at, context: store.add("image", bytes(9 * MIB), context=context),
                *VERBS.values(),
            ):
                try:
                    verb(store, at, asker)
                except errors.ImgStoreError as exc:
                    shown += [repr(exc), *traceback.format_exception(exc)]
        shown += store.check()
    names = ("x-auth-token", "x-service-token", "x-subject-token")
    asked = [*swift.requests.read(), *keystone.requests.read()]
    secrets = {each.headers.get(name, "") for each in asked for name in names} - {""}
    assert {"nonsense-token", revoked} < secrets
    assert len(secrets) >= 5
    text = "\n".join([*shown, caplog.text])
    assert all(each in text for each in ("urllib3", "no trust was made"))
    for secret in {*secrets, "wr%ng:p@ss", keystone.service.password}:
        assert secret not in text, text[max(0, text.index(secret) - 300) :][:400]
