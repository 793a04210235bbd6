"""The Swift store when answers differ from Swift's own, or break off."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from servers.containers import Container, empty_account
from servers.containers import container as make_container
from servers.keystone import Keystone
from servers.losing import Losing, losing
from servers.process import until
from servers.proxy import Proxy
from servers.swift import TESTER, Swift
from servers.swift_stores import login

from imgstore import Location, RequestContext, errors
from imgstore.drivers.swift import SwiftStore
from imgstore.drivers.swift.identity import Login
from imgstore.testing.harness import content, difference, pattern

pytestmark = pytest.mark.servers("swift", "keystone")

MIB = 1024 * 1024
IN_SEGMENTS: dict[str, Any] = {"large_object_size": 1, "large_object_chunk_size": 1}

Make = Callable[..., SwiftStore]


@pytest.fixture
def make(container: Container, swift: Swift, link: Losing) -> Iterator[Make]:
    """Make stores in the test's container, behind the forwarder."""
    user = container.user
    known: dict[str, Any] = {
        "container": container.name,
        "endpoint": swift.account_url(user).replace(swift.url, link.url),
        "max_attempts": 2,
        **login(user),
    }
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(SwiftStore("swift", **known | options))


def shown(store: SwiftStore) -> Login:
    """Return what the store's own account shows, once it is old enough to be over."""
    found: Login = store._session.get().caller(store._settings.account).asker.login()
    until(lambda: not found.is_new, seconds=30, what="a token is old")
    return found


class TestForbidden:
    """Old gateways of Ceph say of a token that is over that it is forbidden."""

    @pytest.fixture(autouse=True)
    def _old(self, link: Losing) -> None:
        link.statuses[401] = 403

    def test_a_token_that_is_over(self, make: Make, keystone: Keystone) -> None:
        store, data = make(**IN_SEGMENTS), pattern(2 * MIB)
        keystone.revoke(shown(store).token)
        at = store.add("image", data).location
        keystone.revoke(shown(store).token)
        assert not difference(content(store, at), data)
        keystone.revoke(shown(store).token)
        store.delete(at)

    def test_one_of_version_1(self, make: Make, swift: Swift, link: Losing) -> None:
        with make_container(swift.v1_user(TESTER)) as where:
            where.put("image", b"1")
            url = swift.account_url(where.user).replace(swift.url, link.url)
            store = make(**login(where.user), container=where.name, endpoint=url)
            first = shown(store)
            link.lose("HEAD", f"{where.name}/image", what="forbidden")
            assert store.size(f"{store.url_prefix}/image") == 1
            assert shown(store) is not first

    def test_what_is_forbidden_is_asked_for_twice(
        self, make: Make, container: Container, link: Losing
    ) -> None:
        store = make()
        shown(store)
        link.lose("HEAD", f"{container.name}/image", what="forbidden", times=100)
        with pytest.raises(errors.PermissionDenied, match="403"):
            store.size(f"{store.url_prefix}/image")
        assert len(link.lost) == 2

    def test_what_cannot_be_sent_again(
        self, make: Make, container: Container, link: Losing
    ) -> None:
        """The error is that of the server, not that of the memory."""
        store = make(upload_memory=2)
        shown(store)
        link.lose("PUT", f"{container.name}/image", what="forbidden", times=100)
        with pytest.raises(errors.PermissionDenied, match="403"):
            store.add("image", iter([bytes(MIB)] * 12), size=12 * MIB)
        assert len(link.lost) == 1

    def test_tenants(self, make: Make, swift: Swift, keystone: Keystone, link: Losing) -> None:
        """A trust's tokens take the place of the user's, and of each other."""
        user = keystone.user("forbidden")
        token, data = keystone.token(user), pattern(36 * MIB)
        store = make(
            **login(keystone.service),
            multi_tenant=True,
            endpoint=swift.account_url(user).replace(swift.url, link.url),
            **IN_SEGMENTS | {"large_object_chunk_size": 4},
        )

        def tokens() -> list[str]:
            return [each.headers.get("x-auth-token", "") for each in swift.requests.read("PUT")]

        def over() -> Iterator[bytes]:
            for number, start in enumerate(range(0, len(data), 12 * MIB)):
                yield data[start : start + 12 * MIB]
                until(lambda: len(set(tokens())) > number, seconds=60, what="a new one is shown")  # noqa: B023
                old = time.monotonic() + min(number, 1)  # the first is the user's, of any age
                until(lambda: time.monotonic() > old, seconds=30, what="it is old")  # noqa: B023
                if number < 2:
                    keystone.revoke(tokens()[-1])

        swift.requests.forget()
        try:
            store.add("image", over(), size=len(data), context=RequestContext(token))
            assert len(set(tokens())) > 2
        finally:
            empty_account(user)
        lent = make(multi_tenant=True, **login(keystone.service))
        with pytest.raises(errors.PermissionDenied, match="403"):
            lent.add("image", b"1", context=RequestContext(token))


class TestCut:
    """An answer that breaks off says nothing: it is asked for again."""

    @pytest.mark.parametrize("part", ["prefix=imgstore-claim", "/info"])
    def test_adding(self, make: Make, link: Losing, part: str) -> None:
        store = make(**IN_SEGMENTS)
        link.lose("GET", part, what="half")
        at = store.add("image", pattern(2 * MIB)).location
        assert len(link.lost) == 1
        assert not difference(content(store, at), pattern(2 * MIB))

    @pytest.mark.parametrize(
        ("method", "part"),
        [("GET", "multipart-manifest=get"), ("GET", "/info"), ("POST", "bulk-delete")],
    )
    def test_deleting(
        self, make: Make, container: Container, link: Losing, method: str, part: str
    ) -> None:
        """Of a report about many objects, each is deleted by itself then."""
        at = make(**IN_SEGMENTS).add("image", pattern(5 * MIB)).location
        link.lose(method, part, what="half")
        make().delete(at)
        assert len(link.lost) == 1
        assert container.names() == container.segments() == []

    def test_leftovers(self, make: Make, container: Container, link: Losing) -> None:
        name = f"image/imgstore-{'0' * 32}/00000001"
        make(**IN_SEGMENTS).add("other", pattern(2 * MIB))  # which makes the container
        container.raw.put_object(f"{container.name}_segments", name, b"1")
        link.lose("GET", "_segments?", what="half")
        (found,) = make().leftovers(older_than=0)
        assert name in found.name
        assert len(link.lost) == 1

    def test_for_ever(self, make: Make, container: Container, link: Losing) -> None:
        link.lose("GET", "prefix=imgstore-claim", what="half", times=100)
        with pytest.raises(errors.Unavailable, match="broke off") as caught:
            make().add("image", pattern(2 * MIB))
        assert caught.value.retryable
        assert not caught.value.indeterminate
        assert "image" not in container.names()

    def test_what_is_no_listing(self, make: Make, link: Losing) -> None:
        """As where a connection ends that has no length."""
        link.lose("GET", "prefix=imgstore-claim", what="nonsense", times=100)
        with pytest.raises(errors.Unavailable, match="JSON"):
            make().add("image", pattern(2 * MIB))

    def test_an_error(self, make: Make, container: Container, link: Losing) -> None:
        """Its status says enough."""
        store = make()
        link.lose("GET", f"{container.name}/image", what="half", times=100)
        with pytest.raises(errors.NotFound):
            store.get(f"{store.url_prefix}/image")
        assert len(link.lost) == 1

    @pytest.mark.parametrize("times", [1, 100])
    def test_keystone(self, make: Make, container: Container, times: int) -> None:
        parts = urlsplit(container.user.url)
        with losing(str(parts.hostname), int(parts.port or 0)) as keys:
            store = make(auth_address=f"{keys.url}{parts.path}")
            keys.lose("POST", "/auth/tokens", what="half", times=times)
            if times == 1:
                store.add("image", b"1")
                assert len(keys.lost) == 1
                return
            with pytest.raises(errors.Unavailable, match="broke off"):
                store.add("image", b"1")


WAYS: dict[str, dict[str, Any]] = {
    "whole": {},
    "static": IN_SEGMENTS,
    "dynamic": {**IN_SEGMENTS, "large_object_type": "dlo"},
}
READS = [(0, None), (0, 3 * MIB), (7, 3 * MIB), (MIB, 5)]


@pytest.mark.parametrize(
    ("way", "workers"), [("whole", 1), ("whole", 2), ("static", 1), ("dynamic", 1)]
)
class TestReading:
    @pytest.fixture
    def image(self, make: Make, way: str) -> tuple[Location, bytes]:
        data = pattern(2 * MIB)
        return make(**WAYS[way]).add("image", data).location, data

    def test_ranges_that_end_beyond(
        self, make: Make, link: Losing, image: tuple[Location, bytes], workers: int
    ) -> None:
        """They end with the image, also where the server answers 416."""
        (at, data), store = image, make(get_workers=workers)
        link.is_strict = True
        for offset, length in READS:
            with store.get(at, offset=offset, length=length) as reader:
                end = None if length is None else offset + length
                assert not difference(reader.read(), data[offset:end])
        for offset in (len(data) + 1, len(data) + MIB):
            with pytest.raises(errors.InvalidRange):
                store.get(at, offset=offset, length=5).close()

    def test_no_length(
        self, make: Make, link: Losing, image: tuple[Location, bytes], workers: int
    ) -> None:
        """Of an answer to GET: a HEAD tells it, or the answer's range."""
        (at, data), store = image, make(get_workers=workers)
        link.unsized = {"GET"}
        for offset, length in READS:
            with store.get(at, offset=offset, length=length) as reader:
                end = None if length is None else offset + length
                assert not difference(reader.read(), data[offset:end])
                assert reader.image_size == len(data)


def test_no_length_at_all(make: Make, link: Losing) -> None:
    store = make()
    at = store.add("image", b"1").location
    link.unsized = {"GET", "HEAD"}
    with pytest.raises(errors.Unsupported, match="size"):
        store.size(at)
    with pytest.raises(errors.Unsupported, match="size"):
        store.get(at)
    with store.get(at, offset=0, length=1) as reader:
        assert reader.read() == b"1"


def test_answers_before_the_answer(make: Make, container: Container, link: Losing) -> None:
    link.interim = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n"
    store, data = make(**IN_SEGMENTS), pattern(5 * MIB)
    at = store.add("image", data).location
    assert store.size(at) == len(data)
    assert not difference(content(store, at), data)
    store.delete(at)
    assert container.names() == container.segments() == []


def test_connections_are_used_again(container: Container, swift: Swift) -> None:
    """An answer without a body leaves its connection of use to the next request."""
    parts = urlsplit(swift.url)
    with Proxy((str(parts.hostname), int(parts.port or 0))) as proxy:
        url = swift.account_url(container.user).replace(parts.netloc, f"127.0.0.1:{proxy.port}")
        known = {"container": container.name, "endpoint": url, **login(container.user)}
        with SwiftStore("swift", **known) as store:
            for number in range(4):
                store.delete(store.add(f"image-{number}", b"data").location)
    assert 0 < proxy.connections <= 2
