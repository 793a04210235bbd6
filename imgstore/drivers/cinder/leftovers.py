"""What adds and reads of dead processes left: volumes without an image, and attachments."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Final

from imgstore.data.units import GIB
from imgstore.drivers.cinder.attaching import Attachments
from imgstore.drivers.cinder.client import IMAGE, Api, Volume
from imgstore.drivers.cinder.locks import Fate
from imgstore.drivers.cinder.removing import discard, present
from imgstore.drivers.cinder.settings import Settings
from imgstore.errors import NotFound
from imgstore.model import Leftover

_SECONDS: Final = 10.0  # for Cinder to end what it does with a volume


def find(
    api: Api, settings: Settings, attachments: Attachments, store: str, older_than: timedelta
) -> Iterator[Leftover]:
    """Yield leftovers: of this host's dead processes, and of other hosts by age alone."""
    limit = datetime.now(timezone.utc) - older_than
    records = attachments.records()
    volumes = list(api.volumes())
    attachments.sweep(volumes)
    for volume in volumes:
        if not _is_of_store(volume, settings) or volume.active > limit:
            continue
        if volume.mark is not None:
            if attachments.fate(volume.mark) is not Fate.ALIVE:
                yield _leftover(store, volume)
        elif attachments.has_dead(volume, records):
            yield _leftover(store, volume)


def _is_of_store(volume: Volume, settings: Settings) -> bool:
    """Return whether a volume is an image, of the store's volume type if it has one.

    Stores of one project keep theirs apart by their types.
    """
    return IMAGE in volume.metadata and settings.volume_type in {None, volume.kind}


def _leftover(store: str, volume: Volume) -> Leftover:
    state = "" if volume.mark is not None else ", attached by a process that died"
    name = f"volume {volume.id} ({volume.status}{state}) of {volume.metadata[IMAGE]}"
    return Leftover(store, name, volume.active, volume.size * GIB, key=volume)


def remove(api: Api, settings: Settings, attachments: Attachments, leftover: Leftover) -> None:
    """Remove one; raises NotFound if it is gone, or was none."""
    volume: Volume = leftover.key
    if volume.mark is not None:
        if attachments.fate(volume.mark) is not Fate.DEAD:
            found = present(lambda: api.volume(volume.id))
            if found.active > volume.active:
                raise NotFound("the add of the volume goes on")
        discard(api, volume, settings, attachments, seconds=_SECONDS)
        return
    found = present(lambda: api.volume(volume.id))
    ended = attachments.end_dead(api, found)
    if not (attachments.end_forgotten(api, volume.id) or ended):
        raise NotFound("the attachment is gone")
