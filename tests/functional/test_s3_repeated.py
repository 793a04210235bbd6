"""The S3 store when a request whose answer was lost would be sent again after others acted."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from servers.buckets import Bucket
from servers.proxy import Proxy

from imgstore import errors
from imgstore.drivers.s3 import S3Store
from imgstore.drivers.s3.claims import Claim
from imgstore.drivers.s3.leftovers import _Object
from imgstore.model import Leftover
from imgstore.testing.harness import difference, pattern

pytestmark = pytest.mark.servers("radosgw", "ceph")

MIB = 1024 * 1024
IN_PARTS = {"large_object_size": 0, "large_object_chunk_size": 5}
DATA = [pattern(5 * MIB + number) for number in range(1, 4)]
CLAIM = "imgstore-claim-image"

Make = Callable[..., S3Store]


@pytest.fixture
def link(bucket: Bucket, proxies: Any) -> Proxy:
    """A connection to the gateway that can be made bad."""
    return proxies(("127.0.0.1", bucket.gateway.ports["http"]))


@pytest.fixture
def make(bucket: Bucket) -> Iterator[Make]:
    """Make stores that have asked the server what they ask first."""
    with contextlib.ExitStack() as stack:

        def make(**options: Any) -> S3Store:
            store = stack.enter_context(S3Store("s3", **bucket.options() | IN_PARTS | options))
            assert store.check() == []
            assert store._client.get().is_conditional(lambda: True)  # so that no add asks first
            return store

        yield make


@pytest.fixture
def shaky(make: Make, link: Proxy) -> S3Store:
    """A store behind the link."""
    return make(host=f"http://127.0.0.1:{link.port}")


def events(store: S3Store) -> Any:
    return store._client.get().s3.meta.events


def stored(bucket: Bucket) -> bytes:
    return bucket.raw.get_object(Bucket=bucket.name, Key="image")["Body"].read()


class Cutting:
    """Cuts the answer to a store's first DELETE of a key.

    `then` is called before the store sends anything else; `deletes` counts its DELETEs of the key.
    """

    def __init__(
        self, store: S3Store, link: Proxy, key: str, then: Callable[[], object], times: int = 1
    ) -> None:
        self.deletes = 0
        self._link = link
        self._key = key
        self._then = [then]
        self._times = times
        events(store).register_first("before-send.s3", self._sending)

    def _sending(self, request: Any, **_: Any) -> None:
        if self.deletes and self._then:
            self._then.pop()()
        if request.method == "DELETE" and request.url.split("?")[0].endswith(f"/{self._key}"):
            self.deletes += 1
            if self.deletes <= self._times:
                self._link.cut(20, direction="down")


class TestClaims:
    def test_a_lost_answer_takes_nobody_elses_claim(
        self, make: Make, bucket: Bucket, shaky: S3Store, link: Proxy
    ) -> None:
        """An add that gives up its claim, another that commits, a third: one of the two wins."""
        second, third = make(), make()
        is_committing, may_commit, is_waiting = (threading.Event() for _ in range(3))

        def before_completion(**_: Any) -> None:
            is_committing.set()
            may_commit.wait(60)

        def looking(request: Any, **_: Any) -> None:
            if CLAIM in request.url:
                is_waiting.set()

        events(second).register("before-send.s3.CompleteMultipartUpload", before_completion)
        events(third).register("before-send.s3.HeadObject", looking)
        with ThreadPoolExecutor(3) as pool:
            adding = list[Any]()

            def meanwhile() -> None:
                bucket.raw.delete_object(Bucket=bucket.name, Key="image")
                adding.append(pool.submit(second.add, "image", DATA[1]))
                is_committing.wait(60)

            cutting = Cutting(shaky, link, CLAIM, meanwhile)
            try:
                assert shaky.add("image", DATA[0]).size == len(DATA[0])
                adding.append(pool.submit(third.add, "image", DATA[2]))
                while not (is_waiting.is_set() or adding[1].done()):
                    time.sleep(0.02)
            finally:
                may_commit.set()
            assert adding[0].result(60).size == len(DATA[1])
            with pytest.raises(errors.AlreadyExists):
                adding[1].result(60)
        assert cutting.deletes == 1
        assert not difference(stored(bucket), DATA[1])
        assert bucket.keys() == ["image"]

    def test_a_claim_that_may_be_gone_expires(
        self, make: Make, bucket: Bucket, shaky: S3Store, link: Proxy
    ) -> None:
        """A request that did not arrive is not sent again either: who can tell the two apart."""

        def lose(request: Any, **_: Any) -> None:
            if request.method == "DELETE":
                lost.append(request.url)
                link.drop()
                link.cut(1, direction="up")

        lost = list[str]()
        events(shaky).register_first("before-send.s3.DeleteObject", lose)
        assert shaky.add("image", DATA[0]).size == len(DATA[0])
        assert len(lost) == 1
        assert sorted(bucket.keys()) == ["image", CLAIM]
        with pytest.raises(errors.AlreadyExists):
            make().add("image", DATA[1])

    def test_a_commit_that_lost_its_claim_finds_out(self, make: Make, bucket: Bucket) -> None:
        """Whatever took it: this add may have replaced an image, and is undone."""
        store, other = make(), make()

        def meanwhile(**_: Any) -> None:
            if len(added) < 1:
                bucket.raw.delete_object(Bucket=bucket.name, Key=CLAIM)
                added.append(other.add("image", DATA[1]))

        added = list[Any]()
        events(store).register("before-send.s3.CompleteMultipartUpload", meanwhile)
        with pytest.raises(errors.Unavailable, match="lost its claim") as caught:
            store.add("image", DATA[0])
        assert added
        assert caught.value.indeterminate  # a reader may have had it
        assert bucket.keys() == []
        assert bucket.uploads() == []

    def test_a_claim_is_taken_over_once(
        self, make: Make, bucket: Bucket, shaky: S3Store, link: Proxy
    ) -> None:
        """The answer to that is lost, too: the add does not wait for itself."""
        store = make()
        Claim(store._client.get(), "image", lease=0).take(lambda: None)
        time.sleep(1.1)  # servers tell times in whole seconds

        def cut(request: Any, **_: Any) -> None:
            if "If-Match" in request.headers:
                sent.append(request.headers["If-Match"])
                if len(sent) == 2:  # of the two forms of an ETag this server takes the second
                    link.cut(60, direction="down")

        sent = list[object]()
        events(shaky).register_first("before-send.s3.PutObject", cut)
        assert shaky.add("image", DATA[0]).size == len(DATA[0])
        assert len(sent) == 3
        assert bucket.keys() == ["image"]


class TestDeletes:
    def test_a_lost_answer_deletes_no_other_image(
        self, make: Make, bucket: Bucket, shaky: S3Store, link: Proxy
    ) -> None:
        """The next image of the id has come since, even one of the same bytes."""
        location = shaky.add("image", DATA[0]).location
        store = make()
        cutting = Cutting(shaky, link, "image", lambda: store.add("image", DATA[0]))
        shaky.delete(location)
        assert cutting.deletes == 1
        assert not difference(stored(bucket), DATA[0])

    def test_an_image_that_comes_after_the_second_look_stays(
        self, make: Make, bucket: Bucket, shaky: S3Store, link: Proxy
    ) -> None:
        """The first request is carried out late, and an add waits for the second one."""
        location, other = shaky.add("image", DATA[0]).location, make()
        sent, adding, is_waiting = list[int](), list[Any](), threading.Event()

        def looking(request: Any, **_: Any) -> None:
            if CLAIM in request.url:
                is_waiting.set()

        def deleting(request: Any, **_: Any) -> None:
            if CLAIM in request.url:
                return
            sent.append(1)
            if len(sent) == 1:
                link.drop()
                link.cut(1, direction="up")
                return
            bucket.raw.delete_object(Bucket=bucket.name, Key="image")
            adding.append(pool.submit(other.add, "image", DATA[1]))
            while not (is_waiting.is_set() or adding[0].done()):
                time.sleep(0.02)

        events(other).register("before-send.s3.HeadObject", looking)
        events(shaky).register_first("before-send.s3.DeleteObject", deleting)
        with ThreadPoolExecutor(1) as pool:
            shaky.delete(location)
            assert adding[0].result(60).size == len(DATA[1])
        assert len(sent) == 2
        assert not difference(stored(bucket), DATA[1])
        assert bucket.keys() == ["image"]

    def test_a_request_that_did_not_arrive_is_sent_again(
        self, bucket: Bucket, shaky: S3Store, link: Proxy
    ) -> None:
        location = shaky.add("image", DATA[0]).location

        def lose(request: Any, **_: Any) -> None:
            if CLAIM in request.url:
                return
            sent.append(1)
            if len(sent) < 3:
                link.drop()
                link.cut(1, direction="up")

        sent = list[int]()
        events(shaky).register_first("before-send.s3.DeleteObject", lose)
        shaky.delete(location)
        assert len(sent) == 3
        assert bucket.keys() == []

    def test_an_image_that_goes_meanwhile(self, make: Make, bucket: Bucket) -> None:
        """Where a server heeds the condition, who comes too late is told."""
        store = make()
        location = store.add("image", DATA[0]).location

        def refuse(response_dict: dict[str, Any], **_: Any) -> None:
            bucket.put("image", b"next")
            response_dict.update(status_code=412, body=b"")

        def keep(request: Any, **_: Any) -> None:
            assert request.headers["If-Match"]
            request.url = request.url.replace("/image", "/none")

        events(store).register("before-sign.s3.DeleteObject", keep)
        events(store).register("before-parse.s3.DeleteObject", refuse)
        with pytest.raises(errors.NotFound):
            store.delete(location)
        assert stored(bucket) == b"next"

    def test_an_add_that_undoes_itself_deletes_no_other_image(
        self, make: Make, bucket: Bucket, shaky: S3Store, link: Proxy
    ) -> None:
        """Its object arrived damaged; the answer to its removal is lost, and another comes."""

        def lie(response_dict: dict[str, Any], **_: Any) -> None:
            response_dict["headers"]["ETag"] = f'"{"0" * 32}"'

        store = make()
        bad = make(host=f"http://127.0.0.1:{link.port}", payload_signing=False, large_object_size=9)
        cutting = Cutting(bad, link, "image", lambda: store.add("image", DATA[1]))
        events(bad).register("before-parse.s3.PutObject", lie)
        with pytest.raises(errors.IntegrityError):
            bad.add("image", DATA[0])
        assert cutting.deletes == 1
        assert not difference(stored(bucket), DATA[1])

    def test_a_leftover_that_comes_to_life_is_left_alone(
        self, make: Make, bucket: Bucket, shaky: S3Store, link: Proxy
    ) -> None:
        """A claim that expired is removed once, however its answer is lost."""
        store = make()
        claims = [Claim(store._client.get(), "image", lease=lease) for lease in (0, 300)]
        claims[0].take(lambda: None)
        time.sleep(1.1)  # servers tell times in whole seconds
        seen = bucket.raw.head_object(Bucket=bucket.name, Key=CLAIM)
        key = _Object({"Bucket": bucket.name, "Key": CLAIM}, seen["ETag"])
        cutting = Cutting(shaky, link, CLAIM, lambda: claims[1].take(lambda: None))
        shaky._remove_leftover(Leftover("s3", CLAIM, seen["LastModified"], 32, key))
        assert cutting.deletes == 1
        assert claims[1].is_held()


class TestTruth:
    def test_an_image_that_is_removed_at_once_was_nobody_elses(
        self, make: Make, bucket: Bucket
    ) -> None:
        """Another request deletes it before its add has looked: trying again may help."""
        store = make()

        def remove(**_: Any) -> None:
            bucket.raw.delete_object(Bucket=bucket.name, Key="image")

        events(store).register("before-send.s3.HeadObject", remove)
        with pytest.raises(errors.Unavailable, match="removed") as caught:
            store.add("image", DATA[0])
        assert caught.value.retryable
        assert caught.value.indeterminate  # a reader may have had it
        assert bucket.keys() == []

    def test_an_image_that_was_there_before_another_is_in_doubt(
        self, bucket: Bucket, shaky: S3Store, link: Proxy
    ) -> None:
        """Its put was answered by nobody; it was deleted, and another image took the id."""
        sent = []

        def sending(request: Any, **_: Any) -> None:
            if request.method != "PUT" or not request.url.split("?")[0].endswith("/image"):
                return
            sent.append(request)
            if len(sent) == 1:
                link.cut(60, direction="down")  # not the "100 Continue"
            if len(sent) == 2:
                assert stored(bucket) == b"small"
                bucket.raw.put_object(Bucket=bucket.name, Key="image", Body=b"another's")

        events(shaky).register_first("before-send.s3", sending)
        with pytest.raises(errors.AlreadyExists) as caught:
            shaky.add("image", b"small")
        assert caught.value.indeterminate
        assert stored(bucket) == b"another's"
