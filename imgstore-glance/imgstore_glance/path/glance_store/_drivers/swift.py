"""OpenStack Swift."""

from __future__ import annotations

from typing import Any, Final

from glance_store._store import ImgStore, StoreLocation, setting
from imgstore.drivers.swift import SwiftStore

__all__ = ["BaseStore", "Store", "StoreLocation"]

_MB: Final = 1_024_000  # what Swift's options call a megabyte

# Tests replace this and the method below; nothing uses them.
swiftclient: Any = None


class BaseStore(ImgStore):
    """Containers, of one account or of its users' accounts."""

    KIND = SwiftStore
    container = setting("swift_store_container")
    large_object_size = setting("swift_store_large_object_size", unit=_MB)
    large_object_chunk_size = setting("swift_store_large_object_chunk_size", unit=_MB)

    def get_store_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Do nothing: imgstore has connections of its own."""

    def _has_acls(self) -> bool:
        """Tell it of a store that failed too: who may read images is not to be passed over."""
        return bool(self.settings["swift_store_multi_tenant"])


class Store(BaseStore):
    """The store, by the name that every driver has."""
