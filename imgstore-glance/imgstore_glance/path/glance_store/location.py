"""Where images lie, and which stores read what: the two maps are the registry of stores.

Callers rebind them (``location.SCHEME_TO_CLS_MAP = {}``), so that everything here and elsewhere
reads them through this module when it needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlparse

from oslo_config import cfg

from glance_store import exceptions

CONF = cfg.CONF

# By scheme: {"store": …, "location_class": …, "store_entry": …}.
SCHEME_TO_CLS_MAP: dict[str, dict[str, Any]] = {}
# By scheme and the name of the store, likewise.
SCHEME_TO_CLS_BACKEND_MAP: dict[str, dict[str, dict[str, Any]]] = {}


def scheme_of(uri: str) -> str:
    """Return the scheme of a URL in lower case; "" for what is none, such as a path."""
    scheme, found, _ = str(uri).partition("://")
    return scheme.lower() if found else ""


def get_location_from_uri(uri: str, conf: Any = CONF) -> Location:
    """Return a location of the single form; raises UnknownScheme, BadStoreUri."""
    scheme = scheme_of(uri)
    entry = SCHEME_TO_CLS_MAP.get(scheme)
    if entry is None:
        raise exceptions.UnknownScheme(scheme=scheme)
    return Location(scheme, entry["location_class"], conf, uri=uri)


def get_location_from_uri_and_backend(uri: str, backend: str, conf: Any = CONF) -> Location:
    """Return a location in the store named ``backend``; raises UnknownScheme, BadStoreUri."""
    scheme = scheme_of(uri)
    stores = SCHEME_TO_CLS_BACKEND_MAP.get(scheme)
    if stores is None:
        raise exceptions.UnknownScheme(scheme=scheme)
    if backend not in stores:
        raise exceptions.UnknownScheme(
            f"The store {backend!r} is not known, or does not read {scheme}:// locations"
        )
    entry = stores[backend]
    return Location(scheme, entry["location_class"], conf, uri=uri, backend=backend)


def register_scheme_map(scheme_map: Mapping[str, dict[str, Any]]) -> None:
    """Enter stores of the single form; those of the same schemes are replaced."""
    SCHEME_TO_CLS_MAP.update(scheme_map)


def register_scheme_backend_map(scheme_map: Mapping[str, Mapping[str, dict[str, Any]]]) -> None:
    """Enter named stores; those of the same schemes and names are replaced."""
    for scheme, stores in scheme_map.items():
        SCHEME_TO_CLS_BACKEND_MAP.setdefault(scheme, {}).update(stores)


class Location:
    """Where an image lies, for the verbs of a store; ``store_name`` is the scheme of its URL."""

    def __init__(
        self,
        store_name: str,
        store_location_class: Any,
        conf: Any,
        uri: str | None = None,
        image_id: str | None = None,
        store_specs: dict[str, Any] | None = None,
        backend: str | None = None,
    ) -> None:
        self.store_name = store_name
        self.image_id = image_id
        self.store_specs = store_specs or {}
        self.conf = conf
        self.backend_group = backend
        self.store_location = store_location_class(
            self.store_specs, conf, **({"backend_group": backend} if backend else {})
        )
        if uri:
            self.store_location.parse_uri(uri)

    def get_store_uri(self) -> str:
        """Return the URL as the store reads it, with its credentials."""
        uri: str = self.store_location.get_uri()
        return uri

    def get_uri(self) -> None:
        """Return None: Glance's own URLs are no business of stores."""


class StoreLocation:
    """What a URL means to one driver; drivers derive their own."""

    def __init__(
        self, store_specs: dict[str, Any] | None, conf: Any, backend_group: str | None = None
    ) -> None:
        self.conf = conf
        self.specs = store_specs
        self.backend_group = backend_group
        if self.specs:
            self.process_specs()

    def process_specs(self) -> None:
        """Take over what ``specs`` say; by itself, nothing."""

    def get_uri(self) -> str:
        """Return the URL."""
        raise NotImplementedError

    def parse_uri(self, uri: str) -> None:
        """Read a URL; raises BadStoreUri."""
        raise NotImplementedError

    @staticmethod
    def validate_schemas(uri: str, valid_schemas: Iterable[str] = ()) -> None:
        """Raise BadStoreUri unless a URL begins with one of these."""
        schemas = tuple(valid_schemas)
        if not uri.startswith(schemas):
            scheme = urlparse(uri).scheme
            raise exceptions.BadStoreUri(f"A URL begins with one of {schemas}, not {scheme!r}")
