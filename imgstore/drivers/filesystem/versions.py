"""Telling whether a file is still the version that was opened."""

from __future__ import annotations

import os


def version_of(status: os.stat_result) -> str:
    """Return what identifies a file's content, as far as its status can: times have a granularity.

    That of the kernel's clock tick, up to 10 ms, or of what the file system can keep.
    """
    content = f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"
    attributes = f"{status.st_nlink}-{status.st_mode:o}-{status.st_uid}-{status.st_gid}"
    return f"{content}/{status.st_ctime_ns}/{attributes}"


def is_same(before: str, after: str) -> bool:
    """Return whether two versions may have one content.

    A later change of status with nothing else to show for it is a write whose modification time
    was set back. One that comes with other links, owners or permissions tells nothing.
    """
    content, changed, attributes = before.split("/")
    content_after, changed_after, attributes_after = after.split("/")
    if content != content_after:
        return False
    return changed == changed_after or attributes != attributes_after
