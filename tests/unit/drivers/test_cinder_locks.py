"""Locks that the processes of a host share."""

from __future__ import annotations

from pathlib import Path

import pytest
from oslo_concurrency import lockutils
from oslo_config import cfg

from imgstore import errors
from imgstore.drivers.cinder import locks as module
from imgstore.drivers.cinder.locks import Locks


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
    with two.taken():
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

    def test_of_the_dead(self, locks: Locks) -> None:
        """What they made is unmade by a use that made nothing, unless there is another one."""
        calls: list[str] = []
        use, other = (locks.use("a", seconds=5) for _ in range(2))
        use.begin(lambda: None)
        other.begin(lambda: None)
        other.end(lambda: calls.append("used"))
        use.end(lambda: None)
        other.begin(lambda: None)
        other.end(lambda: calls.append("unused"))
        assert calls == ["unused"]
        assert list(locks.directory.iterdir()) == []

    def test_one_at_a_time(self, locks: Locks) -> None:
        """Who gets no turn begins nothing, and ends its use without unmaking anything."""
        use, calls = locks.use("a", seconds=0.05), list[str]()
        with locks.lock("turn-a").taken(), pytest.raises(errors.TimedOut):
            use.begin(lambda: calls.append("made"))
        use.begin(lambda: None)
        with locks.lock("turn-a").taken(), pytest.raises(errors.TimedOut):
            use.end(lambda: calls.append("unmade"))
        assert calls == []
        assert list(locks.directory.iterdir()) == []


def test_a_directory_that_cannot_be_made() -> None:
    with pytest.raises(errors.ConfigError, match="lock_path"):
        Locks("/dev/null/locks").lock("a").try_take()
