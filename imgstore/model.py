"""What stores are described with and what their verbs return."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from imgstore.location import Location


class Capability(enum.Flag):
    """What a store can do."""

    READ = enum.auto()
    WRITE = enum.auto()
    DELETE = enum.auto()
    RANGES = enum.auto()
    COPY = enum.auto()
    ACLS = enum.auto()


class Ownership(enum.Enum):
    """Whether a location lies in a store, as far as can be told without I/O."""

    NO = "no"
    MAYBE = "maybe"
    YES = "yes"


@dataclass(frozen=True)
class StoredImage:
    """The outcome of an ``add``: persist ``location.url``, ``size``, ``digests``, ``metadata``."""

    location: Location
    size: int
    digests: dict[str, str]
    store: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Added:
    """What a driver's ``_add`` or ``_copy`` returns; ``size`` is needed from ``_copy`` only."""

    location: Location
    metadata: Mapping[str, Any] = field(default_factory=dict)
    size: int | None = None


@dataclass(frozen=True)
class Stat:
    """What is told of an image without reading it.

    ``size`` is in bytes. ``version`` changes when the image is replaced; it is opaque, and None
    where the backend tells none. It says nothing of bytes that changed below the store: ``verify``
    finds these. ``modified`` has a time zone, and is None where the backend does not tell.
    """

    size: int
    version: str | None = None
    modified: datetime | None = None


@dataclass(frozen=True)
class Leftover:
    """Something that an unfinished add of a dead process left in a store.

    ``name`` is for people; ``key`` is the driver's own handle. ``size`` is in bytes where known.
    ``modified`` has a time zone.
    """

    store: str
    name: str
    modified: datetime
    size: int | None = None
    key: Any = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse a time that may be any hour of the day: what is older is removed."""
        if self.modified.utcoffset() is None:
            raise ValueError("the time at which a leftover was modified has no time zone")


@dataclass(frozen=True)
class StoreInfo:
    """What a store is; ``url_prefix`` is what URLs of its preferred place begin with.

    ``settings`` are those of ``Store.settings``.
    """

    name: str
    driver: str
    weight: int
    description: str
    capabilities: Capability
    default: bool
    reserved: bool
    url_prefix: str | None
    settings: Mapping[str, Any] = field(default_factory=dict, compare=False)
