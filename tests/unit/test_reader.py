"""Image data on its way out: nothing is missing, nothing is held."""

from __future__ import annotations

import gc
import io
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from imgstore import Capability, ImageReader, Location, errors
from imgstore.data.opened import Opened
from imgstore.model import Ownership
from imgstore.store import Store

DATA = bytes(range(256)) * 4
AT = Location.parse("script://image")
WAIT = 30


class SdkError(Exception):
    pass


class ScriptedStore(Store):
    """A store whose every opening plays the next script: chunks, errors, and calls."""

    driver = "script"
    schemes = ("script",)
    capabilities = Capability.READ | Capability.RANGES

    def __init__(self, *scripts, versions=()):
        super().__init__("script")
        self._scripts = list(scripts)
        self._versions = list(versions)
        self._image_size = len(DATA)
        self.opened = []
        self.held = 0

    def owns(self, location):
        return Ownership.YES

    def _get(self, location, offset, length, *, if_version, context):
        self.opened.append((offset, length, if_version))
        script = self._scripts.pop(0)
        if isinstance(script, Exception):
            raise script
        self.held += 1
        closed = []

        def close():
            if not closed:
                closed.append(True)
                self.held -= 1

        version = self._versions.pop(0) if self._versions else "v1"
        return Opened(self._play(script), self._image_size, version, close)

    def _play(self, script):
        for step in script:
            if isinstance(step, Exception):
                raise step
            if callable(step):
                step()
            else:
                yield step

    def _size(self, location, *, context):
        return self._image_size

    def _classify(self, exc):
        return errors.Unavailable if isinstance(exc, SdkError) else None


@pytest.mark.parametrize(
    "failure",
    [SdkError("reset"), ConnectionResetError(104, "reset"), errors.Throttled("slow down"), None],
    ids=repr,
)
def test_a_broken_read_goes_on_where_it_stopped(failure):
    """A failure that may pass, or an early end, reopens the same version at the next byte."""
    broken = [DATA[:100], b"", DATA[100:300]] + ([failure] if failure else [])
    with ScriptedStore(broken, [DATA[300:]]) as store:
        with store.get(AT) as reader:
            assert reader.read() == DATA
        assert store.opened == [(0, None, None), (300, len(DATA) - 300, "v1")]
        assert store.held == 0


def test_a_range_goes_on_inside_its_bounds():
    """A resumed range asks for what is missing of it, and ends where it should."""
    with ScriptedStore([DATA[10:20], SdkError()], [DATA[20:50]]) as store:
        with store.get(AT, offset=10, length=30) as reader:
            assert reader.read(1000) == DATA[10:40]
        assert store.opened == [(10, 30, None), (20, 20, "v1")]


def test_opening_again_may_fail_and_be_tried_again(caplog):
    """A failure to reopen counts as one more failure, and each leaves a line in the log."""
    caplog.set_level("INFO")
    with ScriptedStore([DATA[:1], SdkError()], SdkError(), [DATA[1:]]) as store:
        with store.get(AT) as reader:
            assert reader.read() == DATA
        assert len(store.opened) == 3
    first, second = caplog.messages
    assert first.startswith("reading goes on at byte 1 after store 'script': get ")
    assert second.startswith("reading goes on at byte 1 after store 'script': get ")


def test_patience_ends():
    """After as many attempts as the store allows, the error is the backend's."""
    with ScriptedStore([DATA[:1], SdkError("1")], *[SdkError(str(n)) for n in range(9)]) as store:
        reader = store.get(AT)
        with pytest.raises(errors.Unavailable) as caught:
            reader.read()
        assert caught.value.store == "script"
        assert caught.value.operation == "get"
        assert caught.value.location == AT
        assert isinstance(caught.value.__cause__, SdkError)
        assert len(store.opened) == 1 + store.read_retries
        assert store.held == 0


@pytest.mark.parametrize(
    "failure", [PermissionError(13, "no"), ValueError("odd"), errors.NotFound("gone")], ids=repr
)
def test_what_does_not_pass_is_not_tried_again(failure):
    """An error that stays is raised at once, translated, and nothing is held."""
    with ScriptedStore([DATA[:1], failure]) as store:
        with pytest.raises(errors.StoreError) as caught, store.get(AT) as reader:
            reader.read()
        assert caught.value.operation == "get"
        assert len(store.opened) == 1
        assert store.held == 0


def test_another_version_is_not_the_same_image():
    """An image that changed in between is IntegrityError, with or without the driver's help."""
    with ScriptedStore([DATA[:1], SdkError()], [DATA[1:]], versions=["v1", "v2"]) as store:
        with pytest.raises(errors.IntegrityError), store.get(AT) as reader:
            reader.read()
        assert store.held == 0
    with ScriptedStore([DATA[:1], SdkError()], errors.IntegrityError("412")) as store:
        with pytest.raises(errors.IntegrityError), store.get(AT) as reader:
            reader.read()
        assert len(store.opened) == 2


def test_without_a_version_nothing_is_resumed():
    """Where nothing pins the content, a broken read is an error."""
    with ScriptedStore([DATA[:1], SdkError()], [DATA[1:]], versions=[None]) as store:
        with pytest.raises(errors.Unavailable), store.get(AT) as reader:
            reader.read()
        assert len(store.opened) == 1


def test_the_first_chunk_is_part_of_opening():
    """What fails before the first byte fails in ``get``, and nothing is held."""
    with ScriptedStore([errors.NotFound("gone")]) as store:
        with pytest.raises(errors.NotFound):
            store.get(AT)
        assert store.held == 0


@pytest.mark.parametrize("script", [[], [b"", b""], [DATA[:-1]], [DATA[:1], b"", DATA[1:-1]]])
def test_a_short_read_is_never_silent(script):
    """Data that ends early, again and again, is IntegrityError."""
    with ScriptedStore(script, versions=[None]) as store:
        with pytest.raises(errors.IntegrityError, match="early"), store.get(AT) as reader:
            reader.read()
        assert store.held == 0


@pytest.mark.parametrize("script", [[DATA + b"x"], [DATA, b"", b"x"], [DATA[:9], DATA[9:], b"x"]])
def test_a_long_read_is_found_before_its_end(script):
    """Data beyond the promised size is IntegrityError before the last byte is delivered."""
    with ScriptedStore(script) as store:
        got = []
        with pytest.raises(errors.IntegrityError, match="beyond"):
            got.extend(store.get(AT))
        assert len(b"".join(got)) < len(DATA)
        assert store.held == 0


def test_more_than_a_range_is_trimmed():
    """A driver may deliver more than was asked for inside the image."""
    with ScriptedStore([DATA[10:]]) as store, store.get(AT, offset=10, length=7) as reader:
        assert reader.size == 7
        assert list(reader) == [DATA[10:17]]


@pytest.mark.parametrize("late", [SdkError("reset"), ConnectionResetError(104, "reset")])
def test_a_failure_after_the_last_byte_does_not_matter(late):
    """All promised bytes arrived: what the backend does afterwards spoils nothing."""
    with ScriptedStore([DATA[:9], DATA[9:], late], [b""]) as store, store.get(AT) as reader:
        assert reader.read() == DATA


def test_a_failed_reader_keeps_failing():
    """After an error no read delivers bytes that others went missing before."""
    for read in (lambda r: r.read(500), lambda r: r.readinto(bytearray(500)), lambda r: r.read()):
        with ScriptedStore(
            [DATA[:100], PermissionError(13, "no")], [DATA[100:]], [DATA[100:]]
        ) as store:
            reader = store.get(AT)
            for _ in range(3):
                with pytest.raises(errors.PermissionDenied):
                    read(reader)
            with pytest.raises(errors.PermissionDenied):
                next(reader)
            assert len(store.opened) == 1
            reader.close()
            with pytest.raises(ValueError, match="closed"):
                reader.read()


def test_what_was_delivered_is_given_back_at_once():
    """A reader that delivered everything holds nothing, though nobody closed it."""
    with ScriptedStore([DATA]) as store:
        reader = store.get(AT)
        assert store.held == 0
        assert reader.read() == DATA
        assert not reader.closed


def test_a_dropped_reader_gives_back_what_it_held():
    """A reader without references releases its connection."""
    with ScriptedStore([DATA[:1], DATA[1:]]) as store:
        reader = store.get(AT)
        assert store.held == 1
        del reader
        gc.collect()
        assert store.held == 0


class WaitingStore(ScriptedStore):
    """A store whose closing takes a lock that no thread may take twice."""

    def __init__(self, *scripts):
        super().__init__(*scripts)
        self.lock = threading.Lock()
        self.closed_by = queue.SimpleQueue()

    def _get(self, *args, **kwargs):
        opened = super()._get(*args, **kwargs)
        close = opened.close

        def closing():
            with self.lock:
                close()
            self.closed_by.put(threading.current_thread().name)

        opened.close, opened.close_waits = closing, True
        return opened


def test_what_waits_is_closed_by_a_thread():
    """The garbage collector may run while its own thread has the lock that closing takes."""
    with WaitingStore([DATA[:1], DATA[1:]]) as store:
        reader = store.get(AT)
        with store.lock:
            del reader
            gc.collect()
        assert store.closed_by.get(timeout=10) == "imgstore-janitor"
        assert store.held == 0


def test_a_store_that_is_closed_closes_what_was_dropped():
    """Also what no thread has closed yet."""
    with WaitingStore([DATA[:1], DATA[1:]]) as store:
        reader = store.get(AT)
        del reader
        gc.collect()
    assert store.closed_by.get(timeout=10)
    assert store.held == 0


def test_a_store_that_is_dropped_leaves_no_thread():
    """Nor a reader open that is dropped with it."""
    store = WaitingStore([DATA[:1], DATA[1:]])
    reader = store.get(AT)
    closed_by, loop = store.closed_by, [store, reader]
    loop.append(loop)
    del store, reader, loop
    gc.collect()
    assert closed_by.get(timeout=10)
    deadline = time.monotonic() + 10
    while any(each.name == "imgstore-janitor" for each in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_closing_does_not_wait_for_a_fetch():
    """A close while another thread waits for the backend returns; the fetch releases."""
    fetching, go_on = threading.Event(), threading.Event()

    def stall():
        fetching.set()
        assert go_on.wait(WAIT)

    with ScriptedStore([DATA[:1], stall, DATA[1:]]) as store, ThreadPoolExecutor(1) as pool:
        reader = store.get(AT)
        assert reader.read(1) == DATA[:1]
        future = pool.submit(reader.read, 10)
        try:
            assert fetching.wait(WAIT)
            reader.close()
            assert reader.closed
            assert store.held == 1
            with pytest.raises(ValueError, match="closed"):
                reader.read(1)
        finally:
            go_on.set()
        with suppress(ValueError):
            assert future.result(WAIT) in {b"", DATA[1:11]}
        assert store.held == 0


def test_closing_ends_the_wait_for_another_attempt():
    """A reader that is closed before it is opened again opens nothing any more."""
    broken = threading.Event()
    with (
        ScriptedStore([DATA[:1], broken.set, SdkError()], [DATA[1:]]) as store,
        ThreadPoolExecutor(1) as pool,
    ):
        reader = store.get(AT)
        reader.read(1)
        future = pool.submit(reader.read)
        assert broken.wait(WAIT)
        reader.close()
        with pytest.raises(ValueError, match="closed"):
            future.result(WAIT)
        assert len(store.opened) == 1
        assert store.held == 0


def test_a_closed_store_resumes_nothing():
    """A store that is closed while a read is resumed opens nothing any more."""
    store = ScriptedStore([DATA[:1], SdkError()], [DATA[1:]])
    reader = store.get(AT)
    reader.read(1)
    store.close()
    with pytest.raises(ValueError, match="closed"):
        reader.read()
    assert len(store.opened) == 1
    assert store.held == 0


def test_an_interrupted_reader_does_not_go_on():
    """After an interrupt nobody knows what was delivered, so nothing more is."""

    def chunks():
        yield b"one"
        raise KeyboardInterrupt

    opened = Opened(chunks(), 9, "v1")
    reader = ImageReader(
        opened,
        offset=0,
        size=9,
        reopen=lambda offset, length, version: opened,
        translate=lambda exc: exc,
        retries=3,
    )
    assert next(reader) == b"one"
    with pytest.raises(KeyboardInterrupt):
        next(reader)
    with pytest.raises(errors.IntegrityError, match="interrupted"):
        reader.read()


class Counted(bytes):
    """A chunk that counts the bytes which are copied out of it."""

    copied = 0

    def __getitem__(self, key):
        piece = Counted(super().__getitem__(key))
        Counted.copied += len(piece)
        return piece


SMALL = {
    "read": lambda reader: iter(lambda: reader.read(100), b""),
    "readinto": lambda reader: iter(lambda: _filled(reader, 100), b""),
    "buffered": lambda reader: _buffered(reader, 100),
    "by turns": lambda reader: (
        piece
        for _ in range(2000)
        for piece in (reader.read(3), _filled(reader, 5), reader.read(0), reader.read(92))
    ),
}


def _filled(reader, n):
    buffer = bytearray(n)
    return bytes(buffer[: reader.readinto(buffer)])


def _buffered(reader, n):
    with io.BufferedReader(reader, 64) as buffered:
        yield from iter(lambda: buffered.read(n), b"")
    assert reader.closed


@pytest.mark.parametrize("way", SMALL)
def test_small_reads_copy_each_byte_once(way):
    """However large the chunks of a store are, a small read copies what it delivers."""
    Counted.copied = 0
    chunks = [Counted(bytes(range(250)) * 400), Counted(b"0123456789" * 9999 + b"end")]
    data = b"".join(chunks)
    with ScriptedStore(chunks) as store:
        store._image_size = len(data)
        with store.get(AT) as reader:
            assert b"".join(SMALL[way](reader)) == data
    assert Counted.copied <= len(data)


def test_a_whole_chunk_is_handed_on():
    """A read that takes exactly one chunk copies nothing."""
    first, second = DATA[:500], DATA[500:]
    with ScriptedStore([first, second]) as store, store.get(AT) as reader:
        assert reader.read(500) is first
        assert reader.read(524) is second


def test_what_follows_a_small_read_is_the_rest():
    """Iterating after a read gives the rest of its chunk, then the other chunks."""
    with ScriptedStore([DATA[:500], DATA[500:]]) as store, store.get(AT) as reader:
        assert reader.read(7) == DATA[:7]
        assert reader.readinto(bytearray(3)) == 3
        assert list(reader) == [DATA[10:500], DATA[500:]]
