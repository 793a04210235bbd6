"""Ceph's block devices."""

from __future__ import annotations

import logging
from typing import Any, Final

import imgstore
from glance_store._store import MIB, ImgStore, StoreLocation, setting
from imgstore.drivers.rbd import RbdStore

__all__ = ["Store", "StoreLocation"]

LOG = logging.getLogger(__name__)

_PATIENCE: Final = 10.0  # seconds for asking the cluster for its fsid at the start

# Tests replace these and the method below; nothing uses them.
rados: Any = None
rbd: Any = None


class Store(ImgStore):
    """A pool of a Ceph cluster."""

    KIND = RbdStore
    chunk_size = setting("rbd_store_chunk_size", unit=MIB)
    pool = setting("rbd_store_pool")
    thin_provisioning = setting("rbd_thin_provisioning")

    def get_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Do nothing: imgstore has connections of its own."""

    def _prepare(self, store: imgstore.Store) -> None:
        """Ask for the cluster's fsid, which URLs begin with, where the configuration has none."""
        if store.url_prefix is None and self.backend_group:
            for problem in store.check(write=False, timeout=_PATIENCE):
                LOG.warning("%s", problem)

    def _prefixes(self, store: imgstore.Store) -> str:
        """Return one text, which Glance also takes the fsid from."""
        self._url_prefix = store.url_prefix or self._url_prefix  # forked processes know none
        return self._url_prefix or "rbd://"
