"""Segments that are sent while they are read, against an upload that records and fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from imgstore.data.parts import read_part
from imgstore.data.segments import AbandonedError, Segment, upload_in_segments
from imgstore.data.streams import Body
from imgstore.data.units import MIB
from imgstore.errors import SizeMismatch, StoreError, Unavailable


class Upload:
    """Keeps segments in memory; `behave` is called before each attempt to send one."""

    def __init__(self, behave: Callable[[int, Segment], object] = lambda *_: None) -> None:
        self.behave = behave
        self.sent: dict[int, bytes] = {}
        self.sizes: dict[int, int | None] = {}
        self.events: list[str] = []
        self.flying = 0
        self.most = 0
        self.lock = threading.Lock()

    def start(self) -> Upload:
        self.events.append("start")
        return self

    def put(self, number: int, data: Segment) -> int:
        with self.lock:
            self.flying += 1
            self.most = max(self.most, self.flying)
        try:
            self.behave(number, data)
            self.sizes[number] = data.size
            self.sent[number] = b"".join(data)
            return number
        finally:
            with self.lock:
                self.flying -= 1

    def finish(self, parts: list[int]) -> bytes:
        self.events.append("finish")
        assert parts == sorted(self.sent)
        return b"".join(self.sent[number] for number in parts)

    def cancel(self) -> None:
        self.events.append("cancel")

    def abort(self) -> None:
        self.events.append(f"abort with {self.flying} in flight")


def send(
    upload: Upload,
    source: object,
    *,
    size: int | None = None,
    segment: int = 10,
    workers: int = 3,
    budget: int = 64 * MIB,
    head: int = 0,
) -> bytes:
    with Body(source, size=size) as body:
        return upload_in_segments(
            body,
            start=upload.start,
            segment_size=segment,
            workers=workers,
            head=read_part(body, head) if head else None,
            budget=budget,
        )


def counting(size: int) -> bytes:
    return bytes(number % 251 for number in range(size))


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 20, 995])
@pytest.mark.parametrize("head", [0, 3, 10, 15])
@pytest.mark.parametrize("knows", ["known", "unknown"])
def test_segments_arrive_in_order(size: int, head: int, knows: str) -> None:
    """Full segments and a rest; their sizes are told where the whole one is known."""
    data, upload, is_known = counting(size), Upload(), knows == "known"
    assert send(upload, iter([data]), size=size if is_known else None, head=head) == data
    assert upload.events == ["start", "finish"]
    lengths = [len(upload.sent[number]) for number in sorted(upload.sent)]
    assert lengths == ([10] * (size // 10) + ([size % 10] if size % 10 else [])) or [0]
    for number, announced in upload.sizes.items():
        assert announced == (len(upload.sent[number]) if is_known else None)


def test_a_segment_is_sent_while_it_is_read() -> None:
    seen = threading.Event()

    def behave(number: int, data: Segment) -> None:
        blocks = iter(data)
        assert len(next(blocks)) == MIB
        seen.set()

    def source() -> Iterator[bytes]:
        yield bytes(MIB)
        assert seen.wait(10)
        yield bytes(MIB)

    assert send(Upload(behave), source(), segment=4 * MIB) == bytes(2 * MIB)


def test_what_is_whole_in_memory_has_a_length() -> None:
    lengths = {}

    def behave(number: int, data: Segment) -> None:
        data.wait_whole()
        lengths[number] = data.length

    send(Upload(behave), iter([bytes(25)]))
    assert lengths == {1: 10, 2: 10, 3: 5}
    send(Upload(behave), iter([bytes(MIB)] * 5), segment=4 * MIB, budget=2 * MIB, workers=1)
    assert lengths[1] is None


def test_segments_are_sent_side_by_side() -> None:
    upload = Upload(lambda *_: time.sleep(0.05))
    send(upload, bytes(100), workers=3)
    assert upload.most == 3


def test_memory_is_bounded() -> None:
    """A source is read no further than memory allows."""
    read = 0
    most = 0
    landed = threading.Lock()
    sent = 0

    def source() -> Iterator[bytes]:
        nonlocal read, most
        for _ in range(40):
            read += MIB
            most = max(most, read - sent)
            yield bytes(MIB)

    def behave(number: int, data: Segment) -> None:
        nonlocal sent
        data.wait_whole()
        time.sleep(0.01)
        with landed:
            sent += 2 * MIB

    send(Upload(behave), source(), segment=2 * MIB, workers=8, budget=8 * MIB)
    assert most <= 10 * MIB


def test_a_segment_can_be_sent_again() -> None:
    def behave(number: int, data: Segment) -> None:
        blocks = iter(data)
        next(blocks)
        data.wait_whole()
        assert data.may_restart

    data = counting(3 * MIB)
    assert send(Upload(behave), iter([data]), segment=2 * MIB) == data


def test_a_segment_larger_than_the_memory_has_one_chance() -> None:
    restarts: list[bool] = []

    def put(number: int, data: Segment) -> int:
        upload.sent[number] = b"".join(data)
        restarts.append(data.may_restart)
        with pytest.raises(AbandonedError):
            list(data)
        return number

    upload = Upload()
    upload.put = put  # type: ignore[method-assign]  # one instance
    data = counting(9 * MIB)
    assert send(upload, iter([data]), segment=16 * MIB, budget=4 * MIB) == data
    assert restarts == [False]


def test_what_waits_for_a_segment_that_memory_cannot_hold() -> None:
    """It is told so, however early it began to wait, and can go on sending."""
    found: list[bool] = []

    def behave(number: int, data: Segment) -> None:
        found.append(data.wait_whole())

    data = counting(9 * MIB)
    assert send(Upload(behave), iter([data]), segment=16 * MIB, budget=4 * MIB) == data
    assert found == [False]


def test_a_failure_ends_all() -> None:
    """The first failure is raised, and the upload removed when nothing is in flight any more."""

    def behave(number: int, data: Segment) -> None:
        if number == 2:
            raise Unavailable("no")
        data.wait_whole()

    def source() -> Iterator[bytes]:
        while True:
            yield bytes(15)

    upload = Upload(behave)
    with pytest.raises(Unavailable, match="no"):
        send(upload, source())
    assert upload.events == ["start", "cancel", "abort with 0 in flight"]


def test_a_failure_behind_a_stalled_segment() -> None:
    """A reader that waits for memory learns of the failure."""

    def behave(number: int, data: Segment) -> None:
        time.sleep(0.05)
        raise Unavailable("no")

    with pytest.raises(Unavailable, match="no"):
        send(Upload(behave), iter([bytes(MIB)] * 20), segment=8 * MIB, budget=4 * MIB)


@pytest.mark.parametrize("error", [OSError("source"), KeyboardInterrupt()])
def test_a_source_that_fails(error: BaseException) -> None:
    def source() -> Iterator[bytes]:
        yield bytes(35)
        raise error

    upload = Upload()
    with pytest.raises(type(error)):
        send(upload, source())
    assert upload.events == ["start", "cancel", "abort with 0 in flight"]


def test_a_wrong_size_is_found_before_the_commit() -> None:
    upload = Upload()
    with pytest.raises(SizeMismatch):
        send(upload, bytes(25), size=30)
    assert "finish" not in upload.events


def test_what_may_be_committed_is_not_removed() -> None:
    upload = Upload()

    def finish(parts: list[int]) -> bytes:
        raise StoreError("no answer", indeterminate=True)

    upload.finish = finish  # type: ignore[method-assign]  # one instance
    with pytest.raises(StoreError):
        send(upload, bytes(25))
    assert upload.events == ["start", "cancel"]
