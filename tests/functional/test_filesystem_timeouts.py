"""Calls that hang: given up in time, undone when they come back, and never made too late."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from servers.fuse import FaultyFilesystem
from servers.process import until

from imgstore import errors
from imgstore.drivers.filesystem import FilesystemStore

pytestmark = pytest.mark.servers("filesystems")

MIB = 1024 * 1024
DATA = os.urandom(2 * MIB + 5)
DESCRIPTORS = "/proc/self/fd"
NAMED = {"tmpfile": errno.EOPNOTSUPP}
# A call has one second; reads are resumed three times. What is longer hangs, however busy we are.
BOUND = 30


def held() -> int:
    gc.collect()
    return len(os.listdir(DESCRIPTORS))


def names(mounted: FaultyFilesystem) -> list[str]:
    return sorted(path.name for path in mounted.source.iterdir())


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < BOUND


@contextlib.contextmanager
def given_back(mounted: FaultyFilesystem) -> Iterator[None]:
    """Assert that every descriptor comes back once nothing hangs any more."""
    before = held()
    try:
        yield
    finally:
        mounted.release()
    until(lambda: held() <= before, seconds=20, what=f"{before} descriptors, are {held()}")


@pytest.fixture
def store(faulty_filesystem: FaultyFilesystem) -> Iterator[FilesystemStore]:
    root = str(faulty_filesystem.path)
    with FilesystemStore("file", datadir=root, timeout=1) as store:
        yield store


ADDING = [
    ("lookup", {}, False),
    ("getattr", {}, False),
    ("opendir", {}, False),
    ("readdir", {}, False),
    ("tmpfile", {}, False),
    ("write", {}, False),
    ("setattr", {}, False),
    ("fsync", {}, False),
    ("link", {}, True),
    ("fsyncdir", {}, True),
    ("create", NAMED, False),
    ("flock", NAMED, False),
    ("write", NAMED, False),
    ("fsync", NAMED, False),
    ("link", NAMED, True),
    ("fsyncdir", NAMED, True),
    ("rename2", {**NAMED, "link": errno.EPERM}, True),
    ("rename", {**NAMED, "link": errno.EPERM, "rename2": errno.EINVAL}, True),
]


@pytest.mark.parametrize(("operation", "refused", "indeterminate"), ADDING)
def test_adding(
    faulty_filesystem: FaultyFilesystem,
    operation: str,
    refused: dict[str, int],
    *,
    indeterminate: bool,
) -> None:
    """An add gives up; it says so where the image may exist, and leaves nothing where it cannot."""
    mounted = faulty_filesystem
    data = DATA[:-5] + bytes(128 * 1024)  # ends in a hole, for which the file is set to its size
    for name, error in refused.items():
        mounted.fail(name, error)
    with FilesystemStore(
        "file", datadir=str(mounted.path), timeout=1, thin_provisioning=True
    ) as store:
        with given_back(mounted):
            mounted.hang(operation, times=1)
            with in_time(), pytest.raises(errors.TimedOut) as caught:
                store.add("image", data)
            assert caught.value.indeterminate is indeterminate
            assert mounted.hanging() == 1
        for name, error in refused.items():
            mounted.fail(name, error)
        # What hung was done after all; only a commit that was sent may show.
        found = [name for name in names(mounted) if name != ".imgstore-lock"]
        assert found in ([], ["image"] if indeterminate else [])
        if found:
            assert (mounted.source / "image").read_bytes() == data
            store.delete(f"file://{mounted.path}/image")
        assert store.leftovers(older_than=0) == []
        assert store.add("image", data).size == len(data)


@pytest.mark.parametrize("verb", ["get", "size", "delete"])
@pytest.mark.parametrize("operation", ["lookup", "getattr", "open", "unlink"])
def test_reading_and_deleting(
    faulty_filesystem: FaultyFilesystem, store: FilesystemStore, verb: str, operation: str
) -> None:
    """Each verb gives up in time, whatever call hangs, and holds nothing afterwards."""
    image = store.add("image", DATA)
    with given_back(faulty_filesystem):
        faulty_filesystem.hang(operation)
        failure = None
        with in_time():
            try:
                result = getattr(store, verb)(image.location)
                if verb == "get":
                    result.close()
            except errors.TimedOut as exc:
                failure = exc
        if failure is None:
            assert faulty_filesystem.calls(operation) == 0
        else:
            assert failure.retryable
            assert failure.operation == verb
            assert "filesystem_store_timeout" in str(failure)


@pytest.mark.parametrize("nth", [3])
def test_a_read_that_hangs(
    faulty_filesystem: FaultyFilesystem, store: FilesystemStore, nth: int
) -> None:
    """A read that hangs once goes on with a new descriptor; one that always hangs is given up."""
    image = store.add("image", DATA)
    with given_back(faulty_filesystem):
        faulty_filesystem.hang("read", nth=nth, times=1)
        with in_time(), store.get(image.location) as reader:
            assert reader.read() == DATA
        faulty_filesystem.release()
        faulty_filesystem.hang("read", nth=nth)
        with in_time(), store.get(image.location) as reader, pytest.raises(errors.TimedOut):
            reader.read()


@pytest.mark.parametrize("operation", ["opendir", "open", "flock"])
@pytest.mark.parametrize("verb", ["leftovers", "remove_leftovers"])
def test_leftovers(
    faulty_filesystem: FaultyFilesystem, store: FilesystemStore, verb: str, operation: str
) -> None:
    """Looking for leftovers gives up too."""
    (faulty_filesystem.source / ".imgstore-dead").write_bytes(b"")
    with given_back(faulty_filesystem):
        faulty_filesystem.hang(operation)
        with in_time(), pytest.raises(errors.TimedOut):
            getattr(store, verb)(older_than=0)


def test_check(faulty_filesystem: FaultyFilesystem, store: FilesystemStore) -> None:
    """check() gives up and reports it."""
    with given_back(faulty_filesystem):
        faulty_filesystem.hang("tmpfile")
        with in_time():
            (problem,) = store.check()
        assert "did not answer within 1 seconds" in problem


def test_free_space(faulty_filesystem: FaultyFilesystem, tmp_path: Path) -> None:
    """Asking for free space gives up."""
    dirs = [str(faulty_filesystem.path), str(tmp_path)]
    with FilesystemStore("file", datadirs=dirs, timeout=1) as store:
        store.add("first", DATA)
        with given_back(faulty_filesystem):
            faulty_filesystem.hang("statfs")
            with in_time(), pytest.raises(errors.TimedOut):
                store.add("image", DATA)


def test_a_close_that_hangs(faulty_filesystem: FaultyFilesystem, store: FilesystemStore) -> None:
    """A hanging close spoils neither an add nor a read, and happens when it can."""
    with given_back(faulty_filesystem):
        faulty_filesystem.hang("flush")
        with in_time():
            image = store.add("image", DATA)
        with in_time(), store.get(image.location) as reader:
            assert reader.read() == DATA


@pytest.mark.parametrize("refused", [{}, NAMED])
def test_a_commit_that_hangs_deletes_nothing(
    faulty_filesystem: FaultyFilesystem, store: FilesystemStore, refused: dict[str, int]
) -> None:
    """When the answer to a commit is lost the image appears whole, however late, and stays."""
    for name, error in refused.items():
        faulty_filesystem.fail(name, error)
    store.add("first", b"")
    with given_back(faulty_filesystem):
        before = faulty_filesystem.calls("unlink")
        faulty_filesystem.hang("link", times=1)
        with pytest.raises(errors.TimedOut) as caught:
            store.add("image", DATA)
        assert caught.value.indeterminate
        assert faulty_filesystem.calls("unlink") == before
    assert names(faulty_filesystem) == ["first", "image"]
    assert (faulty_filesystem.source / "image").read_bytes() == DATA
    assert store.leftovers(older_than=0) == []


@pytest.mark.parametrize("refused", [{}, NAMED])
def test_a_commit_that_comes_back_publishes_its_own_file(
    faulty_filesystem: FaultyFilesystem, tmp_path: Path, refused: dict[str, int]
) -> None:
    """A commit held up before it began uses its own descriptors, whatever opened meanwhile.

    It waits here for the lock that several directories share.
    """
    for name, error in refused.items():
        faulty_filesystem.fail(name, error)
    dirs = [str(faulty_filesystem.path), f"{tmp_path}/other"]
    with FilesystemStore("file", datadirs=dirs, timeout=1) as store:
        first = store.add("first", b"")
        root = Path(first.location.url.removeprefix("file://")).parent
        lock = min(dirs)
        with given_back(faulty_filesystem):
            with _locked(Path(lock)):
                with pytest.raises(errors.TimedOut) as caught:
                    store.add("image", DATA)
                assert caught.value.indeterminate
                # Closed numbers would be given to these.
                others = [os.open("/etc/passwd", os.O_RDONLY) for _ in range(20)]
                others += [os.open(tmp_path, os.O_RDONLY) for _ in range(20)]
                assert not (root / "image").exists()
            until((root / "image").exists, seconds=10, what="the late commit")
            for fd in others:
                os.close(fd)
        assert (root / "image").read_bytes() == DATA
        assert not (tmp_path / "image").exists()
        assert store.leftovers(older_than=0) == []


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the lock of a directory in another process, as another writer would."""
    snippet = f"""
import os, sys; sys.path[:] = {sys.path!r}
from imgstore.drivers.filesystem import drafts
with drafts.locked(os.open(sys.argv[1], os.O_RDONLY)):
    print("locked", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", snippet, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "locked\n"
        yield
        child.communicate(timeout=BOUND)


def test_calls_that_never_began_are_never_made(faulty_filesystem: FaultyFilesystem) -> None:
    """With all threads hanging, what waits for one is given up and not made later."""
    root = str(faulty_filesystem.path)
    with FilesystemStore("file", datadir=root, timeout=1, thread_pool_size=2) as store:
        images = [store.add(f"image-{number}", b"data") for number in range(6)]
        with given_back(faulty_filesystem):
            faulty_filesystem.hang("unlink", times=2)
            with ThreadPoolExecutor(6) as pool, in_time():
                futures = [pool.submit(store.delete, image.location) for image in images]
                for future in futures:
                    assert isinstance(future.exception(BOUND), errors.TimedOut)
        until(lambda: len(names(faulty_filesystem)) == 4, seconds=10, what="two deletes are done")
        time.sleep(0.5)
        assert len(names(faulty_filesystem)) == 4
        # Everything works again.
        for name in names(faulty_filesystem):
            store.delete(f"file://{root}/{name}")


def test_first_adds_do_not_wait_for_each_other(
    faulty_filesystem: FaultyFilesystem, store: FilesystemStore
) -> None:
    """Many first adds at once are all given up after about one time limit, not one by one."""
    with given_back(faulty_filesystem):
        faulty_filesystem.hang("opendir")
        started = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(store.add, f"image-{n}", b"data") for n in range(8)]
            for future in futures:
                assert isinstance(future.exception(BOUND), errors.TimedOut)
        assert time.monotonic() - started < 6


def test_a_busy_pool_is_told_once(
    faulty_filesystem: FaultyFilesystem, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning when the threshold is reached, and for a minute no other."""
    root = str(faulty_filesystem.path)
    caplog.set_level(logging.WARNING)
    with FilesystemStore(
        "file", datadir=root, timeout=1, thread_pool_size=3, threadpool_threshold=66
    ) as store:
        image = store.add("image", DATA)
        with given_back(faulty_filesystem):
            faulty_filesystem.hang("lookup")
            for expected in (0, 1, 1):
                with pytest.raises(errors.TimedOut):
                    store.size(image.location)
                assert len(caplog.records) == expected
        store.size(image.location)
        (record,) = caplog.records
        assert record.getMessage() == (
            "2 of 3 threads for file system calls are busy; is a file server down?"
        )


def test_stores_have_pools_of_their_own(
    faulty_filesystem: FaultyFilesystem, tmp_path: Path
) -> None:
    """A dead server exhausts only its own store's threads."""
    with (
        FilesystemStore(
            "dead", datadir=str(faulty_filesystem.path), timeout=1, thread_pool_size=1
        ) as dead,
        FilesystemStore("live", datadir=str(tmp_path), timeout=1, thread_pool_size=1) as live,
    ):
        image = dead.add("image", DATA)
        with given_back(faulty_filesystem):
            faulty_filesystem.hang("lookup")
            for _ in range(2):
                with pytest.raises(errors.TimedOut):
                    dead.size(image.location)
            assert live.get(live.add("image", DATA).location).read() == DATA


def test_idle_threads_end(tmp_path: Path) -> None:
    """A store that was used and is closed, or only dropped, keeps no thread."""
    before = threading.active_count()
    for number in range(4):
        store = FilesystemStore("file", datadir=str(tmp_path), timeout=5)
        store.add(f"image-{number}", DATA)
        if number % 2:
            store.close()
    del store
    until(lambda: threading.active_count() <= before, seconds=15, what="the threads end")


def run(snippet: str, *arguments: str, mounted: FaultyFilesystem) -> subprocess.Popen[str]:
    preamble = (
        f"import os, sys, threading; sys.path[:] = {sys.path!r}\n"
        "from imgstore.drivers.filesystem import FilesystemStore\n"
        f"store = FilesystemStore('file', datadir={str(mounted.path)!r}, timeout=int(sys.argv[1]))"
        f"\nlocation = 'file://{mounted.path}/image'\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", preamble + snippet, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


ENDINGS: dict[str, str] = {
    "hanging": (
        "try:\n    store.size(location)\nexcept Exception as exc:\n    print(type(exc).__name__)\n"
    ),
    "reader": "reader = store.get(location)\nprint('TimedOut')\n",
    "cycle": "reader = store.get(location)\nreader.self = [reader]\nprint('TimedOut')\n",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_interpreter_exits(faulty_filesystem: FaultyFilesystem, ending: str) -> None:
    """A call that hangs, or a reader left open, neither delays the end nor makes it noisy."""
    (faulty_filesystem.source / "image").write_bytes(DATA)
    snippet = ENDINGS[ending]
    if ending == "hanging":
        faulty_filesystem.hang("lookup")
    elif ending == "cycle":
        snippet = snippet.replace("reader.self = [reader]", "globals()['self'] = [globals()]")
    # A long limit where nothing hangs: waiting for a thread that stands still would show.
    with run(snippet, "1" if ending == "hanging" else "40", mounted=faulty_filesystem) as child:
        try:
            output, noise = child.communicate(timeout=BOUND)
        finally:
            child.kill()
            faulty_filesystem.release()
    assert (output, noise, child.returncode) == ("TimedOut\n", "", 0)


def test_an_interrupt_ends_the_wait(faulty_filesystem: FaultyFilesystem) -> None:
    """Ctrl-C while a call hangs is a KeyboardInterrupt at once."""
    (faulty_filesystem.source / "image").write_bytes(DATA)
    faulty_filesystem.hang("lookup")
    snippet = (
        "before = len(os.listdir('/proc/self/fd'))\n"
        "try:\n    store.get(location)\nexcept KeyboardInterrupt:\n    print('interrupted')\n"
    )
    with run(snippet, "300", mounted=faulty_filesystem) as child:
        try:
            until(lambda: faulty_filesystem.hanging() == 1, seconds=20, what="it hangs")
            child.send_signal(signal.SIGINT)
            output, noise = child.communicate(timeout=BOUND)
        finally:
            child.kill()
    assert (output, noise) == ("interrupted\n", "")


CLOSERS: dict[str, Callable[[FilesystemStore, object], None]] = {
    "reader": lambda store, reader: reader.close(),  # type: ignore[attr-defined]
    "store": lambda store, reader: store.close(),
}


@pytest.mark.parametrize("close", CLOSERS.values(), ids=CLOSERS)
def test_closing_while_a_read_hangs(
    faulty_filesystem: FaultyFilesystem, close: Callable[[FilesystemStore, object], None]
) -> None:
    """Closing a reader or its store in another thread ends a read that hangs with ValueError."""
    root = str(faulty_filesystem.path)
    with FilesystemStore("file", datadir=root, timeout=1) as store:
        image = store.add("image", DATA)
        with given_back(faulty_filesystem):
            reader = store.get(image.location)
            faulty_filesystem.hang("read")
            with ThreadPoolExecutor(1) as pool, in_time():
                future = pool.submit(reader.read)
                until(lambda: faulty_filesystem.hanging() > 0, seconds=10, what="it hangs")
                close(store, reader)
                assert isinstance(future.exception(BOUND), ValueError)
            del future
