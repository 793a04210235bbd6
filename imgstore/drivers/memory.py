"""A store in memory, for tests and examples."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

from imgstore.context import RequestContext
from imgstore.data.opened import Opened
from imgstore.data.streams import Body
from imgstore.data.units import MIB
from imgstore.errors import AlreadyExists, IntegrityError, InvalidRange, NotFound
from imgstore.location import Location
from imgstore.model import Added, Capability, Ownership, Stat
from imgstore.store import Store


class MemoryStore(Store):
    """Images in this process's memory, gone with the store: ``memory://<store>/<image id>``."""

    driver = "memory"
    schemes = ("memory",)
    capabilities = Capability.READ | Capability.WRITE | Capability.DELETE | Capability.RANGES

    def __init__(self, name: str, **common: Any) -> None:
        """Make an empty store; ``common`` are the keywords of Store."""
        super().__init__(name, **common)
        self._images: dict[str, tuple[str, bytes]] = {}
        self._lock = threading.Lock()
        self._versions = itertools.count(1)

    @property
    def url_prefix(self) -> str:
        """Return ``memory://<store>/``."""
        return f"memory://{self.name}/"

    def owns(self, location: Location) -> Ownership:
        """Own what lies below the store's name."""
        mine = location.url.startswith(self.url_prefix)
        return Ownership.YES if mine else Ownership.NO

    def _find(self, location: Location) -> tuple[str, bytes]:
        try:
            return self._images[location.url]
        except KeyError:
            raise NotFound("there is no such image") from None

    def _get(
        self,
        location: Location,
        offset: int,
        length: int | None,
        *,
        if_version: str | None,
        context: RequestContext | None,
    ) -> Opened:
        version, data = self._find(location)
        if if_version not in {None, version}:
            raise IntegrityError("the image was replaced")
        if offset > len(data):
            raise InvalidRange(f"offset {offset} is beyond the image's {len(data)} bytes")
        end = len(data) if length is None else min(len(data), offset + length)
        return Opened(_chunks(data, offset, end), len(data), version)

    def _stat(self, location: Location, *, context: RequestContext | None) -> Stat:
        version, data = self._find(location)
        return Stat(len(data), version)

    def _add(self, image_id: str, body: Body, *, context: RequestContext | None) -> Added:
        location = Location("memory", f"{self.name}/{image_id}")
        self._refuse_existing(location)
        data = b"".join(iter(lambda: body.read(MIB), b""))
        with self._lock:
            self._check_open()
            self._refuse_existing(location)
            self._images[location.url] = (str(next(self._versions)), data)
        return Added(location)

    def _refuse_existing(self, location: Location) -> None:
        if location.url in self._images:
            raise AlreadyExists("an image of this id exists")

    def _delete(self, location: Location, *, context: RequestContext | None) -> None:
        if self._images.pop(location.url, None) is None:
            raise NotFound("there is no such image")

    def _close(self) -> None:
        self._images.clear()


def _chunks(data: bytes, start: int, end: int) -> Iterator[bytes]:
    for position in range(start, end, MIB):
        yield data[position : min(end, position + MIB)]
