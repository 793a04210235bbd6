"""imgstore, used as a service embeds it: one manager over the operator's configuration file."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from configuration import configuration_file

from imgstore import Location, StoreManager


class Side:
    def __init__(self, driver: str, options: Mapping[str, str]) -> None:
        with configuration_file(driver, options) as path:
            self._stores = StoreManager.from_file(path)

    def add(
        self, image_id: str, source: Any, *, size: int, algorithms: Sequence[str]
    ) -> tuple[str, Mapping[str, str]]:
        image = self._stores.add(image_id, source, size=size or None, algorithms=algorithms)
        return image.location.url, image.digests

    def add_expected(self, image_id: str, source: Any, *, size: int, digest: str) -> str:
        """Add an image whose SHA-256 has to be that one."""
        expected = {"sha256": digest}
        image = self._stores.add(image_id, source, size=size, algorithms=(), expected=expected)
        return image.location.url

    def verify(self, url: str, digest: str) -> None:
        self._stores.verify(Location.parse(url), {"sha256": digest})

    def expected_chunks(self, url: str, digest: str) -> Iterator[bytes]:
        """Read an image whose SHA-256 has to be that one."""
        with self._stores.get(Location.parse(url), expected={"sha256": digest}) as reader:
            yield from reader

    def chunks(self, url: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        location = Location.parse(url)
        with self._stores.get(location, offset=offset, length=length) as reader:
            yield from reader

    def pieces(self, url: str, n: int) -> int:
        """Read the image by `read(n)`; return how many bytes there were."""
        total = 0
        with self._stores.get(Location.parse(url)) as reader:
            read = reader.read
            while piece := read(n):
                total += len(piece)
        return total

    def send(self, url: str, sink: socket.socket) -> None:
        with self._stores.get(Location.parse(url)) as reader:
            left = reader.size
            while left:
                left -= os.sendfile(sink.fileno(), reader.fileno(), None, left)

    @staticmethod
    def stores(path: str) -> StoreManager:
        """Return the stores of a configuration file."""
        return StoreManager.from_file(path)

    def delete(self, url: str) -> None:
        self._stores.delete(Location.parse(url))
