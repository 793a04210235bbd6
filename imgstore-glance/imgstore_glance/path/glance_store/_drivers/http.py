"""Web servers."""

from __future__ import annotations

from typing import Any

import imgstore
from glance_store import exceptions
from glance_store._store import ImgStore, StoreLocation
from imgstore.drivers.http import HttpStore

__all__ = ["Store", "StoreLocation"]


class Store(ImgStore):
    """Any web server; nothing is added to it."""

    KIND = HttpStore

    def _prefixes(self, store: imgstore.Store) -> str:
        """Return what URLs of http and of https begin with."""
        return "http"

    def get_size(self, location: Any, context: Any = None) -> int:
        """Return the size; Glance takes nothing but these two for a user's mistake."""
        try:
            return super().get_size(location, context=context)
        except exceptions.NotFound:
            raise
        except (exceptions.GlanceStoreException, exceptions.BackendException) as exc:
            raise exceptions.BadStoreUri(str(exc)) from exc
