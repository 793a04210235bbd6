"""What Linux can and Python's os does not offer, for several drivers."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

from imgstore.process.interrupts import Descriptors

_SYNC_FILE_RANGE_WRITE: Final = 2  # linux/fs.h
_libc: Final = ctypes.CDLL(None, use_errno=True)


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
