"""Volumes of Cinder."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

from glance_store._store import ImgStore, StoreLocation
from imgstore.drivers.cinder import CinderStore

__all__ = ["Store", "StoreLocation"]

LOG = logging.getLogger(__name__)

# Tests replace this and the method below; nothing uses them.
cinderclient: Any = None


class Store(ImgStore):
    """Volumes, of the store's project or of its users' projects."""

    KIND = CinderStore

    def update_capabilities(self) -> None:
        """Take over what the store can do, and its settings, as Glance asks for them."""
        super().update_capabilities()
        self.store_conf = SimpleNamespace(**self.settings)

    def get_cinderclient(self, *args: Any, **kwargs: Any) -> Any:
        """Do nothing: imgstore has clients of its own."""

    @property
    def url_prefix(self) -> Any:
        """Return ``cinder://<name>``, which Glance puts a slash and a volume behind."""
        return self._store.url_prefix if self._store and self.backend_group else None

    def is_image_associated_with_store(self, context: Any, volume_id: str) -> bool:
        """Return whether a volume is this store's; False where that cannot be found out."""
        if self._store is None:
            return False
        try:
            return self._store.holds(f"cinder://{volume_id}", context=context)
        except Exception as exc:
            LOG.info(
                "store %s cannot be asked for volume %s: %s", self.backend_group, volume_id, exc
            )
            return False
