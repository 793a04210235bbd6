"""The registry's entries, and one line in the log that tells which library serves."""

from __future__ import annotations

import logging
import os
import site
from pathlib import Path
from typing import Any, Final

import imgstore_glance

import imgstore
from glance_store import exceptions, location
from glance_store.capabilities import BitMasks

LOG = logging.getLogger(__name__)

PTH: Final = "imgstore-glance.pth"


def announce() -> None:
    """Log that imgstore serves, and whether programs that this one starts will know of it."""
    path = imgstore_glance.path()
    LOG.info(
        "glance_store is imgstore %s, by imgstore-glance %s in %s",
        imgstore.__version__,
        imgstore_glance.__version__,
        path,
    )
    if not is_inherited(path):
        LOG.warning(
            "neither PYTHONPATH nor a file %s names %s: Python programs that this process starts "
            "use the glance_store that is installed, if any",
            PTH,
            path,
        )


def is_inherited(path: str) -> bool:
    """Return whether a Python program that this process starts finds the same glance_store."""
    listed = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if any(each and Path(each).resolve() == Path(path) for each in listed):
        return True
    return any((Path(each) / PTH).is_file() for each in site.getsitepackages())


def entries(store: Any, entry: str) -> dict[str, dict[str, Any]]:
    """Return what the registry has of a store, by scheme; raises BackendException without any."""
    schemes = store.get_schemes()
    if not schemes:
        raise exceptions.BackendException(f"The driver {entry!r} reads no scheme")
    kind = store.get_store_location_class()
    return {
        scheme: {"store": store, "location_class": kind, "store_entry": entry} for scheme in schemes
    }


def usable(store: Any, name: str | None = None) -> Any:
    """Return a store that threads may share; drivers of others that say so get one for each use."""
    if store.is_capable(BitMasks.DRIVER_REUSABLE):
        return store
    fresh = type(store)(store.conf, name) if name else type(store)(store.conf)
    fresh.configure()
    return fresh


def enter_single(store: Any, entry: str) -> None:
    """Enter a store of the single form."""
    location.register_scheme_map(entries(store, entry))


def enter(store: Any, name: str, entry: str) -> int:
    """Enter a named store in place of others of its name; return the number of its schemes."""
    found = entries(store, entry)
    for scheme, stores in location.SCHEME_TO_CLS_BACKEND_MAP.items():
        if scheme not in found:
            stores.pop(name, None)
    location.register_scheme_backend_map({scheme: {name: each} for scheme, each in found.items()})
    return len(found)
