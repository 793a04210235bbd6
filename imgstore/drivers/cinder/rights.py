"""Steps that only root may make: to open a volume's device, to mount an export.

As root, or with the capabilities of ``NEEDED``, this process makes them itself. Otherwise a helper
does, which oslo.privsep starts with sudo and which does nothing else.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from imgstore import _lazy
from imgstore.drivers.cinder.client import INSTALL

# capabilities(7): CAP_SYS_ADMIN mounts, CAP_DAC_OVERRIDE opens what belongs to root.
NEEDED: Final = (21, 1)
_SECONDS: Final = 120
# Cinder has the id in the names of files.
_VOLUME: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_capable() -> bool:
    """Return whether this process may do all this by itself."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            held = int(value, 16)
            return all(held & 1 << number for number in NEEDED)
    return False


def open_device(path: str, *, writable: bool) -> int:
    """Open a block device or a file for this process; raises OSError."""
    if is_capable():
        return open_checked(path, writable=writable)
    # An address that only the kernel knows, and a word that only the helper is told.
    word = secrets.token_bytes(16)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind("")
        listening.listen(1)
        listening.settimeout(_SECONDS)
        address: Any = listening.getsockname()
        _helper().send_descriptor(path, writable, address, word)
        with listening.accept()[0] as connection:
            connection.settimeout(_SECONDS)
            said, descriptors, _, _ = socket.recv_fds(connection, len(word), 1)
    if said != word or not descriptors:
        for each in descriptors:
            os.close(each)
        raise PermissionError(errno.EPERM, "another process answered in the helper's place", path)
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def mount(kind: str, share: str, point: str, options: Sequence[str]) -> None:
    """Show an export in a directory; raises OSError with what the program says."""
    if is_capable():
        run_mount(kind, share, point, options)
    else:
        _helper().mount(kind, share, point, list(options))


def unmount(point: str) -> None:
    """Undo that; raises OSError with what the program says."""
    if is_capable():
        run_unmount(point)
    else:
        _helper().unmount(point)


def _helper() -> Any:
    return _lazy.load_apart("imgstore.drivers.cinder.privileged", install=INSTALL)


# What is behind it, here or in the helper.


def open_checked(path: str, *, writable: bool) -> int:
    """Open a block device, or a file with the name of a volume, and nothing else."""
    flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
    is_device = stat.S_ISBLK(os.stat(path).st_mode)
    if not is_device:
        # A link could lead from such a name to any file.
        flags |= os.O_NOFOLLOW
    descriptor = os.open(path, flags)
    mode = os.fstat(descriptor).st_mode
    is_volume = stat.S_ISREG(mode) and not is_device and _VOLUME.search(os.path.basename(path))
    if not (stat.S_ISBLK(mode) or is_volume):
        os.close(descriptor)
        raise PermissionError(errno.EPERM, "it is neither a block device nor a volume", path)
    return descriptor


def send_opened(path: str, address: bytes, word: bytes, *, writable: bool) -> None:
    """Open, and send the descriptor with ``word`` to a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(_SECONDS)
        connection.connect(address)
        descriptor = open_checked(path, writable=writable)
        try:
            socket.send_fds(connection, [word], [descriptor])
        finally:
            os.close(descriptor)


def run_mount(kind: str, share: str, point: str, options: Sequence[str]) -> None:
    """Mount with mount(8)."""
    _run("mount", "-t", kind, *options, "--", share, point)


def run_unmount(point: str) -> None:
    """Unmount with umount(8)."""
    _run("umount", "--", point)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(  # noqa: S603  # no shell, and what a client may choose are arguments
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        late = f"{command[0]} does not end within {_SECONDS} s"
        raise OSError(errno.ETIMEDOUT, late) from None
    if done.returncode != 0:
        raise OSError(errno.EIO, f"{command[0]}: {done.stderr.strip()}")
