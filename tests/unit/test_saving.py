"""Images that are saved to files: whole or not at all, whenever the process ends."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import stat
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from imgstore import Store, errors
from imgstore.drivers.memory import MemoryStore
from imgstore.testing.concurrency import in_threads
from imgstore.testing.harness import pattern
from imgstore.verbs import saving

DATA = pattern(3 * 1024 * 1024 + 5)
FORMER = b"former"


@pytest.fixture
def store() -> Iterator[Store]:
    with MemoryStore("memory") as made:
        made.add("image", DATA)
        yield made


URL = "memory://memory/image"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file in a directory of its own."""
    directory = tmp_path / "files"
    directory.mkdir()
    (directory / "file").write_bytes(FORMER)
    return directory / "file"


def dying_at(line: int) -> Callable[[FrameType, str, Any], Any]:
    """Return a tracer that kills the process before the n-th line of the module is run."""
    seen = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_filename != saving.__file__:
            return None
        if event == "line":
            seen += 1
            if seen == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


def killed_at(line: int, work: Callable[[], object]) -> bool:
    """Do it in a child that is killed at a line; tell whether it came so far."""
    child = os.fork()
    if child == 0:
        try:
            sys.settrace(dying_at(line))
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def leave_a_draft(store: Store, path: Path) -> None:
    """Save in a child that is killed before its draft takes the file's place."""
    child = os.fork()
    if child == 0:
        try:
            store.save(URL, path, progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_crash_between_two_steps_leaves_a_whole_file(store: Store, path: Path) -> None:
    """It is the former one or the new one; the next call leaves nothing beside it."""
    line, found = 0, set()
    while killed_at(line := line + 1, lambda: store.save(URL, path)):
        found.add(path.read_bytes() == DATA)
        assert path.read_bytes() in (DATA, FORMER)
        store.save(URL, path)
        assert os.listdir(path.parent) == ["file"]
        path.write_bytes(FORMER)
    assert found == {True, False}
    assert line > 20


def interrupted_at(step: int) -> Callable[[FrameType, str, Any], Any]:
    """Return a tracer that interrupts before the n-th line or return of the module."""
    seen = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if frame.f_code.co_filename != saving.__file__:
            return None
        if event in {"line", "return"}:
            seen += 1
            if seen == step:
                raise KeyboardInterrupt
        return trace

    return trace


@pytest.mark.parametrize("fails", [False, True], ids=["saved", "refused"])
def test_an_interrupt_between_two_steps_leaves_no_draft(
    store: Store, path: Path, *, fails: bool
) -> None:
    """Also where it comes while a draft is removed for another reason."""

    def interrupt_all() -> None:
        step, interrupted = 0, True
        while interrupted:
            step, interrupted = step + 1, False
            sys.settrace(interrupted_at(step))
            try:
                store.save(URL, path, expected={"sha256": "0" * 64} if fails else None)
            except KeyboardInterrupt:
                interrupted = True
            except errors.DigestMismatch:
                assert fails
            finally:
                sys.settrace(None)
            assert os.listdir(path.parent) == ["file"]
            assert path.read_bytes() == FORMER or (not fails and path.read_bytes() == DATA)
            path.write_bytes(FORMER)
        assert step > 40

    # What a trace function raises may leave Python 3.12 with an exception that it goes on handling.
    child = os.fork()
    if not child:
        status = 1
        try:
            interrupt_all()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("former", "while_written"), [(0o600, 0o600), (0o444, 0o600), (0o666, 0o600), (None, 0o640)]
)
def test_a_draft_is_shown_to_nobody_else(
    store: Store, path: Path, former: int | None, while_written: int
) -> None:
    """A draft that replaces a file is its owner's alone until it has the rights of the file."""
    seen: set[int] = set()

    def look(done: int, total: int | None) -> None:
        (draft,) = [name for name in os.listdir(path.parent) if name != "file"]
        seen.add(stat.S_IMODE(path.with_name(draft).stat().st_mode))

    path.unlink() if former is None else path.chmod(former)
    umask = os.umask(0o027)
    try:
        store.save(URL, path, progress=look)
    finally:
        os.umask(umask)
    assert seen == {while_written}
    assert stat.S_IMODE(path.stat().st_mode) == (0o640 if former is None else former)


def test_a_dead_draft_is_removed_on_nfs(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server locks only a file that is open for writing (flock(2))."""
    flock = fcntl.flock

    def flock_of_nfs(fd: int, operation: int) -> None:
        is_readable_only = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        if operation & fcntl.LOCK_EX and is_readable_only:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(fd, operation)

    leave_a_draft(store, path)
    assert len(os.listdir(path.parent)) == 2
    monkeypatch.setattr(fcntl, "flock", flock_of_nfs)
    store.save(URL, path)
    assert os.listdir(path.parent) == ["file"]


def test_a_working_directory_that_was_removed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is that of the path, as for a directory that is missing."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError):
        store.save(URL, "file")


def test_a_draft_of_another_that_lives_stays(store: Store, path: Path) -> None:
    """Two that save to one path at once do not disturb each other."""
    names: list[list[str]] = []

    def look(done: int, total: int | None) -> None:
        if done == total:
            store.save(URL, path)
            names.append(os.listdir(path.parent))

    store.save(URL, path, progress=look)
    assert [len(each) for each in names] == [2]
    assert os.listdir(path.parent) == ["file"]
    in_threads(8, lambda _: store.save(URL, path))
    assert path.read_bytes() == DATA
    assert os.listdir(path.parent) == ["file"]


def test_a_draft_is_that_of_its_file(store: Store, path: Path) -> None:
    """A draft of another file in the directory is not touched, whatever its name."""
    leave_a_draft(store, path.with_name("x" * 255))
    (draft,) = [name for name in os.listdir(path.parent) if name != "file"]
    store.save(URL, path)
    assert sorted(os.listdir(path.parent)) == [draft, "file"]
    store.save(URL, path.with_name("x" * 255))
    assert sorted(os.listdir(path.parent)) == ["file", "x" * 255]


def test_what_others_put_there_disturbs_nobody(store: Store, path: Path) -> None:
    """A pipe, a directory or a link by the name of a draft: what a shared directory may have."""
    leave_a_draft(store, path)
    (draft,) = [name for name in os.listdir(path.parent) if name != "file"]
    os.mkfifo(path.with_name(f"{draft}-pipe"))
    path.with_name(f"{draft}-link").symlink_to("file")
    path.with_name(f"{draft}-directory").mkdir()
    store.save(URL, path)
    assert path.read_bytes() == DATA
    left = sorted(name.removeprefix(draft) for name in os.listdir(path.parent))
    assert left == ["-directory", "-link", "file"]


def test_a_link_stays_a_link(store: Store, path: Path) -> None:
    """The file that it leads to is replaced."""
    link = path.with_name("link")
    link.symlink_to("file")
    store.save(URL, link)
    assert link.is_symlink()
    assert path.read_bytes() == DATA


def test_what_is_no_file_is_not_replaced(store: Store, path: Path) -> None:
    """A directory, a device or a pipe is refused."""
    os.mkfifo(path.with_name("pipe"))
    for other in (path.parent, path.with_name("pipe"), Path("/dev/null")):
        with pytest.raises(errors.InvalidArgument, match="not a regular file") as caught:
            store.save(URL, other)
        assert caught.value.operation == "save"


def test_what_the_file_raises_is_the_callers(store: Store, path: Path) -> None:
    """A failure of the caller's disk is none of the store, and leaves the former file."""
    with pytest.raises(FileNotFoundError):
        store.save(URL, path.with_name("missing") / "file")
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * 1024, former[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            store.save(URL, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert path.read_bytes() == FORMER
    assert os.listdir(path.parent) == ["file"]
