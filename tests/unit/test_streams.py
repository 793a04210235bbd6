"""Image data on its way in: exact blocks, limits, files and their holes."""

from __future__ import annotations

import hashlib
import io
import os
import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.data.extents import GRAIN, ZEROS
from imgstore.data.streams import Body
from imgstore.drivers.memory import MemoryStore
from imgstore.errors import IntegrityError, InvalidArgument, SizeMismatch, TooLarge

MIB = 1024 * 1024
DATA = random.Random(1).randbytes(3 * MIB + 5)


class Collected:
    def __init__(self):
        self.data = b""

    def update(self, data):
        self.data += data


def drained(body, n):
    blocks = []
    while block := body.read(n):
        blocks.append(block)
    return blocks


@given(
    st.lists(st.binary(max_size=20), max_size=20), st.integers(1, 50), st.booleans(), st.booleans()
)
def test_blocks_are_exact(pieces, n, declared, short_reads):
    """Every block but the last has the size asked for, whatever pieces the source gives."""
    data = b"".join(pieces)
    if short_reads:
        queue = [piece for piece in pieces if piece]
        source = type("Source", (), {"read": lambda self, n: queue.pop(0) if queue else b""})()
    else:
        source = iter(pieces)
    with Body(source, size=len(data) if declared else None, algorithms=("md5",)) as body:
        blocks = drained(body, n)
        assert body.read(n) == b""
        body.finish()
        assert body.total == len(data)
        assert body.digests() == {"md5": hashlib.md5(data).hexdigest()}
    assert b"".join(blocks) == data
    assert all(type(block) is bytes for block in blocks)
    assert all(len(block) == n for block in blocks[:-1])


@given(st.binary(max_size=50), st.integers(0, 60), st.integers(1, 60))
def test_a_wrong_size_is_found_before_the_last_block(data, size, n):
    """With a wrong size, fewer bytes are released than were declared, and than there are."""
    with Body(io.BytesIO(data), size=size) as body:
        released = b""
        try:
            while block := body.read(n):
                released += block
        except SizeMismatch:
            assert size != len(data)
            assert len(released) < max(size, 1)
            assert data.startswith(released)
            with pytest.raises((SizeMismatch, RuntimeError)):
                body.read(n)
        else:
            assert released == data
            assert size == len(data)


@given(st.binary(max_size=50), st.integers(0, 60), st.integers(1, 60))
def test_the_limit_is_found_before_the_last_block(data, max_size, n):
    """Beyond ``max_size`` fewer bytes are released than it allows."""
    with Body(iter([data]), max_size=max_size) as body:
        released = b""
        try:
            while block := body.read(n):
                released += block
        except TooLarge:
            assert max_size < len(data)
            assert len(released) < max(max_size, 1)
        else:
            assert released == data
            assert len(data) <= max_size


def test_the_size_of_a_source_that_knows_it():
    """Bytes tell their own size, readable objects do not."""
    for source, size in ((b"data", 4), (bytearray(b""), 0), (io.BytesIO(b"data"), None)):
        with Body(source) as body:
            assert body.size == size
    with Body(io.BytesIO(b"data"), size=4) as body:
        assert body.size == 4


def test_huge_blocks_are_asked_for_in_parts():
    """A block of more than 64 MiB asks the source for at most 64 MiB at a time."""
    asked = []

    class Source:
        def read(self, n):
            asked.append(n)
            return b"x" if len(asked) < 3 else b""

    with Body(Source()) as body:
        assert body.read(200 * MIB) == b"xx"
    assert max(asked) == 64 * MIB


def test_an_error_stays():
    """A body that failed goes on failing and remembers why, whatever an SDK made of it."""
    error = RuntimeError("the caller's")

    def pieces():
        yield b"data"
        raise error

    with Body(pieces()) as body:
        for _ in range(3):
            with pytest.raises(RuntimeError) as caught:
                body.read(100)
            assert error in {caught.value, caught.value.__cause__}
        assert body.error is error
        assert body.error_is_callers


def test_a_source_that_would_block_is_refused():
    """None from a non-blocking source is not the end of an image."""

    class Source:
        def read(self, n):
            return None

    with Body(Source()) as body, pytest.raises(InvalidArgument, match="would block"):
        body.read(10)


@pytest.mark.parametrize(
    "arguments",
    [{"sinks": [object()]}, {"sinks": None}, {"sinks": 7}, {"sinks": [None]}, {"progress": 7}],
    ids=["no update", "None", "number", "of None", "progress"],
)
def test_sinks_and_progress_are_checked_first(arguments):
    """A sink without ``update`` or a progress that cannot be called is found before reading."""
    with pytest.raises(InvalidArgument):
        Body(b"data", **arguments)


def test_digest_threads_end_with_the_body():
    """A body that is left in the middle leaves no thread behind."""

    def running():
        names = [thread.name for thread in threading.enumerate()]
        return sorted(name for name in names if name in {"imgstore-md5", "imgstore-sha512"})

    with Body(iter([DATA, DATA]), algorithms=("md5", "sha512")) as body:
        body.read(2 * MIB)
        assert running() == ["imgstore-md5", "imgstore-sha512"]
    assert not running()


def test_finish_tells_of_bytes_that_nobody_read():
    """A driver that committed too early is found out."""
    with Body(b"data") as body:
        body.read(3)
        with pytest.raises(IntegrityError):
            body.finish()


# Sources that are files.


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(DATA)
    return path


@pytest.mark.parametrize("buffering", [0, 4096])
@pytest.mark.parametrize("read", [0, 1, 5000])
def test_an_open_file_is_left_where_reading_ended(path, buffering, read):
    """An open file stands behind the last byte that was used, however it is buffered."""
    with path.open("rb", buffering=buffering) as file:
        file.read(read)
        with Body(file) as body:
            assert body.file is not None
            assert body.size == len(DATA) - read
            assert body.read(1000) == DATA[read : read + 1000]
            assert body.file is None
        assert file.tell() == read + 1000
        assert file.read(10) == DATA[read + 1000 : read + 1010]


@pytest.mark.parametrize("buffering", [0, 4096])
def test_a_source_closed_meanwhile_spoils_nothing(path, buffering):
    """Who closes the file before its position is put back hides no error and makes none."""
    with path.open("rb", buffering=buffering) as file, Body(file) as body:
        drained(body, MIB)
        file.close()
    with path.open("rb", buffering=buffering) as file:
        sink = type("Sink", (), {"update": lambda *_: file.close() or 1 / 0})()
        body = Body(file, sinks=[sink])
        with pytest.raises(ZeroDivisionError), body:
            body.read(10)


def test_a_writable_file_is_a_source(path):
    """What was written through an open file is read from it."""
    with path.open("rb+") as file:
        file.write(b"new")
        with Body(file) as body:
            assert b"".join(drained(body, MIB)) == DATA[3:]
        file.seek(0)
        with Body(file) as body:
            assert b"".join(drained(body, MIB)) == b"new" + DATA[3:]


@pytest.mark.parametrize("change", [1, 1000, -1, -1000])
def test_a_file_that_changes_is_a_mismatch(path, change):
    """A file that grows or shrinks while it is read is not stored."""
    with Body(path) as body:
        assert body.read(1000) == DATA[:1000]
        os.truncate(path, len(DATA) + change)
        with pytest.raises(SizeMismatch):
            drained(body, MIB)


def test_a_file_that_hides_its_size_is_read():
    """Files of /proc, which seem to be empty, have content."""
    with open("/proc/self/status", "rb") as file, Body(file) as body:
        assert b"VmRSS" in b"".join(drained(body, 100))


def test_a_pipe_is_a_source(tmp_path):
    """A named pipe is read to its end, and its size is unknown."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(DATA,))
    writer.start()
    with Body(fifo) as body:
        assert body.size is None
        assert body.file is None
        assert b"".join(drained(body, 100_000)) == DATA
    writer.join(30)


@pytest.fixture
def sparse(tmp_path):
    """1 MiB of data, 2 MiB of nothing, 64 KiB of data, 1 MiB of nothing."""
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.write(DATA[:MIB])
        file.seek(3 * MIB)
        file.write(DATA[: 64 * 1024])
        file.truncate(4 * MIB + 64 * 1024)
    return path


def copied_with_holes(body, n=100_000):
    """Return (data, holes) as a driver that skips holes sees them."""
    pieces, holes = [], []
    while True:
        hole = body.hole()
        if hole:
            holes.append((sum(map(len, pieces)), hole))
            body.skip(hole)
            pieces.append(bytes(hole))
        elif block := body.read(n):
            pieces.append(block)
        else:
            return b"".join(pieces), holes


def test_holes_are_told_and_skipped(sparse):
    """A driver that skips holes accounts for the same bytes, digests and progress."""
    sink, calls = Collected(), []
    with Body(
        sparse, algorithms=("md5",), sinks=[sink], progress=lambda done, _: calls.append(done)
    ) as body:
        data, holes = copied_with_holes(body, 64 * 1024)
        body.finish()
        assert body.digests() == {"md5": hashlib.md5(data).hexdigest()}
        assert body.total == len(data)
    assert data == sparse.read_bytes() == sink.data
    assert holes == [(MIB, 2 * MIB), (3 * MIB + 64 * 1024, MIB)]
    assert calls == sorted(calls)
    assert calls[-1] == len(data)


@pytest.mark.parametrize("thin", [False, True])
def test_holes_of_an_image_that_is_the_source_are_holes(thin):
    """A driver's block of zeros is known by what it is; other zeros are, where zeros are sought."""
    blocks = [b"x" * MIB, ZEROS, bytes(MIB), ZEROS[:5]]
    with Body(iter(blocks), algorithms=("md5",)) as body:
        found = [
            (position, length, data if data is None else bytes(data))
            for position, length, data in body.stretches(lambda: MIB, grain=GRAIN, thin=thin)
        ]
        zeros = [] if thin else [(2 * MIB, MIB, bytes(MIB)), (3 * MIB, 5, bytes(5))]
        assert found == [(0, MIB, blocks[0]), (MIB, MIB, None), *zeros]
        assert body.digests() == {"md5": hashlib.md5(b"".join(blocks)).hexdigest()}


@pytest.mark.parametrize("size", [None, 8 * MIB, 8 * MIB + 1, 8 * MIB - 1])
def test_holes_of_an_image_may_be_smaller_than_blocks(size):
    """One that a block begins with stands alone; the size is checked after it all the same."""
    blocks = [b"x" * MIB, *[ZEROS] * 4, b"y" * MIB, ZEROS, ZEROS]
    right = [(0, 3, False), (3, 1, True), (4, 1, True), (5, 1, False), (6, 1, True), (7, 1, True)]
    found = []

    def read(body):
        for position, length, data in body.stretches(lambda: 3 * MIB):
            found.append((position // MIB, length // MIB, data is None))

    with Body(iter(blocks), size=size, algorithms=("md5",)) as body:
        if size in {None, 8 * MIB}:
            read(body)
            assert found == right
            assert body.digests() == {"md5": hashlib.md5(b"".join(blocks)).hexdigest()}
            return
        with pytest.raises(SizeMismatch):
            read(body)
    assert found == right[: len(found)]


@pytest.mark.parametrize("thin", [False, True])
@pytest.mark.parametrize(("size", "grain"), [(MIB, 0), (MIB, 64 * 1024), (100_000, 64 * 1024)])
def test_stretches(sparse, size, grain, thin):
    """Holes and data come in order, and where it is thin no grain of zeros comes at all."""
    zeros = 128 * 1024
    with sparse.open("r+b") as file:
        file.write(bytes(zeros))
    found = bytearray(b"?" * os.path.getsize(sparse))
    holes = []
    with Body(sparse) as body:
        for position, length, data in body.stretches(lambda: size, grain=grain, thin=thin):
            if data is None:
                holes.append((position, length))
            else:
                assert len(data) == length <= size
            found[position : position + length] = bytes(length) if data is None else data
        assert body.total == len(found)
    assert holes == [(MIB, 2 * MIB), (3 * MIB + 64 * 1024, MIB)]
    grain_of_zeros = b"?" * (64 * 1024) if thin else bytes(64 * 1024)
    assert found[: 64 * 1024] == grain_of_zeros
    assert found.replace(b"?", b"\0")[:zeros] == bytes(zeros)
    assert found[zeros:] == sparse.read_bytes()[zeros:]


def test_holes_start_anywhere(sparse):
    """From the middle of a hole its rest is told; an open file's start may lie in one."""
    with sparse.open("rb") as file:
        file.seek(2 * MIB + 77)
        with Body(file) as body:
            assert body.hole() == MIB - 77
            body.skip(1000)
            assert body.hole() == MIB - 1077
            assert body.read(MIB) == bytes(MIB - 1077) + sparse.read_bytes()[3 * MIB :][:1077]
        assert file.tell() == 3 * MIB + 1077


def test_holes_are_told_of_files_only():
    """Other sources have no holes that they know of."""
    with Body(bytes(MIB)) as body:
        assert body.hole() == 0
    with Body(io.BytesIO(bytes(MIB))) as body:
        assert body.hole() == 0


@pytest.mark.parametrize("wrong", [-1, 1, -MIB, MIB])
def test_holes_count_for_the_size(sparse, wrong):
    """A hole that goes beyond the size, or ends before it, is a mismatch."""
    with Body(sparse, size=sparse.stat().st_size + wrong) as body, pytest.raises(SizeMismatch):
        copied_with_holes(body)


def test_holes_count_for_the_limit(sparse):
    """A hole that goes beyond ``max_size`` is TooLarge."""
    size = sparse.stat().st_size
    with Body(sparse, max_size=size - 1) as body, pytest.raises(TooLarge):
        copied_with_holes(body)
    with Body(sparse, max_size=size) as body:
        assert len(copied_with_holes(body)[0]) == size


def test_adopting_a_copy_accounts_for_it(path):
    """A file that the kernel copied has digests and sinks from the copy."""
    sink, calls = Collected(), []
    with Body(
        path, algorithms=("md5",), sinks=[sink], progress=lambda *call: calls.append(call)
    ) as body:
        assert body.observed
        file = body.file
        assert (file.offset, file.length) == (0, len(DATA))
        body.adopt(file.length, lambda offset, n: DATA[offset : offset + n])
        assert body.read(10) == b""
        body.finish()
        assert body.digests() == {"md5": hashlib.md5(DATA).hexdigest()}
    assert sink.data == DATA
    assert calls[-1] == (len(DATA), len(DATA))


def test_adopting_without_observers_reads_nothing(path):
    """Where nobody wants the bytes, none are read; an open file stands at its end."""
    with path.open("rb") as file:
        with Body(file) as body:
            assert not body.observed
            body.adopt(len(DATA), lambda offset, n: pytest.fail("was read"))
            assert body.total == len(DATA)
        assert file.tell() == len(DATA)


def test_adopting_checks_sizes(path):
    """A copy of the wrong size, beyond the limit, or cut short is refused."""
    size = len(DATA)
    for arguments, length, error in (
        ({"size": size + 1}, size, SizeMismatch),
        ({"size": size - 1}, size, SizeMismatch),
        ({"max_size": size - 1}, size, TooLarge),
        ({}, size - 1, SizeMismatch),
        ({"algorithms": ("md5",)}, size, IntegrityError),
    ):
        with Body(path, **arguments) as body, pytest.raises(error):
            body.adopt(length, lambda offset, n: DATA[offset : offset + n][: MIB - offset])


def test_a_reader_that_is_no_file_is_read():
    """A reader of a store in memory is a source without a file."""
    with MemoryStore("memory") as store:
        at = store.add("image", DATA).location
        with store.get(at, offset=7, length=100) as reader, Body(reader) as body:
            assert body.file is None
            assert b"".join(drained(body, 33)) == DATA[7:107]
