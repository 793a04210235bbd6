"""When progress is called: often enough to cancel, not too often, and once at the end."""

from __future__ import annotations

import io
import os
import time

import pytest

from imgstore.streams import Body

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
