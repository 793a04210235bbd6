"""The private temporary directory of one test run, and the removal of what killed runs left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

_PREFIX = "imgstore-servers-"
_OCTAL = re.compile(r"\\([0-7]{3})")


class Scratch:
    """A directory that lives as long as this run, and holds one directory per server or mount.

    A lock held on a file inside tells a live run from a dead one; entering removes what dead runs
    of this user left: mounts first, then loop devices, then files.
    """

    def __init__(self, parent: Path | None = None) -> None:
        self._parent = parent or Path(tempfile.gettempdir())
        self._lock: int | None = None
        self._count = 0
        self.path = self._parent / _PREFIX

    def __enter__(self) -> Scratch:
        self._sweep()
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._parent))
        # Other uids (see run_as) may pass through, not list.
        self.path.chmod(0o711)
        self._lock = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        remove_tree(self.path)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def directory(self, name: str) -> Path:
        """Make a new directory whose name starts with `name`."""
        self._count += 1
        path = self.path / f"{name}-{self._count}"
        path.mkdir(mode=0o755)
        return path

    def logs(self) -> dict[Path, int]:
        """Return every log file of this run with its size in bytes."""
        return {log: log.stat().st_size for log in sorted(self.path.glob("*/*.log"))}

    def _sweep(self) -> None:
        for path in sorted(self._parent.glob(_PREFIX + "*")):
            if path.is_symlink() or not path.is_dir() or path.stat().st_uid != os.geteuid():
                continue
            # What cannot be removed now, or is removed by another run, is not this run's trouble.
            with contextlib.suppress(OSError, RuntimeError):
                if _dead(path):
                    remove_tree(path)


def tail(path: Path, *, start: int = 0, limit: int = 16384) -> str:
    """Return at most the last `limit` bytes of a file from byte `start` on, as text."""
    with path.open("rb") as log:
        end = log.seek(0, os.SEEK_END)
        log.seek(max(start, end - limit))
        return log.read(limit).decode("utf-8", "replace")


def mounts_below(path: Path) -> Iterator[Path]:
    """Yield the mount points at or below `path`, the latest mount first.

    Reads /proc/self/mountinfo, never the mounts themselves: a dead FUSE mount answers nothing.
    """
    top = os.fspath(path)
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        where = _OCTAL.sub(lambda match: chr(int(match[1], 8)), line.split(" ")[4])
        if where == top or where.startswith(top + "/"):
            yield Path(where)


def unmount(path: Path) -> None:
    """Unmount `path`; where it is busy or dead, detach it lazily."""
    tries = [["umount"], ["umount", "-l"]]
    if os.geteuid() != 0:
        tries = [["fusermount", "-uz"], ["fusermount3", "-uz"]]
    for program, *options in tries:
        if shutil.which(program) is not None:
            command = [program, *options, os.fspath(path)]
            done = subprocess.run(command, capture_output=True, timeout=60, check=False)
            if done.returncode == 0:
                return


def remove_tree(path: Path) -> None:
    """Unmount everything below `path`, detach its loop devices, and remove it.

    Nothing is removed while something is still mounted there: that would reach through the mount.
    """
    for mount in mounts_below(path):
        unmount(mount)
    left = list(mounts_below(path))
    if left:
        raise RuntimeError(f"still mounted: {', '.join(map(str, left))}")
    for image in path.glob("*/image"):
        _detach(image)
    shutil.rmtree(path)


def _dead(path: Path) -> bool:
    try:
        lock = os.open(path / "lock", os.O_RDWR)
    except FileNotFoundError:
        # A run creates its lock right after its directory: only an old one was given up.
        return _older_than_a_minute(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def _older_than_a_minute(path: Path) -> bool:
    with tempfile.TemporaryFile(dir=path.parent) as probe:
        return os.fstat(probe.fileno()).st_mtime - path.stat().st_mtime > 60


def _detach(image: Path) -> None:
    if shutil.which("losetup") is None:
        return
    query = ["losetup", "--noheadings", "--output", "NAME", "--associated"]
    query.append(os.fspath(image))
    found = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    for device in found.stdout.split():
        command = ["losetup", "--detach", device]
        subprocess.run(command, capture_output=True, timeout=60, check=False)
