"""Exports of nfs backends, mounted while any process of this host uses them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from imgstore.drivers._kernel import is_mount_point
from imgstore.drivers.cinder import rights
from imgstore.drivers.cinder.locks import Locks
from imgstore.errors import ConfigError, Unavailable

LOG = logging.getLogger(__name__)

_SECONDS: Final = 150.0  # that one process may take to mount what others wait for


class Mount:
    """A use of an export, until ``leave``; the last one of the host unmounts it.

    Uses are counted by the kernel, as locks that a process gives back however it ends. So a mount
    whose users died is unmounted by the next one who leaves.
    """

    def __init__(
        self, locks: Locks, base: str, kind: str, share: str, options: Sequence[str]
    ) -> None:
        """Mount the export unless it is; raises Unavailable, ConfigError and PermissionDenied."""
        self.point = Path(base) / kind / hashlib.sha256(share.encode()).hexdigest()
        # Stores with directories of their own mount an export more than once.
        counted = hashlib.sha256(os.fsencode(self.point)).hexdigest()
        self._turn = locks.lock(f"mount-turn-{counted}")
        self._use = locks.lock(f"mount-{counted}", shared=True)
        self._turn.take(seconds=_SECONDS)
        try:
            self._use.take(seconds=_SECONDS)
            try:
                self._make(kind, share, options)
            except BaseException:
                self._use.leave()
                raise
        finally:
            self._turn.leave()

    def _make(self, kind: str, share: str, options: Sequence[str]) -> None:
        try:
            self.point.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigError(
                f"the directory {self.point} cannot be made: {exc.strerror}",
                remedy="let the service write to cinder_mount_point_base",
            ) from exc
        if self._is_mounted():
            return
        try:
            rights.mount(kind, share, str(self.point), options)
        except OSError as exc:
            raise Unavailable(f"the export {share} cannot be mounted: {exc.strerror}") from exc

    def _is_mounted(self) -> bool:
        point = os.open(self.point, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return is_mount_point(point)
        finally:
            os.close(point)

    def leave(self) -> None:
        """End the use. Idempotent."""
        try:
            self._turn.take(seconds=_SECONDS)
        except BaseException:
            self._use.leave()
            raise
        try:
            with self._use.leaving() as is_last:
                if not is_last:
                    return
                try:
                    rights.unmount(str(self.point))
                    self.point.rmdir()
                except OSError as exc:
                    LOG.warning("%s stays mounted: %s", self.point, exc.strerror)
        finally:
            self._turn.leave()
