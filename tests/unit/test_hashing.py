"""Digests beside the transfer."""

from __future__ import annotations

import hashlib
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.data.hashing import Digests, _Worker, new_hasher
from imgstore.data.units import MIB
from imgstore.errors import InvalidArgument

NAMES = ("md5", "sha256", "blake2b")


def of(data, names=NAMES):
    return {name: hashlib.new(name, data, usedforsecurity=False).hexdigest() for name in names}


@pytest.fixture
def threads_end():
    yield
    assert not workers()


def workers():
    """Return the threads of digests; other tests may have left threads that still end."""
    return [thread for thread in threading.enumerate() if isinstance(thread, _Worker)]


@given(st.lists(st.binary(max_size=100)))
def test_small_streams_are_hashed_in_line(blocks):
    """Small streams have the digests of hashlib and start no thread."""
    digests = Digests(NAMES)
    for block in blocks:
        digests.update(block)
    assert not workers()
    assert digests.results() == of(b"".join(blocks))
    digests.close()


@pytest.mark.parametrize("size", [MIB, MIB + 1, 9 * MIB, 33 * MIB])
@pytest.mark.parametrize("block", [64 * 1024, MIB + 3, 40 * MIB])
@pytest.mark.usefixtures("threads_end")
def test_large_streams_are_hashed_beside(size, block):
    """Streams of any size, in blocks of any size, have the digests of hashlib."""
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    digests = Digests(NAMES)
    for start in range(0, size, block):
        digests.update(data[start : start + block])
    assert digests.results() == of(data)
    digests.close()


@pytest.mark.usefixtures("threads_end")
def test_closing_does_not_wait_for_the_backlog():
    """Threads end at once when what is queued is not wanted any more."""
    digests = Digests(("sha256", "sha512"))
    block = bytes(8 * MIB)
    for _ in range(3):
        digests.update(block)
    digests.close()
    digests.close()


def test_nothing_to_compute():
    """Without algorithms there is nothing to do, and no result."""
    digests = Digests(())
    digests.update(bytes(2 * MIB))
    assert not digests
    assert digests.results() == {}
    assert Digests(("md5", "md5")).results() == of(b"", ("md5",))


@pytest.mark.parametrize(
    "names",
    [
        *("sha256", b"sha256", 7, None, ("SHA256",), ("",), ("nope",), ("shake_128",)),
        *(("shake_256",), (None,), (b"md5",), ("md5", "Md5"), ({},)),
    ],
    ids=repr,
)
def test_bad_names_are_refused(names):
    """One name instead of several, unknown, upper-case and extendable ones are refused."""
    with pytest.raises(InvalidArgument):
        Digests(names)


def test_every_digest_of_fixed_length_is_known():
    """Whatever hashlib guarantees and has a length can be computed."""
    for name in sorted(hashlib.algorithms_guaranteed):
        if not name.startswith("shake"):
            hasher = new_hasher(name)
            hasher.update(b"data")
            assert hasher.hexdigest() == hashlib.new(name, b"data").hexdigest()


class Broken:
    def update(self, data):
        raise MemoryError("no memory for a digest")

    def hexdigest(self):
        return ""


class Slow:
    def __init__(self):
        self.go_on = threading.Event()
        self.taken = 0

    def update(self, data):
        assert self.go_on.wait(30)
        self.taken += len(data)

    def hexdigest(self):
        return ""


@pytest.mark.usefixtures("threads_end")
def test_a_hasher_that_fails_blocks_nobody():
    """Once a hasher failed, feeding goes on without waiting and keeps nothing."""
    worker = _Worker("broken", Broken())
    worker.start()
    for _ in range(20):
        worker.feed(bytes(4 * MIB))
    worker.end(discard=False)
    worker.join(30)
    assert isinstance(worker.error, MemoryError)
    worker.feed(bytes(MIB))
    assert worker._blocks.empty()


@pytest.mark.usefixtures("threads_end")
def test_what_waits_for_a_slow_hasher_is_bounded():
    """Who feeds a slow hasher waits instead of filling memory."""
    hasher = Slow()
    worker = _Worker("slow", hasher)
    worker.start()
    fed = []

    def feed():
        for _ in range(40):
            worker.feed(bytes(MIB))
            fed.append(MIB)

    feeder = threading.Thread(target=feed)
    feeder.start()
    deadline = time.monotonic() + 30
    while sum(fed) < 16 * MIB and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert sum(fed) <= 18 * MIB
    hasher.go_on.set()
    feeder.join(30)
    worker.end(discard=False)
    worker.join(30)
    assert hasher.taken == 40 * MIB
    assert worker.error is None
