"""The S3 store on Ceph's object gateway: what no other store has."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from servers.buckets import Bucket, raw_client
from servers.process import until
from servers.radosgw import RadosGateway, User

from imgstore import ImageReader, Location, RequestContext, StoreManager, errors
from imgstore.drivers.s3 import S3Store
from imgstore.drivers.s3.checking import honours_conditions
from imgstore.drivers.s3.claims import Claim
from imgstore.drivers.s3.copying import Copying, Original
from imgstore.drivers.s3.places import CLAIM
from imgstore.testing.concurrency import in_threads
from imgstore.testing.doubles import Paused
from imgstore.testing.harness import content, difference, new_id, pattern

pytestmark = pytest.mark.servers("radosgw", "ceph")

MIB = 1024 * 1024
IN_PARTS = {"large_object_size": 0, "large_object_chunk_size": 5}

Make = Callable[..., S3Store]


@pytest.fixture
def make(bucket: Bucket) -> Iterator[Make]:
    """Make stores in the bucket of this test; options win over those that reach it."""
    with contextlib.ExitStack() as stack:
        yield lambda scheme="http", **options: stack.enter_context(
            S3Store("s3", **bucket.options(scheme) | options)
        )


def stored(bucket: Bucket, key: str = "image") -> bytes:
    return bucket.raw.get_object(Bucket=bucket.name, Key=key)["Body"].read()


def allow(bucket: Bucket, user: User, actions: list[str]) -> None:
    """Let another user do these things with the bucket."""
    name = f"arn:aws:s3:::{bucket.name}"
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": [f"arn:aws:iam:::user/{user.name}"]},
        "Action": actions,
        "Resource": [name, f"{name}/*"],
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    bucket.raw.put_bucket_policy(Bucket=bucket.name, Policy=policy)


def nothing() -> None:
    """Refuse no add."""


def claim(make: Make, key: str, *, lease: float = 300) -> Claim:
    return Claim(make()._client.get(), key, lease=lease)


def ignore_conditions(store: S3Store) -> None:
    """Let the server not see If-None-Match, as one that takes no notice of it."""

    def strip(request: Any, **_: Any) -> None:
        if "If-None-Match" in request.headers:
            del request.headers["If-None-Match"]

    store._client.get().s3.meta.events.register("before-sign.s3", strip)


def read_all(reader: ImageReader, got: list[bytes]) -> None:
    """Read to the end, keeping what came before a failure."""
    while chunk := reader.read(MIB):
        got.append(chunk)


def test_an_image_is_described_by_one_request(make: Make) -> None:
    """Size, version and time are in one answer."""
    store = make()
    image = store.add(new_id(), b"data")
    asked: list[str] = []
    events = store._client.get().s3.meta.events
    events.register("before-send.s3", lambda request, **_: asked.append(request.method))
    for number, verb in enumerate((store.size, store.stat)):
        verb(image)
        assert asked[number:] == ["HEAD"]


class TestUrls:
    def test_locations_are_those_of_glance_store(self, make: Make, bucket: Bucket) -> None:
        """glance_store 5.7.0 writes s3:// for http and s3+https:// for https."""
        for scheme, prefix in (("http", "s3"), ("https", "s3+https")):
            image_id = new_id()
            image = make(scheme).add(image_id, b"data")
            port = bucket.gateway.ports[scheme]
            assert image.location.url == f"{prefix}://127.0.0.1:{port}/{bucket.name}/{image_id}"
            assert image.metadata == {"store": "s3"}
            assert bucket.keys().count(image_id) == 1

    def test_legacy_credentials_are_read_over(self, make: Make, bucket: Bucket) -> None:
        """URLs of glance_store before 5.7 hold keys, in which anything may be unescaped."""
        bucket.put("image", b"data")
        store, port = make(), bucket.gateway.ports["http"]
        secret = "wJalr/XUtn+FEMI%2Fx@y:z"
        for scheme in ("s3", "s3+http", "s3+https"):
            url = f"{scheme}://AKIA:{secret}@127.0.0.1:{port}/{bucket.name}/image"
            location = Location.parse(url)
            assert content(store, location) == b"data"
            assert store.size(url) == 4
            with pytest.raises(errors.NotFound) as caught:
                store.get(url.replace("/image", "/missing"))
            shown = f"{location} {location!r} {location.url} {caught.value} {caught.value!r}"
            assert "XUtn" not in shown
            assert "AKIA" not in shown

    def test_images_of_glance_store_are_read_and_deleted(self, make: Make, bucket: Bucket) -> None:
        """Objects in one piece and in parts, with no metadata of ours."""
        store = make()
        data = pattern(11 * MIB)
        bucket.put("whole", data)
        bucket.put_in_parts("parts", data[: 5 * MIB], data[5 * MIB : 10 * MIB], data[10 * MIB :])
        for key in ("whole", "parts"):
            url = f"{store.url_prefix}/{key}"
            assert store.size(url) == len(data)
            assert not difference(content(store, url), data)
            with store.get(url, offset=5 * MIB - 3, length=7) as reader:
                assert reader.read() == data[5 * MIB - 3 : 5 * MIB + 4]
            store.delete(url)
        assert bucket.keys() == []

    def test_another_bucket_is_for_the_credentials_to_decide(
        self, make: Make, bucket: Bucket, s3_other: User
    ) -> None:
        """Buckets of the endpoint are readable where the server lets us."""
        store = make()
        name = f"other-{uuid.uuid4().hex[:12]}"
        for owner, outcome in ((bucket.user, None), (s3_other, errors.PermissionDenied)):
            raw = raw_client(bucket.gateway.url(), owner)
            with contextlib.closing(raw):
                raw.create_bucket(Bucket=name)
                raw.put_object(Bucket=name, Key="image", Body=b"data")
                url = store.url_prefix.replace(bucket.name, name) + "/image"
                if outcome is None:
                    assert content(store, url) == b"data"
                else:
                    for verb in (store.get, store.size, store.delete):
                        with pytest.raises(outcome):
                            verb(url)
                raw.delete_object(Bucket=name, Key="image")
                raw.delete_bucket(Bucket=name)

    def test_a_key_prefix_is_part_of_the_key(self, make: Make, bucket: Bucket) -> None:
        """Several stores may share a bucket, each with a prefix."""
        one = make(key_prefix="one-")
        two = S3Store("other", **bucket.options(), key_prefix="two-")
        images = [store.add("image", text) for store, text in ((one, b"1"), (two, b"2"))]
        assert sorted(bucket.keys()) == ["one-image", "two-image"]
        assert images[0].location.url.endswith("/one-image")
        assert content(one, images[0].location) == b"1"
        assert content(two, images[0].location) == b"1"  # of the same bucket
        with StoreManager([one, two]) as stores:
            assert [stores.size(image.location) for image in images] == [1, 1]

    def test_two_stores_of_one_endpoint_are_told_apart(self, make: Make, bucket: Bucket) -> None:
        """A manager finds an image by its bucket, also where two stores share the endpoint."""
        with StoreManager([make(), S3Store("other", **bucket.options() | {"bucket": "b"})]) as all_:
            image = all_.add("image", b"data", store="s3")
            assert all_.size(image.location) == 4


class TestAdding:
    @pytest.mark.parametrize("knows", ["known", "unknown"])
    @pytest.mark.parametrize(
        "size", [5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 10 * MIB - 1, 10 * MIB, 10 * MIB + 1, 23 * MIB]
    )
    def test_parts_make_the_image(self, make: Make, bucket: Bucket, size: int, knows: str) -> None:
        """Every size around the edges of parts, known or not; small ones take one request."""
        data = pattern(size)
        image = make(**IN_PARTS).add("image", iter([data]), size=size if knows == "known" else None)
        assert image.size == size
        assert not difference(content(make(), image.location), data)
        etag = bucket.raw.head_object(Bucket=bucket.name, Key="image")["ETag"]
        parts = -(-size // (5 * MIB))
        assert ("-" in etag) == (size > 5 * MIB)
        assert etag.endswith(f'-{parts}"') or size <= 5 * MIB
        assert bucket.uploads() == []
        assert bucket.keys() == ["image"]

    def test_the_threshold_is_the_operators(self, make: Make, bucket: Bucket) -> None:
        """Below ``s3_store_large_object_size`` an image takes one request, from there on parts."""
        store = make(large_object_size=12, large_object_chunk_size=5)
        for size, in_parts in ((12 * MIB - 1, False), (12 * MIB, True)):
            image_id = new_id()
            store.add(image_id, pattern(size))
            etag = bucket.raw.head_object(Bucket=bucket.name, Key=image_id)["ETag"]
            assert ("-" in etag) == in_parts

    @pytest.mark.parametrize(
        ("scheme", "sums"),
        [
            ("http", "signed"),
            ("https", "md5"),
            pytest.param("http", "md5", marks=pytest.mark.heavy),
            pytest.param("https", "signed", marks=pytest.mark.heavy),
        ],
    )
    def test_simultaneous_uploads_in_parts_of_one_id(
        self, make: Make, bucket: Bucket, scheme: str, sums: str
    ) -> None:
        """This server completes uploads over existing objects: still exactly one add wins."""
        data = [pattern(11 * MIB + number) for number in range(6)]

        def add(number: int) -> int | None:
            signed = sums == "signed"
            store = make(scheme, thread_pools=2, payload_signing=signed, **IN_PARTS)
            try:
                store.add("image", iter([data[number]]))
            except errors.AlreadyExists:
                return None
            return number

        (winner,) = (number for number in in_threads(6, add) if number is not None)
        stored = content(make(), f"{make().url_prefix}/image")
        assert not difference(stored, data[winner])
        assert bucket.keys() == ["image"]
        assert bucket.uploads() == []

    def test_an_existing_image_is_noticed_before_parts_are_sent(
        self, make: Make, bucket: Bucket
    ) -> None:
        """A hundred gigabytes are not uploaded in vain."""
        bucket.put("image", b"first")
        source = Paused(pattern(30 * MIB))
        with pytest.raises(errors.AlreadyExists):
            make(**IN_PARTS).add("image", source)
        assert not source.reached.is_set()
        assert bucket.raw.get_object(Bucket=bucket.name, Key="image")["Body"].read() == b"first"

    def test_an_image_that_comes_meanwhile_stays(self, make: Make, bucket: Bucket) -> None:
        """An object that appears while parts are sent is never replaced."""
        store, source = make(**IN_PARTS), Paused(pattern(30 * MIB))
        with ThreadPoolExecutor(1) as pool:
            adding = pool.submit(store.add, "image", source)
            source.reached.wait(60)
            bucket.put("image", b"first")
            source.go_on.set()
            with pytest.raises(errors.AlreadyExists):
                adding.result(60)
        assert bucket.raw.get_object(Bucket=bucket.name, Key="image")["Body"].read() == b"first"
        assert bucket.uploads() == []
        assert bucket.keys() == ["image"]

    def test_commits_wait_for_each_other(self, make: Make, bucket: Bucket) -> None:
        """While another add commits the same id, an upload waits; then it finds out who won."""
        other = claim(make, "image")
        with ThreadPoolExecutor(1) as pool:
            other.take(nothing)
            adding = pool.submit(make(**IN_PARTS).add, "image", pattern(11 * MIB))
            while not bucket.uploads():
                time.sleep(0.05)
            time.sleep(1)
            assert not adding.done()
            assert bucket.keys() == [f"{CLAIM}image"]
            other.give_up()
            assert adding.result(60).size == 11 * MIB
        assert bucket.keys() == ["image"]

    def test_a_dead_commit_is_taken_over_once(self, make: Make, bucket: Bucket) -> None:
        """A claim that nobody gives up expires; of those who wait one has it at a time."""
        claim(make, "image", lease=1).take(nothing)
        inside = list[int]()

        def commit(number: int) -> None:
            mine = claim(make, "image")
            mine.take(nothing)
            mine.check()
            inside.append(number)
            assert len(inside) == 1
            time.sleep(0.2)
            inside.remove(number)
            mine.give_up()

        in_threads(4, commit)
        assert bucket.keys() == []

    def test_a_claim_that_was_taken_over_is_not_given_up(self, make: Make, bucket: Bucket) -> None:
        """Who was stopped for longer than the lease neither commits nor removes another's claim."""
        slow = claim(make, "image", lease=1)
        slow.take(nothing)
        time.sleep(2.5)
        claim(make, "image").take(nothing)
        with pytest.raises(errors.Unavailable):
            slow.check()
        slow.give_up()
        assert bucket.keys() == [f"{CLAIM}image"]

    def test_a_small_image_and_one_in_parts_at_once(self, make: Make, bucket: Bucket) -> None:
        """An image in one request never comes between the look and the commit of another add."""
        small, parts = make(), make(**IN_PARTS)
        for number, store in enumerate((small, parts)):
            store.add(f"first{number}", b"")  # what they ask the server first is over
        is_waiting, seen, adding = threading.Event(), list[bool](), list[Any]()

        def looking(request: Any, **_: Any) -> None:
            if CLAIM in request.url:
                is_waiting.set()

        def before_completion(**_: Any) -> None:
            adding.append(pool.submit(small.add, "image", b"small"))
            is_waiting.wait(60)
            seen.append(bucket.holds("image"))

        small._client.get().s3.meta.events.register("before-send.s3.HeadObject", looking)
        event = "before-send.s3.CompleteMultipartUpload"
        parts._client.get().s3.meta.events.register(event, before_completion)
        with ThreadPoolExecutor(1) as pool:
            assert parts.add("image", pattern(11 * MIB)).size == 11 * MIB
            with pytest.raises(errors.AlreadyExists) as caught:
                adding[0].result(60)
        assert seen == [False]
        assert not caught.value.indeterminate
        assert bucket.keys() == ["first0", "first1", "image"]

    def test_an_image_whose_add_died_before_it_gave_up_its_claim(
        self, make: Make, bucket: Bucket
    ) -> None:
        """An add of its id is refused at once, and need not wait for the claim."""
        store = make()
        store.add("image", b"first")
        claim(make, "image").take(nothing)
        for data in (b"second", pattern(11 * MIB)):
            with pytest.raises(errors.AlreadyExists):
                make(**IN_PARTS).add("image", data)

    def test_a_server_that_ignores_conditions_is_found_out(
        self, make: Make, bucket: Bucket, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Then images are looked for before they are put, and the operator is told once."""
        bucket.put("image", b"precious")
        store = make()
        ignore_conditions(store)
        for image_id in ("image", "image"):
            with pytest.raises(errors.AlreadyExists):
                store.add(image_id, b"new")
        assert store.add("second", b"data").size == 4
        with pytest.raises(errors.AlreadyExists):
            store.add("image", pattern(120 * MIB), algorithms=())
        assert stored(bucket) == b"precious"
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "s3_store_conditional_writes" in caplog.text
        (fault,) = store.check()
        assert "s3_store_conditional_writes" in fault
        assert sorted(bucket.keys()) == ["image", "second"]

    def test_metadata_may_come_back_in_another_case(self, make: Make, bucket: Bucket) -> None:
        """Header names have no case, and some servers write them in their own."""
        store = make(**IN_PARTS)

        def capitals(response_dict: dict[str, Any], **_: Any) -> None:
            headers = response_dict["headers"]
            for name in [name for name in headers if name.lower().startswith("x-amz-meta-")]:
                value = headers.pop(name)
                headers[name.title()] = value

        store._client.get().s3.meta.events.register("before-parse.s3.HeadObject", capitals)
        assert store.add("image", pattern(11 * MIB)).size == 11 * MIB

    def test_other_bytes_than_were_sent_are_removed(self, make: Make, bucket: Bucket) -> None:
        """A wrong ETag is an IntegrityError, and what is stored is taken away."""

        def lie(response_dict: dict[str, Any], **_: Any) -> None:
            response_dict["headers"]["ETag"] = f'"{"0" * 32}"'

        for options, operation in (({}, "PutObject"), (IN_PARTS, "UploadPart")):
            store = make(payload_signing=False, **options)
            store.add(new_id(), b"")  # what it asks the server first is over
            events = store._client.get().s3.meta.events
            events.register(f"before-parse.s3.{operation}", lie)
            with pytest.raises(errors.IntegrityError):
                store.add("image", pattern(11 * MIB))
            assert not bucket.holds("image")
            assert bucket.uploads() == []

    def test_etags_that_are_no_md5(self, make: Make, bucket: Bucket) -> None:
        """They may look like one: the server has compared the MD5 that it was sent."""
        real = dict[str, str]()

        def pretend(response_dict: dict[str, Any], **_: Any) -> None:
            headers = response_dict["headers"]
            if "ETag" not in headers:
                return
            other = f'"{uuid.uuid5(uuid.NAMESPACE_URL, headers["ETag"]).hex}"'
            real[other] = headers["ETag"]
            headers["ETag"] = other

        def resolve(params: dict[str, Any], **_: Any) -> None:
            for part in params["MultipartUpload"]["Parts"]:
                part["ETag"] = real[part["ETag"]]

        for options in ({}, IN_PARTS, {"conditional_writes": False}):
            store, image_id = make(payload_signing=False, **options), new_id()
            events = store._client.get().s3.meta.events
            events.register("before-parse.s3.PutObject", pretend)
            events.register("before-parse.s3.UploadPart", pretend)
            events.register("before-parameter-build.s3.CompleteMultipartUpload", resolve)
            assert store.add(image_id, pattern(6 * MIB)).size == 6 * MIB
            bucket.raw.delete_object(Bucket=bucket.name, Key=image_id)
        assert bucket.keys() == []

    def test_what_the_server_was_told_to_do(self, make: Make, bucket: Bucket) -> None:
        """Storage class and encryption go with every kind of upload; a refusal is passed on."""
        for parts in ({}, IN_PARTS):
            image_id = new_id()
            make(storage_class="STANDARD", **parts).add(image_id, pattern(11 * MIB))
            for options, code in (
                ({"storage_class": "NEVER_HEARD_OF"}, "InvalidArgument|InvalidStorageClass"),
                ({"server_side_encryption": "AES256"}, "InvalidRequest|ServerSideEncryption"),
            ):
                with pytest.raises(errors.ImgStoreError, match=code):
                    make(**options, **parts).add(new_id(), pattern(11 * MIB))
        assert bucket.uploads() == []

    def test_a_caller_is_of_no_concern(self, make: Make) -> None:
        """The store has credentials of its own."""
        context = RequestContext(token="t", project_id="p")
        assert make().add("image", b"data", context=context).size == 4


class TestBuckets:
    @pytest.mark.parametrize("options", [{}, IN_PARTS], ids=["whole", "parts"])
    def test_a_missing_bucket_is_made_or_named(
        self, make: Make, bucket: Bucket, options: dict[str, Any]
    ) -> None:
        """With the option the first add makes the bucket; without it says which to make."""
        name = f"new-{uuid.uuid4().hex[:12]}"
        data = pattern(11 * MIB)
        with pytest.raises(errors.ConfigError, match=f"{name}.*s3_store_create_bucket_on_put"):
            make(bucket=name, **options).add("image", data)
        store = make(bucket=name, create_bucket_on_put=True, **options)
        assert store.check() == []
        assert store.leftovers(older_than=0) == []
        with pytest.raises(errors.NotFound):
            store.size(f"{store.url_prefix}/image")
        image = store.add("image", data)
        assert not difference(content(store, image.location), data)
        store.delete(image.location)
        bucket.raw.delete_bucket(Bucket=name)

    def test_many_adds_make_a_bucket_once(self, make: Make, bucket: Bucket) -> None:
        """First adds that come together all succeed."""
        name = f"new-{uuid.uuid4().hex[:12]}"
        store = make(bucket=name, create_bucket_on_put=True)
        images = in_threads(6, lambda number: store.add(f"image{number}", b"data"))
        for image in images:
            store.delete(image.location)
        bucket.raw.delete_bucket(Bucket=name)

    def test_a_bucket_of_somebody_else(self, bucket: Bucket, s3_other: User) -> None:
        """It is neither written to nor created."""
        options = bucket.options() | {
            "access_key": s3_other.access_key,
            "secret_key": s3_other.secret_key,
        }
        for parts in ({}, IN_PARTS):
            with (
                S3Store("s3", create_bucket_on_put=True, **options, **parts) as store,
                pytest.raises(errors.PermissionDenied),
            ):
                store.add("image", pattern(11 * MIB))
        assert bucket.keys() == []

    def test_a_region_is_passed_on(self, make: Make, bucket: Bucket) -> None:
        """A region that the server does not have is a fault of the configuration."""
        store = make(bucket=new_id(), create_bucket_on_put=True, region_name="mars-1")
        with pytest.raises(errors.ConfigError, match="s3_store_region_name"):
            store.add("image", b"data")


class TestCredentials:
    def test_wrong_keys(self, make: Make, bucket: Bucket) -> None:
        """A key that is unknown, or whose secret is another, is PermissionDenied everywhere."""
        bucket.put("image", b"data")
        url = f"{make().url_prefix}/image"
        for wrong in ({"access_key": "UNKNOWN"}, {"secret_key": "wrong/secret+key"}):
            store = make(**wrong)
            for verb in (
                lambda store=store: store.add(new_id(), b"data"),
                lambda store=store: store.get(url),
                lambda store=store: store.size(url),
                lambda store=store: store.delete(url),
                lambda store=store: store.copy(url, new_id()),
                lambda store=store: store.leftovers(older_than=0),
            ):
                with pytest.raises(errors.PermissionDenied) as caught:
                    verb()
                assert "wrong/secret" not in f"{caught.value} {caught.value.__cause__!r}"
                assert not caught.value.retryable
            assert len(store.check()) == 1
        assert bucket.keys() == ["image"]

    def test_a_user_who_may_only_read(self, bucket: Bucket, s3_other: User) -> None:
        """Reading works, everything else is PermissionDenied and leaves nothing."""
        allow(bucket, s3_other, ["s3:GetObject", "s3:ListBucket"])
        bucket.put("image", b"data")
        keys = {"access_key": s3_other.access_key, "secret_key": s3_other.secret_key}
        for parts in ({}, IN_PARTS):
            with S3Store("s3", **bucket.options() | keys | parts) as store:
                url = f"{store.url_prefix}/image"
                assert content(store, url) == b"data"
                for verb in (
                    lambda store=store: store.add(new_id(), pattern(11 * MIB)),
                    lambda store=store, url=url: store.delete(url),
                    lambda store=store, url=url: store.copy(url, new_id()),
                ):
                    with pytest.raises(errors.PermissionDenied):
                        verb()
                (fault,) = store.check()
                assert "AccessDenied" in fault
        assert bucket.keys() == ["image"]

    def test_a_user_who_may_not_list(self, bucket: Bucket, s3_other: User) -> None:
        """Who cannot be told what is missing is told so before anything is stored."""
        actions = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
        allow(bucket, s3_other, actions)
        keys = {"access_key": s3_other.access_key, "secret_key": s3_other.secret_key}
        for parts in ({}, IN_PARTS):
            with S3Store("s3", **bucket.options() | keys | parts) as store:
                with pytest.raises(errors.PermissionDenied, match="s3:ListBucket"):
                    store.add("image", pattern(11 * MIB))
                assert bucket.keys() == []
                assert bucket.uploads() == []
        with (
            S3Store("s3", **bucket.options() | keys) as store,
            S3Store("aws", host="s3.eu-west-1.amazonaws.com", bucket=bucket.name) as aws,
        ):
            client = store._client.get()
            client.settings = aws._settings
            assert honours_conditions(client)  # where commits are conditional
        allow(bucket, s3_other, [*actions, "s3:ListBucket"])
        for parts in ({}, IN_PARTS):
            with S3Store("s3", **bucket.options() | keys | parts) as store:
                assert store.add(new_id(), pattern(11 * MIB)).size == 11 * MIB

    def test_temporary_credentials_expire(
        self, make: Make, bucket: Bucket, radosgw: RadosGateway
    ) -> None:
        """A session token works as long as it lasts, and then the error says what it was."""
        session = radosgw.session(bucket.user, seconds=4)
        keys = {
            "access_key": session.access_key,
            "secret_key": session.secret_key,
            "session_token": session.token,
        }
        store = make(**keys)
        image = store.add("image", b"data")
        with pytest.raises(errors.PermissionDenied):
            until(lambda: store.size(image.location) < 0, seconds=60, what="the session is over")
        for verb in (lambda: store.get(image.location), lambda: store.add("second", b"data")):
            with pytest.raises(errors.PermissionDenied) as caught:
                verb()
            assert session.token not in str(caught.value)


class TestTls:
    def test_a_foreign_authority_is_not_trusted(self, make: Make) -> None:
        """Without the CA file nothing is sent; the remedy names the option."""
        store = make("https", cacert="", max_attempts=1)
        with pytest.raises(errors.PermissionDenied, match="s3_store_cacert") as caught:
            store.add("image", b"data")
        assert not caught.value.indeterminate

    @pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
    def test_insecure_trusts_everyone(self, make: Make) -> None:
        """It is for tests; urllib3 warns."""
        store = make("https", cacert="", insecure=True)
        assert content(store, store.add("image", b"data").location) == b"data"

    def test_the_environment_does_not_override(
        self, make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
    ) -> None:
        """A CA file that the store was told holds, whatever AWS_CA_BUNDLE says."""
        other = tmp_path / "empty.pem"
        other.write_text("")
        for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
            monkeypatch.setenv(name, str(other))
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        assert make("https").add("image", b"data").size == 4

    def test_a_ca_file_that_is_none(self, make: Make, tmp_path: Any) -> None:
        """A missing or empty file is a fault of the configuration."""
        empty = tmp_path / "empty.pem"
        empty.write_text("")
        for path in (empty, tmp_path / "missing.pem"):
            store = make("https", cacert=str(path), max_attempts=1)
            with pytest.raises(errors.ImgStoreError, match="s3_store_cacert"):
                store.add("image", b"data")


class TestReading:
    def test_ranges_side_by_side(self, make: Make, bucket: Bucket) -> None:
        """Parallel reads give the same bytes, and pin the version they began with."""
        data = pattern(41 * MIB + 3)
        bucket.put("image", data)
        store = make(get_workers=4)
        url = f"{store.url_prefix}/image"
        assert not difference(content(store, url), data)
        for offset, length in ((0, 8 * MIB), (1, 8 * MIB + 1), (7 * MIB, None), (40 * MIB, 9)):
            with store.get(url, offset=offset, length=length) as reader:
                end = None if length is None else offset + length
                assert not difference(reader.read(), data[offset:end])
        for number in (0, 1):
            bucket.put("empty" * (number + 1), b"x" * number)
            assert content(store, f"{store.url_prefix}/{'empty' * (number + 1)}") == b"x" * number

    @pytest.mark.parametrize("workers", [1, 3])
    def test_a_replaced_image_is_noticed(
        self, make: Make, bucket: Bucket, proxies: Any, workers: int
    ) -> None:
        """What is delivered is of one version, or the read fails."""
        data = pattern(60 * MIB)
        bucket.put("image", data)
        link = proxies(("127.0.0.1", bucket.gateway.ports["http"]))
        store = make(host=f"http://127.0.0.1:{link.port}", get_workers=workers)
        with store.get(f"{store.url_prefix}/image") as reader:
            got = [reader.read(MIB)]
            bucket.put("image", pattern(60 * MIB - 1))
            link.drop()
            with pytest.raises(errors.IntegrityError, match="changed"):
                read_all(reader, got)
        assert not difference(b"".join(got), data[: sum(map(len, got))])

    def test_abandoned_readers_return_their_connections(self, make: Make, bucket: Bucket) -> None:
        """Nothing that a reader held stays behind, parallel or not."""
        bucket.put("image", pattern(30 * MIB))
        for workers in (1, 3):
            store = make(get_workers=workers)
            before = (len(os.listdir("/proc/self/fd")), threading.active_count())
            for _ in range(5):
                reader = store.get(f"{store.url_prefix}/image")
                reader.read(100)
                del reader
            store.close()
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                now = (len(os.listdir("/proc/self/fd")), threading.active_count())
                if now[0] <= before[0] and now[1] <= before[1]:
                    break
                time.sleep(0.05)
            assert now[0] <= before[0]
            assert now[1] <= before[1]


class TestCopies:
    def test_the_server_copies(self, make: Make, bucket: Bucket, proxies: Any) -> None:
        """Inside an endpoint no byte of the image passes the client."""
        data = pattern(9 * MIB)
        link = proxies(("127.0.0.1", bucket.gateway.ports["http"]))
        store = make(host=f"http://127.0.0.1:{link.port}")
        image = store.add("image", data)
        passed = sum(link.passed.values())
        copy = store.copy(image.location, "copy")
        assert sum(link.passed.values()) - passed < 64 * 1024
        assert (copy.size, copy.digests) == (len(data), {})
        assert not difference(content(store, copy.location), data)
        assert sorted(bucket.keys()) == ["copy", "image"]

    def test_the_server_copies_in_parts(self, make: Make, bucket: Bucket) -> None:
        """What is too large for one request is copied in parts; a failure leaves nothing."""
        data = pattern(23 * MIB)
        bucket.put("image", data)
        store, source = make(), {"Bucket": bucket.name, "Key": "image"}
        etag = bucket.raw.head_object(**source)["ETag"]

        def copy(key: str, etag: str) -> None:
            client = store._client.get()
            original = Original(client, source, len(data), etag)
            Copying(client, store._commit(key), original, live=store._live).in_parts(5 * MIB)

        copy("copy", etag)
        assert not difference(content(store, f"{store.url_prefix}/copy"), data)
        with pytest.raises(errors.AlreadyExists):
            copy("copy", etag)
        with pytest.raises(errors.IntegrityError, match="changed"):
            copy("second", '"other"')
        assert sorted(bucket.keys()) == ["copy", "image"]
        assert bucket.uploads() == []

    def test_a_copy_makes_the_bucket_too(self, make: Make, bucket: Bucket) -> None:
        """A first copy into a bucket that does not exist is like a first add."""
        store = make()
        image = store.add("image", b"data")
        name = f"new-{uuid.uuid4().hex[:12]}"
        with pytest.raises(errors.ConfigError, match="s3_store_create_bucket_on_put"):
            store.copy(image.location, "copy", to=make(bucket=name))
        other = make(bucket=name, create_bucket_on_put=True)
        copy = store.copy(image.location, "copy", to=other)
        assert content(other, copy.location) == b"data"
        other.delete(copy.location)
        bucket.raw.delete_bucket(Bucket=name)

    def test_copies_of_one_id_at_once(self, make: Make, bucket: Bucket) -> None:
        """This server copies over existing objects: still exactly one wins."""
        store = make()
        images = [store.add(f"image{number}", pattern(1000 + number)) for number in range(6)]

        def copy(number: int) -> int | None:
            try:
                return store.copy(images[number].location, "copy").size
            except errors.AlreadyExists:
                return None

        (size,) = (size for size in in_threads(6, copy) if size is not None)
        assert not difference(content(store, f"{store.url_prefix}/copy"), pattern(size))

    def test_what_the_target_may_not_read_is_streamed(
        self, make: Make, bucket: Bucket, s3_other: User
    ) -> None:
        """Two accounts of one endpoint: the bytes pass the client, which may read and write."""
        store = make()
        image = store.add("image", pattern(1000))
        name = f"other-{uuid.uuid4().hex[:12]}"
        options = bucket.options() | {
            "bucket": name,
            "access_key": s3_other.access_key,
            "secret_key": s3_other.secret_key,
            "create_bucket_on_put": True,
        }
        with S3Store("other", **options) as other:
            copy = store.copy(image.location, "copy", to=other)
            assert copy.digests.keys() == {"sha256"}
            assert not difference(content(other, copy.location), pattern(1000))
            other.delete(copy.location)
            other._client.get().s3.delete_bucket(Bucket=name)


ADD = """
import sys
from imgstore.drivers.s3 import S3Store
import json
store = S3Store("s3", **json.loads(sys.argv[1]))
def source():
    yield bytes(11 << 20)
    print("half", flush=True)
    sys.stdin.read()
store.add("image", source())
"""


class TestLeftovers:
    def test_a_killed_add_is_a_leftover(self, make: Make, bucket: Bucket) -> None:
        """SIGKILL in the middle leaves nothing visible and the id free; clean-up finds the rest."""
        command = [sys.executable, "-c", ADD, json.dumps(bucket.options() | IN_PARTS)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"half\n"
            process.kill()
        store = make(**IN_PARTS)
        (left,) = store.leftovers(older_than=0)
        assert left.store == "s3"
        assert "image" in left.name
        assert left.size in {0, 5 * MIB, 10 * MIB}
        assert store.leftovers(older_than=timedelta(hours=1)) == []
        assert store.add("image", pattern(11 * MIB)).size == 11 * MIB
        assert store.remove_leftovers(older_than=0) == [left]
        assert store.leftovers(older_than=0) == []
        assert bucket.uploads() == []
        assert bucket.keys() == ["image"]

    def test_live_uploads_are_no_leftovers(self, make: Make, bucket: Bucket) -> None:
        """An upload of this process is none; one of another shows by its parts that it lives."""
        store, source = make(**IN_PARTS), Paused(pattern(30 * MIB))
        other = make()
        with ThreadPoolExecutor(1) as pool:
            adding = pool.submit(store.add, "image", source)
            source.reached.wait(60)
            while not bucket.uploads():
                time.sleep(0.05)
            assert store.leftovers(older_than=0) == []
            (seen,) = other.leftovers(older_than=0)  # for this store it is somebody else's
            assert other.leftovers(older_than=timedelta(minutes=5)) == []
            time.sleep(1.1)  # servers tell times in whole seconds
            source.go_on.set()
            assert adding.result(60).size == 30 * MIB
            with pytest.raises(errors.NotFound):
                other._remove_leftover(seen)

    def test_uploads_of_others_are_left_alone(self, make: Make, bucket: Bucket) -> None:
        """With a key prefix only what begins with it is listed."""
        for key in ("mine-image", "theirs", "mine-dir/file"):
            bucket.raw.create_multipart_upload(Bucket=bucket.name, Key=key)
        store = make(key_prefix="mine-")
        assert [left.name for left in store.remove_leftovers(older_than=0)] == [
            "upload of mine-image"
        ]
        assert len(bucket.uploads()) == 2


class TestChecks:
    def test_a_check_leaves_nothing(self, make: Make, bucket: Bucket) -> None:
        """What it puts is gone afterwards."""
        assert make().check() == []
        assert make(conditional_writes=False).check() == []
        assert bucket.keys() == []

    def test_a_check_may_be_told_not_to_write(self, make: Make, bucket: Bucket) -> None:
        """It looks whether the bucket can be listed."""
        assert make().check(write=False) == []
        assert bucket.keys() == []

    def test_what_is_wrong_is_said_with_a_remedy(self, make: Make) -> None:
        """One text for what keeps the store from working."""
        for write in (True, False):
            (missing,) = make(bucket=new_id()).check(write=write)
            assert "s3_store_create_bucket_on_put" in missing
            assert len(make(secret_key="wrong").check(write=write)) == 1
            (dead,) = make(host="http://127.0.0.1:1", max_attempts=1).check(write=write)
            assert "cannot be connected to" in dead


class TestProcesses:
    def test_a_forked_child_has_a_client_of_its_own(self, make: Make) -> None:
        """Children neither share connections nor close their parent's."""
        store = make()
        image = store.add("image", b"data")
        child = os.fork()
        if child == 0:
            status = 1
            with contextlib.suppress(BaseException):
                store.add("child", b"child's")
                store.close()
                status = 0
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert content(store, image.location) == b"data"
        assert content(store, f"{store.url_prefix}/child") == b"child's"
