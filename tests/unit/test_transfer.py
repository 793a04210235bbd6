"""Transfers in parts against an upload that records, delays and fails."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from imgstore.data.parts import Part, Shares, upload_in_parts
from imgstore.data.ranges import read_in_parts
from imgstore.data.streams import Body
from imgstore.errors import IntegrityError, SizeMismatch, StoreError, Unavailable

MIB = 1 << 20


class Upload:
    """Keeps parts in memory and counts how many are in flight."""

    def __init__(self, put: Callable[[int], object] = lambda number: None) -> None:
        self.behave = put
        self.parts: dict[int, bytes] = {}
        self.events: list[str] = []
        self.is_cancelled = False
        self.flying = 0
        self.most = 0
        self.most_bytes = 0
        self.bytes = 0
        self.lock = threading.Lock()

    def start(self) -> Upload:
        self.events.append("start")
        return self

    def put(self, number: int, data: Part) -> int:
        with self.lock:
            self.flying += 1
            self.bytes += len(data)
            self.most = max(self.most, self.flying)
            self.most_bytes = max(self.most_bytes, self.bytes)
        try:
            self.behave(number)
            self.parts[number] = bytes(data)
            return number
        finally:
            with self.lock:
                self.flying -= 1
                self.bytes -= len(data)

    def finish(self, parts: list[int]) -> bytes:
        self.events.append("finish")
        assert parts == sorted(self.parts)
        return b"".join(self.parts[number] for number in parts)

    def cancel(self) -> None:
        self.is_cancelled = True

    def abort(self) -> None:
        self.events.append(f"abort with {self.flying} in flight")

    def put_whole(self, data: Part) -> bytes:
        self.events.append("whole")
        return bytes(data)


def send(upload: Upload, source: object, *, size: int | None = None, **settings: Any) -> bytes:
    part = settings.pop("part", 10)
    with Body(source, size=size) as body:
        return upload_in_parts(
            body,
            start=upload.start,
            put_whole=upload.put_whole,
            part_size=lambda number: part,
            shares=settings.pop("shares", None) or Shares(settings.pop("workers", 3)),
            **settings,
        )


@pytest.mark.parametrize("size", [0, 1, 9, 10])
def test_what_fits_into_one_part_goes_in_one_piece(size):
    """No upload in parts is begun for data of up to one part."""
    upload = Upload()
    assert send(upload, bytes(size)) == bytes(size)
    assert upload.events == ["whole"]


@pytest.mark.parametrize("size", [11, 20, 21, 995])
@pytest.mark.parametrize("known", [True, False])
def test_parts_arrive_in_order(size, known):
    """Larger data goes in full parts and a rest, whether its size was declared or not."""
    data = bytes(number % 251 for number in range(size))
    upload = Upload()
    assert send(upload, iter([data]), size=size if known else None) == data
    assert upload.events == ["start", "finish"]
    assert all(len(part) == 10 for number, part in upload.parts.items() if number * 10 <= size)


def test_workers_bound_the_parts_in_flight():
    """Never more parts than workers are in flight, and they do run side by side."""
    upload = Upload(lambda number: time.sleep(0.02))
    send(upload, bytes(300), workers=3)
    assert upload.most == 3


class Held(Upload):
    """Counts the parts that are in memory: read from ``source``, and not yet put."""

    def __init__(self) -> None:
        super().__init__(lambda number: time.sleep(0.005))
        self.held = 0
        self.most_held = 0

    def source(self):
        for _ in range(30):
            with self.lock:
                self.held += 1
                self.most_held = max(self.most_held, self.held)
            yield bytes(10)

    def put(self, number: int, data: Part) -> int:
        result = super().put(number, data)
        with self.lock:
            self.held -= 1
        return result


@pytest.mark.parametrize(("workers", "most"), [(1, 2), (2, 2), (4, 4)])
def test_parts_in_memory_are_bounded_by_the_workers(workers, most):
    """The part that is being read counts: as many parts as workers, and at least two."""
    upload = Held()
    send(upload, upload.source(), workers=workers)
    assert upload.most_held <= most


def test_uploads_that_are_under_way_share_the_parts():
    """Alone an upload has all; beside others its share, and at least two."""
    shares = Shares(10)
    with shares.taken():
        assert shares.each == 10
        with shares.taken(), shares.taken():  # and the upload makes four
            upload = Held()
            send(upload, upload.source(), shares=shares)
            assert upload.most_held == 2
    assert shares.each == 10


def test_a_child_does_not_share_with_the_uploads_of_its_parent():
    shares = Shares(10)
    with shares.taken(), shares.taken():
        if not (child := os.fork()):
            os._exit(shares.each)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 10


def test_a_part_reads_like_a_file():
    """SDKs read a part in pieces, measure it, and go back to its start to send it again."""
    data = bytes(number % 251 for number in range(2 * MIB + 7))
    part = Part([data[:MIB], data[MIB : 2 * MIB], data[2 * MIB :]])
    assert len(part) == len(data)
    for _ in range(2):
        assert part.seek(0) == 0
        assert b"".join(iter(lambda: part.read(300_001), b"")) == data
    assert part.tell() == part.seek(0, os.SEEK_END) == len(data)
    assert part.read(1) == part.read() == b""
    assert part.seek(-5, os.SEEK_CUR) == len(data) - 5
    assert part.read() == data[-5:]
    assert bytes(part) == b"".join(part) == data
    assert not Part(())


def test_the_budget_bounds_the_bytes_in_flight():
    """Parts in flight and the one being read stay within the budget, down to two parts."""
    upload = Upload(lambda number: time.sleep(0.01))
    send(upload, bytes(300), workers=8, budget=35)
    assert upload.most_bytes <= 30
    narrow = Upload(lambda number: time.sleep(0.01))
    send(narrow, bytes(100), workers=8, budget=1)
    assert narrow.most_bytes <= 20


def test_a_part_that_fails_aborts_after_the_others_ended():
    """The first failure is raised, nothing is in flight when the upload is removed."""

    def fail(number: int) -> None:
        if number == 2:
            raise Unavailable("no")
        time.sleep(0.05)

    upload = Upload(fail)
    with pytest.raises(Unavailable):
        send(upload, bytes(1000))
    assert upload.events == ["start", "abort with 0 in flight"]
    assert len(upload.parts) < 10


@pytest.mark.parametrize(
    "error",
    [OSError("source"), KeyboardInterrupt(), StoreError("another add", indeterminate=True)],
)
def test_a_source_that_fails_aborts(error):
    """Nothing stays behind, also where the source's own error is in doubt."""

    def source():
        yield bytes(35)
        raise error

    upload = Upload()
    with pytest.raises((type(error), RuntimeError)) as caught:
        send(upload, source())
    assert error in {caught.value, caught.value.__cause__}
    assert upload.events == ["start", "abort with 0 in flight"]


def test_a_wrong_size_is_found_before_the_commit():
    """A source that is shorter than declared is never finished."""
    upload = Upload()
    with pytest.raises(SizeMismatch):
        send(upload, bytes(25), size=30)
    assert "finish" not in upload.events


def test_what_may_be_committed_is_not_removed():
    """A commit whose outcome is unknown is not aborted."""
    upload = Upload()

    def finish(parts: list[int]) -> bytes:
        raise StoreError("no answer", indeterminate=True)

    upload.finish = finish
    with pytest.raises(StoreError):
        send(upload, bytes(25))
    assert upload.events == ["start"]


def test_an_abort_that_fails_hides_nothing(caplog):
    """The failure that led to the abort is the one that is raised."""
    upload = Upload(lambda number: (_ for _ in ()).throw(Unavailable("first")))

    def abort() -> None:
        raise OSError("second")

    upload.abort = abort
    with pytest.raises(Unavailable, match="first"):
        send(upload, bytes(25))
    assert "OSError" in caplog.text


DATA = bytes(number % 251 for number in range(1000))


def fetch(at: int, n: int) -> bytes:
    time.sleep(0.001 * (at % 7))
    return DATA[at : at + n]


def read(fetch: Callable[[int, int], bytes], **settings: int) -> bytes:
    chosen = {"offset": 5, "length": 990, "part_size": 33, "workers": 4, "retries": 2} | settings
    return b"".join(
        read_in_parts(fetch, is_retryable=lambda exc: isinstance(exc, Unavailable), **chosen)
    )


def test_parts_are_delivered_in_order():
    """Ranges come back in order whatever the order in which they arrive."""
    assert read(fetch) == DATA[5:995]
    assert read(fetch, length=0) == b""


def test_a_part_is_fetched_again():
    """A failure that may pass is retried for its part alone, others end the read."""
    failures = {38: 2, 104: 1}

    def flaky(at: int, n: int) -> bytes:
        if failures.get(at):
            failures[at] -= 1
            raise Unavailable("again")
        return fetch(at, n)

    assert read(flaky) == DATA[5:995]
    failures[38] = 3
    with pytest.raises(Unavailable):
        read(flaky)


def test_reading_ahead_is_bounded():
    """No more parts are fetched than workers and budget allow, however slow the consumer is."""
    fetched = []

    def count(at: int, n: int) -> bytes:
        fetched.append(at)
        return DATA[at : at + n]

    parts = read_in_parts(
        count,
        offset=0,
        length=1000,
        part_size=10,
        workers=8,
        retries=0,
        is_retryable=lambda exc: False,
        budget=30,
    )
    next(parts)
    time.sleep(0.05)
    assert len(fetched) <= 3
    parts.close()
    assert not any(thread.name.startswith("imgstore-part") for thread in threading.enumerate())


def test_a_short_part_is_never_delivered():
    """A part of another length is fetched again, and is an error if it stays so."""
    short = {38: 1}

    def cut(at: int, n: int) -> bytes:
        if short.get(at):
            short[at] -= 1
            n -= 10
        return fetch(at, n)

    assert read(cut) == DATA[5:995]
    short[38] = 9
    with pytest.raises(IntegrityError):
        read(cut)


def test_an_interrupted_commit_is_not_undone():
    """What was interrupted while it committed may be committed, so it is not removed."""
    upload = Upload()

    def finish(parts: list[int]) -> bytes:
        raise KeyboardInterrupt

    upload.finish = finish
    with pytest.raises(KeyboardInterrupt):
        send(upload, bytes(25))
    assert upload.events == ["start"]
