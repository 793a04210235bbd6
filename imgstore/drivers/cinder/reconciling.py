"""What lives that ended left attached, and how it is ended by others."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from typing import Final

from imgstore.boundary.translation import describe
from imgstore.drivers.cinder.client import Api
from imgstore.drivers.cinder.connectors import Connectors
from imgstore.drivers.cinder.errors import is_gone
from imgstore.drivers.cinder.lives import Fate, Lives, Record
from imgstore.drivers.cinder.settings import Settings
from imgstore.drivers.cinder.volumes import Volume

LOG = logging.getLogger(__name__)

# Seconds for which nobody goes on with a reservation that its maker has forgotten. An add or read
# that works goes on with its next request; the storage may take some time for that.
_FORGOTTEN: Final = 30.0


class Remains:
    """What lives of this host left: attachments, and notes of them."""

    def __init__(self, settings: Settings, lives: Lives, connectors: Connectors) -> None:
        self._settings = settings
        self._connectors = connectors
        self.lives = lives

    def are_of(self, volume: Volume, records: Mapping[str, list[Record]]) -> bool:
        """Return whether a process of this host that died, or failed, has attached a volume."""
        noted = records.get(volume.id, ())
        if volume.status != "available" and any(each.is_dead for each in noted):
            return True
        return any(map(self._is_dead, volume.uses.values()))

    def end_dead(self, api: Api, volume: Volume) -> bool:
        """End the attachments of this host's lives that ended; return whether there were any.

        What goes wrong is logged: it is not what the caller wants to know.
        """
        try:
            return self.end_all_dead(api, volume)
        except Exception as exc:
            LOG.warning("volume %s stays attached: %s", volume.id, describe(exc))
            return False

    def end_all_dead(self, api: Api, volume: Volume) -> bool:
        """Do the same; raises at the end what hindered one of them to be ended."""
        ended, failure = False, None
        uses = {use: life for use, life in volume.uses.items() if self._is_dead(life)}
        records = [
            each
            for each in self.lives.records().get(volume.id, ())
            if each.is_dead and each.attachment
        ]
        for attachment in {*uses, *(str(each.attachment) for each in records)}:
            LOG.info("ending an attachment of %s, whose process died", volume.id)
            try:
                ended |= self.end(api, volume.id, attachment, is_here=True)
            except Exception as exc:
                failure = failure or exc
        if failure is not None:
            raise failure
        for life in uses.values():
            self.lives.forget(life)
        for record in records:
            record.remove()
        return ended

    def end_forgotten(self, api: Api, volume_id: str) -> bool:
        """End reservations whose ids nobody learned; return whether there were any.

        Cinder does not say whose a reservation is. That of a process that works does not last.
        """
        noted = self.lives.records().get(volume_id, ())
        forgotten = [each for each in noted if each.is_dead and not each.attachment]
        if not forgotten:
            return False
        reserved = set(api.reservations_of(volume_id))
        for _ in dataclasses.replace(self._settings.patience, seconds=_FORGOTTEN).attempts():
            reserved &= set(api.reservations_of(volume_id))
            if not reserved:
                break
        noted = self.lives.records().get(volume_id, ())
        reserved -= {str(each.attachment) for each in noted if not each.is_dead}
        ended = [self.end(api, volume_id, each, is_here=False) for each in reserved]
        _remove_dead(forgotten)
        return any(ended)

    def end(self, api: Api, volume_id: str, attachment: str, *, is_here: bool) -> bool:
        """End an attachment that nobody uses; return whether it was there.

        Before the storage takes the volume from this host, no device may lead to it any more: it
        could come to be another one's (CVE-2023-2088).
        """
        try:
            if is_here:
                self._connectors.disconnect(volume_id, api.connection_of(attachment))
            api.detach(attachment)
        except Exception as exc:
            if is_gone(exc):
                return False
            raise
        return True

    def forget(self, volume: Volume) -> None:
        """Remove what dead lives noted of a volume that is gone."""
        self.lives.forget(volume.life)
        _remove_dead(self.lives.records().get(volume.id, ()))

    def sweep(self, volumes: Iterable[Volume]) -> None:
        """Remove what dead lives noted of volumes that are free."""
        records = self.lives.records()
        for volume in volumes:
            if volume.status == "available":
                _remove_dead(records.get(volume.id, ()))
        self.lives.sweep()

    def _is_dead(self, life: str) -> bool:
        return self.lives.fate(life) is Fate.DEAD


def _remove_dead(records: Iterable[Record]) -> None:
    for record in records:
        if record.is_dead:
            record.remove()
