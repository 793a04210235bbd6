"""Which image a location names, and the pool that images are added to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote

from imgstore.drivers._librbd.connection import Connection
from imgstore.drivers.rbd.settings import SNAPSHOT, Settings
from imgstore.errors import ConfigError, NotFound
from imgstore.location import Location

SCHEME: Final = "rbd"


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
