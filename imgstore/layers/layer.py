"""A store around a store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from imgstore import errors
from imgstore.context import RequestContext
from imgstore.data.opened import Opened
from imgstore.data.streams import Body
from imgstore.location import Location
from imgstore.model import Added, Leftover, Ownership, Stat
from imgstore.store import Store
from imgstore.verbs.upkeep import ask

if TYPE_CHECKING:
    from typing_extensions import Self


class Layer(Store):
    """A store that passes every hook on to the one inside it; subclasses override some.

    A layer has the name and the settings of the store inside and closes it when it is closed.
    """

    def __new__(cls, *args: Any, **given: Any) -> Self:
        """Know no secrets: those of the store inside are the layer's."""
        return object.__new__(cls)

    def __init__(self, store: Store) -> None:
        """Wrap ``store``."""
        super().__init__(
            store.name, weight=store.weight, description=store.description, single=store.single
        )
        self.inner = store
        self._redaction = store._redaction
        self._shown = store._shown
        self.also_owns = store.also_owns
        self.capabilities = store.capabilities
        self.read_retries = store.read_retries
        # Per instance here: a layer is what the store inside it is.
        self.driver = store.driver  # type: ignore[misc]
        self.schemes = store.schemes  # type: ignore[misc]

    def _check_open(self) -> None:
        super()._check_open()
        self.inner._check_open()

    @property
    def unwrapped(self) -> Store:
        """Return the driver under all layers."""
        return self.inner.unwrapped

    @property
    def url_prefix(self) -> str | None:
        """Return the prefix of the store inside."""
        return self.inner.url_prefix

    def _url_prefixes(self) -> Iterable[str]:
        return self.inner._url_prefixes()

    def owns(self, location: Location) -> Ownership:
        """Ask the store inside."""
        return self.inner.owns(location)

    def _get(
        self,
        location: Location,
        offset: int,
        length: int | None,
        *,
        if_version: str | None,
        context: RequestContext | None,
    ) -> Opened:
        return self.inner._get(location, offset, length, if_version=if_version, context=context)

    def _size(self, location: Location, *, context: RequestContext | None) -> int:
        return self.inner._size(location, context=context)

    def _stat(self, location: Location, *, context: RequestContext | None) -> Stat:
        return self.inner._stat(location, context=context)

    def _holds(self, location: Location, *, context: RequestContext | None) -> bool:
        return self.inner._holds(location, context=context)

    def _add(self, image_id: str, body: Body, *, context: RequestContext | None) -> Added:
        return self.inner._add(image_id, body, context=context)

    def _delete(self, location: Location, *, context: RequestContext | None) -> None:
        self.inner._delete(location, context=context)

    def _classify(self, exc: Exception) -> errors.ImgStoreError | type[errors.ImgStoreError] | None:
        return self.inner._classify(exc)

    def _copy(
        self, location: Location, origin: Store, image_id: str, *, context: RequestContext | None
    ) -> Added | None:
        return self.inner._copy(location, origin, image_id, context=context)

    def _set_acls(
        self,
        location: Location,
        *,
        public: bool,
        read: Sequence[str],
        write: Sequence[str],
        context: RequestContext | None,
    ) -> None:
        self.inner._set_acls(location, public=public, read=read, write=write, context=context)

    def _leftovers(self, older_than: timedelta) -> Iterable[Leftover]:
        return self.inner._leftovers(older_than)

    def _remove_leftover(self, leftover: Leftover) -> None:
        self.inner._remove_leftover(leftover)

    def _check(self, *, write: bool = True) -> Iterable[str]:
        return ask(self.inner, write=write)

    def _close(self) -> None:
        self.inner.close()
