"""Drivers as packages register them, by entry points."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint
from typing import Any, Final

from stevedore.named import NamedExtensionManager

from imgstore.boundary.redaction import Redaction
from imgstore.boundary.translation import describe
from imgstore.errors import ConfigError, DriverUnavailable
from imgstore.store import Store

LOG = logging.getLogger(__name__)

_NAMESPACE: Final = "imgstore.drivers"
_KNOWN: Final = frozenset(
    {"cinder", "file", "filesystem", "http", "memory", "rbd", "s3", "swift", "vmware"}
)


def load_driver(name: str) -> type[Store]:
    """Import and return the driver registered as ``name``; raises DriverUnavailable."""
    found = _entry_points()
    if name not in found:
        reason = f"there is no driver {name!r}"
        if name in _KNOWN:
            reason = f"the driver {name!r} is not part of this installation of imgstore"
        listed = ", ".join(sorted(found)) or "none; install imgstore instead of copying it"
        raise DriverUnavailable(reason, remedy=f"installed are: {listed}")
    values = sorted({entry_point.value for entry_point in found[name]})
    if len(values) > 1:
        raise DriverUnavailable(
            f"the driver {name!r} is registered more than once, as {', '.join(values)}",
            remedy="uninstall all but one of these packages",
        )
    try:
        driver: type[Store] = found[name][0].load()
    except Exception as exc:
        raise DriverUnavailable(
            f"the driver {name!r} ({values[0]}) cannot be imported: {describe(exc)}",
            remedy="repair or reinstall the package that it comes from",
        ) from exc
    if not (isinstance(driver, type) and issubclass(driver, Store)):
        raise DriverUnavailable(f"the driver {name!r} ({values[0]}) is not a subclass of Store")
    return driver


def built(driver: type[Store], name: str, *, single: bool, values: Mapping[str, Any]) -> Store:
    """Return a store; what its constructor raises shows nothing that is secret in ``values``."""
    try:
        return driver(name, single=single, **values)
    except Exception as exc:
        clean = Redaction.of(driver.OPTIONS, values).chain(exc)
        if clean is exc:
            raise
        raise clean from None


def driver_names() -> list[str]:
    """Return the names of all installed drivers; imports none."""
    return sorted(_entry_points())


def installed_drivers() -> list[type[Store]]:
    """Import and return all drivers, each once, in the order of their names."""
    drivers: dict[type[Store], None] = {}
    for name in driver_names():
        try:
            drivers[load_driver(name)] = None
        except DriverUnavailable as exc:
            LOG.warning("left out: %s", exc)
    return list(drivers)


def _entry_points() -> dict[str, list[EntryPoint]]:
    """Return what is registered, by name; nothing of it is imported."""
    found: dict[str, list[EntryPoint]] = {}
    manager: Any = NamedExtensionManager(_NAMESPACE, names=[])
    for entry_point in manager.list_entry_points():
        found.setdefault(entry_point.name, []).append(entry_point)
    return found


def faults_together(stores: Mapping[str, Store]) -> Iterator[tuple[str, ConfigError]]:
    """Yield stores that cannot be beside others of their driver, and why not."""
    kinds = dict.fromkeys(type(store.unwrapped) for store in stores.values())
    for kind in kinds:
        alike = [store for store in stores.values() if type(store.unwrapped) is kind]
        for store, fault in kind.faults_together(alike):
            yield store.name, fault
