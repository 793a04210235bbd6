"""What only root may do, made by oslo.privsep: to open a volume's device, to mount an export.

As root, or with the capabilities of ``context``, it is done in the process itself. Otherwise a
helper is started with sudo, as ``[imgstore_cinder_privsep]`` says, and does just this.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from oslo_privsep import capabilities, priv_context

_CAPABILITIES: Final = (capabilities.CAP_SYS_ADMIN, capabilities.CAP_DAC_OVERRIDE)
_SECONDS: Final = 120

context = priv_context.PrivContext(
    "imgstore",
    cfg_section="imgstore_cinder_privsep",
    pypath="imgstore.drivers.cinder.privileged.context",
    capabilities=list(_CAPABILITIES),
    logger_name="imgstore.drivers.cinder.privileged",
)


def is_capable() -> bool:
    """Return whether this process may do all this by itself."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            held = int(value, 16)
            return all(held & 1 << int(number) for number in _CAPABILITIES)
    return False


def open_device(path: str, *, writable: bool) -> int:
    """Open a block device or a file for this process; raises OSError."""
    flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC
    if is_capable():
        return _checked(os.open(path, flags))
    # An address that only the kernel knows, and a secret that only the helper is told.
    word = secrets.token_bytes(16)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind("")
        listening.listen(1)
        listening.settimeout(_SECONDS)
        address: Any = listening.getsockname()
        _send_descriptor(path, flags, address, word)
        with listening.accept()[0] as connection:
            connection.settimeout(_SECONDS)
            said, descriptors, _, _ = socket.recv_fds(connection, len(word), 1)
    if said != word or not descriptors:
        for each in descriptors:
            os.close(each)
        raise PermissionError(f"another process answered in place of the helper for {path}")
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def mount(kind: str, share: str, point: str, options: Sequence[str]) -> None:
    """Show an export in a directory; raises OSError with what the program says."""
    (_mount if is_capable() else _helped_to_mount)(kind, share, point, list(options))


def unmount(point: str) -> None:
    """Undo that; raises OSError with what the program says."""
    (_unmount if is_capable() else _helped_to_unmount)(point)


def _mount(kind: str, share: str, point: str, options: Sequence[str]) -> None:
    _run("mount", "-t", kind, *options, "--", share, point)


def _unmount(point: str) -> None:
    _run("umount", "--", point)


def _run(*command: str) -> None:
    done = subprocess.run(  # noqa: S603  # no shell, and what a client may choose are arguments
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise OSError(errno.EIO, f"{command[0]}: {done.stderr.strip()}")


def _checked(descriptor: int) -> int:
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISBLK(mode) or stat.S_ISREG(mode)):
        os.close(descriptor)
        raise PermissionError("it is neither a block device nor a file")
    return descriptor


@context.entrypoint  # type: ignore[untyped-decorator,unused-ignore]
def _send_descriptor(path: str, flags: int, address: bytes, word: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(_SECONDS)
        connection.connect(address)
        descriptor = _checked(os.open(path, flags & (os.O_RDWR | os.O_CLOEXEC)))
        try:
            socket.send_fds(connection, [word], [descriptor])
        finally:
            os.close(descriptor)


@context.entrypoint  # type: ignore[untyped-decorator,unused-ignore]
def _helped_to_mount(kind: str, share: str, point: str, options: Sequence[str]) -> None:
    _mount(kind, share, point, options)


@context.entrypoint  # type: ignore[untyped-decorator,unused-ignore]
def _helped_to_unmount(point: str) -> None:
    _unmount(point)
