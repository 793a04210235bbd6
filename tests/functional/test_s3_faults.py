"""The S3 store while its server or the connection to it fails."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from servers.buckets import Bucket
from servers.proxy import Proxy
from servers.radosgw import RadosGateway

from imgstore import errors
from imgstore.drivers.s3 import S3Store
from imgstore.drivers.s3.places import CLAIM
from imgstore.testing.doubles import Paused
from imgstore.testing.harness import content, difference, new_id, pattern

pytestmark = pytest.mark.servers("radosgw", "ceph")

MIB = 1024 * 1024
IN_PARTS = {"large_object_size": 0, "large_object_chunk_size": 5}

Make = Callable[..., S3Store]


@pytest.fixture
def link(bucket: Bucket, proxies: Any) -> Proxy:
    """A connection to the gateway that can be made bad."""
    return proxies(("127.0.0.1", bucket.gateway.ports["http"]))


@pytest.fixture
def make(bucket: Bucket, link: Proxy) -> Iterator[Make]:
    """Make stores that reach their bucket through the link."""
    with contextlib.ExitStack() as stack:
        host = f"http://127.0.0.1:{link.port}"
        yield lambda **options: stack.enter_context(
            S3Store("s3", **bucket.options() | {"host": host} | options)
        )


def stored(bucket: Bucket, key: str = "image") -> bytes:
    return bucket.raw.get_object(Bucket=bucket.name, Key=key)["Body"].read()


@contextlib.contextmanager
def down(gateway: RadosGateway, *, seconds: float) -> Iterator[None]:
    """Kill the gateway and start it again after a while, whatever the block does meanwhile."""
    gateway.process.kill()
    starting = threading.Timer(seconds, gateway.process.start)
    starting.start()
    try:
        yield
    finally:
        starting.join()


class TestServerKilled:
    @pytest.mark.parametrize("knows", ["known", "unknown"])
    def test_an_upload_survives_a_restart(self, make: Make, bucket: Bucket, knows: str) -> None:
        """The gateway is killed while parts are sent and is soon back."""
        data = pattern(60 * MIB)
        source = Paused(data)
        store = make(**IN_PARTS)
        with ThreadPoolExecutor(1) as pool:
            adding = pool.submit(
                store.add, "image", source, size=len(data) if knows == "known" else None
            )
            source.reached.wait(60)
            with down(bucket.gateway, seconds=0.5):
                source.go_on.set()
                image = adding.result(120)
        assert image.size == len(data)
        assert not difference(stored(bucket), data)
        assert bucket.uploads() == []
        assert bucket.keys() == ["image"]

    @pytest.mark.parametrize("workers", [1, 3])
    def test_a_read_survives_a_restart(self, make: Make, bucket: Bucket, workers: int) -> None:
        """The gateway is killed while an image is read and is soon back."""
        data = pattern(80 * MIB)
        bucket.put("image", data)
        store = make(get_workers=workers)
        with store.get(f"{store.url_prefix}/image") as reader:
            start = reader.read(MIB)
            with down(bucket.gateway, seconds=0.5):
                assert not difference(start + reader.read(), data)

    def test_a_server_that_stays_away(self, make: Make, bucket: Bucket) -> None:
        """An add ends, says so, and leaves what cannot be reached for a later clean-up."""
        source = Paused(pattern(60 * MIB))
        store = make(max_attempts=2, **IN_PARTS)
        with ThreadPoolExecutor(1) as pool:
            adding = pool.submit(store.add, "image", source)
            source.reached.wait(60)
            while not bucket.uploads():
                time.sleep(0.05)
            bucket.gateway.process.kill()
            source.go_on.set()
            with pytest.raises(errors.Unavailable) as caught:
                adding.result(120)
        assert caught.value.retryable
        assert not caught.value.indeterminate
        bucket.gateway.process.start()
        assert bucket.keys() == []
        assert len(store.leftovers(older_than=0)) == 1
        assert store.add("image", pattern(6 * MIB)).size == 6 * MIB
        assert len(store.remove_leftovers(older_than=0)) == 1
        assert bucket.uploads() == []
        assert bucket.keys() == ["image"]

    def test_a_server_that_was_never_there(self, make: Make, bucket: Bucket, link: Proxy) -> None:
        """Nothing was sent, so nothing is in doubt; no verb hangs."""
        link.refuse()
        store = make(max_attempts=2)
        url = f"{store.url_prefix}/image"
        for verb in (
            lambda: store.add("image", b"data"),
            lambda: store.add("image", pattern(11 * MIB), size=None),
            lambda: store.get(url),
            lambda: store.size(url),
            lambda: store.delete(url),
            lambda: store.leftovers(older_than=0),
        ):
            with pytest.raises(errors.Unavailable) as caught:
                verb()
            assert not caught.value.indeterminate
        link.accept()
        assert bucket.keys() == []
        assert store.add("image", b"data").size == 4

    def test_a_frozen_server(self, make: Make, bucket: Bucket) -> None:
        """What takes longer than the time-outs is TimedOut."""
        bucket.put("first", pattern(30 * MIB))
        store = make(max_attempts=1, read_timeout=1.0)
        url = f"{store.url_prefix}/first"
        with store.get(url) as reader:
            reader.read(MIB)
            bucket.gateway.process.freeze()
            try:
                for verb in (lambda: store.get(url), lambda: store.size(url), reader.read):
                    with pytest.raises(errors.TimedOut):
                        verb()
            finally:
                bucket.gateway.process.thaw()
        assert store.size(url) == 30 * MIB

    def test_a_server_that_freezes_while_an_image_is_put(self, make: Make, bucket: Bucket) -> None:
        """The server may have the request still: nothing can be told, and that is said."""
        store = make(max_attempts=1, read_timeout=1.0)
        store.add("first", b"")  # what it asks the server first is over

        def freeze(request: Any, **_: Any) -> None:
            if CLAIM not in request.url:
                bucket.gateway.process.freeze()

        store._client.get().s3.meta.events.register("before-send.s3.PutObject", freeze)
        try:
            with pytest.raises(errors.TimedOut) as caught:
                store.add("image", b"data")
        finally:
            bucket.gateway.process.kill()  # or it would do late, in another test, what it was asked
            bucket.gateway.process.start()
        assert caught.value.indeterminate
        assert bucket.holds(f"{CLAIM}image")  # it guards what may come late


class TestConnectionCut:
    def test_a_part_that_fails_twice(
        self, make: Make, bucket: Bucket, link: Proxy, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Cut in the middle of a part, and again, the part is sent until it arrives.

        Each time leaves a line in the log, without a secret.
        """
        caplog.set_level("INFO", "imgstore")
        data = pattern(23 * MIB)
        link.cut(7 * MIB, direction="up", times=2)
        image = make(thread_pools=1, **IN_PARTS).add("image", data, algorithms=("md5",))
        assert image.size == len(data)
        assert not difference(stored(bucket), data)
        assert bucket.uploads() == []
        again = f"UploadPart /{bucket.name}/image is sent again: the "
        assert [text.startswith(again) for text in caplog.messages] == [True, True]
        assert bucket.user.secret_key not in caplog.text

    def test_a_small_image_that_fails_twice(self, make: Make, bucket: Bucket, link: Proxy) -> None:
        """An image in one request is sent again from memory."""
        data = pattern(3 * MIB)
        link.cut(MIB, direction="up", times=2)
        make().add("image", iter([data]))
        assert not difference(stored(bucket), data)

    def test_parts_that_never_arrive(self, make: Make, bucket: Bucket, link: Proxy) -> None:
        """In the end the add fails, its upload is aborted and nothing is left."""
        link.cut(2 * MIB, direction="up", times=9)
        with pytest.raises(errors.Unavailable):
            make(thread_pools=1, max_attempts=2, **IN_PARTS).add("image", pattern(23 * MIB))
        assert bucket.uploads() == []
        assert bucket.keys() == []

    @pytest.mark.parametrize("workers", [1, 3])
    @pytest.mark.parametrize("end", ["reset", "orderly"])
    def test_a_read_resumes(
        self, make: Make, bucket: Bucket, link: Proxy, workers: int, end: str
    ) -> None:
        """Every cut is followed by a request for the rest of the same version."""
        data = pattern(40 * MIB)
        bucket.put("image", data)
        store = make(get_workers=workers)
        link.cut(11 * MIB, times=3, reset=end == "reset")
        assert not difference(content(store, f"{store.url_prefix}/image"), data)

    def test_a_read_does_not_resume_for_ever(self, make: Make, bucket: Bucket, link: Proxy) -> None:
        """After as many failures as the library allows the read fails; it is never short."""
        bucket.put("image", pattern(40 * MIB))
        store = make()
        link.cut(3 * MIB, times=99)
        with pytest.raises(errors.StoreError) as caught:
            content(store, f"{store.url_prefix}/image")
        assert caught.value.retryable


class TestLostAnswers:
    """The request arrived and was carried out, but its answer did not come back."""

    @pytest.mark.parametrize("attempts", [1, 3])
    @pytest.mark.parametrize("options", [{}, IN_PARTS], ids=["whole", "parts"])
    def test_ones_own_success_is_success(
        self, make: Make, bucket: Bucket, link: Proxy, options: dict[str, Any], attempts: int
    ) -> None:
        """It is asked after, and found by its token; a repeated request changes nothing."""
        data = pattern(11 * MIB)
        store = make(max_attempts=attempts, thread_pools=1, **options)
        operation = "CompleteMultipartUpload" if options else "PutObject"
        store.add("first", b"")  # what it asks the server first is over
        sent = []

        def cut_the_answer(request: Any, **_: Any) -> None:
            # The answer to this request is the next thing that comes down, after "100 Continue".
            if CLAIM in request.url:
                return
            if not sent:
                link.cut(60, direction="down")
            sent.append(operation)

        store._client.get().s3.meta.events.register(f"before-send.s3.{operation}", cut_the_answer)
        image = store.add("image", data)
        assert sent
        assert image.size == len(data)
        assert not difference(stored(bucket), data)
        assert bucket.uploads() == []
        assert sorted(bucket.keys()) == ["first", "image"]

    @pytest.mark.parametrize("status", [500, 502, 504])
    @pytest.mark.parametrize("options", [{}, IN_PARTS], ids=["whole", "parts"])
    def test_a_load_balancer_gives_up(
        self, make: Make, bucket: Bucket, options: dict[str, Any], status: int
    ) -> None:
        """The server behind it carries the request out: it is asked after."""
        store = make(max_attempts=1, **options)
        operation = "CompleteMultipartUpload" if options else "PutObject"

        def give_up(response_dict: dict[str, Any], **_: Any) -> None:
            answers.append(response_dict)
            if options or len(answers) == 2:  # after the claim's
                response_dict.update(status_code=status, body=b"<html>Gateway Time-out</html>")

        answers = list[object]()
        store.add("first", b"data")
        events = store._client.get().s3.meta.events
        if options:
            events.register(f"before-parse.s3.{operation}", give_up)
        else:
            events.register_first("before-parse.s3.PutObject", give_up)
        assert store.add("image", pattern(11 * MIB)).size == 11 * MIB
        assert bucket.uploads() == []
        assert sorted(bucket.keys()) == ["first", "image"]

    def test_what_cannot_be_told_is_said(self, make: Make, bucket: Bucket, link: Proxy) -> None:
        """The answer is lost and nobody can be asked: the error says so, the image stays."""
        store = make(max_attempts=1)

        def cut_and_refuse(request: Any, **_: Any) -> None:
            if CLAIM not in request.url:
                link.cut(60, direction="down")
                link.refuse()

        client = store._client.get().s3
        store.add("first", b"data")  # a connection to go on with
        client.meta.events.register("before-send.s3.PutObject", cut_and_refuse)
        with pytest.raises(errors.Unavailable) as caught:
            store.add("image", b"data")
        assert caught.value.indeterminate
        link.accept()
        assert stored(bucket) == b"data"


class TestFull:
    def test_a_users_quota(self, make: Make, bucket: Bucket) -> None:
        """QuotaExceeded is StorageFull, for every kind of upload, and nothing is left."""
        bucket.gateway.quota(bucket.user, 8 * MIB)
        try:
            for options in ({}, {"thread_pools": 1, **IN_PARTS}):
                with pytest.raises(errors.StorageFull):
                    make(**options).add(new_id(), pattern(23 * MIB))
            assert bucket.keys() == []
            assert bucket.uploads() == []
        finally:
            bucket.gateway.quota(bucket.user, None)

    def test_a_full_pool(self, make: Make, bucket: Bucket) -> None:
        """A full pool makes this server wait: adds end by their time-outs, and say what they know.

        What it was asked for before that may still come to be when there is room again.
        """
        options = {"max_attempts": 1, "read_timeout": 2.0}
        source = Paused(pattern(23 * MIB))
        store = make(**options)
        store.add("first", b"")  # what it asks the server first is over
        with ThreadPoolExecutor(1) as pool:
            adding = pool.submit(make(thread_pools=2, **IN_PARTS, **options).add, "parts", source)
            source.reached.wait(60)
            while not bucket.uploads():
                time.sleep(0.05)
            bucket.gateway.cluster.fill()
            try:
                source.go_on.set()
                with pytest.raises(errors.TimedOut) as of_parts:
                    adding.result(120)
                with pytest.raises(errors.TimedOut) as of_whole:
                    store.add("whole", b"data")
            finally:
                bucket.gateway.cluster.make_room()
        assert not of_parts.value.indeterminate
        assert not of_whole.value.indeterminate  # it did not get as far as the image
        assert set(bucket.keys()) <= {"first", f"{CLAIM}whole"}
        store = make(**IN_PARTS)
        store.remove_leftovers(older_than=0)
        assert bucket.uploads() == []
        assert store.add("parts", pattern(6 * MIB)).size == 6 * MIB


ADDS = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from imgstore.drivers.s3 import S3Store

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024

store = S3Store("s3", **json.loads(sys.argv[1]))
store.check()
block = bytes(1 << 20)
before = peak()
with ThreadPoolExecutor(8) as pool:
    adds = [pool.submit(store.add, f"image{n}", (block for _ in range(80))) for n in range(8)]
    assert all(add.result().size == 80 << 20 for add in adds)
print(peak() - before)
"""


class TestMemory:
    def test_a_slow_server_does_not_fill_the_memory(self, bucket: Bucket, link: Proxy) -> None:
        """Eight adds at once hold no more than eight times what one may, however slow it is."""
        link.bandwidth = 4 * MIB  # a second, for each connection
        options = bucket.options() | {"host": f"http://127.0.0.1:{link.port}"} | IN_PARTS
        options |= {"thread_pools": 4, "upload_memory": 20}
        command = [sys.executable, "-c", ADDS, json.dumps(options)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        # Each: 20 MiB of parts, one that is being read, and what the digest's thread lags behind.
        assert int(done.stdout) < 8 * (20 + 5 + 10)


INTERRUPTED = """
import json, sys
from imgstore.drivers.s3 import S3Store

store = S3Store("s3", **json.loads(sys.argv[1]))

def source():
    for n in range(1000):
        if n == 30:
            print("half", flush=True)
        yield bytes(1 << 20)

try:
    store.add("image", source())
except KeyboardInterrupt:
    print("interrupted", store.leftovers(older_than=0))
"""


class TestInterrupted:
    @pytest.mark.parametrize(
        ("event", "left", "claims"),
        [
            ("before-send.s3.PutObject", 0, 0),
            ("before-send.s3.HeadObject", 0, 0),
            ("before-send.s3.CompleteMultipartUpload", 1, 1),
            ("before-parse.s3.CompleteMultipartUpload", 0, 1),
        ],
    )
    def test_ctrl_c_while_it_commits(
        self, make: Make, bucket: Bucket, event: str, left: int, claims: int
    ) -> None:
        """Before the last request nothing is left; after it what may be going on is left alone.

        An image that came to be is removed. The claim expires.
        """
        store, source = make(**IN_PARTS), Paused(pattern(30 * MIB))
        store.add("first", b"data")  # what it asks the server first is over

        def interrupt(**_: Any) -> None:
            if len(interrupted) < 1:
                interrupted.append(event)
                raise KeyboardInterrupt

        interrupted = list[str]()
        with ThreadPoolExecutor(1) as pool:
            adding = pool.submit(store.add, "image", source)
            source.reached.wait(60)
            while not bucket.uploads():
                time.sleep(0.05)
            store._client.get().s3.meta.events.register(event, interrupt)
            source.go_on.set()
            with pytest.raises(KeyboardInterrupt):
                adding.result(60)
        assert interrupted
        assert len(bucket.uploads()) == left
        assert len(store.leftovers(older_than=0)) == left
        assert sorted(bucket.keys()) == ["first", *["imgstore-claim-image"] * claims]

    def test_ctrl_c_leaves_nothing(self, bucket: Bucket) -> None:
        """Parts in flight end, then the upload is aborted."""
        options = bucket.options() | IN_PARTS
        command = [sys.executable, "-c", INTERRUPTED, json.dumps(options)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "half\n"
            process.send_signal(signal.SIGINT)
            assert process.stdout.read() == "interrupted []\n"
        assert bucket.uploads() == []
        assert bucket.keys() == []
