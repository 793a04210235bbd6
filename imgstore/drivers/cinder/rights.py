"""Steps that only root may make: to open a volume's device, to mount an export.

As root, or with the capabilities of ``NEEDED``, this process makes them itself. Otherwise a helper
does, which oslo.privsep starts with sudo: ``steps`` says what it lets itself be asked for.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from imgstore.drivers.cinder import steps
from imgstore.drivers.cinder.errors import INSTALL
from imgstore.process import lazy

# capabilities(7): CAP_SYS_ADMIN mounts, CAP_DAC_OVERRIDE opens what belongs to root.
NEEDED: Final = (21, 1)
# CAP_CHOWN, with which the helper lets its caller's group see what it mounts for it.
CHOWN: Final = 0


def is_capable() -> bool:
    """Return whether this process may do all this by itself."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            held = int(value, 16)
            return all(held & 1 << number for number in NEEDED)
    return False


def open_device(path: str, *, writable: bool) -> int:
    """Open a block device for this process; raises OSError."""
    return _opened(
        lambda: steps.open_device(path, writable=writable),
        lambda address, word: _helper().send_device(path, writable, address, word),
    )


def open_volume(point: str, share: str, name: str, *, writable: bool) -> int:
    """Open a volume's file in an export that ``mount`` mounted at ``point``; raises OSError."""
    return _opened(
        lambda: steps.open_volume(point, name, writable=writable),
        lambda address, word: _helper().send_volume(share, name, writable, address, word),
    )


def _opened(own: Callable[[], int], send: Callable[[Any, bytes], object]) -> int:
    """Open by what this process may do, else with the helper's rights."""
    try:
        return own()
    except steps.Refused:
        raise
    except PermissionError:
        if is_capable():
            raise
    # An address that only the kernel knows, and a word that only the helper is told.
    word = secrets.token_bytes(steps.WORD)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind("")
        listening.listen(1)
        listening.settimeout(steps.SECONDS)
        send(listening.getsockname(), word)
        with listening.accept()[0] as connection:
            connection.settimeout(steps.SECONDS)
            said, descriptors, _, _ = socket.recv_fds(connection, len(word), 1)
    if said != word or not descriptors:
        for each in descriptors:
            os.close(each)
        raise PermissionError(errno.EPERM, "another process answered in the helper's place")
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def place_of(base: str, share: str) -> str:
    """Return where an export comes to be mounted: below ``base``, or where the helper does it."""
    directory = base if is_capable() else steps.directory_of(os.getuid())
    return os.path.join(directory, steps.digest(share))


def mount(point: str, share: str, options: Sequence[str]) -> None:
    """Show an export in its ``place_of``; raises OSError with what the program says."""
    if is_capable():
        steps.mount(point, share, options)
    else:
        _helper().mount(share, list(options))


def unmount(point: str, share: str) -> None:
    """Undo that, and remove the directory; raises OSError with what the program says."""
    if is_capable():
        steps.unmount(point)
    else:
        _helper().unmount(share)


def _helper() -> Any:
    return lazy.load_apart("imgstore.drivers.cinder.privileged", install=INSTALL)
