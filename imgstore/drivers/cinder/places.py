"""Which volume a location names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from imgstore.location import Location

SCHEME: Final = "cinder"
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class Place:
    """A volume; ``store`` is what stands before it, empty in locations of the single form."""

    volume: str
    store: str = ""

    @classmethod
    def of(cls, location: Location) -> Place | None:
        """Return what a location names, None for what ends with no volume's id."""
        store, _, volume = location.rest.rpartition("/")
        return cls(volume, store) if _UUID.fullmatch(volume) else None

    @property
    def location(self) -> Location:
        """Return its location, as glance_store writes it."""
        return Location(SCHEME, f"{self.store}/{self.volume}" if self.store else self.volume)
