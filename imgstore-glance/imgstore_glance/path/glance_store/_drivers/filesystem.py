"""Files."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import imgstore
from glance_store import _store
from glance_store._store import setting
from glance_store.driver import SHARED_CONF_GROUP, is_set
from glance_store.driver import SINGLE_CONF_GROUP as SINGLE
from imgstore.drivers.filesystem import FilesystemStore

LOG = logging.getLogger(__name__)

_ONE: Final = "filesystem_store_datadir"
_SEVERAL: Final = "filesystem_store_datadirs"  # path:priority
_CHUNK_SIZE: Final = "filesystem_store_chunk_size"
_CHUNK_SIZE_OF_OLD: Final = 65536


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
    thin_provisioning = setting("filesystem_thin_provisioning")
    _texts: Mapping[str, str] = MappingProxyType({})

    @property
    def chunk_size(self) -> int:
        """Return the option as Glance shows it: unset, it is what it was with glance_store.

        Reads and writes are in larger chunks then.
        """
        groups = (self.backend_group, SHARED_CONF_GROUP) if self.backend_group else (SINGLE,)
        if any(is_set(self.conf, _CHUNK_SIZE, group) for group in groups):
            return int(self.settings[_CHUNK_SIZE])
        return _CHUNK_SIZE_OF_OLD

    @property
    def datadir(self) -> Any:
        """Return the preferred directory."""
        if self._store and self._store.url_prefix:
            return self._as_written(self._store.url_prefix.removeprefix("file://"))
        return self.settings[_ONE]

    def _prepare(self, store: imgstore.Store) -> None:
        """Make the directories now; an add makes none again that vanished."""
        for problem in store.check():
            LOG.warning("%s", problem)
        self._texts = dict(_texts_of_directories(store.settings))

    def _as_written(self, directory: str) -> str:
        """Return a directory as the configuration has it, which rows of old begin with."""
        return self._texts.get(directory, directory)

    def _written(self, at: imgstore.Location) -> str:
        directory, name = os.path.split(at.rest)
        return f"{at.scheme}://{os.path.join(self._as_written(directory), name)}"

    def _prefixes(self, store: imgstore.Store) -> Any:
        """Return prefixes with superfluous parts of paths too."""
        texts = (f"file://{os.path.join(text, '')}" for text in self._texts.values())
        return tuple(dict.fromkeys([*store.url_prefixes, *texts]))


def _texts_of_directories(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield directories by their normal paths, where the configuration writes them otherwise.

    Left out is a path that leads elsewhere, by ".." behind a link.
    """
    several = [text.rpartition(":") for text in settings.get(_SEVERAL) or ()]
    texts = [(path if colon else rest).strip() for path, colon, rest in several]
    for text in texts or [settings[_ONE]]:
        normal = "/" + os.path.normpath(text).lstrip("/")
        if text != normal and os.path.realpath(text) == os.path.realpath(normal):
            yield normal, text
