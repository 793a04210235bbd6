"""Drivers by name: imgstore's, then those that others have registered for glance_store."""

from __future__ import annotations

import functools
import importlib
import logging
import re
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from glance_store._store import ImgStore

LOG = logging.getLogger(__name__)

_GROUP: Final = "glance_store.drivers"
_IMGSTORES: Final = "imgstore.drivers"
_OLD_NAME: Final = re.compile(r"glance\.store\.(\w+)\.Store")
MODULES: Final = {
    "cinder": "cinder",
    "file": "filesystem",
    "filesystem": "filesystem",
    "http": "http",
    "rbd": "rbd",
    "s3": "s3",
    "swift": "swift",
    "vmware": "vmware_datastore",
    "vmware_datastore": "vmware_datastore",
}


def store_class(entry: str) -> Any:
    """Return the class of a driver; None, and a warning, if there is none that can be imported."""
    old = _OLD_NAME.fullmatch(entry)
    try:
        cls = _imported(old[1] if old else entry, entry)
    except Exception as exc:
        LOG.warning("The driver %r cannot be imported: %s", entry, exc)
        return None
    if cls is None:
        LOG.warning("There is no driver %r in %s or %s", entry, _IMGSTORES, _GROUP)
    return cls


def _imported(name: str, entry: str) -> Any:
    if name in MODULES:
        return importlib.import_module(f"glance_store._drivers.{MODULES[name]}").Store
    if name in _registered(_IMGSTORES):
        return _of_imgstore(_registered(_IMGSTORES)[name])
    foreign = _registered(_GROUP).get(entry)
    return foreign.load() if foreign is not None else None


@functools.cache
def _registered(group: str) -> dict[str, EntryPoint]:
    """Return the drivers of a group by name; looking at all distributions takes its time."""
    return {each.name: each for each in entry_points(group=group)}


@functools.cache
def _of_imgstore(entry_point: EntryPoint) -> type[ImgStore]:
    """Return a class for a driver of imgstore that glance_store never had."""
    kind = {"KIND": entry_point.load(), "__module__": ImgStore.__module__}
    return type("Store", (ImgStore,), kind)


@functools.cache
def foreign_drivers() -> tuple[tuple[str, Any], ...]:
    """Return the drivers of glance_store that others have registered: a name, and the class."""
    foreign = _registered(_GROUP).items() - _registered_here()
    found = {store_class(name): name for name, _ in sorted(foreign, reverse=True)}
    return tuple(sorted((name, cls) for cls, name in found.items() if cls is not None))


def _registered_here() -> set[tuple[str, EntryPoint]]:
    """Return glance-store's own, whose modules are this package's here."""
    return {
        (name, each)
        for name, each in _registered(_GROUP).items()
        if name in MODULES or each.value.partition(".")[0] == "glance_store"
    }
