"""Which file of which datastore a location names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, quote, urlencode

from imgstore.boundary.arguments import OWN
from imgstore.errors import InvalidLocation
from imgstore.location import Location

SCHEME: Final = "vsphere"
DRAFT_PREFIX: Final = f".{OWN}"  # of names of unfinished data
_FOLDER: Final = "folder"  # https://<host>/folder/<path> is a file of a datastore
_DOTS: Final = frozenset({"", ".", ".."})


@dataclass(frozen=True)
class Datastore:
    """A datastore; ``datacenter`` is the inventory path of its datacenter as it was written.

    That is empty where a location does not say.
    """

    datacenter: str
    name: str

    def __str__(self) -> str:
        return f"{self.datacenter}:{self.name}"

    @property
    def key(self) -> tuple[str, str]:
        """Return what is the same for the same datastore."""
        return self.datacenter.strip("/"), self.name

    @property
    def query(self) -> str:
        """Return how a URL names it, in the order in which glance_store writes it."""
        asked = {"dsName": self.name}
        if self.datacenter:
            asked["dcPath"] = self.datacenter
        return urlencode(asked)


@dataclass(frozen=True)
class Place:
    """A file: its path in the datastore has no slash at either end."""

    service: str  # host[:port]
    datastore: Datastore
    path: str

    @classmethod
    def of(cls, location: Location) -> Place | None:
        """Return what a location names, None for what is none; nothing in its path is decoded."""
        where, _, query = location.rest.partition("?")
        service, _, path = where.partition("/")
        folder, _, path = path.partition("/")
        asked = parse_qs(query, keep_blank_values=True)
        name, datacenter = (asked.get(key, [""])[0] for key in ("dsName", "dcPath"))
        parts = path.split("/")
        is_sound = service and folder == _FOLDER and name and not _DOTS & set(parts)
        return cls(service, Datastore(datacenter, name), path) if is_sound else None

    @property
    def location(self) -> Location:
        """Return its location, as glance_store writes it."""
        return Location.parse(
            f"{SCHEME}://{self.service}/{_FOLDER}/{self.path}?{self.datastore.query}"
        )

    @property
    def target(self) -> str:
        """Return path and query of its URL."""
        return f"/{_FOLDER}/{quote(self.path)}?{self.datastore.query}"

    @property
    def name(self) -> str:
        """Return the last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def directory(self) -> str:
        """Return the path without its last part."""
        return self.path.rpartition("/")[0]

    @property
    def is_draft(self) -> bool:
        """Return whether the data are no image, or none yet."""
        return self.name.startswith(DRAFT_PREFIX)

    @property
    def full(self) -> str:
        """Return the path as the API has it: ``[datastore] path``."""
        return f"[{self.datastore.name}] {self.path}"


def place_of(location: Location) -> Place:
    """Return what a location names; raises InvalidLocation for what is none of VMware."""
    place = Place.of(location)
    if place is None:
        raise InvalidLocation(
            "a location of VMware is vsphere://host/folder/<path>?dsName=…&dcPath=…"
        )
    return place


def image_at(location: Location, datastores: Iterable[Datastore]) -> Place:
    """Return the file of an image, with its datacenter; raises InvalidLocation for anything else.

    Where the location does not name the datacenter, it is that of the one of ``datastores``.
    """
    place = place_of(location)
    if place.is_draft:
        raise InvalidLocation("the location is of data that are no image")
    if place.datastore.datacenter:
        return place
    named = [datastore for datastore in datastores if datastore.name == place.datastore.name]
    if len(named) != 1:
        raise InvalidLocation(
            f"the store has {len(named)} datastores {place.datastore.name!a}",
            remedy="name the datacenter: dcPath=…",
        )
    return dataclasses.replace(place, datastore=named[0])
