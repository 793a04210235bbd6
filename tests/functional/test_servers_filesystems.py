"""The harness itself: each mount gives what it promises."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from servers.filesystems import MIB, Filesystems, run_as
from servers.fuse import FaultyFilesystem, faulty
from servers.process import until
from servers.scratch import Scratch, mounts_below

pytestmark = [pytest.mark.servers("filesystems"), pytest.mark.lab]

PYTHON = [sys.executable, "-I", "-S", "-c"]


def fill(path: Path, size: int, chunk: int = 65536) -> int | None:
    """Write `size` random bytes to a file and return the errno met, flushing every chunk."""
    noise = random.Random(4)
    try:
        with path.open("wb", buffering=0) as file:
            for _ in range(size // chunk):
                file.write(noise.randbytes(chunk))
                os.fsync(file.fileno())
    except OSError as exc:
        return exc.errno
    return None


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
def test_small_filesystems_fill_up(filesystems: Filesystems, kind: str) -> None:
    """A mount holds about what it was made for, then gives ENOSPC; xfs has a large minimum."""
    mounted: Path = getattr(filesystems, kind)()
    assert fill(mounted / "small", 256 * 1024) is None
    size = shutil.disk_usage(mounted).free
    assert size < 320 * MIB
    with (mounted / "big").open("wb") as file, pytest.raises(OSError, match="No space") as caught:
        os.posix_fallocate(file.fileno(), 0, size + MIB)
    assert caught.value.errno == errno.ENOSPC
    filesystems.unmount(mounted)
    assert list(mounted.iterdir()) == []


def test_small_ext4_fills_up_by_writing(filesystems: Filesystems) -> None:
    """write() itself meets ENOSPC."""
    assert fill(filesystems.ext4(size=4 * MIB) / "file", 8 * MIB) == errno.ENOSPC


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_filesystems_that_clone(filesystems: Filesystems, kind: str) -> None:
    """FICLONE works on xfs and btrfs."""
    mounted: Path = getattr(filesystems, kind)()
    (mounted / "source").write_bytes(os.urandom(1 << 20))
    with (mounted / "source").open("rb") as source, (mounted / "clone").open("wb") as clone:
        fcntl.ioctl(clone, 0x40049409, source.fileno())
    assert (mounted / "clone").read_bytes() == (mounted / "source").read_bytes()


def test_quota_gives_edquot(filesystems: Filesystems) -> None:
    """Beyond its limit the directory gives EDQUOT, to root too, while the file system has room."""
    limited = filesystems.quota(limit=2 * MIB)
    assert fill(limited / "fits", MIB) is None
    assert fill(limited / "file", 4 * MIB) == errno.EDQUOT
    assert shutil.disk_usage(limited).free > 20 * MIB


def test_readonly_gives_erofs(filesystems: Filesystems) -> None:
    """The second mount is read-only, the first is not."""
    writable = filesystems.ext4()
    (writable / "image").write_bytes(b"image")
    mounted = filesystems.readonly(writable)
    assert (mounted / "image").read_bytes() == b"image"
    assert fill(mounted / "file", 65536) == errno.EROFS
    assert fill(writable / "file", 65536) is None


def test_tmpfs_limits_inodes(filesystems: Filesystems) -> None:
    """A tmpfs with three inodes holds two files."""
    mounted = filesystems.tmpfs(inodes=3)
    (mounted / "a").touch()
    (mounted / "b").touch()
    with pytest.raises(OSError, match="No space"):
        (mounted / "c").touch()


def test_bind_mount_appears_and_goes(filesystems: Filesystems, tmp_path: Path) -> None:
    """A directory shows another's content while bound, its own afterwards."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "local").mkdir()
    (tmp_path / "shared" / "image").touch()
    bound = filesystems.bind(tmp_path / "shared", at=tmp_path / "local")
    assert list(mounts_below(tmp_path)) == [bound]
    assert (bound / "image").exists()
    filesystems.unmount(bound)
    assert list(bound.iterdir()) == []


def test_other_user_is_denied(filesystems: Filesystems) -> None:
    """run_as writes as nobody: EACCES in root's directory, allowed in its own."""
    mounted = filesystems.tmpfs()
    write = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('x')"
    denied = run_as(write, str(mounted / "file"))
    assert "PermissionError: [Errno 13]" in denied.stderr
    mounted.chmod(0o777)
    assert run_as(write, str(mounted / "file")).returncode == 0
    assert (mounted / "file").stat().st_uid == 65534


def test_faulty_filesystem_passes_through(faulty_filesystem: FaultyFilesystem) -> None:
    """What imgstore does with files works: O_TMPFILE, link, fsync, flock, holes, statvfs."""
    mounted = faulty_filesystem.path
    data = os.urandom(3 << 20)
    temporary = os.open(mounted, os.O_TMPFILE | os.O_RDWR, 0o640)
    assert os.write(temporary, data) == len(data)
    os.fsync(temporary)
    fcntl.flock(temporary, fcntl.LOCK_EX | fcntl.LOCK_NB)
    directory = os.open(mounted, os.O_RDONLY)
    os.link(f"/proc/self/fd/{temporary}", "image", dst_dir_fd=directory)
    os.fsync(directory)
    assert (mounted / "image").read_bytes() == data
    assert (faulty_filesystem.source / "image").read_bytes() == data
    with (mounted / "image").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(temporary)
    os.close(directory)
    with (mounted / "sparse").open("wb+") as file:
        file.truncate(10 << 20)
        file.seek(5 << 20)
        file.write(b"data")
        file.flush()
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 5 << 20
        os.posix_fallocate(file.fileno(), 0, 65536)
    (mounted / "folder").mkdir()
    (mounted / "sparse").rename(mounted / "folder" / "moved")
    assert sorted(path.name for path in mounted.iterdir()) == ["folder", "image"]
    (mounted / "folder" / "moved").unlink()
    (mounted / "folder").rmdir()
    (mounted / "image").chmod(0o600)
    assert (mounted / "image").stat().st_mode & 0o777 == 0o600
    (mounted / "pointer").symlink_to("image")
    assert (mounted / "pointer").read_bytes() == data
    assert shutil.disk_usage(mounted).free > 0


def renameat2(old: Path, new: Path, flags: int) -> None:
    """Rename with flags; Python has no call for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def _sync(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    fd = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _lock(path: Path) -> None:
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


CALLS: dict[str, tuple[Callable[[Path], object], int]] = {
    "open": (lambda path: path.open(), errno.EACCES),
    "read": (lambda path: path.read_bytes(), errno.EIO),
    "write": (lambda path: path.write_bytes(b"new"), errno.ENOSPC),
    "flush": (lambda path: path.write_bytes(b"new"), errno.EDQUOT),
    "fsync": (_sync, errno.EIO),
    "fsyncdir": (_sync_directory, errno.EIO),
    "getattr": (lambda path: path.stat(), errno.ESTALE),
    "statfs": (os.statvfs, errno.EIO),
    "unlink": (lambda path: path.unlink(), errno.EACCES),
    "create": (lambda path: (path.parent / "other").touch(), errno.EDQUOT),
    "link": (lambda path: os.link(path, path.parent / "other"), errno.EPERM),
    "rename": (lambda path: path.rename(path.parent / "other"), errno.EIO),
    "rename2": (lambda path: renameat2(path, path.parent / "other", 1), errno.EINVAL),
    "tmpfile": (lambda path: os.open(path.parent, os.O_TMPFILE | os.O_RDWR), errno.EOPNOTSUPP),
    "flock": (_lock, errno.ENOLCK),
    "opendir": (lambda path: os.listdir(path.parent), errno.ESTALE),
}


def test_faulty_filesystem_fails_each_operation(faulty_filesystem: FaultyFilesystem) -> None:
    """Each operation gives the errno chosen for it, and works again once released."""
    path = faulty_filesystem.path / "image"
    for operation, (call, error) in CALLS.items():
        path.write_bytes(b"image")
        faulty_filesystem.fail(operation, error)
        with pytest.raises(OSError, match=r"\[Errno") as caught:
            call(path)
        assert caught.value.errno == error, operation
        faulty_filesystem.release()
        (path.parent / "other").unlink(missing_ok=True)
    assert path.read_bytes() == b"image"
    renameat2(path, path.parent / "other", 1)
    assert (path.parent / "other").read_bytes() == b"image"


def test_faulty_filesystem_fails_the_nth_call(faulty_filesystem: FaultyFilesystem) -> None:
    """Only the third and fourth write fail, and calls are counted."""
    faulty_filesystem.fail("write", errno.EIO, nth=3, times=2)
    met = []
    with (faulty_filesystem.path / "image").open("wb", buffering=0) as file:
        for _ in range(6):
            try:
                file.write(b"x")
                met.append(0)
            except OSError as exc:
                met.append(exc.errno or -1)
    assert met == [0, 0, errno.EIO, errno.EIO, 0, 0]
    assert faulty_filesystem.calls("write") == 6
    with pytest.raises(ValueError, match="no operation 'wriet'"):
        faulty_filesystem.fail("wriet", errno.EIO)


def test_faulty_filesystem_hangs_until_released(faulty_filesystem: FaultyFilesystem) -> None:
    """Many calls may hang at once while others work; all end with release() or in time."""
    path = faulty_filesystem.path / "image"
    path.write_bytes(b"image")
    faulty_filesystem.hang("getattr")
    waiting = [threading.Thread(target=path.stat) for _ in range(12)]
    for thread in waiting:
        thread.start()
    until(lambda: faulty_filesystem.hanging() == 12, seconds=5, what="twelve hang")
    os.statvfs(path.parent)
    assert all(thread.is_alive() for thread in waiting)
    faulty_filesystem.release()
    for thread in waiting:
        thread.join(timeout=5)
    assert not any(thread.is_alive() for thread in waiting)
    faulty_filesystem.hang("statfs", seconds=0.3)
    started = time.monotonic()
    os.statvfs(path.parent)
    assert time.monotonic() - started >= 0.3


def test_process_that_hangs_in_a_call_can_be_killed(faulty_filesystem: FaultyFilesystem) -> None:
    """SIGKILL ends a process that hangs in a FUSE call."""
    faulty_filesystem.hang("statfs")
    command = [*PYTHON, f"import os; os.statvfs({str(faulty_filesystem.path)!r})"]
    with subprocess.Popen(command) as child:
        until(lambda: faulty_filesystem.hanging() == 1, seconds=10, what="it hangs")
        child.kill()
        assert child.wait(timeout=5) == -signal.SIGKILL


def test_dead_faulty_filesystem_frees_its_callers(scratch: Scratch) -> None:
    """Killing the program ends what hangs with an error, and the mount goes."""
    errors: list[int | None] = []

    def stat(path: Path) -> None:
        try:
            path.stat()
        except OSError as exc:
            errors.append(exc.errno)

    with faulty(scratch) as filesystem:
        (filesystem.path / "image").touch()
        filesystem.hang("getattr")
        caller = threading.Thread(target=stat, args=(filesystem.path / "image",))
        caller.start()
        until(lambda: filesystem.hanging() == 1, seconds=5, what="it hangs")
        filesystem.process.kill()
        caller.join(timeout=5)
        assert errors in ([errno.ENOTCONN], [errno.ECONNABORTED])
    assert list(mounts_below(filesystem.path)) == []
