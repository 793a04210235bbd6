"""Files are written out while they grow, so that a flush at their end has little left to do."""

from __future__ import annotations

import ctypes
from typing import Final

_SYNC_FILE_RANGE_WRITE: Final = 2  # linux/fs.h
_libc: Final = ctypes.CDLL(None, use_errno=True)


def start_writeback(fd: int, offset: int, length: int) -> None:
    """Let the kernel begin to write dirty pages.

    Advice only: sync_file_range(2) gives no guarantee, and its failures are of no consequence.
    """
    _libc.sync_file_range(
        fd, ctypes.c_int64(offset), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE
    )
