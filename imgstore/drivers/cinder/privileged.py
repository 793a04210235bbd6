"""The helper of ``rights``, as oslo.privsep starts it: ``[imgstore_cinder_privsep]`` says how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from oslo_privsep import priv_context

from imgstore.drivers.cinder import rights

context: Final = priv_context.PrivContext(
    "imgstore",
    cfg_section="imgstore_cinder_privsep",
    pypath="imgstore.drivers.cinder.privileged.context",
    capabilities=list(rights.NEEDED),
    logger_name="imgstore.drivers.cinder.privileged",
)


@context.entrypoint  # type: ignore[untyped-decorator,unused-ignore]
def send_descriptor(path: str, writable: bool, address: bytes, word: bytes) -> None:  # noqa: FBT001
    """Open a device, and send it to whoever asked."""
    rights.send_opened(path, address, word, writable=writable)


@context.entrypoint  # type: ignore[untyped-decorator,unused-ignore]
def mount(kind: str, share: str, point: str, options: Sequence[str]) -> None:
    """Show an export in a directory."""
    rights.run_mount(kind, share, point, options)


@context.entrypoint  # type: ignore[untyped-decorator,unused-ignore]
def unmount(point: str) -> None:
    """Undo that."""
    rights.run_unmount(point)
