"""The helper of ``rights``, as oslo.privsep starts it: ``[imgstore_cinder_privsep]`` says how.

Who may start it may call these functions, and no others, with any arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from oslo_privsep import priv_context

from imgstore.drivers.cinder import rights, steps

context: Final = priv_context.PrivContext(
    "imgstore",
    cfg_section="imgstore_cinder_privsep",
    pypath="imgstore.drivers.cinder.privileged.context",
    capabilities=[*rights.NEEDED, rights.CHOWN],
    logger_name="imgstore.drivers.cinder.privileged",
)


@context.entrypoint  # type: ignore[untyped-decorator,unused-ignore]
def send_device(path: str, writable: bool, address: bytes, word: bytes) -> None:  # noqa: FBT001
    """Open a block device, and send it to the process that asked."""
    steps.send_device(path, address, word, writable=writable)


@context.entrypoint  # type: ignore[untyped-decorator,unused-ignore]
def send_volume(
    share: str,
    name: str,
    writable: bool,  # noqa: FBT001
    address: bytes,
    word: bytes,
) -> None:
    """Open a volume's file in an export that is mounted for the process that asked, and send it."""
    steps.send_volume(share, name, address, word, writable=writable)


@context.entrypoint  # type: ignore[untyped-decorator,unused-ignore]
def mount(share: str, options: Sequence[str]) -> str:
    """Show an export in a directory of root; return which."""
    return steps.mount_for_caller(share, options)


@context.entrypoint  # type: ignore[untyped-decorator,unused-ignore]
def unmount(share: str) -> None:
    """Undo that."""
    steps.unmount_for_caller(share)
