"""Datastores of VMware."""

from __future__ import annotations

import imgstore
from glance_store._store import ImgStore, StoreLocation
from imgstore.drivers.vmware import VmwareStore

__all__ = ["Store", "StoreLocation"]


class Store(ImgStore):
    """Datastores of a vCenter Server or of a host."""

    KIND = VmwareStore

    def _prefixes(self, store: imgstore.Store) -> tuple[str, ...]:
        """Return the directory too, though its datastore is told only behind an image's name."""
        return (f"{store.url_prefix}/", *store.url_prefixes)
