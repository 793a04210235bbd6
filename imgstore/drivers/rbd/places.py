"""Which image a location names, and which names and pool are the store's own."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote

from imgstore.boundary.arguments import OWN
from imgstore.drivers._librbd.connection import Connection
from imgstore.drivers.rbd.settings import SNAPSHOT, Settings
from imgstore.errors import ConfigError, NotFound
from imgstore.location import Location

SCHEME: Final = "rbd"
# What unfinished images are called: adds of one id get in each other's way, others never do.
_ADD: Final = f"{OWN}add-"
_OTHERS: Final = {"copy": f"{OWN}copy-", "check": f"{OWN}check-"}


@dataclass(frozen=True)
class Place:
    """An image; locations of one part tell neither its cluster nor its pool nor a snapshot."""

    fsid: str | None
    pool: str
    image: str
    snapshot: str | None = SNAPSHOT

    @classmethod
    def of(cls, location: Location) -> Place | None:
        """Read ``<fsid>/<pool>/<image>/<snapshot>``, each quoted, or ``<image>``, which is not."""
        parts = location.rest.split("/")
        if not all(parts):
            return None
        if len(parts) == 1 and parts[0].isprintable():
            return cls(None, "", parts[0], None)
        if len(parts) != 4:
            return None
        parts = [unquote(part) for part in parts]
        if not all(map(str.isprintable, parts)):
            return None
        fsid, pool, image, snapshot = parts
        return cls(fsid, pool, image, snapshot)

    @property
    def location(self) -> Location:
        """Return its location, as glance_store writes it; it has all four parts."""
        parts = (self.fsid or "", self.pool, self.image, self.snapshot or "")
        return Location(SCHEME, "/".join(quote(part, safe="") for part in parts))


def own_pool(connection: Connection, settings: Settings, *, write: bool = True) -> Any:
    """Return the store's pool, to ``write`` or to look at; raises ConfigError if it is missing."""
    try:
        return (connection.writable_pool if write else connection.pool)(settings.pool)
    except NotFound as exc:
        raise ConfigError(
            f"the pool {settings.pool!r} does not exist",
            remedy="create it, or correct rbd_store_pool",
        ) from exc


def draft_of_add(image_id: str) -> str:
    """Return what an image is called while it is added."""
    return _ADD + image_id


def new_draft(kind: str) -> str:
    """Return what an image of a "copy" or "check" is called, another name each time."""
    return _OTHERS[kind] + secrets.token_hex(16)


def added_as(draft: str) -> str | None:
    """Return the id under which a draft is added; None for others."""
    return draft.removeprefix(_ADD) if draft.startswith(_ADD) else None


def is_draft(name: str) -> bool:
    """Return whether an image of this name is an add, copy or probe, under way or left behind."""
    return name.startswith((_ADD, *_OTHERS.values()))
