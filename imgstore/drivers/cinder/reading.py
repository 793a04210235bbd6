"""Reading images: which volume is one, and its bytes."""

from __future__ import annotations

from contextlib import ExitStack

from imgstore.data.opened import Opened
from imgstore.drivers.cinder.attaching import Attachments
from imgstore.drivers.cinder.client import Api
from imgstore.drivers.cinder.errors import is_gone
from imgstore.drivers.cinder.places import Place
from imgstore.drivers.cinder.volumes import Volume
from imgstore.errors import IntegrityError, InvalidLocation, NotFound
from imgstore.location import Location


def image_at(api: Api, location: Location) -> Volume:
    """Return an image's volume; raises NotFound, also for one that is being added."""
    place = Place.of(location)
    if place is None:
        raise InvalidLocation(f"{location} names no volume by its id")
    return image(api, place.volume)


def image(api: Api, volume_id: str) -> Volume:
    """Return a volume that is a complete image; raises NotFound."""
    try:
        volume = api.volume(volume_id)
    except Exception as exc:
        if is_gone(exc):
            raise NotFound(
                f"there is no volume {volume_id}",
                remedy="check the location; a volume of another project has to be "
                "transferred to the store's",
            ) from exc
        raise
    if volume.is_draft:
        raise NotFound("the image is not complete")
    if volume.status == "deleting":
        raise NotFound("the volume is being deleted")
    return volume


def opened(
    api: Api,
    attachments: Attachments,
    volume: Volume,
    offset: int,
    length: int | None,
    *,
    if_version: str | None,
) -> Opened:
    """Return a part of an image, whose volume stays attached until that is closed."""
    size = volume.image_size
    if if_version not in (None, volume.id):
        raise IntegrityError("the image changed while it was read")
    stop = size if length is None else min(size, offset + length)
    if offset >= stop:
        return Opened(iter(()), size, volume.id)
    with ExitStack() as closing:
        device, leave = attachments.share(api, volume)
        closing.callback(leave)
        chunks = device.reading(offset, stop - offset, closing)
        return Opened(chunks, size, volume.id, closing.pop_all().close, close_waits=True)
