"""Locks that the processes of a host share."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oslo_concurrency import lockutils
from oslo_config import cfg

from imgstore import errors
from imgstore.drivers.cinder import locks as module
from imgstore.drivers.cinder.locks import Fate, Life, Locks

FORK: Any = multiprocessing.get_context("fork")


@pytest.fixture
def locks(tmp_path: Path) -> Locks:
    return Locks(str(tmp_path / "locks"))


def test_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given goes first, then the environment; without either it is said what to do."""
    monkeypatch.delenv("OSLO_LOCK_PATH", raising=False)
    lockutils.set_defaults(None)  # it has read the environment when it was imported
    with pytest.raises(errors.ConfigError, match=r"\[oslo_concurrency\].*OSLO_LOCK_PATH"):
        _ = Locks(None).directory
    monkeypatch.setenv("OSLO_LOCK_PATH", str(tmp_path))
    assert Locks(None).directory == tmp_path
    assert Locks("/given").directory == Path("/given")


def test_what_a_configuration_says(tmp_path: Path) -> None:
    path = tmp_path / "service.conf"
    path.write_text("[oslo_concurrency]\nlock_path = /run/locks\n")
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[str(path)])
    assert module.lock_path_in(conf) == "/run/locks"


def test_one_at_a_time(locks: Locks) -> None:
    one, two = locks.lock("a"), locks.lock("a")
    assert one.try_take()
    assert not two.try_take()
    with pytest.raises(errors.TimedOut, match="another process"):
        two.take(seconds=0.05)
    assert one.leave()
    assert not one.path.exists()
    with two:
        assert two.path.exists()
    assert list(two.path.parent.iterdir()) == []


def test_the_last_of_those_who_share_is_told(locks: Locks) -> None:
    one, two = locks.lock("a", shared=True), locks.lock("a", shared=True)
    assert one.try_take()
    assert two.try_take()
    assert not one.leave()
    assert not locks.lock("a").try_take()
    with two.leaving() as is_last:
        assert is_last
        assert not locks.lock("a", shared=True).try_take()
    assert locks.lock("a").try_take()


class TestSharedUse:
    def test_the_last_use_ends(self, locks: Locks) -> None:
        """It unmakes what the first one made, and nothing stays."""
        calls: list[str] = []
        one, two = (locks.use("a", seconds=5) for _ in range(2))
        assert one.begin(lambda: "made") == "made"
        two.begin(lambda: None)
        one.end(lambda: calls.append("one"))
        one.end(lambda: calls.append("again"))
        assert calls == []
        two.end(lambda: calls.append("two"))
        assert calls == ["two"]
        assert list(locks.directory.iterdir()) == []

    def test_what_cannot_be_made(self, locks: Locks) -> None:
        """It is undone unless there is another use; the use has not begun."""

        def fail() -> None:
            raise failure

        failure = OSError("no route")
        undone: list[BaseException] = []
        one, two = (locks.use("a", seconds=5) for _ in range(2))
        with pytest.raises(OSError, match="no route"):
            one.begin(fail, undone.append)
        assert undone == [failure]
        assert list(locks.directory.iterdir()) == []
        two.begin(lambda: None)
        with pytest.raises(OSError, match="no route"):
            one.begin(fail, undone.append)
        assert undone == [failure]
        two.end(lambda: None)
        with pytest.raises(ZeroDivisionError):
            one.begin(fail, lambda exc: 1 / 0)
        assert list(locks.directory.iterdir()) == []

    def test_one_at_a_time(self, locks: Locks) -> None:
        """Who gets no turn begins nothing, and ends its use without unmaking anything."""
        use, calls = locks.use("a", seconds=0.05), list[str]()
        with locks.lock("turn-a"), pytest.raises(errors.TimedOut):
            use.begin(lambda: calls.append("made"))
        use.begin(lambda: None)
        with locks.lock("turn-a"), pytest.raises(errors.TimedOut):
            use.end(lambda: calls.append("unmade"))
        assert calls == []
        assert list(locks.directory.iterdir()) == []


def in_child(what: Callable[[], object]) -> Any:
    """Run in a child that stays alive; return it once it has sent what `what` returns."""
    receive, send = FORK.Pipe(duplex=False)

    def run() -> None:
        send.send(what())
        signal.pause()

    process = FORK.Process(target=run)
    process.start()
    return process, receive.recv()


def kill(process: Any) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def test_a_life_ends_with_its_process(locks: Locks) -> None:
    process, name = in_child(lambda: Life(locks).name)
    # The child's Life was collected, but nobody gave its lock back.
    assert locks.fate(name) is Fate.ALIVE
    kill(process)
    assert locks.fate(name) is Fate.DEAD
    assert locks.fate(name) is Fate.DEAD
    locks.forget(name)
    assert list(locks.directory.iterdir()) == []
    assert locks.fate(name) is Fate.UNKNOWN


def test_one_process_has_many_lives(locks: Locks) -> None:
    one, two = Life(locks), Life(locks)
    one.end(keep=True)
    assert (locks.fate(one.name), locks.fate(two.name)) == (Fate.DEAD, Fate.ALIVE)
    locks.forget(two.name)
    assert locks.fate(two.name) is Fate.ALIVE
    two.end()
    assert locks.fate(two.name) is Fate.UNKNOWN


def test_other_directories_and_hosts_are_not_known(locks: Locks, tmp_path: Path) -> None:
    """A service of this host with another directory is not taken for dead."""
    life = Life(locks)
    other = Locks(str(tmp_path / "other"))
    assert other.fate(life.name) is Fate.UNKNOWN
    number, boot, machine, host = life.name.split(".", 3)
    assert locks.fate(f"{number}.{boot}.{machine}.x{host}") is Fate.UNKNOWN
    # Before the system was started; there may be machines of the same name.
    known = Fate.DEAD if machine else Fate.UNKNOWN
    assert other.fate(f"{number}.{boot}0.{machine}.{host}") is known
    assert other.fate(f"{number}.{boot}0..{host}") is Fate.UNKNOWN
    assert other.fate(f"{number}.{boot}0.{machine}0.{host}") is Fate.UNKNOWN
    assert Locks(None).fate(life.name) in {Fate.UNKNOWN, Fate.ALIVE}


def test_what_a_life_noted(locks: Locks) -> None:
    """And whether it has ended."""
    one, two = Life(locks), Life(locks)
    one.note("volume-1")
    two.note("volume-1")
    two.note("attachment-2")
    one.end(keep=True)
    found = locks.records()["volume-1"]
    assert {(each.attachment, each.is_dead) for each in found} == {
        (None, True),
        ("attachment-2", False),
    }
    two.end(keep=True)
    for each in found:
        locks.remove(each)
    assert locks.records() == {}


def test_a_file_that_cannot_be_removed(locks: Locks, caplog: pytest.LogCaptureFixture) -> None:
    """What was done is no failure because of it."""
    life = Life(locks)
    path = locks.directory / f"imgstore-cinder-life-{life.name[9:25]}"
    path.unlink()
    path.mkdir()
    life.end()
    assert "stays" in caplog.text


def test_what_is_swept(locks: Locks) -> None:
    """Old files without notes, whose lives have ended."""
    lives = [Life(locks) for _ in range(4)]
    lives[0].note("volume")
    for life in lives[:3]:
        life.end(keep=True)
    paths = [locks.directory / f"imgstore-cinder-life-{each.name[9:25]}" for each in lives]
    for path in (paths[0], paths[1], paths[3]):
        os.utime(path, (0, 0))
    locks.sweep()
    assert [path.exists() for path in paths] == [True, False, True, True]


def test_a_child_gives_back_nothing(locks: Locks) -> None:
    life = Life(locks)
    process = FORK.Process(target=life.end)
    process.start()
    process.join()
    assert locks.fate(life.name) is Fate.ALIVE
    life.end()


def test_a_child_keeps_nothing(locks: Locks) -> None:
    """One that outlives its parent does not hold the locks that the parent had."""

    def parent() -> tuple[str, int]:
        kept.append(Life(locks))
        child, _ = in_child(lambda: None)
        return kept[0].name, child.pid

    kept: list[Life] = []
    process, (name, child) = in_child(parent)
    assert locks.fate(name) is Fate.ALIVE
    kill(process)
    assert locks.fate(name) is Fate.DEAD
    os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("name", ["", "../other", "a/b", "glance_store", "/dev/vdb", "imgstore-"])
def test_names_that_are_nobodys(locks: Locks, name: str) -> None:
    assert locks.fate(name) is Fate.UNKNOWN


def test_a_directory_that_cannot_be_made() -> None:
    with pytest.raises(errors.ConfigError, match="lock_path"):
        Locks("/dev/null/locks").lock("a").try_take()
