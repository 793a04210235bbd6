"""Which container and object a location names, and in whose account."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from imgstore.location import Location

CONFIG: Final = "swift+config"
_DOTS: Final = frozenset({".", ".."})


@dataclass(frozen=True)
class Place:
    """An object; ``base`` is a reference, or ``host[:port][/path]`` of a service."""

    base: str
    container: str
    name: str

    @classmethod
    def of(cls, location: Location) -> Place | None:
        """Return what a location names: its last two segments, undecoded, as glance_store does."""
        text = location.rest.strip("/")
        base, container, name = ("", "", *text.rsplit("/", 2))[-3:]
        if not (base and container and name):
            return None
        # It becomes a URL: what would mean another place there names nothing.
        if set("?#") & set(text) or _DOTS & set(text.split("/")):
            return None
        if location.scheme == CONFIG and "/" in base:
            return None
        return cls(base, container, name)
