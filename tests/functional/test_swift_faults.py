"""The Swift store while its servers, its tokens or the connection fail."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from servers.containers import Container, expired
from servers.keystone import Keystone, KeystoneUser
from servers.process import Process, until
from servers.secrecy import nowhere
from servers.swift import Swift
from swiftclient import ClientException

from imgstore import StoredImage, errors
from imgstore.drivers.swift import SwiftStore
from imgstore.testing.doubles import Paused
from imgstore.testing.harness import content, difference, new_id, pattern

pytestmark = pytest.mark.servers("swift", "keystone")

MIB = 1024 * 1024
IN_SEGMENTS = {"large_object_size": 1, "large_object_chunk_size": 4}

Make = Callable[..., SwiftStore]
Fault = Callable[..., contextlib.AbstractContextManager[None]]


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


class Adding:
    """An add that has stopped in the middle, until it is told to go on."""

    def __init__(self, source: Paused, added: Future[StoredImage]) -> None:
        self.go_on = source.go_on.set
        self.result = added.result


@contextlib.contextmanager
def during(
    store: SwiftStore, data: bytes, *, size: int | None, name: str = "image"
) -> Iterator[Adding]:
    """Add an image; the block runs when a part of it was read, and gets what will be returned."""
    source = Paused(data)
    with ThreadPoolExecutor(1) as pool:
        adding = Adding(source, pool.submit(store.add, name, source, size=size))
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
        ("fault", "which", "seconds"),
        [
            (down, "proxy", 1),
            (down, "object", 1),
            (down, "proxy", 25),
            pytest.param(down, "object", 25, marks=pytest.mark.heavy),
            (frozen, "proxy", 15),
            pytest.param(frozen, "object", 15, marks=pytest.mark.heavy),
        ],
    )
    def test_transfers_survive(
        self, make: Make, container: Container, fault: Fault, which: str, seconds: int
    ) -> None:
        """Of all kinds, at once: a restart, half a minute without a server, and a pause."""
        data, large = pattern(24 * MIB), pattern(40 * MIB)  # more than is read ahead
        store = make(**IN_SEGMENTS)
        at = store.add("large", large).location
        with contextlib.ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(4))
            readers = [
                stack.enter_context(make(get_workers=workers, **IN_SEGMENTS).get(at))
                for workers in (1, 3)
            ]
            starts = [reader.read(MIB) for reader in readers]
            adds = [
                stack.enter_context(during(store, data, size=size, name=name))
                for name, size in (("known", len(data)), ("unknown", None))
            ]
            with fault(getattr(self.swift, which), seconds=seconds):
                for adding in adds:
                    adding.go_on()
                rests = [pool.submit(reader.read) for reader in readers]
                for adding in adds:
                    assert adding.result(180).size == len(data)
                for start, rest in zip(starts, rests, strict=True):
                    assert not difference(start + rest.result(180), large)
        for name in ("known", "unknown"):
            assert not difference(container.content(name), data)
        assert len(container.segments()) == 11 + 7 + 7

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

    def test_what_memory_cannot_hold_is_not_sent_again(
        self, make: Make, swift: Swift, container: Container
    ) -> None:
        """It ends with an error, and nothing is left of it: one object, or one of segments."""
        large = {"large_object_size": 5, "large_object_chunk_size": 4, "upload_memory": 2}
        with contextlib.ExitStack() as stack:
            adds = []
            for size in (4 * MIB, 40 * MIB):
                store = make(**large)
                store.add(f"known-{size}", b"1")  # what the cluster can is known
                adding = during(store, pattern(size), size=size, name=f"image-{size}")
                adds.append(stack.enter_context(adding))
            with down(swift.proxy, seconds=1):
                for each in adds:
                    each.go_on()
                for each in adds:
                    with pytest.raises(errors.Unavailable, match="memory"):
                        each.result(60)
        assert [name for name in container.names() if "known" not in name] == []
        assert container.segments() == []

    def test_a_frozen_server_is_given_up(self, make: Make, swift: Swift) -> None:
        make().add("image", b"1")
        store = make(max_attempts=2, read_timeout=1)
        verbs: list[Callable[[], object]] = [
            lambda: store.get(location(store)),
            lambda: store.size(location(store)),
            lambda: store.delete(location(store)),
            lambda: store.add(new_id(), b"2"),
        ]
        swift.proxy.freeze()
        began = time.monotonic()
        with ThreadPoolExecutor(len(verbs)) as pool:
            for ended in [pool.submit(verb) for verb in verbs]:
                with pytest.raises(errors.Unavailable):
                    ended.result(60)
        assert time.monotonic() - began < 60

    @pytest.mark.parametrize("which", ["endpoint", "auth_address"])
    def test_no_server_at_all(self, make: Make, which: str) -> None:
        """The error says which server, and why."""
        path = {"endpoint": "v1/AUTH_1", "auth_address": "v3"}[which]
        host = nowhere()
        store = make(max_attempts=1, **{which: f"http://{host}/{path}"})
        with pytest.raises(errors.Unavailable, match=f"http://{host} failed: Connection refused"):
            store.size(location(store))

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
    def test_they_expire_during_transfers(
        self, make: Make, swift: Swift, keystone: Keystone, container: Container
    ) -> None:
        data = pattern(24 * MIB)
        make(**IN_SEGMENTS).add("image", data)
        user = dataclasses.replace(container.user, url=keystone.short_url)
        stores = [make(user, **IN_SEGMENTS) for _ in range(3)]
        swift.requests.forget()
        with (
            during(stores[0], data, size=len(data), name="known") as known,
            during(stores[1], data, size=None, name="unknown") as unknown,
            stores[2].get(location(stores[2])) as reader,
        ):
            start = reader.read(MIB)
            shown = {each.headers.get("x-auth-token", "") for each in swift.requests.read()} - {""}
            assert len(shown) >= len(stores)
            for token in shown:
                expired(swift.account_url(user), token)
            reader.opened.close()  # as if the connection broke
            assert not difference(start + reader.read(), data)
            for adding, store in ((known, stores[0]), (unknown, stores[1])):
                adding.go_on()
                image = adding.result(60)
                assert not difference(content(store, image.location), data)
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
    return session.caller(store._settings.account).asker.login().token


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
