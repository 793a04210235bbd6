"""Locks that the processes of a host share; each ends with the process that has it."""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import functools
import hashlib
import logging
import math
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from oslo_config import cfg

from imgstore.drivers.cinder.client import INSTALL
from imgstore.errors import ConfigError, TimedOut
from imgstore.process import lazy
from imgstore.process.patience import Patience

LOG = logging.getLogger(__name__)

T = TypeVar("T")

_PREFIX: Final = "imgstore-cinder-"
_LIFE: Final = _PREFIX + "life-"
_PAUSE: Final = 0.02  # seconds between attempts to get a lock
_BUSY: Final = frozenset({errno.EAGAIN, errno.EACCES})
# imgstore-<number>.<start of the system>.<machine>.<host>
_NAME: Final = re.compile(r"imgstore-([0-9a-f]{16})\.([0-9a-f]+)\.([0-9a-f]*)\.(.+)", re.DOTALL)
_MACHINE: Final = Path("/etc/machine-id")  # machine-id(5)
_KEPT: Final = 7 * 24 * 3600.0  # seconds that the file of a life without notes is kept
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
            is_last = _try_alone(file)
            try:
                yield is_last
            finally:
                if is_last and not keep:
                    self.path.unlink(missing_ok=True)
        finally:
            _close(file)

    def __enter__(self) -> HostLock:
        """Return self, taken."""
        self.take()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Give it back."""
        self.leave()


def _close(file: int) -> None:
    _open.discard(file)
    os.close(file)


def _try_alone(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        with self._in_turn():
            self._use.take(seconds=self._seconds)
            try:
                return make()
            except BaseException as exc:
                with self._use.leaving() as is_last:
                    if is_last and undo is not None:
                        undo(exc)
                raise

    def end(self, unmake: Callable[[], object]) -> None:
        """End the use, and ``unmake`` after the last one of this host. Idempotent."""
        try:
            with self._in_turn(), self._use.leaving() as is_last:
                if is_last:
                    unmake()
        finally:
            self._use.leave()

    @contextlib.contextmanager
    def _in_turn(self) -> Iterator[None]:
        self._turn.take(seconds=self._seconds)
        try:
            yield
        finally:
            self._turn.leave()


class Life:
    """A name that tells the processes of this host whether its bearer still works at something.

    ``note`` says at what. A life that ends with its process, or is kept, leaves its file.
    """

    def __init__(self, locks: Locks) -> None:
        number = secrets.token_hex(8)
        self.name = f"imgstore-{number}.{_boot()}.{_machine()}.{socket.gethostname()}"
        self._lock = locks.lock(f"life-{number}")
        self._lock.take()

    def note(self, text: str) -> None:
        """Add a line for whoever finds the file."""
        self._lock.write(f"{text}\n")

    def end(self, *, keep: bool = False) -> None:
        """Say that the bearer does not any more; ``keep`` the file if something is left.

        A file that cannot be removed is logged: what the bearer did is done all the same.
        """
        try:
            self._lock.leave(keep=keep)
        except OSError as exc:
            LOG.warning("the lock %s stays: %s", self._lock.path, exc.strerror)


class Fate(enum.Enum):
    """What a host can tell of a life."""

    ALIVE = enum.auto()
    DEAD = enum.auto()
    UNKNOWN = enum.auto()


@dataclass(frozen=True)
class Record:
    """What a life noted as an attachment: its id, None where nobody has learned it."""

    number: str
    attachment: str | None
    is_dead: bool


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

    def use(self, name: str, *, seconds: float) -> SharedUse:
        """Return a use that has not begun; one process at a time has at most ``seconds``."""
        turn, use = self.lock(f"turn-{name}"), self.lock(f"use-{name}", shared=True)
        return SharedUse(turn, use, seconds=seconds)

    def fate(self, life: str) -> Fate:
        """Return whether the bearer of a name lives, as far as this host can tell.

        It cannot for those of other hosts, and of services with another directory for locks,
        unless this machine has been started anew since.
        """
        found = _NAME.fullmatch(life)
        if found is None or found[4] != socket.gethostname():
            return Fate.UNKNOWN
        try:
            free = _is_free(self.directory / f"{_LIFE}{found[1]}")
        except ConfigError:  # without a directory nothing is known
            return Fate.UNKNOWN
        if free is not None:
            return Fate.DEAD if free else Fate.ALIVE
        # Other machines may have the same name.
        is_restarted = found[2] != _boot() and found[3] and found[3] == _machine()
        return Fate.DEAD if is_restarted else Fate.UNKNOWN

    def forget(self, life: str) -> None:
        """Remove what a dead life left."""
        found = _NAME.fullmatch(life)
        if found is not None and self.fate(life) is Fate.DEAD:
            self._remove(found[1])

    def remove(self, record: Record) -> None:
        """Remove a record."""
        self._remove(record.number)

    def _remove(self, number: str) -> None:
        (self.directory / f"{_LIFE}{number}").unlink(missing_ok=True)

    def records(self) -> dict[str, list[Record]]:
        """Return what this host's lives noted, by the id of the volume."""
        found: dict[str, list[Record]] = {}
        for path, is_dead in self._lives():
            with contextlib.suppress(OSError):  # it may be gone, or another service's
                lines = path.read_text().split()
                if lines:
                    attachment = lines[1] if lines[1:] else None
                    record = Record(path.name.removeprefix(_LIFE), attachment, is_dead)
                    found.setdefault(lines[0], []).append(record)
        return found

    def sweep(self) -> None:
        """Remove files of dead lives that noted nothing, and that nobody has asked for long."""
        limit = time.time() - _KEPT
        for path, is_dead in self._lives():
            with contextlib.suppress(OSError):
                found = path.stat()
                if is_dead and not found.st_size and found.st_mtime < limit:
                    path.unlink()

    def _lives(self) -> Iterator[tuple[Path, bool]]:
        """Yield the files of lives, and whether their bearers are dead: then they do not change."""
        with contextlib.suppress(ConfigError):
            for path in self.directory.glob(f"{_LIFE}*"):
                free = _is_free(path)
                if free is not None:
                    yield path, free


def _is_free(path: Path) -> bool | None:
    """Return whether nobody has a lock; None if there is none, or none that may be asked."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno not in _BUSY:
            raise
        return False
    finally:
        os.close(file)
    return True


@functools.cache
def _boot() -> str:
    """Return what is another one after each start of the system, see random(4)."""
    return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]


@functools.cache
def _machine() -> str:
    """Return what tells this machine from others, nothing where that is not known."""
    try:
        known = _MACHINE.read_bytes().strip()
    except OSError:
        return ""
    return hashlib.sha256(known).hexdigest()[:8] if known else ""


def lock_path_in(conf: cfg.ConfigOpts) -> str | None:
    """Return what a configuration says under ``[oslo_concurrency] lock_path``."""
    found = lazy.load_apart("oslo_concurrency.lockutils", install=INSTALL).get_lock_path(conf)
    return str(found) if found else None
