"""The Swift store while its servers, its tokens or the connection fail."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from servers.containers import Container
from servers.keystone import Keystone, KeystoneUser
from servers.process import Process, until
from servers.swift import Swift
from swiftclient import ClientException

from imgstore import errors
from imgstore.drivers.swift import SwiftStore
from imgstore.testing.doubles import Paused
from imgstore.testing.harness import content, difference, new_id, pattern

pytestmark = pytest.mark.servers("swift", "keystone")

MIB = 1024 * 1024
IN_SEGMENTS = {"large_object_size": 1, "large_object_chunk_size": 4}

Make = Callable[..., SwiftStore]


@pytest.fixture
def make(container: Container, keystone: Keystone) -> Iterator[Make]:
    """Make stores in the test's container, for its user or another one."""
    with contextlib.ExitStack() as stack:

        def make(user: KeystoneUser = container.user, **options: Any) -> SwiftStore:
            return stack.enter_context(
                SwiftStore(
                    "swift",
                    **{
                        "container": container.name,
                        "auth_address": user.url,
                        "user": f"{user.project}:{user.name}",
                        "key": user.password,
                        "user_domain_name": user.domain,
                        "project_domain_name": user.domain,
                        **options,
                    },
                )
            )

        yield make


@contextlib.contextmanager
def down(process: Process, *, seconds: float) -> Iterator[None]:
    """Kill a server and start it again after a while, whatever the block does meanwhile."""
    process.kill()
    starting = threading.Timer(seconds, process.start)
    starting.start()
    try:
        yield
    finally:
        starting.join()


@contextlib.contextmanager
def frozen(process: Process, *, seconds: float) -> Iterator[None]:
    """Freeze a server for a while, whatever the block does meanwhile."""
    process.freeze()
    thawing = threading.Timer(seconds, process.thaw)
    thawing.start()
    try:
        yield
    finally:
        thawing.join()


def location(store: SwiftStore, name: str = "image") -> str:
    return f"{store.url_prefix}/{name}"


@contextlib.contextmanager
def during(store: SwiftStore, data: bytes, *, size: int | None) -> Iterator[Any]:
    """Add `image`; the block runs when a part of it was read, and gets what will be returned."""
    source = Paused(data)
    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(store.add, "image", source, size=size)
        source.reached.wait(60)
        try:
            yield adding
        finally:
            source.go_on.set()


class TestServerKilled:
    @pytest.fixture(autouse=True)
    def _servers(self, swift: Swift) -> None:
        self.swift = swift

    @pytest.mark.parametrize(
        ("which", "seconds", "size"),
        [
            ("proxy", 1, 40 * MIB),
            ("object", 1, 40 * MIB),
            ("proxy", 1, None),
            ("proxy", 25, None),
            pytest.param("object", 25, None, marks=pytest.mark.heavy),
        ],
    )
    def test_an_upload_survives_a_restart(
        self, make: Make, container: Container, which: str, seconds: int, size: int | None
    ) -> None:
        data = pattern(40 * MIB)
        store = make(**IN_SEGMENTS)
        with contextlib.ExitStack() as stack:
            with during(store, data, size=size) as adding:
                stack.enter_context(down(getattr(self.swift, which), seconds=seconds))
            image = adding.result(180)
        assert image.size == len(data)
        assert not difference(container.content("image"), data)
        assert len(container.segments()) == 11

    @pytest.mark.parametrize(
        ("which", "seconds", "workers"),
        [
            ("proxy", 1, 1),
            ("proxy", 1, 3),
            ("object", 1, 1),
            ("object", 1, 3),
            ("proxy", 25, 1),
            pytest.param("object", 25, 3, marks=pytest.mark.heavy),
        ],
    )
    def test_a_read_survives_a_restart(
        self, make: Make, swift: Swift, which: str, seconds: int, workers: int
    ) -> None:
        data = pattern(60 * MIB)
        store = make(get_workers=workers, **IN_SEGMENTS)
        with store.get(store.add("image", data).location) as reader:
            start = reader.read(MIB)
            with down(getattr(swift, which), seconds=seconds):
                assert not difference(start + reader.read(), data)

    def test_a_server_that_stays_away(self, make: Make, swift: Swift, container: Container) -> None:
        """An add ends, says so, and leaves what cannot be reached for a later clean-up."""
        store = make(max_attempts=2, **IN_SEGMENTS)
        with during(store, pattern(40 * MIB), size=None) as adding:
            while not container.segments():
                time.sleep(0.05)
            swift.proxy.kill()
        with pytest.raises(errors.Unavailable) as caught:
            adding.result(120)
        assert caught.value.retryable
        assert not caught.value.indeterminate
        swift.heal()
        assert container.names() == []
        assert len(store.leftovers(older_than=0)) == 1
        assert store.add("image", pattern(6 * MIB)).size == 6 * MIB
        assert len(store.remove_leftovers(older_than=0)) == 1
        assert not difference(content(store, location(store)), pattern(6 * MIB))

    @pytest.mark.parametrize("size", [4 * MIB, 40 * MIB])
    def test_what_memory_cannot_hold_is_not_sent_again(
        self, make: Make, swift: Swift, container: Container, size: int
    ) -> None:
        """It ends with an error, and nothing is left of it."""
        large = {"large_object_size": 5, "large_object_chunk_size": 4, "upload_memory": 2}
        store = make(**large)
        store.add(new_id(), b"1")  # what the cluster can is known
        with contextlib.ExitStack() as stack:
            with during(store, pattern(size), size=size) as adding:
                stack.enter_context(down(swift.proxy, seconds=1))
            with pytest.raises(errors.Unavailable, match="memory"):
                adding.result(60)
        assert "image" not in container.names()
        assert container.segments() == []

    @pytest.mark.parametrize("which", ["proxy", pytest.param("object", marks=pytest.mark.heavy)])
    def test_a_frozen_server(
        self, make: Make, swift: Swift, container: Container, which: str
    ) -> None:
        """Fifteen seconds are a pause."""
        data = pattern(40 * MIB)
        store = make(**IN_SEGMENTS)
        with contextlib.ExitStack() as stack:
            with during(store, data, size=None) as adding:
                stack.enter_context(frozen(getattr(swift, which), seconds=15))
            adding.result(180)
        assert not difference(container.content("image"), data)
        with store.get(location(store)) as reader:
            start = reader.read(MIB)
            with frozen(getattr(swift, which), seconds=15):
                assert not difference(start + reader.read(), data)

    def test_a_frozen_server_is_given_up(self, make: Make, swift: Swift) -> None:
        store = make(max_attempts=2, read_timeout=2)
        store.add("image", b"1")
        swift.proxy.freeze()
        began = time.monotonic()
        verbs: list[Callable[[], object]] = [
            lambda: store.get(location(store)),
            lambda: store.size(location(store)),
            lambda: store.delete(location(store)),
            lambda: store.add(new_id(), b"2"),
        ]
        for verb in verbs:
            with pytest.raises(errors.Unavailable):
                verb()
        assert time.monotonic() - began < 60

    def test_no_server_at_all(self, make: Make, swift: Swift, keystone: Keystone) -> None:
        store = make(max_attempts=1)
        swift.proxy.kill()
        with pytest.raises(errors.Unavailable):
            store.size(location(store))
        keystone.process.kill()
        with pytest.raises(errors.Unavailable):
            make(max_attempts=1).size(location(store))

    @pytest.mark.parametrize("which", ["account", "container"])
    def test_a_server_of_listings_is_away(
        self, make: Make, swift: Swift, container: Container, which: str
    ) -> None:
        """Swift then says that there are no containers: that is no proof."""
        store = make(max_attempts=2)
        image = store.add("image", b"1")
        getattr(swift, which).kill()
        with pytest.raises(errors.Unavailable):
            store.add(new_id(), b"2")
        with pytest.raises(errors.Unavailable):
            store.delete(image.location)
        swift.heal()
        assert container.names() == ["image"]


class TestTokens:
    @pytest.mark.parametrize("knows", ["known", "unknown"])
    def test_one_expires_during_transfers(
        self, make: Make, keystone: Keystone, container: Container, knows: str
    ) -> None:
        data = pattern(24 * MIB)
        user = dataclasses.replace(container.user, url=keystone.short_url)
        store = make(user, **IN_SEGMENTS)
        with during(store, data, size=len(data) if knows == "known" else None) as adding:
            time.sleep(6)
        image = adding.result(60)
        with store.get(image.location) as reader:
            start = reader.read(MIB)
            time.sleep(6)
            reader.opened.close()  # as if the connection broke
            assert not difference(start + reader.read(), data)
        store.delete(image.location)

    def test_one_is_revoked(self, make: Make, keystone: Keystone, container: Container) -> None:
        data = pattern(24 * MIB)
        store = make(**IN_SEGMENTS)
        store.add(new_id(), b"1")
        with during(store, data, size=None) as adding:
            keystone.revoke(token_of(store))
        assert adding.result(60).size == len(data)
        keystone.revoke(token_of(store))
        assert not difference(content(store, location(store)), data)
        keystone.revoke(token_of(store))
        store.delete(location(store))

    def test_tokens_are_kept(self, make: Make, keystone: Keystone) -> None:
        """One login serves all threads."""
        store = make()
        keystone.requests.forget()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: store.add(f"{number}", b"1"), range(24)))
        assert len(logins(keystone)) == 1

    def test_a_wrong_password(self, make: Make, container: Container) -> None:
        store = make(dataclasses.replace(container.user, password="wro%ng"))
        for verb in (lambda: store.add("image", b"1"), lambda: store.size(location(store))):
            with pytest.raises(errors.PermissionDenied) as caught:
                verb()
            assert "wro%ng" not in str(caught.value)

    def test_no_role(self, make: Make, keystone: Keystone) -> None:
        user = keystone.user("reader", project="tests", roles=("reader",))
        with pytest.raises(errors.PermissionDenied):
            make(user).add("image", b"1")


def removed(container: Container) -> bool:
    """Remove a container; a segment that arrives in between prevents it."""
    try:
        container.remove()
    except ClientException:
        return False
    return True


def token_of(store: SwiftStore) -> str:
    session = store._session.get()
    return session.caller(store._settings.account).identity.access().token


def logins(keystone: Keystone) -> list[Any]:
    return [each for each in keystone.requests.read("POST") if each.path.endswith("/auth/tokens")]


class TestRefused:
    def test_a_quota(self, make: Make, swift: Swift, container: Container) -> None:
        store = make(**IN_SEGMENTS)
        container.raw.put_container(container.segments_name)
        swift.quota(container.user, 10 * MIB, container=container.segments_name)
        try:
            for size in (30 * MIB, None):
                with pytest.raises(errors.StorageFull):
                    store.add("image", iter([pattern(30 * MIB)]), size=size)
                assert container.names() == []
                assert container.segments() == []
        finally:
            swift.quota(container.user, None, container=container.segments_name)

    def test_a_quota_and_a_single_object(
        self, make: Make, swift: Swift, container: Container
    ) -> None:
        store = make()
        swift.quota(container.user, MIB, container=container.name)
        try:
            with pytest.raises(errors.StorageFull):
                store.add("image", pattern(4 * MIB))
            assert container.names() == []
        finally:
            swift.quota(container.user, None, container=container.name)

    def test_larger_than_the_cluster_allows(self, make: Make, container: Container) -> None:
        with pytest.raises(errors.StorageFull):
            make().add("image", pattern(6 * MIB))
        assert container.names() == []

    def test_the_container_is_deleted_meanwhile(self, make: Make, container: Container) -> None:
        store = make(**IN_SEGMENTS)
        with during(store, pattern(40 * MIB), size=None) as adding:
            until(lambda: removed(container), seconds=30, what="nothing is in the container")
        with pytest.raises(errors.ImgStoreError):
            adding.result(60)
        assert container.names() == []
        assert container.segments() == []

    def test_twenty_adds_at_once(self, make: Make, container: Container) -> None:
        data = [pattern(3 * MIB + number) for number in range(20)]
        store = make(large_object_size=1, large_object_chunk_size=1)
        with ThreadPoolExecutor(20) as pool:
            images = list(pool.map(lambda each: store.add(new_id(), iter([each])), data))
        for image, each in zip(images, data, strict=True):
            assert image.size == len(each)
            assert not difference(content(store, image.location), each)
            store.delete(image.location)
        assert container.names() == []
        assert container.segments() == []
