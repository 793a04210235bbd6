"""The filesystem store used by many processes, which may be killed at any moment."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from servers.fuse import FaultyFilesystem, faulty
from servers.process import until
from servers.scratch import Scratch

from imgstore import errors
from imgstore.drivers.filesystem import FilesystemStore

pytestmark = pytest.mark.servers("filesystems")

MIB = 1024 * 1024
SECONDS = 60

REFUSALS = {
    "tmpfile": errno.EOPNOTSUPP,
    "link": errno.EPERM,
    "rename2": errno.EINVAL,
}

# Adds image-0, image-1, … each when told to, and says what came of it.
RACER = """
import json, sys
from imgstore import errors
from imgstore.drivers.filesystem import FilesystemStore
number, rounds, *dirs = sys.argv[1:]
with FilesystemStore("file", datadirs=dirs, fsync=False) as store:
    for turn in range(int(rounds)):
        print("ready", flush=True)
        sys.stdin.readline()
        data = bytes([int(number)]) * (200_000 + int(number))
        try:
            image = store.add(f"image-{turn}", [data])
            print(json.dumps(image.location.url), flush=True)
        except errors.AlreadyExists:
            print("null", flush=True)
"""

# Stops in the middle of an add until a line arrives.
WRITER = """
import sys
from imgstore.drivers.filesystem import FilesystemStore

def source():
    yield b"x" * 3_000_000
    print("in the middle", flush=True)
    sys.stdin.readline()
    yield b"y"

with FilesystemStore("file", datadirs=sys.argv[1:], fsync=False) as store:
    store.add("image", source())
    print("done", flush=True)
"""


class Child:
    """A process that runs Python source, told and asked line by line."""

    def __init__(self, source: str, *arguments: str | Path) -> None:
        preamble = f"import sys; sys.path[:] = {sys.path!r}\n"
        self.process = subprocess.Popen(
            [sys.executable, "-c", preamble + source, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(SECONDS)

    def close(self) -> None:
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


@pytest.fixture
def children() -> Iterator[Callable[..., Child]]:
    """Start processes that end with the test."""
    with contextlib.ExitStack() as stack:

        def start(source: str, *arguments: str | Path) -> Child:
            child = Child(source, *arguments)
            stack.callback(child.close)
            return child

        yield start


@pytest.fixture
def named(faulty_filesystem: FaultyFilesystem) -> FaultyFilesystem:
    """A file system without O_TMPFILE."""
    faulty_filesystem.fail("tmpfile", errno.EOPNOTSUPP)
    return faulty_filesystem


def files(*roots: Path) -> list[str]:
    found = [path.name for root in roots if root.is_dir() for path in root.iterdir()]
    # The file that stands for a lock on the directory stays.
    return sorted(name for name in found if name != ".imgstore-lock")


def race(children: Callable[..., Child], roots: Sequence[Path], *, racers: int, turns: int) -> None:
    """Let processes add the same ids at the same moments; assert that one of them wins each."""
    started = [children(RACER, str(n), str(turns), *roots) for n in range(racers)]
    for turn in range(turns):
        assert [child.line() for child in started] == ["ready"] * racers
        for child in started:
            child.go_on()
        urls = [json.loads(child.line()) for child in started]
        winners = [number for number, url in enumerate(urls) if url is not None]
        assert len(winners) == 1, f"turn {turn}: {urls}"
        path = Path(urls[winners[0]].removeprefix("file://"))
        assert path.read_bytes() == bytes(winners) * (200_000 + winners[0])
    assert files(*roots) == sorted(f"image-{turn}" for turn in range(turns))


def test_one_of_many_processes_wins(children: Callable[..., Child], tmp_path: Path) -> None:
    """Of simultaneous adds of one id in several processes exactly one wins, byte for byte."""
    race(children, [tmp_path / "images"], racers=6, turns=25)


def test_one_wins_among_several_directories(children: Callable[..., Child], tmp_path: Path) -> None:
    """The same where each add may choose among directories, whatever their order."""
    roots = [tmp_path / name for name in ("b", "a", "c")]
    started = [
        children(RACER, str(number), "25", *dirs)
        for number, dirs in enumerate(
            [
                [f"{root}:{(index + number) % 3}" for index, root in enumerate(roots)]
                for number in range(6)
            ]
        )
    ]
    for _ in range(25):
        assert {child.line() for child in started} == {"ready"}
        for child in started:
            child.go_on()
        urls = [json.loads(child.line()) for child in started]
        assert len(list(filter(None, urls))) == 1, urls
    assert files(*roots) == sorted(f"image-{turn}" for turn in range(25))


@pytest.mark.parametrize(
    "refused",
    [
        {},
        {"link": errno.EPERM},
        {"link": errno.EPERM, "rename2": errno.EINVAL},
    ],
    ids=["link", "rename2", "rename"],
)
def test_one_wins_without_nameless_drafts(
    children: Callable[..., Child], named: FaultyFilesystem, refused: dict[str, int]
) -> None:
    """The same with temporary names, however they can be published."""
    for operation, error in refused.items():
        named.fail(operation, error)
    race(children, [named.path / "images"], racers=4, turns=8)


def test_plain_renames_among_several_directories(
    children: Callable[..., Child], named: FaultyFilesystem
) -> None:
    """Two locks on one directory, for the id and for the rename, do not wait for each other."""
    named.fail("link", errno.EPERM)
    named.fail("rename2", errno.EINVAL)
    race(children, [named.path / "one", named.path / "two"], racers=3, turns=4)


@pytest.mark.parametrize("count", [1, 2])
def test_plain_renames_on_two_hosts(
    scratch: Scratch, children: Callable[..., Child], count: int
) -> None:
    """The lock holds for all mounts of a shared file system, one or several directories of it."""
    with faulty(scratch) as here, faulty(scratch, source=here.source) as there:
        started = []
        for number, mounted in enumerate([here, there, here, there]):
            for operation, error in REFUSALS.items():
                mounted.fail(operation, error)
            roots = [mounted.path / name for name in ("one", "two")[:count]]
            started.append(children(RACER, str(number), "8", *roots))
        for turn in range(8):
            assert {child.line() for child in started} == {"ready"}
            for child in started:
                child.go_on()
            urls = [json.loads(child.line()) for child in started]
            winners = [number for number, url in enumerate(urls) if url is not None]
            assert len(winners) == 1, f"turn {turn}: {urls}"
        roots = [here.source / name for name in ("one", "two")]
        assert files(*roots) == sorted(f"image-{turn}" for turn in range(8))


def test_killed_writer_leaves_nothing(children: Callable[..., Child], tmp_path: Path) -> None:
    """After SIGKILL in the middle of an add there is no file, and the id is free."""
    root = tmp_path / "images"
    writer = children(WRITER, root)
    assert writer.line() == "in the middle"
    assert files(root) == []
    writer.kill()
    assert files(root) == []
    with FilesystemStore("file", datadir=str(root)) as store:
        assert store.leftovers(older_than=0) == []
        assert store.add("image", b"data").size == 4


def test_killed_writer_of_a_named_draft(
    children: Callable[..., Child], named: FaultyFilesystem
) -> None:
    """A dead writer's draft is listed, invisible as an image, and removed; the id is free."""
    writer = children(WRITER, named.path)
    assert writer.line() == "in the middle"
    with FilesystemStore("file", datadir=str(named.path)) as store:
        (draft,) = files(named.path)
        assert draft.startswith(".imgstore-")
        assert store.leftovers(older_than=0) == []
        writer.kill()
        for verb in (store.get, store.size, store.delete):
            with pytest.raises(errors.NotFound):
                verb(f"file://{named.path}/{draft}")
        (leftover,) = store.leftovers(older_than=0)
        assert leftover.store == "file"
        assert leftover.name == f"{named.path}/{draft}"
        assert leftover.size is not None
        assert 0 < leftover.size <= 3_000_000
        assert abs(leftover.modified.timestamp() - time.time()) < SECONDS
        assert store.leftovers(older_than=3600) == []
        assert store.remove_leftovers(older_than=3600) == []
        assert store.remove_leftovers(older_than=0) == [leftover]
        assert files(named.path) == []
        assert store.remove_leftovers(older_than=0) == []
        assert store.add("image", b"data").size == 4


def test_live_writer_is_left_alone(children: Callable[..., Child], named: FaultyFilesystem) -> None:
    """A live writer's draft is neither listed nor removed, by clean-up or by a first add."""
    writer = children(WRITER, named.path)
    assert writer.line() == "in the middle"
    with FilesystemStore("file", datadir=str(named.path)) as store:
        assert store.leftovers(older_than=0) == []
        assert store.remove_leftovers(older_than=0) == []
        store.add("other", b"data")
    assert len(files(named.path)) == 2
    writer.go_on()
    assert writer.line() == "done"
    assert files(named.path) == ["image", "other"]
    assert (named.path / "image").stat().st_size == 3_000_001


def test_first_add_after_a_start_cleans_up(
    children: Callable[..., Child], named: FaultyFilesystem
) -> None:
    """The first add of a process removes what dead writers left in every directory."""
    roots = [named.path / "one", named.path / "two"]
    for root in reversed(roots):
        writer = children(WRITER, root)
        assert writer.line() == "in the middle"
        writer.kill()
    assert len(files(*roots)) == 2
    with FilesystemStore("file", datadirs=[str(root) for root in roots]) as store:
        store.add("image", b"data")
        assert files(*roots) == ["image"]


def test_locks_tell_across_hosts(scratch: Scratch, children: Callable[..., Child]) -> None:
    """A draft written through one mount of a shared file system is told alive through another."""
    with faulty(scratch) as here, faulty(scratch, source=here.source) as there:
        for mounted in (here, there):
            mounted.fail("tmpfile", errno.EOPNOTSUPP)
        writer = children(WRITER, there.path)
        assert writer.line() == "in the middle"
        with FilesystemStore("file", datadir=str(here.path)) as store:
            assert store.remove_leftovers(older_than=0) == []
            store.add("other", b"data")
            assert len(files(here.path)) == 2
            writer.kill()
            until(
                lambda: len(store.remove_leftovers(older_than=0)) == 1,
                seconds=10,
                what="the dead writer's draft is found",
            )
            assert files(here.path) == ["other"]


def test_published_at_the_moment_of_the_kill(
    children: Callable[..., Child], named: FaultyFilesystem
) -> None:
    """A kill between link and unlink leaves the image whole and its other name as a leftover."""
    named.hang("unlink")
    writer = children(WRITER, named.path)
    assert writer.line() == "in the middle"
    writer.go_on()
    until(lambda: named.hanging() == 1, seconds=10, what="the draft's name is being removed")
    writer.kill()
    named.release()
    with FilesystemStore("file", datadir=str(named.path)) as store:
        until(
            lambda: not store.leftovers(older_than=0) or store.remove_leftovers(older_than=0) != [],
            seconds=10,
            what="the other name goes",
        )
        assert store.size(f"file://{named.path}/image") == 3_000_001
    assert files(named.path) == ["image"]


FORKING = """
import hashlib, os, sys, threading
from pathlib import Path
from imgstore.drivers.filesystem import FilesystemStore

root, timeout = sys.argv[1], int(sys.argv[2])
store = FilesystemStore("file", datadir=root, timeout=timeout, thread_pool_size=2)
image = store.add("parent", bytes(2_000_000))
reader = store.get(image.location)
reader.read(1000)
stop = threading.Event()

def work(number):
    turn = 0
    while not stop.is_set():
        added = store.add(f"thread-{number}-{turn}", b"data")
        store.get(added.location).read()
        store.delete(added.location)
        turn += 1

threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
for thread in threads:
    thread.start()
children = []
for number in range(8):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            added = store.add(f"child-{number}", b"from a child")
            with store.get(added.location) as mine:
                assert mine.read() == b"from a child"
            with store.get(image.location) as mine:
                assert len(mine.read()) == 2_000_000
            store.delete(added.location)
            code = 0
        finally:
            os._exit(code)
    children.append(pid)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
stop.set()
for thread in threads:
    thread.join()
assert len(reader.read()) == 1_999_000
store.close()
print(codes)
"""


@pytest.mark.parametrize("timeout", [0, 5])
def test_a_child_uses_the_store(tmp_path: Path, timeout: int) -> None:
    """A store in use by threads works in forked children, which share nothing with the parent."""
    preamble = (
        f"import sys, warnings; sys.path[:] = {sys.path!r}\n"
        "warnings.simplefilter('ignore', DeprecationWarning)\n"  # 3.12: forking with threads
    )
    done = subprocess.run(
        [sys.executable, "-c", preamble + FORKING, str(tmp_path / "images"), str(timeout)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.stdout.strip() == str([0] * 8), done.stderr
    assert files(tmp_path / "images") == ["parent"]


FORKED_WHILE_PREPARING = """
import os, sys, threading, time
from imgstore.drivers.filesystem import FilesystemStore
store = FilesystemStore("file", datadir=sys.argv[1])
threading.Thread(target=lambda: store.add("parent", b"data")).start()
print("started", flush=True)
sys.stdin.readline()
pid = os.fork()
if pid == 0:
    print("forked", flush=True)
    sys.stdin.readline()
    store.add("child", b"data")
    print("added", flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""


def test_fork_during_the_first_add(
    children: Callable[..., Child], faulty_filesystem: FaultyFilesystem
) -> None:
    """A child that is forked while a thread of its parent prepares the directory can add."""
    faulty_filesystem.hang("opendir", times=1)
    child = children(
        "import warnings; warnings.simplefilter('ignore')\n" + FORKED_WHILE_PREPARING,
        faulty_filesystem.path,
    )
    assert child.line() == "started"
    until(lambda: faulty_filesystem.hanging() == 1, seconds=10, what="the parent prepares")
    child.go_on()
    assert child.line() == "forked"
    faulty_filesystem.release()
    child.go_on()
    assert child.line() == "added"
    assert (faulty_filesystem.path / "child").read_bytes() == b"data"


def test_readers_outlive_the_image(tmp_path: Path) -> None:
    """Who has an image open reads all of it, although it was deleted and its id taken again."""
    first, second = os.urandom(2 * MIB), os.urandom(MIB)
    with FilesystemStore("file", datadir=str(tmp_path), fsync=False) as store:
        image = store.add("image", first)
        with store.get(image.location) as reader:
            head = reader.read(1000)
            store.delete(image.location)
            again = store.add("image", second)
            assert hashlib.sha256(head + reader.read()).hexdigest() == image.digests["sha256"]
        assert store.get(again.location).read() == second
