"""Telling whether a file is still the version that was opened."""

from __future__ import annotations

import os


def version_of(status: os.stat_result) -> str:
    """Return what identifies a file's content, as far as its status can: times have a granularity.

    That of the kernel's clock tick, up to 10 ms, or of what the file system can keep. The change
    time is left out: names, links, owners and permissions change it, even ``chown`` to what they
    are. So a write whose modification time was set back cannot be told.
    """
    return f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"
