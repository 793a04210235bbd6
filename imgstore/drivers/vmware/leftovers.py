"""Unfinished data: their names, and what dead adds left in the directories for images."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from imgstore.drivers.vmware.datastores import Datastores
from imgstore.drivers.vmware.deleting import delete
from imgstore.drivers.vmware.errors import name_of
from imgstore.drivers.vmware.places import DRAFT_PREFIX
from imgstore.errors import NotFound
from imgstore.model import Leftover

_BYTES: Final = 16
_LENGTH: Final = len(DRAFT_PREFIX) + 2 * _BYTES


@contextmanager
def new_draft(live: set[str]) -> Iterator[str]:
    """Yield a name for an add's data, which is among those ``live`` for as long as it goes on."""
    name = f"{DRAFT_PREFIX}{secrets.token_hex(_BYTES)}"
    live.add(name)
    try:
        yield name
    finally:
        live.discard(name)


def find(
    datastores: Datastores, store: str, *, older_than: timedelta, live: Collection[str]
) -> Iterator[Leftover]:
    """Yield drafts of that age in all datastores, but those ``live``; clocks are the server's."""
    now = datastores.now()
    for place, found in datastores.search(f"{DRAFT_PREFIX}*"):
        modified = found.modification or now
        draft = place.name[:_LENGTH]  # also of what is called a claim by now
        if draft not in live and now - modified >= older_than:
            yield Leftover(store, place.full, modified, found.fileSize, key=place)


def remove(datastores: Datastores, leftover: Leftover) -> None:
    """Delete a draft; raises NotFound, InUse."""
    try:
        delete(datastores, leftover.key)
    except Exception as exc:
        if name_of(exc) == "FileNotFound":
            raise NotFound("the draft is gone, or an image by now") from exc
        raise
