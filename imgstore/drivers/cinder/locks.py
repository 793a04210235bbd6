"""Locks that the processes of a host share; each ends with the process that has it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from oslo_config import cfg

from imgstore import _lazy
from imgstore.drivers.cinder.client import INSTALL
from imgstore.errors import ConfigError, TimedOut

_PREFIX: Final = "imgstore-cinder-"
_PAUSE: Final = 0.02  # seconds between attempts to get a lock
_BUSY: Final = frozenset({errno.EAGAIN, errno.EACCES})


class HostLock:
    """A lock with a name, held by one process, or shared by several; its file goes with it."""

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self.path = path
        self._kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._pid = os.getpid()
        self._file: int | None = None

    def take(self, *, seconds: float | None) -> None:
        """Wait for the lock, at most ``seconds``; raises TimedOut."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self.try_take():
            if deadline is not None and time.monotonic() > deadline:
                raise TimedOut(f"another process holds the lock {self.path}")
            time.sleep(_PAUSE)

    def try_take(self) -> bool:
        """Take the lock if it is free; return whether it was."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        except OSError as exc:
            raise ConfigError(
                f"the lock {self.path} cannot be made: {exc.strerror}",
                remedy="let the service write to lock_path",
            ) from exc
        try:
            fcntl.flock(file, self._kind | fcntl.LOCK_NB)
            # Whoever had it may have removed the file since it was opened here.
            if os.fstat(file).st_nlink:
                self._file, file = file, -1
                return True
        except OSError as exc:
            if exc.errno not in _BUSY:
                raise
        finally:
            if file >= 0:
                os.close(file)
        return False

    def leave(self) -> bool:
        """Give the lock back; return whether nobody else has it now. Idempotent."""
        with self.leaving() as is_last:
            return is_last

    @contextlib.contextmanager
    def leaving(self) -> Iterator[bool]:
        """Give the lock back after the block, which is told whether nobody else has it.

        Nobody gets it before the block ends. A child that was forked gives back nothing.
        """
        file, self._file = self._file, None
        if file is None or os.getpid() != self._pid:
            yield False
            return
        try:
            is_last = _try_alone(file)
            try:
                yield is_last
            finally:
                if is_last:
                    self.path.unlink(missing_ok=True)
        finally:
            os.close(file)

    def __enter__(self) -> HostLock:
        """Return self, taken."""
        self.take(seconds=None)
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Give it back."""
        self.leave()


def _try_alone(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno not in _BUSY:
            raise
        return False
    return True


class Life:
    """A name that tells other processes of this host whether this one still works at something."""

    def __init__(self, locks: Locks) -> None:
        self.name = secrets.token_hex(8)
        self._lock = locks.lock(f"life-{self.name}")
        self._lock.take(seconds=None)

    def end(self) -> None:
        """Say that it does not any more. Idempotent."""
        self._lock.leave()


class Locks:
    """The locks in a directory, by their names: the one given, else that of oslo.concurrency."""

    def __init__(self, path: str | None) -> None:
        self._path = path

    @property
    def directory(self) -> Path:
        """Return where the locks are; raises ConfigError where nobody says so."""
        path = self._path or lock_path_in(cfg.CONF) or os.environ.get("OSLO_LOCK_PATH")
        if not path:
            raise ConfigError(
                "there is no directory for the locks that processes of this host share",
                remedy="set lock_path in the group [oslo_concurrency], or the environment "
                "variable OSLO_LOCK_PATH",
            )
        return Path(path)

    def lock(self, name: str, *, shared: bool = False) -> HostLock:
        """Return a lock, which is not taken yet."""
        return HostLock(self.directory / f"{_PREFIX}{name}", shared=shared)

    def is_dead(self, life: str) -> bool:
        """Return whether a name of this host is one of a process that ended."""
        if not life.isalnum():
            return False
        lock = self.lock(f"life-{life}")
        if not lock.path.exists():
            return True
        if lock.try_take():
            lock.leave()
            return True
        return False


def lock_path_in(conf: cfg.ConfigOpts) -> str | None:
    """Return what a configuration says under ``[oslo_concurrency] lock_path``."""
    found = _lazy.load_apart("oslo_concurrency.lockutils", install=INSTALL).get_lock_path(conf)
    return str(found) if found else None
