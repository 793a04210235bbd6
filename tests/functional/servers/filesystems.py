"""Real file systems for tests: loop-mounted, read-only, small, with a quota, bound."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Literal

from servers.missing import Missing, root, tool
from servers.scratch import Scratch, mounts_below, remove_tree, unmount

Kind = Literal["ext4", "xfs", "btrfs"]

NOBODY = 65534
MIB = 1 << 20

_SECONDS = 60.0
_MAKE: dict[Kind, tuple[str, str, list[str], int]] = {
    # kind: program, package, arguments, smallest size that the program accepts
    "ext4": ("mkfs.ext4", "e2fsprogs", ["-q", "-F"], 2 * MIB),
    "xfs": ("mkfs.xfs", "xfsprogs", ["-q", "-f", "-m", "reflink=1"], 300 * MIB),
    "btrfs": ("mkfs.btrfs", "btrfs-progs", ["-q", "-f"], 112 * MIB),
}


class Filesystems:
    """Mounts for one test, unmounted in reverse order on exit; each method returns a directory.

    Every method raises Missing where root, a program or the kernel cannot do it. The images are
    sparse files: a large file system costs only what is written to it.
    """

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._stack = ExitStack()

    def __enter__(self) -> Filesystems:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def ext4(self, *, size: int = 16 * MIB, reserved: int = 0) -> Path:
        """Mount an ext4 of `size` bytes, `reserved` percent of it (0 to 50) for root."""
        return self._loop("ext4", size, extra=["-m", str(reserved)])

    def xfs(self, *, size: int = 300 * MIB) -> Path:
        """Mount an xfs that can clone (reflink); mkfs.xfs makes none below 300 MiB."""
        return self._loop("xfs", size)

    def btrfs(self, *, size: int = 128 * MIB) -> Path:
        """Mount a btrfs, which can clone; mkfs.btrfs makes none below 109 MiB."""
        return self._loop("btrfs", size)

    def quota(self, *, limit: int = MIB, size: int = 128 * MIB) -> Path:
        """Return a directory on btrfs where writing more than `limit` bytes gives EDQUOT.

        A btrfs quota group binds root too and needs no quota format in the kernel, unlike the user
        quotas of ext4 and xfs. Data counts when it is allocated, at the latest at fsync.
        """
        directory = self._loop("btrfs", size, what="quota") / "limited"
        btrfs = tool("btrfs", what="quota", package="btrfs-progs")
        _run("quota", [btrfs, "quota", "enable", directory.parent])
        _run("quota", [btrfs, "subvolume", "create", directory])
        _run("quota", [btrfs, "qgroup", "limit", str(limit), directory])
        return directory

    def tmpfs(self, *, size: int = MIB, inodes: int | None = None) -> Path:
        """Mount a tmpfs limited to `size` bytes and, where given, to `inodes` (its root is one)."""
        options = f"size={size},mode=0755" + (f",nr_inodes={inodes}" if inodes else "")
        return self._mount("tmpfs", ["-t", "tmpfs", "-o", options, "tmpfs"])

    def readonly(self, directory: Path) -> Path:
        """Mount `directory` a second time, read-only; it stays writable where it was."""
        mounted = self.bind(directory)
        _run("bind", ["mount", "-o", "remount,bind,ro", mounted])
        return mounted

    def bind(self, directory: Path, *, at: Path | None = None) -> Path:
        """Mount `directory` also on the directory `at` (default: a new one)."""
        return self._mount("bind", ["--bind", directory], at=at)

    def unmount(self, directory: Path) -> None:
        """Unmount earlier than at exit, also what something still uses."""
        unmount(directory)

    def _loop(self, kind: Kind, size: int, *, what: str = "", extra: Sequence[str] = ()) -> Path:
        what = what or kind
        root(what)
        program, package, arguments, smallest = _MAKE[kind]
        if size < smallest:
            raise ValueError(f"{kind} needs at least {smallest} bytes")
        make = tool(program, what=what, package=package)
        home = self._home(what)
        image = home / "image"
        with image.open("wb") as file:
            file.truncate(size)
        _run(what, [make, *arguments, *extra, image])
        # The kernel detaches the loop device itself when the file system is unmounted.
        return self._mount(what, ["-t", kind, "-o", "loop", image], at=home / "mounted")

    def _mount(self, what: str, arguments: list[str | Path], *, at: Path | None = None) -> Path:
        root(what)
        where = self._home(what) / "mounted" if at is None else at
        where.mkdir(exist_ok=True)
        _run(what, ["mount", *arguments, where])
        self._stack.callback(_unmount_if_mounted, where)
        return where

    def _home(self, what: str) -> Path:
        home = self._scratch.directory(what)
        self._stack.callback(remove_tree, home)
        return home


def run_as(
    snippet: str,
    *arguments: str,
    uid: int = NOBODY,
    read_all: bool = True,
    seconds: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Run Python source as another uid (and gid) in a process of its own; needs root.

    With `read_all` it may read and search everything (CAP_DAC_READ_SEARCH), which an interpreter
    below root's home needs; writing is checked as for anyone. Import paths are the caller's.
    """
    root("run_as")
    command = [tool("setpriv", what="run_as", package="util-linux")]
    command += [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    if read_all:
        command += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    preamble = f"import sys; sys.path[:] = {sys.path!r}\n"
    return subprocess.run(
        [*command, sys.executable, "-c", preamble + snippet, *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def _unmount_if_mounted(where: Path) -> None:
    # Not Path.is_mount(): it cannot see a bind mount within one file system.
    for mounted in mounts_below(where):
        unmount(mounted)


def _run(what: str, command: list[str | Path]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except FileNotFoundError as exc:
        raise Missing(what, f"{command[0]} is not installed") from exc
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise Missing(what, f"{' '.join(map(str, command))}: {said}")
