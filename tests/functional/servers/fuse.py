"""A FUSE file system whose operations fail or hang when a test says so."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from servers.missing import Missing, tool
from servers.process import Process
from servers.scratch import Scratch, mounts_below, unmount

_PROGRAM = Path(__file__).with_name("faulty_filesystem.py")


class FaultyFilesystem:
    """A mount at `path` that shows the directory `source`, through `process`.

    Operations: lookup, getattr (every stat), setattr (truncate, chmod, utime), create (open of a
    new file), open, read, write, fsync (also fdatasync), fsyncdir, flush (at close), link, unlink,
    rename, rename2 (with flags), tmpfile, flock, statfs, mkdir, rmdir, opendir, readdir, lseek,
    fallocate, copy_file_range, symlink, readlink. All work until told otherwise. Extended
    attributes, devices and ioctls (FICLONE) are not there.

    A signal ends a call that hangs with EINTR; killing `process` ends it with ENOTCONN.
    """

    def __init__(self, scratch: Scratch, *, source: Path | None = None) -> None:
        _require_device()
        home = scratch.directory("fuse")
        self.path = home / "mounted"
        self.source = home / "source" if source is None else source
        for directory in (self.path, self.source):
            directory.mkdir(exist_ok=True)
        # A socket's path holds at most 107 bytes: bound and reached by a relative one.
        self._control = home / "control"
        places = [os.fspath(place) for place in (_PROGRAM, self.source, self.path)]
        command = [sys.executable, "-I", "-S", *places, "control"]
        self.process = Process("fuse", command, directory=home, ready=self._answers)

    def fail(self, operation: str, error: int, *, nth: int = 1, times: int | None = None) -> None:
        """Give `operation` the errno `error` from its `nth` call from now on, `times` times.

        One rule an operation: a new one replaces it. `times` None is for ever.
        """
        self._rule(operation, error=error, nth=nth, times=times, seconds=0.0)

    def hang(
        self,
        operation: str,
        *,
        nth: int = 1,
        times: int | None = None,
        seconds: float = 60.0,
    ) -> None:
        """Make `operation` wait for `release()`, at most `seconds`; then it is carried out."""
        self._rule(operation, error=0, nth=nth, times=times, seconds=seconds)

    def release(self) -> None:
        """Forget every rule and count, and let what hangs go on."""
        self._order({"do": "release"})

    def calls(self, operation: str) -> int:
        """Return how often `operation` was called since the mount or the last `release()`."""
        calls = self._order({"do": "look"})["calls"]
        assert isinstance(calls, dict)
        return int(calls.get(operation, 0))

    def hanging(self) -> int:
        """Return how many calls hang now."""
        return int(str(self._order({"do": "look"})["hanging"]))

    def _rule(
        self, operation: str, *, error: int, nth: int, times: int | None, seconds: float
    ) -> None:
        order = {"do": "rule", "operation": operation, "error": error, "nth": nth}
        self._order({**order, "times": times, "seconds": seconds})

    def _order(self, order: dict[str, object]) -> dict[str, object]:
        directory = os.open(self._control.parent, os.O_PATH)
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(10)
                connection.connect(f"/proc/self/fd/{directory}/{self._control.name}")
                with connection.makefile("rwb") as stream:
                    stream.write(json.dumps(order).encode() + b"\n")
                    stream.flush()
                    answer: dict[str, object] = json.loads(stream.readline())
        finally:
            os.close(directory)
        if "unknown" in answer:
            raise ValueError(f"there is no operation {answer['unknown']}")
        return answer

    def _answers(self) -> bool:
        return any(mounts_below(self.path)) and bool(self._order({"do": "look"}))


def _require_device() -> None:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as exc:
        raise Missing("fuse", f"/dev/fuse: {exc.strerror}") from exc
    if os.geteuid() != 0:
        tool("fusermount", what="fuse", package="fuse")


@contextmanager
def faulty(scratch: Scratch, *, source: Path | None = None) -> Iterator[FaultyFilesystem]:
    """Mount one; killed and unmounted on exit whatever hangs. Raises Missing without FUSE."""
    filesystem = FaultyFilesystem(scratch, source=source)
    try:
        with filesystem.process:
            yield filesystem
    finally:
        filesystem.process.kill()
        for mounted in mounts_below(filesystem.path):
            unmount(mounted)
