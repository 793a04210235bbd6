"""Exports of nfs backends, mounted while any process of this host uses them."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Sequence
from typing import Final

from imgstore.drivers.cinder import rights, steps
from imgstore.drivers.cinder.locks import Locks
from imgstore.errors import ConfigError, Unavailable, Unsupported

LOG = logging.getLogger(__name__)

_SECONDS: Final = 150.0  # that one process may take to mount what others wait for


class Mount:
    """A use of an export, until ``leave``; the last one of the host unmounts it."""

    def __init__(self, locks: Locks, base: str, share: str, options: Sequence[str]) -> None:
        """Mount the export unless it is; raises Unavailable, Unsupported and ConfigError."""
        self._share = share
        self._point = rights.place_of(base, share)
        # Stores with directories of their own mount an export more than once.
        counted = hashlib.sha256(os.fsencode(self._point)).hexdigest()
        self._use = locks.use(f"mount-{counted}", seconds=_SECONDS)
        self._use.begin(functools.partial(self._mount, options))

    def _mount(self, options: Sequence[str]) -> None:
        try:
            if rights.is_capable():
                os.makedirs(self._point, exist_ok=True)
        except OSError as exc:
            raise ConfigError(
                f"the directory {self._point} cannot be made: {exc.strerror}",
                remedy="let the service write to cinder_mount_point_base",
            ) from exc
        try:
            rights.mount(self._point, self._share, options)
        except steps.Refused as exc:
            raise Unsupported(
                f"an export of Cinder's is not mounted: {exc.strerror}",
                remedy="correct the shares and nfs_mount_options of Cinder's backend",
            ) from exc
        except OSError as exc:
            said = f"the export {self._share} cannot be mounted: {exc.strerror}"
            raise Unavailable(said) from exc

    def open(self, name: str, *, writable: bool) -> int:
        """Open a volume's file in the export; raises OSError."""
        return rights.open_volume(self._point, self._share, name, writable=writable)

    def leave(self) -> None:
        """End the use. Idempotent."""
        self._use.end(self._unmount)

    def _unmount(self) -> None:
        try:
            rights.unmount(self._point, self._share)
        except OSError as exc:
            LOG.warning("%s stays mounted: %s", self._point, exc.strerror)
