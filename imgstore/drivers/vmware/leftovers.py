"""What unfinished adds left: drafts and claims in the directories for images."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import timedelta

from imgstore.drivers.vmware.datastores import Datastores
from imgstore.drivers.vmware.deleting import delete
from imgstore.drivers.vmware.drafts import draft_of
from imgstore.drivers.vmware.errors import name_of
from imgstore.drivers.vmware.places import DRAFT_PREFIX
from imgstore.errors import NotFound
from imgstore.model import Leftover


def find(
    datastores: Datastores, store: str, *, older_than: timedelta, live: Collection[str]
) -> Iterator[Leftover]:
    """Yield drafts of that age in all datastores, but those ``live``; clocks are the server's."""
    now = datastores.now()
    for datastore, _ in datastores.settings.datastores:
        for found in datastores.search(datastore, f"{DRAFT_PREFIX}*"):
            place = datastores.place(datastore, found.path)
            modified = found.modification or now
            if draft_of(found.path) not in live and now - modified >= older_than:
                yield Leftover(store, place.full, modified, found.fileSize, key=place)


def remove(datastores: Datastores, leftover: Leftover) -> None:
    """Delete a draft; raises NotFound, InUse."""
    try:
        delete(datastores, leftover.key)
    except Exception as exc:
        if name_of(exc) == "FileNotFound":
            raise NotFound("the draft is gone, or an image by now") from exc
        raise
