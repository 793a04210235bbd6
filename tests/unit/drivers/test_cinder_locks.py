"""Locks that the processes of a host share."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from oslo_concurrency import lockutils
from oslo_config import cfg

from imgstore import errors
from imgstore.drivers.cinder import locks as module
from imgstore.drivers.cinder.locks import Life, Locks

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


def test_a_life_ends_with_its_process(locks: Locks) -> None:
    receive, send = FORK.Pipe(duplex=False)

    def live() -> None:
        life = Life(locks)
        send.send(life.name)
        signal.pause()

    process = FORK.Process(target=live)
    process.start()
    name = receive.recv()
    assert not locks.is_dead(name)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert locks.is_dead(name)
    assert list(locks.directory.iterdir()) == []


def test_a_child_gives_back_nothing(locks: Locks) -> None:
    life = Life(locks)
    process = FORK.Process(target=life.end)
    process.start()
    process.join()
    assert not locks.is_dead(life.name)
    life.end()
    assert locks.is_dead(life.name)


@pytest.mark.parametrize("name", ["", "../other", "a/b", "glance_store"])
def test_names_that_are_nobodys(locks: Locks, name: str) -> None:
    assert not locks.is_dead(name)


def test_a_directory_that_cannot_be_made() -> None:
    with pytest.raises(errors.ConfigError, match="lock_path"):
        Locks("/dev/null/locks").lock("a").try_take()
