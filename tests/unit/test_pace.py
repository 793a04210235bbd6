"""When progress is called: often enough to cancel, not too often, and once at the end."""

from __future__ import annotations

import io
import os
import random
import time

import pytest

from imgstore.data.pace import Pace
from imgstore.data.streams import Body

KIB = 1024
MIB = 1024 * KIB


class Slow:
    """A source of few bytes in a second, which fills what it is asked for or gives a byte."""

    def __init__(self, size, *, rate, fills):
        self._left = size
        self._rate = rate
        self._fills = fills
        self.asked = []

    def read(self, n):
        self.asked.append(n)
        n = min(n if self._fills else 1, self._left)
        time.sleep(n / self._rate)
        self._left -= n
        return bytes(n)


class Calls(list):
    """A progress that remembers its calls and when they came."""

    def __init__(self):
        super().__init__()
        self.times = []

    def __call__(self, done, total):
        self.append((done, total))
        self.times.append(time.monotonic())


def drained(body, n=MIB):
    while body.read(n):
        pass
    body.finish()


@pytest.mark.parametrize("fills", [False, True])
def test_a_slow_source_is_told_of(fills):
    """However slow a source is, progress hears of what has arrived, long before a block is full."""
    calls, source = Calls(), Slow(500, rate=1000, fills=fills)
    with Body(source, progress=calls) as body:
        started = time.monotonic()
        drained(body)
        seconds = time.monotonic() - started
    assert len(calls) >= 2
    assert calls[0][0] < 500
    assert [call for call in calls if call[0] == 500] == [calls[-1]] == [(500, None)]
    # The last call waits for nobody.
    assert len(calls) <= seconds / 0.1 + 1
    gaps = [later - call for call, later in zip(calls.times, calls.times[1:-1], strict=False)]
    assert not [gap for gap in gaps if gap < 0.1]


def test_a_source_that_fills_is_asked_for_little():
    """Of a source whose read waits for all that it was asked for, no more than it has soon."""
    source = Slow(3000, rate=20_000, fills=True)
    with Body(source, progress=Calls()) as body:
        drained(body)
    assert max(source.asked) <= 4 * KIB


class Clocked:
    """A source that fills what it is asked for, by a clock that only its reads move."""

    def __init__(self, *, latency=0.0, rate=1e9):
        self.latency = latency
        self.rate = rate
        self.now = 0.0
        self.reads = []
        self.calls = []
        self._done = 0
        self._pace = Pace(lambda done, _: self.calls.append((self.now, done)), clock=self._clock)

    def _clock(self):
        return self.now

    def _pull(self, n):
        took = self.latency + n / self.rate
        self.now += took
        self.reads.append((n, took))
        return bytes(n)

    def give(self, size, *, block=MIB):
        """Read ``size`` bytes as a body does, and return how many seconds that takes."""
        started, self.reads, self.calls = self.now, [], []
        while size:
            missing = min(block, size)
            size -= missing
            while missing:
                missing -= (arrived := len(self._pace.pull(self._pull, missing)))
                self._done += arrived
                self._pace.arrived(self._done, None)
        return self.now - started

    @property
    def longest(self):
        return max(took for _, took in self.reads)


@pytest.mark.parametrize("latency", [0.02, 0.055, 0.2, 2.0])
def test_a_source_that_waits_before_each_read_is_asked_for_much(latency):
    """Asking it for less would not make it answer sooner."""
    source = Clocked(latency=latency)
    source.give(16 * MIB)
    assert len(source.reads) < 16 + 10
    gaps = [later[0] - call[0] for call, later in zip(source.calls, source.calls[1:], strict=False)]
    assert min(gaps) >= 0.1


@pytest.mark.parametrize("jitter", [0.005, 0.05])
def test_a_source_whose_waiting_varies_is_asked_for_much(jitter):
    """One read that happens to be quick or slow does not make all that follow small."""
    chance, source = random.Random(0), Clocked(latency=0.1)
    for _ in range(64):
        source.latency = 0.1 + chance.uniform(-jitter, jitter)
        source.give(MIB)
    assert source.give(16 * MIB) < 16 * 2 * 0.2


@pytest.mark.parametrize("latency", [0.055, 0.2])
def test_a_slow_source_that_waits_keeps_most_of_its_speed(latency):
    """It is told of as often as its waiting permits."""
    source = Clocked(latency=latency, rate=1e6)
    source.give(2 * MIB)
    assert source.give(8 * MIB) < 8 * MIB / 1e6 * 1.6
    assert source.longest < 8 * latency


@pytest.mark.parametrize("block", [MIB, 100_000])
@pytest.mark.parametrize("rate", [100, 2000, 20_000, 1e6])
def test_a_trickling_source_is_asked_for_little(rate, block):
    """Once it is known, what progress raises ends a read soon, or with the smallest one."""
    source = Clocked(rate=rate)
    source.give(4 * KIB + int(rate))
    source.give(40 * KIB + int(20 * rate), block=block)
    assert source.longest < max(0.2, 2.1 * 256 / rate)
    typical = sorted(took for _, took in source.reads)[len(source.reads) // 2]
    assert typical < max(0.1, 1.1 * 256 / rate)


@pytest.mark.parametrize("slow", [{"rate": 2000}, {"rate": 50_000}])
@pytest.mark.parametrize(
    "quick",
    [{}, {"latency": 0.055}, {"latency": 0.2, "rate": 1e7}, {"latency": 0.055, "rate": 1e6}],
)
def test_a_source_that_changes_is_followed(quick, slow):
    """From fast to slow with one long read, and back without delay."""
    source = Clocked()
    for turn in range(20):
        vars(source).update({"latency": 0.0, "rate": 1e9, **quick})
        source.give(4 * MIB)
        size = 4 * MIB + turn * 100_000
        assert source.give(size) < 5 * (4 * source.latency + 0.2) + 1.6 * size / source.rate
        vars(source).update({"latency": 0.0, "rate": 1e9, **slow})
        source.give(MIB)
        # The second one may end a block that the first one left.
        assert len([took for _, took in source.reads if took > 0.3]) <= 2
        source.give(int(10 * source.rate))
        assert source.longest < 0.3


def test_a_trickling_source_that_comes_to_wait_is_followed():
    """Though each of its reads takes as long as before."""
    source = Clocked(rate=2000)
    source.give(20 * KIB)
    vars(source).update(latency=0.128, rate=1e9)
    assert source.give(16 * MIB) < 10


def test_a_quick_source_is_asked_for_much():
    """The size of reads grows with what the source gives."""
    asked = []

    class Source(io.BytesIO):
        def read(self, n):
            asked.append(n)
            return super().read(n)

    with Body(Source(bytes(8 * MIB)), progress=Calls()) as body:
        drained(body)
    assert len(asked) < 100


def test_what_progress_raises_ends_a_slow_add():
    """It is raised as soon as bytes arrive, not when a block is full."""
    source = Slow(20 * KIB, rate=2000, fills=True)
    with Body(source, progress=lambda *_: 1 / 0) as body, pytest.raises(ZeroDivisionError):
        body.read(MIB)
    assert body.error_is_callers
    assert sum(source.asked) < 10 * KIB


@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1])
@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("make", [io.BytesIO, lambda data: iter([data]), bytes])
def test_the_end_is_told_once(make, declared, size):
    """A quick add, of no bytes too, has one call: of all its bytes, with the total if known."""
    calls = Calls()
    with Body(make(bytes(size)), size=size if declared else None, progress=calls) as body:
        drained(body)
        total = body.size
    assert calls[-1] == (size, total)
    assert [done for done, _ in calls].count(size) == 1


def test_holes_and_copies_are_told_of(tmp_path):
    """What a driver skips, or has the kernel copy, has arrived as well."""
    path = tmp_path / "source"
    path.touch()
    os.truncate(path, 3 * MIB)
    calls = Calls()
    with Body(path, progress=calls) as body:
        time.sleep(0.1)
        body.skip(MIB)
        drained(body)
    assert calls[0] == (MIB, 3 * MIB)
    assert calls[-1] == (3 * MIB, 3 * MIB)
    for algorithms in ((), ("md5",)):
        calls = Calls()
        with Body(path, algorithms=algorithms, progress=calls) as body:
            assert body.step == 64 * MIB
            time.sleep(0.1)
            body.copied(2 * MIB)
            body.copied(3 * MIB)
            time.sleep(0.1)
            body.adopt(3 * MIB, lambda offset, n: bytes(n))
            body.finish()
        # What is read back has arrived before: progress can cancel meanwhile, and never goes back.
        *copying, last = calls
        assert set(copying) == {(2 * MIB, 3 * MIB)}
        assert len(copying) > bool(algorithms)
        assert last == (3 * MIB, 3 * MIB)


def test_a_copy_is_cancelled():
    """What progress raises between two steps of a copy is the caller's."""
    with Body(b"", progress=lambda *_: 1 / 0) as body:
        body.size = 100
        time.sleep(0.1)
        with pytest.raises(ZeroDivisionError):
            body.copied(50)
        assert body.error_is_callers
        with pytest.raises(RuntimeError):
            body.copied(60)


def test_without_a_progress_steps_are_large():
    """A kernel is not interrupted where nobody wants to know."""
    with Body(b"") as body:
        assert body.step > 64 * MIB
        body.copied(1)
