"""What Linux can do for files, and Python's os module does not offer."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from typing import Final

from imgstore.process.interrupts import Descriptors

_FICLONE: Final = 0x40049409  # linux/fs.h
_RENAME_NOREPLACE: Final = 1  # linux/fs.h
_SYNC_FILE_RANGE_WRITE: Final = 2  # linux/fs.h

# What a file system answers to a request that it, or this pair of files, does not support.
UNSUPPORTED: Final = frozenset(
    {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.ENOTTY, errno.EPERM}
)

# Magic numbers (linux/magic.h) of file systems that copy ranges without moving the data through
# this host's page cache, by sharing blocks or on the server: Btrfs, XFS, NFS, CIFS, SMB2, CephFS.
_COPIES_ITSELF: Final = frozenset(
    {0x9123683E, 0x58465342, 0x6969, 0xFF534D42, 0xFE534D42, 0x00C36400}
)

# File systems that pass on locks of files, but keep those of directories to themselves: FUSE,
# CIFS, SMB2, 9P.
_LOCKS_DIRECTORIES_LOCALLY: Final = frozenset({0x65735546, 0xFF534D42, 0xFE534D42, 0x01021997})

# File systems of this host alone: tmpfs, ext2 to ext4, XFS, Btrfs.
_LOCAL: Final = frozenset({0x01021994, 0xEF53, 0x58465342, 0x9123683E})


class _Statfs(ctypes.Structure):
    """The beginning of struct statfs, and room for the rest of it."""

    _fields_ = (("f_type", ctypes.c_long), ("_rest", ctypes.c_char * 248))


_libc: Final = ctypes.CDLL(None, use_errno=True)
_fstatfs: Final = ctypes.CDLL(None).fstatfs


def clone(source: int, target: int) -> bool:
    """Make ``target`` share all of ``source``'s blocks (FICLONE); False if that cannot be done."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as exc:
        if exc.errno in UNSUPPORTED | {errno.ETXTBSY, errno.EISDIR, errno.EBADF}:
            return False
        raise
    return True


def copies_ranges(fd: int) -> bool:
    """Return whether copy_file_range(2) is worth while on a file's file system.

    Elsewhere it takes half as long again as reading and writing (measured on tmpfs).
    """
    return _kind(fd) in _COPIES_ITSELF


def shares_directory_locks(fd: int) -> bool:
    """Return whether a lock on a directory of this file system could hold on other hosts too."""
    return _kind(fd) not in _LOCKS_DIRECTORIES_LOCALLY


def is_local(fd: int) -> bool:
    """Return whether a file is of this host for certain: no answer is lost, no write delayed.

    Closing such a file reports nothing.
    """
    return _kind(fd) in _LOCAL


def _kind(fd: int) -> int:
    status = _Statfs()
    if _fstatfs(fd, ctypes.byref(status)) != 0:
        return 0
    return int(status.f_type) & 0xFFFFFFFF


def copy_range(source: int, target: int, offset: int, to: int, length: int) -> int | None:
    """Copy inside the kernel, up to ``length`` bytes; None if that cannot be done.

    Returns how many bytes were copied, 0 at the end of ``source``.
    """
    try:
        return os.copy_file_range(source, target, length, offset, to)
    except OSError as exc:
        if exc.errno in UNSUPPORTED | {errno.EIO}:  # EIO: old CIFS servers
            return None
        raise


def rename_exclusively(directory: int, source: str, target: str) -> None:
    """Rename inside a directory, raising FileExistsError if ``target`` exists (renameat2(2))."""
    result = _libc.renameat2(
        directory, os.fsencode(source), directory, os.fsencode(target), _RENAME_NOREPLACE
    )
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def start_writeback(fd: int, offset: int, length: int) -> None:
    """Let the kernel begin to write dirty pages, so that a later fsync has little left to do.

    Advice only: sync_file_range(2) gives no guarantee, and its failures are of no consequence.
    """
    _libc.sync_file_range(
        fd, ctypes.c_int64(offset), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE
    )


def is_mount_point(directory: int) -> bool:
    """Return whether an open directory is the root of a mount, bind mounts included.

    Compares mount ids (proc(5), fdinfo), which tell what device numbers cannot.
    """
    held = Descriptors()
    with held, held:
        parent = held.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        if os.path.samestat(os.fstat(parent), os.fstat(directory)):
            return True
        return _mount_id(parent) != _mount_id(directory)


def _mount_id(fd: int) -> str:
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
        for line in info:
            if line.startswith("mnt_id:"):
                return line.split()[1]
    raise OSError(errno.ENOSYS, "the kernel does not tell mount ids")
