"""Who of this host still works at something."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imgstore.drivers.cinder.lives import Fate, Life, Lives
from imgstore.drivers.cinder.locks import Locks

FORK: Any = multiprocessing.get_context("fork")


@pytest.fixture
def locks(tmp_path: Path) -> Locks:
    return Locks(str(tmp_path / "locks"))


@pytest.fixture
def lives(locks: Locks) -> Lives:
    return Lives(locks)


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


def test_a_life_ends_with_its_process(lives: Lives, locks: Locks) -> None:
    process, name = in_child(lambda: lives.begin().name)
    # The child's Life was collected, but nobody gave its lock back.
    assert lives.fate(name) is Fate.ALIVE
    kill(process)
    assert lives.fate(name) is Fate.DEAD
    assert lives.fate(name) is Fate.DEAD
    lives.forget(name)
    assert list(locks.directory.iterdir()) == []
    assert lives.fate(name) is Fate.UNKNOWN


def test_one_process_has_many_lives(lives: Lives) -> None:
    one, two = lives.begin(), lives.begin()
    one.end(keep=True)
    assert (lives.fate(one.name), lives.fate(two.name)) == (Fate.DEAD, Fate.ALIVE)
    lives.forget(two.name)
    assert lives.fate(two.name) is Fate.ALIVE
    two.end()
    assert lives.fate(two.name) is Fate.UNKNOWN


def test_other_directories_and_hosts_are_not_known(lives: Lives, tmp_path: Path) -> None:
    """A service of this host with another directory is not taken for dead."""
    life = lives.begin()
    other = Lives(Locks(str(tmp_path / "other")))
    assert other.fate(life.name) is Fate.UNKNOWN
    number, boot, machine, host = life.name.split(".", 3)
    assert lives.fate(f"{number}.{boot}.{machine}.x{host}") is Fate.UNKNOWN
    # Before the system was started; there may be machines of the same name.
    known = Fate.DEAD if machine else Fate.UNKNOWN
    assert other.fate(f"{number}.{boot}0.{machine}.{host}") is known
    assert other.fate(f"{number}.{boot}0..{host}") is Fate.UNKNOWN
    assert other.fate(f"{number}.{boot}0.{machine}0.{host}") is Fate.UNKNOWN
    assert Lives(Locks(None)).fate(life.name) in {Fate.UNKNOWN, Fate.ALIVE}


def test_what_a_life_noted(lives: Lives) -> None:
    """And whether it has ended."""
    one, two = lives.begin(), lives.begin()
    one.note("volume-1")
    two.note("volume-1")
    two.note("attachment-2")
    one.end(keep=True)
    found = lives.records()["volume-1"]
    assert {(each.attachment, each.is_dead) for each in found} == {
        (None, True),
        ("attachment-2", False),
    }
    two.end(keep=True)
    for each in found:
        each.remove()
    assert lives.records() == {}


def test_a_file_that_cannot_be_removed(
    lives: Lives, locks: Locks, caplog: pytest.LogCaptureFixture
) -> None:
    """What was done is no failure because of it."""
    life = lives.begin()
    path = locks.directory / f"imgstore-cinder-life-{life.name[9:25]}"
    path.unlink()
    path.mkdir()
    life.end()
    assert "stays" in caplog.text


def test_what_is_swept(lives: Lives, locks: Locks) -> None:
    """Old files without notes, whose lives have ended."""
    begun = [lives.begin() for _ in range(4)]
    begun[0].note("volume")
    for life in begun[:3]:
        life.end(keep=True)
    paths = [locks.directory / f"imgstore-cinder-life-{each.name[9:25]}" for each in begun]
    for path in (paths[0], paths[1], paths[3]):
        os.utime(path, (0, 0))
    lives.sweep()
    assert [path.exists() for path in paths] == [True, False, True, True]


def test_a_child_gives_back_nothing(lives: Lives) -> None:
    life = lives.begin()
    process = FORK.Process(target=life.end)
    process.start()
    process.join()
    assert lives.fate(life.name) is Fate.ALIVE
    life.end()


def test_a_child_keeps_nothing(lives: Lives) -> None:
    """One that outlives its parent does not hold the locks that the parent had."""

    def parent() -> tuple[str, int]:
        kept.append(lives.begin())
        child, _ = in_child(lambda: None)
        return kept[0].name, child.pid

    kept: list[Life] = []
    process, (name, child) = in_child(parent)
    assert lives.fate(name) is Fate.ALIVE
    kill(process)
    assert lives.fate(name) is Fate.DEAD
    os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("name", ["", "../other", "a/b", "glance_store", "/dev/vdb", "imgstore-"])
def test_names_that_are_nobodys(lives: Lives, name: str) -> None:
    assert lives.fate(name) is Fate.UNKNOWN
