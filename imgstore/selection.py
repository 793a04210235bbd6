"""Which of many stores is meant: by a name, or by where an image lies."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from imgstore.errors import (
    ConfigError,
    InvalidArgument,
    InvalidLocation,
    NotFound,
    OutsideStore,
    UnknownScheme,
    UnknownStore,
)
from imgstore.location import Location
from imgstore.model import Ownership
from imgstore.store import Context, Store


class Selection:
    """Stores by their names, and why others could not be built (``failures``)."""

    def __init__(
        self,
        stores: Mapping[str, Store],
        *,
        default: str | None,
        failures: Mapping[str, ConfigError] = MappingProxyType({}),
    ) -> None:
        """Choose among ``stores``; ``default`` is the name of one of them."""
        self.failures = failures
        self._stores = stores
        self._default = default

    def named(self, name: str) -> Store:
        """Return the store of that name; raises UnknownStore."""
        try:
            return self._stores[name]
        except (KeyError, TypeError):
            pass
        failure = self.failures.get(name) if isinstance(name, str) else None
        if failure is not None:
            raise UnknownStore(
                f"the store {name!r} could not be configured: {failure}"
            ) from failure
        raise UnknownStore(f"there is no store {name!r}", remedy=self.choose())

    def default(self) -> Store:
        """Return the store for adds that name none; raises InvalidArgument if there is none."""
        if self._default is not None:
            return self._stores[self._default]
        names = ", ".join(map(repr, self.failures))
        failed = f" ({names} failed)" if names else ""
        raise InvalidArgument(
            f"no store is named and there is no default{failed}",
            remedy=f"configure a default, or pass store=…; {self.choose()}",
        )

    def choose(self) -> str:
        """Return a remedy: the names that there are."""
        return f"choose one of: {', '.join(map(str, self._stores)) or '(there are none)'}"

    def owner(self, at: Location) -> Store:
        """Return the only store that owns a location, else the only one that may."""
        answers = self._ownerships(at)
        candidates = answers[Ownership.YES] or answers[Ownership.MAYBE]
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise InvalidLocation(
                f"it may lie in each of the stores {_names(candidates)}",
                remedy="name one of them with store=…",
            )
        raise self._refusal(at, answers[Ownership.NO])

    def _refusal(self, at: Location, stores: list[Store]) -> InvalidLocation:
        """Return why none of ``stores``, which are all that read its scheme, owns a location."""
        faults = []
        for store in stores:
            try:
                store._ownership(at)
            except InvalidLocation as exc:
                faults.append(exc)
        if len(faults) == len(stores):  # no store could have written it
            return faults[0]
        return OutsideStore(
            f"it lies in none of the stores that read {at.scheme}://, which are {_names(stores)}",
            remedy=self._perhaps(at.scheme)
            or "if it is a former place of one, name it in store_also_owns",
        )

    def holder(self, at: Location, context: Context) -> Store:
        """Return the store that an image lies in; backends are asked where that is not sure.

        Raises NotFound where it lies in none, InvalidLocation in more than one.
        """
        answers = self._ownerships(at)
        found = answers[Ownership.YES]
        if len(found) != 1:
            candidates = found or answers[Ownership.MAYBE]
            found = [store for store in candidates if store.holds(at, context=context)]
        if len(found) == 1:
            return found[0]
        if found:
            raise InvalidLocation(f"it lies in each of the stores {_names(found)}")
        raise NotFound("it lies in none of the stores")

    def _ownerships(self, at: Location) -> dict[Ownership, list[Store]]:
        """Return the stores by what they say of a location; raises UnknownScheme."""
        answers: dict[Ownership, list[Store]] = {ownership: [] for ownership in Ownership}
        for store in self._stores.values():
            if at.scheme in store.schemes:
                answers[store.ownership(at)].append(store)
        if not any(answers.values()):
            raise self._unknown_scheme(at.scheme)
        return answers

    def _unknown_scheme(self, scheme: str) -> UnknownScheme:
        known = dict.fromkeys(name for store in self._stores.values() for name in store.schemes)
        return UnknownScheme(
            f"no store reads {scheme}:// locations; they read: {', '.join(known) or 'none'}",
            remedy=self._perhaps(scheme) or "configure a store that does",
        )

    def _perhaps(self, scheme: str) -> str:
        """Return the remedy for a location that a failed store might have read."""
        names = [
            repr(name)
            for name, failure in self.failures.items()
            if not failure.schemes or scheme in failure.schemes
        ]
        return f"repair {', '.join(names)}, whose configuration failed" if names else ""


def _names(stores: list[Store]) -> str:
    return ", ".join(repr(store.name) for store in stores)
