"""Who of this host still works at something: lives, whose locks end with their processes."""

from __future__ import annotations

import contextlib
import enum
import functools
import hashlib
import logging
import re
import secrets
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imgstore.boundary.arguments import OWN
from imgstore.drivers.cinder.locks import Locks, is_free
from imgstore.errors import ConfigError

LOG = logging.getLogger(__name__)

_LIFE: Final = "life-"
# imgstore-<number>.<start of the system>.<machine>.<host>
_NAME: Final = re.compile(rf"{OWN}([0-9a-f]{{16}})\.([0-9a-f]+)\.([0-9a-f]*)\.(.+)", re.DOTALL)
_MACHINE: Final = Path("/etc/machine-id")  # machine-id(5)
_KEPT: Final = 7 * 24 * 3600.0  # seconds that the file of a life without notes is kept


class Life:
    """A name that tells the processes of this host whether its bearer still works at something.

    ``note`` says at what. A life that ends with its process, or is kept, leaves its file.
    """

    def __init__(self, locks: Locks) -> None:
        number = secrets.token_hex(8)
        self.name = f"{OWN}{number}.{_boot()}.{_machine()}.{socket.gethostname()}"
        self._lock = locks.lock(f"{_LIFE}{number}")
        self._lock.take()

    def note(self, text: str) -> None:
        """Add a line for the process that finds the file."""
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

    path: Path
    attachment: str | None
    is_dead: bool

    def remove(self) -> None:
        """Remove the file of a dead life."""
        self.path.unlink(missing_ok=True)


class Lives:
    """The lives whose locks are in one directory."""

    def __init__(self, locks: Locks) -> None:
        self._locks = locks

    def begin(self) -> Life:
        """Return a life for something that this process does; raises ConfigError without locks."""
        return Life(self._locks)

    def fate(self, life: str) -> Fate:
        """Return whether the bearer of a name lives, as far as this host can tell.

        It cannot for those of other hosts, and of services with another directory for locks,
        unless this machine has been started anew since.
        """
        found = _NAME.fullmatch(life)
        if found is None or found[4] != socket.gethostname():
            return Fate.UNKNOWN
        try:
            free = is_free(self._locks.path(f"{_LIFE}{found[1]}"))
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
            self._locks.path(f"{_LIFE}{found[1]}").unlink(missing_ok=True)

    def records(self) -> dict[str, list[Record]]:
        """Return what lives, also those that ended, noted of volumes, by the volume's id."""
        found: dict[str, list[Record]] = {}
        for path, is_dead in self._files():
            with contextlib.suppress(OSError):  # it may be gone, or another service's
                lines = path.read_text().split()
                if lines:
                    attachment = lines[1] if lines[1:] else None
                    found.setdefault(lines[0], []).append(Record(path, attachment, is_dead))
        return found

    def sweep(self) -> None:
        """Remove files of dead lives that noted nothing, and that nobody has asked for long."""
        limit = time.time() - _KEPT
        for path, is_dead in self._files():
            with contextlib.suppress(OSError):
                found = path.stat()
                if is_dead and not found.st_size and found.st_mtime < limit:
                    path.unlink()

    def _files(self) -> Iterator[tuple[Path, bool]]:
        """Yield the file of each life, and whether the life ended: then the file stays as it is."""
        for path in self._locks.paths(_LIFE):
            free = is_free(path)
            if free is not None:
                yield path, free


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
