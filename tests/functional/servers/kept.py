"""A store that many tests have in common: making one may take longer than a test of it."""

from __future__ import annotations

from collections.abc import Callable

from imgstore import Store


class Kept:
    """Hands out one store, and makes another where a test has closed it."""

    def __init__(self) -> None:
        self._store: Store | None = None

    def get(self, make: Callable[[], Store]) -> Store:
        """Return the store."""
        if self._store is None or self._store._closed:
            self._store = make()
        return self._store

    def close_readers(self) -> None:
        """Close what a test has left open."""
        if self._store is not None:
            for reader in list(self._store._readers):
                reader.close()

    def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()
