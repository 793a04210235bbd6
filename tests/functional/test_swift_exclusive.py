"""The Swift store when adds of one id meet, and when answers are lost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
from servers.containers import Container
from servers.losing import Losing
from servers.swift import Swift

from imgstore import errors
from imgstore.drivers.swift import SwiftStore
from imgstore.drivers.swift.containers import Containers
from imgstore.testing.doubles import Paused
from imgstore.testing.harness import content, difference, new_id, pattern

pytestmark = pytest.mark.servers("swift", "keystone")

MIB = 1024 * 1024
IN_SEGMENTS: dict[str, Any] = {"large_object_size": 1, "large_object_chunk_size": 1}
WAYS: dict[str, dict[str, Any]] = {
    "whole": {},
    "static": IN_SEGMENTS,
    "dynamic": {**IN_SEGMENTS, "large_object_type": "dlo"},
}

Make = Callable[..., SwiftStore]


@pytest.fixture
def make(container: Container, swift: Swift, link: Losing) -> Iterator[Make]:
    """Make stores in the test's container, behind the forwarder."""
    user = container.user
    known: dict[str, Any] = {
        "container": container.name,
        "auth_address": user.url,
        "user": f"{user.project}:{user.name}",
        "key": user.password,
        "user_domain_name": user.domain,
        "project_domain_name": user.domain,
        "endpoint": swift.account_url(user).replace(swift.url, link.url),
        "max_attempts": 2,
    }
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(SwiftStore("swift", **known | options))


def located(store: SwiftStore, name: str = "image") -> str:
    return f"{store.url_prefix}/{name}"


def after(store: SwiftStore, call: Callable[..., None]) -> None:
    """Call with each answer that the SDK gets, before the store sees it."""
    store._session.get()._client._session.hooks["response"].append(call)


class TestLostAnswers:
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("lost", ["imgstore-claim-image", "/image"])
    def test_a_put_that_succeeded_is_a_success(
        self, make: Make, container: Container, link: Losing, way: str, lost: str
    ) -> None:
        store = make(**WAYS[way])
        link.lose("PUT", f"{container.name}/{lost.lstrip('/')}")
        data = pattern(3 * MIB)
        assert store.add("image", data).size == len(data)
        assert link.lost
        assert not difference(content(store, located(store)), data)
        assert container.names() == ["image"]

    @pytest.mark.parametrize("way", WAYS)
    def test_what_cannot_be_told_is_said(
        self, make: Make, container: Container, link: Losing, way: str
    ) -> None:
        """The image is stored whole, or not at all; an add in doubt removes nothing."""
        store = make(**WAYS[way])
        at = f"{container.name}/image"
        link.lose("PUT", at, done=lambda: link.lose("HEAD", at, times=9, what="request"))
        link.lose("PUT", at, times=9, what="request")
        data = pattern(3 * MIB)
        with pytest.raises(errors.Unavailable) as caught:
            store.add("image", data)
        assert caught.value.indeterminate
        assert not difference(container.content("image"), data)

    @pytest.mark.parametrize("way", WAYS)
    def test_requests_that_never_arrive_leave_doubt(
        self, make: Make, container: Container, link: Losing, way: str
    ) -> None:
        store = make(**WAYS[way])
        link.lose("PUT", f"{container.name}/image", times=2, what="request")
        with pytest.raises(errors.Unavailable) as caught:
            store.add("image", pattern(3 * MIB))
        assert caught.value.indeterminate
        assert "image" not in container.names()
        # Who comes now waits: the server might be at it still.
        with pytest.raises(errors.Unavailable, match="another add"):
            make(read_timeout=1).add("image", b"1")

    def test_a_broken_stream_leaves_none(
        self, make: Make, swift: Swift, container: Container, link: Losing
    ) -> None:
        """Whoever did not send the last byte knows that nothing is stored."""
        store = make(large_object_size=20, upload_memory=2)
        source = Paused(pattern(4 * MIB))
        with ThreadPoolExecutor(1) as pool:
            adding = pool.submit(store.add, "image", source, size=4 * MIB)
            source.reached.wait(60)
            swift.proxy.kill()
            source.go_on.set()
            with pytest.raises(errors.Unavailable) as caught:
                adding.result(60)
        assert not caught.value.indeterminate
        swift.heal()
        assert "image" not in container.names()

    def test_a_segment_arrives_twice(self, make: Make, container: Container, link: Losing) -> None:
        store = make(**IN_SEGMENTS)
        link.lose("PUT", "_segments/image/")
        data = pattern(3 * MIB)
        store.add("image", data)
        assert not difference(content(store, located(store)), data)
        assert len(container.segments()) == 4

    @pytest.mark.parametrize("way", WAYS)
    def test_a_delete_that_succeeded(
        self, make: Make, container: Container, link: Losing, way: str
    ) -> None:
        store = make(**WAYS[way])
        image = store.add("image", pattern(5 * MIB))
        link.lose("POST", "bulk-delete")
        link.lose("DELETE", f"{container.name}/image")
        store.delete(image.location)
        assert container.names() == container.segments() == []


class TestRepeated:
    """A request whose answer was lost would be sent again, after others acted."""

    @pytest.mark.parametrize("way", WAYS)
    def test_a_delete_takes_no_other_image(
        self, make: Make, container: Container, link: Losing, way: str
    ) -> None:
        """The next image of the id is there by then."""
        store, data = make(**WAYS[way]), pattern(3 * MIB)
        image = store.add("image", data)
        at = f"{container.name}/image"
        link.lose("DELETE", at, done=lambda: make(**WAYS[way]).add("image", data))
        store.delete(image.location)
        assert link.lost == [f"DELETE {urlsplit(link.lost[0].split()[1]).path}"]
        assert not difference(content(store, image.location), data)

    def test_an_image_that_comes_after_the_second_look_stays(
        self, make: Make, container: Container, link: Losing
    ) -> None:
        """The first request is carried out late, and an add waits for the second one."""
        store, other = make(), make()
        location = store.add("image", b"first").location
        adding, listings = list[Any](), list[str]()
        link.lose("DELETE", f"{container.name}/image", what="request")

        def listed(answer: Any, **_: Any) -> None:
            if answer.request.method == "GET" and "imgstore-claim" in answer.url:
                listings.append(answer.url)

        def looked(answer: Any, **_: Any) -> None:
            is_look = answer.request.method == "HEAD" and answer.url.endswith("/image")
            if not (is_look and link.lost) or adding:
                return
            container.raw.delete_object(container.name, "image")
            adding.append(pool.submit(other.add, "image", b"second"))
            while not (len(listings) > 1 or adding[0].done()):
                time.sleep(0.02)

        after(other, listed)
        after(store, looked)
        with ThreadPoolExecutor(1) as pool:
            store.delete(location)
            assert adding[0].result(60).size == 6
        assert content(store, location) == b"second"
        assert container.names() == ["image"]

    def test_a_manifest_of_another_image_is_not_followed(
        self, make: Make, container: Container, link: Losing
    ) -> None:
        """It replaced the one that was looked at."""
        store = make(**IN_SEGMENTS)
        image = store.add("image", pattern(3 * MIB))

        def replace() -> None:
            make().delete(image.location)
            make(**IN_SEGMENTS).add("image", pattern(4 * MIB))

        link.lose("GET", "multipart-manifest=get", what="request", done=replace)
        link._losses[0].what = "answer"
        with pytest.raises(errors.NotFound):
            store.delete(image.location)
        assert not difference(content(store, image.location), pattern(4 * MIB))

    def test_an_image_that_was_nobody_elses_at_the_end(
        self, make: Make, container: Container, link: Losing
    ) -> None:
        """What was in the way is gone when it is looked at: trying again may help."""
        at = f"{container.name}/image"

        def remove() -> None:
            container.raw.delete_object(container.name, "image")

        def replace() -> None:
            remove()
            container.put("image", b"other")
            link.lose("HEAD", at, done=remove)

        link.lose("PUT", at, done=replace)
        with pytest.raises(errors.Unavailable, match="removed") as caught:
            make().add("image", b"data")
        assert caught.value.retryable
        assert container.names() == []

    def test_a_container_that_was_made_anew_stays(
        self, make: Make, container: Container, link: Losing
    ) -> None:
        """Another add has made it, and is about to put its image there."""
        store = make()
        caller = store._session.get().caller(store._settings.accounts[""])
        name = f"{container.name}-own"
        container.raw.put_container(name)
        make_anew = partial(container.raw.put_container, name)
        link.lose("DELETE", f"/{name}", times=2, done=make_anew)  # first that for segments
        Containers(caller, store._settings, name).remove()
        assert len(link.lost) == 2
        assert container.raw.head_container(name)
        container.raw.delete_container(name)


class TestClaims:
    @pytest.mark.parametrize("way", WAYS)
    def test_one_add_of_many_wins(self, make: Make, container: Container, way: str) -> None:
        """Also when they are of several stores, which know nothing of each other."""
        stores = [make(**WAYS[way]) for _ in range(3)]
        data = [pattern(2 * MIB + number) for number in range(12)]

        def add(number: int) -> int | None:
            try:
                stores[number % 3].add("image", data[number])
            except errors.AlreadyExists:
                return None
            return number

        with ThreadPoolExecutor(12) as pool:
            (winner,) = (won for won in pool.map(add, range(12)) if won is not None)
        assert not difference(content(stores[0], located(stores[0])), data[winner])
        assert container.names() == ["image"]
        used = {entry["name"].split("/")[3] for entry in self._manifest(container, way)}
        assert len(used) == (way == "static")

    @staticmethod
    def _manifest(container: Container, way: str) -> list[dict[str, Any]]:
        return container.manifest("image") if way == "static" else []

    def test_a_streamed_image_commits_at_its_end(self, make: Make, container: Container) -> None:
        """An add that begins and ends meanwhile wins, and the slow one is told so."""
        store = make(large_object_size=20, upload_memory=2)
        source = Paused(pattern(4 * MIB))
        with ThreadPoolExecutor(1) as pool:
            adding = pool.submit(store.add, "image", source, size=4 * MIB)
            source.reached.wait(60)
            store.add("image", b"fast")
            source.go_on.set()
            with pytest.raises(errors.AlreadyExists):
                adding.result(60)
        assert container.content("image") == b"fast"
        assert container.names() == ["image"]

    def test_a_dead_claim_is_taken_away(self, make: Make, container: Container) -> None:
        container.put("imgstore-claim-image/0123-0", b"")
        time.sleep(1.1)
        store = make()
        assert [each.name for each in store.leftovers(older_than=0)] == [
            f"{container.name}/imgstore-claim-image/0123-0"
        ]
        store.add("image", b"1")
        assert container.names() == ["image"]

    def test_a_claim_that_lives_is_waited_for(self, make: Make, container: Container) -> None:
        """What its process does not end in time is Unavailable; nobody removes it."""
        name = "imgstore-claim-image/0123-3600"
        container.put(name, b"")
        store = make(read_timeout=2.0)
        with pytest.raises(errors.Unavailable, match="another add"):
            store.add("image", b"1")
        assert store.remove_leftovers(older_than=0) == []
        assert container.names() == [name]
        store.add("other", b"1")

    @pytest.mark.parametrize("way", WAYS)
    def test_a_listing_that_lags_is_not_believed(
        self, make: Make, container: Container, link: Losing, way: str
    ) -> None:
        """One's own claim is not in it: those of others may be missing, too."""
        link.lose("GET", "prefix=imgstore-claim-image", times=3, what="entries")
        make(**WAYS[way]).add("image", pattern(3 * MIB))
        assert len(link.lost) == 3
        link.lose("GET", "prefix=imgstore-claim-other", times=999, what="entries")
        with pytest.raises(errors.Unavailable, match="up to date"):
            make(read_timeout=1.0, **WAYS[way]).add("other", pattern(3 * MIB))
        assert container.names() == ["image"]

    def test_an_id_is_free_after_a_delete(self, make: Make, container: Container) -> None:
        store = make()
        for number in range(3):
            image = store.add("image", b"%d" % number)
            assert content(store, image.location) == b"%d" % number
            store.delete(image.location)
        assert container.names() == []


class TestDeleting:
    @pytest.mark.parametrize("way", ["static", "dynamic"])
    def test_a_segment_that_stays_keeps_the_manifest(
        self, make: Make, container: Container, link: Losing, way: str
    ) -> None:
        store = make(**WAYS[way])
        image = store.add("image", pattern(5 * MIB))
        kept = container.segments()[2]
        link.lose("POST", "bulk-delete", times=9, what="request")
        with pytest.raises(errors.Unavailable):
            store.delete(image.location)
        assert container.names() == ["image"]
        link._losses.clear()
        link.lose("DELETE", kept.rpartition("/")[2], times=9, what="request")
        store.delete(image.location)
        assert container.names() == container.segments() == []

    def test_a_listing_lacks_a_segment(self, make: Make, container: Container) -> None:
        """A dynamic image is whole, or not to be had."""
        image = make(**WAYS["dynamic"]).add("image", pattern(5 * MIB))
        container.raw.delete_object(container.segments_name, container.segments()[2])
        for workers in (1, 3):
            store = make(get_workers=workers)
            for offset, length in ((0, None), (0, 100), (MIB, 3 * MIB)):
                with pytest.raises(errors.Unavailable, match="segments of"):
                    store.get(image.location, offset=offset, length=length)
            with pytest.raises(errors.Unavailable, match="segments of"):
                store.size(image.location)
        store.delete(image.location)
        assert container.names() == container.segments() == []

    @pytest.mark.parametrize("count", [9, 10, 25])
    def test_a_page_of_segments_is_no_end(
        self, make: Make, container: Container, count: int
    ) -> None:
        """Dynamic large objects of more segments than Swift lists at once, which it sizes not."""
        store, name = make(), new_id()
        parts = [pattern(100 + number) for number in range(count)]
        data = b"".join(parts)
        container.put_dynamic(name, *parts)
        at = located(store, name)
        assert store.size(at) == len(data)
        assert not difference(content(store, at), data)
        assert not difference(content(make(get_workers=3), at), data)
        for offset, length in ((0, 50), (150, 500), (len(data) - 60, None), (len(data) // 2, 99)):
            with store.get(at, offset=offset, length=length) as reader:
                end = None if length is None else offset + length
                assert not difference(reader.read(), data[offset:end])
        container.put(f"{name}-else", b"1")
        store.delete(at)
        assert container.names() == [f"{name}-else"]

    def test_an_image_of_many_segments(self, make: Make, container: Container) -> None:
        for way in ("static", "dynamic"):
            store = make(**WAYS[way])
            data = pattern(21 * 1_024_000 + 1)
            image = store.add("image", data)
            assert store.size(image.location) == len(data)
            assert not difference(content(store, image.location), data)
            store.delete(image.location)
            assert container.names() == container.segments() == []

    def test_many_leftovers(self, make: Make, container: Container) -> None:
        container.raw.put_container(container.segments_name)
        for number in range(25):
            name = f"image/imgstore-{'0' * 32}/{number:08d}"
            container.raw.put_object(container.segments_name, name, b"x")
        ((size,),) = [[each.size for each in make().remove_leftovers(older_than=0)]]
        assert size == 25
        assert container.segments() == []
