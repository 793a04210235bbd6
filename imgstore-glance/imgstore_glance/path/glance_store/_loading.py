"""Drivers by name: imgstore's, then those that others have registered for glance_store."""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any, Final

LOG = logging.getLogger(__name__)

_GROUP: Final = "glance_store.drivers"
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
    module = MODULES.get(old[1] if old else entry)
    try:
        if module is not None:
            return importlib.import_module(f"glance_store._drivers.{module}").Store
        for entry_point in entry_points(group=_GROUP, name=entry):
            return entry_point.load()
    except Exception as exc:
        LOG.warning("The driver %r cannot be imported: %s", entry, exc)
        return None
    LOG.warning("There is no driver %r: it is not imgstore's, nor registered as %s", entry, _GROUP)
    return None


def foreign_classes() -> Iterator[Any]:
    """Yield the classes of drivers that others have registered and that can be imported."""
    names = {each.name for each in entry_points(group=_GROUP) if not _is_own(each.value)}
    for name in sorted(names - MODULES.keys()):
        cls = store_class(name)
        if cls is not None:
            yield cls


def _is_own(value: str) -> bool:
    """Return whether an entry point is glance-store's: its modules are this package's here."""
    return value.partition(".")[0] == "glance_store"
