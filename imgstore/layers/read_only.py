"""A store that nothing is written to."""

from __future__ import annotations

from collections.abc import Iterable

from imgstore import errors
from imgstore.layers.layer import Layer
from imgstore.model import Capability, Leftover
from imgstore.store import Store
from imgstore.verbs.upkeep import CannotCheckError, ask


class ReadOnly(Layer):
    """A store that images can be read from, and nothing else."""

    def __init__(self, store: Store) -> None:
        """Wrap ``store``."""
        super().__init__(store)
        self.capabilities = store.capabilities & (Capability.READ | Capability.RANGES)

    def _remove_leftover(self, leftover: Leftover) -> None:
        raise errors.Unsupported("this store is read-only")

    def _check(self, *, write: bool = True) -> Iterable[str]:
        try:
            yield from ask(self.inner, write=False)
        except CannotCheckError:  # no fault of the store: it is never written to
            return
