"""What adds and reads of dead processes left: volumes without an image, and attachments."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Final

from imgstore.data.units import GIB
from imgstore.drivers.cinder.client import Api
from imgstore.drivers.cinder.deleting import delete_draft
from imgstore.drivers.cinder.errors import present
from imgstore.drivers.cinder.lives import Fate
from imgstore.drivers.cinder.reconciling import Remains
from imgstore.drivers.cinder.settings import Settings
from imgstore.drivers.cinder.volumes import IMAGE, Volume
from imgstore.errors import NotFound
from imgstore.model import Leftover

_SECONDS: Final = 10.0  # for Cinder to end what it does with a volume


def find(
    api: Api, settings: Settings, remains: Remains, store: str, older_than: timedelta
) -> Iterator[Leftover]:
    """Yield leftovers: of this host's dead processes, and of other hosts by age alone."""
    limit = datetime.now(timezone.utc) - older_than
    records = remains.lives.records()
    volumes = api.volumes()
    remains.sweep(volumes)
    for volume in volumes:
        if not _is_of_store(volume, settings) or volume.active > limit:
            continue
        if volume.is_draft:
            if remains.lives.fate(volume.life) is not Fate.ALIVE:
                yield _leftover(store, volume)
        elif remains.are_of(volume, records):
            yield _leftover(store, volume)


def _is_of_store(volume: Volume, settings: Settings) -> bool:
    """Return whether a volume is an image, of the store's volume type if it has one.

    Stores of one project keep theirs apart by their types.
    """
    return IMAGE in volume.metadata and settings.volume_type in {None, volume.volume_type}


def _leftover(store: str, volume: Volume) -> Leftover:
    state = "" if volume.is_draft else ", attached by a process that died"
    name = f"volume {volume.id} ({volume.status}{state}) of {volume.metadata[IMAGE]}"
    return Leftover(store, name, volume.active, volume.size * GIB, key=volume)


def remove(api: Api, settings: Settings, remains: Remains, leftover: Leftover) -> None:
    """Remove one; raises NotFound if it is gone, or was none."""
    volume: Volume = leftover.key
    if volume.is_draft:
        if remains.lives.fate(volume.life) is not Fate.DEAD:
            found = present(lambda: api.volume(volume.id))
            if found.active > volume.active:
                raise NotFound("the add of the volume goes on")
        delete_draft(api, volume, settings, remains, seconds=_SECONDS)
        return
    found = present(lambda: api.volume(volume.id))
    ended = remains.end_all_dead(api, found)
    if not (remains.end_forgotten(api, volume.id) or ended):
        raise NotFound("the attachment is gone")
