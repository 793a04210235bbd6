"""Files."""

from __future__ import annotations

import logging
from typing import Any

import imgstore
from glance_store import _store
from glance_store._store import setting
from imgstore.drivers.filesystem import FilesystemStore

LOG = logging.getLogger(__name__)


class StoreLocation(_store.StoreLocation):
    """The URL of a file; ``path`` is where it lies."""

    scheme = "file"
    path = ""

    def process_specs(self) -> None:
        """Make the URL of a path."""
        specs = self.specs or {}
        self.scheme, self.path = specs.get("scheme", "file"), specs.get("path", "")
        self._uri = f"{self.scheme}://{self.path}"

    def parse_uri(self, uri: str) -> None:
        """Take over a URL."""
        super().parse_uri(uri)
        self.scheme, _, self.path = uri.partition("://")


class Store(_store.ImgStore):
    """A directory, or several."""

    KIND = FilesystemStore
    chunk_size = setting("filesystem_store_chunk_size")
    thin_provisioning = setting("filesystem_thin_provisioning")

    @property
    def datadir(self) -> Any:
        """Return the preferred directory."""
        if self._store and self._store.url_prefix:
            return self._store.url_prefix.removeprefix("file://")
        return self.settings["filesystem_store_datadir"]

    def _prepare(self, store: imgstore.Store) -> None:
        """Make the directories now; an add makes none again that vanished."""
        for problem in store.check():
            LOG.warning("%s", problem)
