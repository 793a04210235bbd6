"""Locks that the processes of a host share; each ends with the process that has it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from oslo_config import cfg

from imgstore.boundary.arguments import OWN
from imgstore.drivers.cinder.errors import INSTALL
from imgstore.errors import ConfigError, TimedOut
from imgstore.process import lazy
from imgstore.process.patience import Patience

T = TypeVar("T")

_PREFIX: Final = f"{OWN}cinder-"
_PAUSE: Final = 0.02  # seconds between attempts to get a lock
_BUSY: Final = frozenset({errno.EAGAIN, errno.EACCES})
# Descriptors of locks that this process has. A forked child would keep them locked.
_open: set[int] = set()


def _close_inherited() -> None:
    while _open:
        os.close(_open.pop())


os.register_at_fork(after_in_child=_close_inherited)


class HostLock:
    """A lock with a name, held by one process, or shared by several; its file goes with it."""

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self.path = path
        self._kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._pid = os.getpid()
        self._file: int | None = None

    def take(self, *, seconds: float = math.inf) -> None:
        """Wait for the lock, at most ``seconds``; raises TimedOut."""
        for _ in Patience(_PAUSE, _PAUSE, seconds=seconds).attempts():
            if self.try_take():
                return
        raise TimedOut(f"another process holds the lock {self.path}")

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
        _open.add(file)
        try:
            # Its former holder may have removed the file since it was opened here.
            if _try_lock(file, self._kind) and os.fstat(file).st_nlink:
                self._file, file = file, -1
                return True
        finally:
            if file >= 0:
                _close(file)
        return False

    def write(self, text: str) -> None:
        """Append to the file of a lock that is held alone."""
        if self._file is not None and os.getpid() == self._pid:
            os.write(self._file, text.encode())

    def leave(self, *, keep: bool = False) -> bool:
        """Give the lock back; return whether nobody else has it now. Idempotent.

        The file stays if somebody has it, or to ``keep`` what was written to it.
        """
        with self.leaving(keep=keep) as is_last:
            return is_last

    @contextlib.contextmanager
    def leaving(self, *, keep: bool = False) -> Iterator[bool]:
        """Give the lock back after the block, which is told whether nobody else has it.

        Nobody gets it before the block ends. A child that was forked gives back nothing.
        """
        file, self._file = self._file, None
        if file is None or os.getpid() != self._pid:
            yield False
            return
        try:
            is_last = _try_lock(file, fcntl.LOCK_EX)
            try:
                yield is_last
            finally:
                if is_last and not keep:
                    self.path.unlink(missing_ok=True)
        finally:
            _close(file)

    @contextlib.contextmanager
    def taken(self, *, seconds: float = math.inf) -> Iterator[None]:
        """Wait for the lock, at most ``seconds``, and have it in the block; raises TimedOut."""
        self.take(seconds=seconds)
        try:
            yield
        finally:
            self.leave()


def _close(file: int) -> None:
    _open.discard(file)
    os.close(file)


def _try_lock(file: int, kind: int) -> bool:
    """Lock an open file unless somebody else has it; return whether that was done."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno not in _BUSY:
            raise
        return False
    return True


class SharedUse:
    """A use of what the processes of a host share: a mount, or the device of a volume.

    Processes make it and unmake it in turn. The kernel counts uses, as locks that a process gives
    back however it ends: so what the dead used is unmade by the next process whose use ends.
    """

    def __init__(self, turn: HostLock, use: HostLock, *, seconds: float) -> None:
        """Wait at most ``seconds`` for a turn."""
        self._turn = turn
        self._use = use
        self._seconds = seconds

    def begin(
        self, make: Callable[[], T], undo: Callable[[BaseException], object] | None = None
    ) -> T:
        """Return what ``make`` returns, to be used until ``end``.

        A failure to make it is given to ``undo`` if there is no other use. What that raises is
        raised in its place.
        """
        with self._turn.taken(seconds=self._seconds):
            self._use.take(seconds=self._seconds)
            try:
                return make()
            except BaseException as exc:
                with self._use.leaving() as is_last:
                    if is_last and undo is not None:
                        undo(exc)
                raise

    def end(self, unmake: Callable[[], object]) -> None:
        """End the use, and ``unmake`` after the last one of this host. Idempotent.

        So also what a process made that died, after a use that makes nothing.
        """
        try:
            with self._turn.taken(seconds=self._seconds), self._use.leaving() as is_last:
                if is_last:
                    unmake()
        finally:
            self._use.leave()


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

    def path(self, name: str) -> Path:
        """Return where a lock's file is while somebody has it; raises ConfigError."""
        return self.directory / f"{_PREFIX}{name}"

    def paths(self, start: str) -> Iterator[Path]:
        """Yield the files of locks whose names begin with ``start``."""
        with contextlib.suppress(ConfigError):
            yield from self.directory.glob(f"{_PREFIX}{start}*")

    def lock(self, name: str, *, shared: bool = False) -> HostLock:
        """Return a lock, which is not taken yet."""
        return HostLock(self.path(name), shared=shared)

    def use(self, name: str, *, seconds: float) -> SharedUse:
        """Return a use that has not begun; one process at a time has at most ``seconds``."""
        turn, use = self.lock(f"turn-{name}"), self.lock(f"use-{name}", shared=True)
        return SharedUse(turn, use, seconds=seconds)


def is_free(path: Path) -> bool | None:
    """Return whether nobody has a lock; None if there is none, or none that may be asked."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _try_lock(file, fcntl.LOCK_SH)
    finally:
        os.close(file)


def lock_path_in(conf: cfg.ConfigOpts) -> str | None:
    """Return what a configuration says under ``[oslo_concurrency] lock_path``."""
    found = lazy.load_apart("oslo_concurrency.lockutils", install=INSTALL).get_lock_path(conf)
    return str(found) if found else None
