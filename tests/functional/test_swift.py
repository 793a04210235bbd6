"""The Swift store on real Swift and Keystone: what only Swift has."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.containers import Container, empty_account
from servers.keystone import Keystone, KeystoneUser
from servers.process import until
from servers.swift import Swift

from imgstore import Capability, Location, RequestContext, errors
from imgstore.drivers.swift import SwiftStore
from imgstore.testing.harness import content, difference, new_id, pattern
from imgstore.testing.verifying import flip

pytestmark = pytest.mark.servers("swift", "keystone")

MIB = 1024 * 1024
IN_SEGMENTS: dict[str, Any] = {"large_object_size": 1, "large_object_chunk_size": 1}

Make = Callable[..., SwiftStore]


def login(user: KeystoneUser) -> dict[str, Any]:
    return {
        "auth_address": user.url,
        "user": f"{user.project}:{user.name}",
        "key": user.password,
        "user_domain_name": user.domain,
        "project_domain_name": user.domain,
    }


@pytest.fixture
def make(container: Container) -> Iterator[Make]:
    """Make stores in the test's container, for its user."""
    with contextlib.ExitStack() as stack:
        known = {"container": container.name, **login(container.user)}
        yield lambda **options: stack.enter_context(SwiftStore("swift", **known | options))


@pytest.mark.parametrize("size", [0, 1], ids=["whole", "in segments"])
def test_an_image_is_described_by_one_request(make: Make, swift: Swift, size: int) -> None:
    """Size, version and time are in one answer; no token is asked for again."""
    store = make(large_object_size=size, large_object_chunk_size=1) if size else make()
    image = store.add(new_id(), bytes(2 * MIB))
    for verb in (store.size, store.stat):
        for log in (swift.requests, swift.keystone.requests):
            log.forget()
        verb(image)
        assert [each.method for each in swift.requests.read()] == ["HEAD"]
        assert swift.keystone.requests.read() == []
    store.delete(image)


class TestLocations:
    def test_the_credential_free_form_is_written(self, make: Make, container: Container) -> None:
        store = make()
        image = store.add("image", b"1")
        service = container.user.url.removeprefix("http://")
        assert image.location.url == f"swift+http://{service}/{container.name}/image"
        assert content(store, image.location) == b"1"

    def test_a_reference_file(self, container: Container, tmp_path: Path) -> None:
        user = container.user
        path = tmp_path / "swift.conf"
        path.write_text(
            f"[ours]\nauth_address = {user.url}\nuser = {user.project}:{user.name}\n"
            f'key = "{user.password}"\nuser_domain_name = {user.domain}\n'
            f"project_domain_name = {user.domain}\n[broken]\nauth_address = http://x\n"
        )
        with SwiftStore(
            "swift",
            config_file=str(path),
            default_swift_reference="ours",
            container=container.name,
        ) as store:
            image = store.add("image", b"1")
            assert image.location.url == f"swift+config://ours/{container.name}/image"
            assert content(store, image.location) == b"1"
            with pytest.raises(errors.InvalidLocation):
                store.get(f"swift+config://broken/{container.name}/image")
            store.delete(image.location)

    def test_old_credentials_are_read(self, make: Make, container: Container) -> None:
        container.put("image", b"1")
        service = container.user.url.removeprefix("http://")
        key = container.user.password.replace("%", "%25")
        name = container.user.name.replace("%", "%25").replace(":", "%3A")
        url = f"swift+http://{container.user.project}%3A{name}:{key}@{service}"
        assert content(make(), f"{url}/{container.name}/image") == b"1"

    def test_containers_are_named_as_ever(self, make: Make, container: Container) -> None:
        store = make(multiple_containers_seed=3, create_container_on_put=True)
        image_id = "FDae39a1-bac5-4238-aba4-69bcc726e848"
        image = store.add(image_id, b"1")
        assert f"/{container.name}_fda/{image_id}" in image.location.url
        store.delete(image.location)
        container.raw.delete_container(f"{container.name}_fda")

    def test_an_application_credential(
        self, make: Make, keystone: Keystone, container: Container
    ) -> None:
        made = keystone.application_credential(container.user)
        store = make(
            user=None,
            key=None,
            application_credential_id=made.id,
            application_credential_secret=made.secret,
        )
        image = store.add("image", b"1")
        assert store.size(image.location) == 1
        store.delete(image.location)
        assert container.names() == []


def disk_files(swift: Swift, name: str) -> list[Path]:
    """Return the files of an object."""
    return [
        path
        for path in swift._devices.glob("disk/objects/*/*/*/*.data")
        if name.encode() in os.getxattr(path, "user.swift.metadata")
    ]


def test_rot_is_set_aside(make: Make, swift: Swift) -> None:
    """The server sees it when it has read the object to its end, and has none from then on."""
    store = make()
    image = store.add(new_id(), pattern(MIB))
    (path,) = disk_files(swift, image.location.url.rpartition("/")[2])
    flip(path)
    with pytest.raises(errors.DigestMismatch):
        store.verify(image, image.digests)
    until(lambda: not path.exists(), seconds=30, what="the object is in quarantine")
    with pytest.raises(errors.NotFound):
        store.verify(image, image.digests)


class TestLargeObjects:
    @pytest.mark.parametrize("kind", ["slo", "dlo"])
    @pytest.mark.parametrize("number", [0, 2])
    def test_a_segment_is_missing(
        self, make: Make, swift: Swift, container: Container, kind: str, number: int
    ) -> None:
        """That is damage, and says so, whichever it is; listings may have it still."""
        store = make(large_object_size=1, large_object_chunk_size=2, large_object_type=kind)
        image = store.add("image", pattern(13 * MIB))
        name = container.segments()[number]
        for path in disk_files(swift, name):
            path.unlink()
        for reading in (store, make(get_workers=3)):
            with pytest.raises(errors.IntegrityError, match="missing"):
                content(reading, image.location)
        store.delete(image.location)
        assert container.segments() == []

    def test_images_of_glance_store(self, make: Make, container: Container) -> None:
        """Its dynamic large objects lie beside other images, and end with them."""
        store, name = make(), new_id()
        container.put_dynamic(name, b"a" * 10, b"b" * 10, b"c")
        container.put(f"{name}-else", b"1")
        location = f"{store.url_prefix}/{name}"
        assert store.size(location) == 22  # what Swift makes of the prefix
        store.delete(location)
        assert container.names() == [f"{name}-else"]

    def test_one_whose_segments_go_while_it_is_read(self, make: Make, container: Container) -> None:
        """The image is not what it was; a range within it is not the reader's mistake."""
        store, data = make(get_workers=2), pattern(4 * MIB)
        container.put_dynamic("image", *[data] * 12)
        with store.get(f"{store.url_prefix}/image") as reader:
            assert not difference(reader.read(4 * MIB), data)
            for name in container.names():
                if name != "image":
                    container.raw.delete_object(container.name, name)
            with pytest.raises(errors.IntegrityError):
                reader.read()

    def test_static_ones_of_others(self, make: Make, container: Container) -> None:
        store = make()
        container.put_static("image", b"a" * MIB, b"b")
        location = f"{store.url_prefix}/image"
        assert store.size(location) == MIB + 1
        with store.get(location, offset=MIB - 1) as reader:
            assert reader.read() == b"ab"
        store.delete(location)
        assert container.names() == container.segments() == []

    def test_manifests_of_manifests(
        self, make: Make, swift: Swift, keystone: Keystone, container: Container
    ) -> None:
        front = swift.front(max_manifest_segments=3)
        url = swift.account_url(container.user).replace(swift.url, front.url)
        store = make(endpoint=url, **IN_SEGMENTS)
        data = pattern(11 * MIB)
        image = store.add("image", data)
        assert not difference(content(store, image.location), data)
        assert len(container.manifest("image")) <= 3
        store.delete(image.location)
        assert container.names() == container.segments() == []

    def test_a_cluster_without_static_ones(
        self, make: Make, swift: Swift, container: Container
    ) -> None:
        front = swift.front(slo=False)
        url = swift.account_url(container.user).replace(swift.url, front.url)
        with pytest.raises(errors.ConfigError, match="dlo"):
            make(endpoint=url, **IN_SEGMENTS).add("image", pattern(3 * MIB))
        assert container.names() == container.segments() == []
        store = make(endpoint=url, large_object_type="dlo", **IN_SEGMENTS)
        data = pattern(3 * MIB)
        assert not difference(content(store, store.add("image", data).location), data)


class TestLeftovers:
    def test_segments_without_a_manifest(self, make: Make, container: Container) -> None:
        store = make(**IN_SEGMENTS)
        image = store.add("image", pattern(3 * MIB))
        kept = container.segments()
        container.put(f"{new_id()}-00001", b"of glance_store")
        container.raw.put_object(
            container.segments_name, f"dead/imgstore-{'0' * 32}/00000001", b"of a dead add"
        )
        assert len(store.leftovers(older_than=3600)) == 0
        assert len(store.remove_leftovers(older_than=0)) == 2
        assert container.segments() == kept
        assert container.names() == ["image"]
        store.delete(image.location)

    def test_what_is_not_ours_stays(self, make: Make, container: Container) -> None:
        """Static objects with segments beside them, and containers of other names."""
        name, other = new_id(), f"{container.name}_ab-of-others"
        store = make(multiple_containers_seed=2)
        mine = f"{container.name}_{name[:2]}"
        for each in (mine, other):
            container.raw.put_container(each)
            container.raw.put_object(each, f"{name}-00001", b"x")
        segments = [{"path": f"/{mine}/{name}-00001"}]
        container.raw.put_object(
            mine, name, json.dumps(segments), query_string="multipart-manifest=put"
        )
        assert store.leftovers(older_than=0) == []
        container.raw.delete_object(mine, name)
        assert len(store.remove_leftovers(older_than=0)) == 1
        for each in (mine, other):
            found = [entry["name"] for entry in container.raw.get_container(each)[1]]
            assert found == ([] if each == mine else [f"{name}-00001"])
            for key in found:
                container.raw.delete_object(each, key)
            container.raw.delete_container(each)


@pytest.fixture
def tenants(swift: Swift, keystone: Keystone) -> Iterator[SwiftStore]:
    """A multi-tenant store whose own user may act for others."""
    with SwiftStore(
        "swift",
        multi_tenant=True,
        admin_tenants=["admin:*"],
        container="glance",
        **login(keystone.service),
        **IN_SEGMENTS,
    ) as store:
        yield store


@pytest.fixture
def context(keystone: Keystone, swift_user: KeystoneUser) -> Iterator[RequestContext]:
    yield RequestContext(token=keystone.token(swift_user), project_id=swift_user.project_id)
    empty_account(swift_user)


class TestTenants:
    def test_images_lie_in_the_users_account(
        self, tenants: SwiftStore, swift: Swift, swift_user: KeystoneUser, context: RequestContext
    ) -> None:
        assert Capability.ACLS in tenants.capabilities
        for data in (b"1", pattern(3 * MIB)):
            image = tenants.add("image", data, context=context)
            scheme, _, rest = swift.account_url(swift_user).partition("://")
            assert image.location.url == f"swift+{scheme}://{rest}/glance_image/image"
            assert not difference(content_for(tenants, image.location, context), data)
            assert tenants.size(image.location, context=context) == len(data)
            tenants.delete(image.location, context=context)

    def test_who_may_read(
        self,
        tenants: SwiftStore,
        keystone: Keystone,
        swift_other: KeystoneUser,
        context: RequestContext,
    ) -> None:
        image = tenants.add("image", pattern(3 * MIB), context=context)
        other = RequestContext(token=keystone.token(swift_other))
        with pytest.raises(errors.PermissionDenied):
            content_for(tenants, image.location, other)
        tenants.set_acls(image.location, read=[swift_other.project_id], context=context)
        assert len(content_for(tenants, image.location, other)) == 3 * MIB
        tenants.set_acls(image.location, public=True, context=context)
        assert len(content_for(tenants, image.location, other)) == 3 * MIB

    def test_nobody_asks(self, tenants: SwiftStore) -> None:
        with pytest.raises(errors.InvalidArgument, match="context"):
            tenants.add("image", b"1")

    def test_trusts_end_with_the_transfer(
        self, tenants: SwiftStore, keystone: Keystone, context: RequestContext
    ) -> None:
        tenants.add("image", pattern(3 * MIB), context=context)
        assert keystone.trusts() == []


def content_for(store: SwiftStore, location: Location, context: RequestContext) -> bytes:
    with store.get(location, context=context) as reader:
        return reader.read()
