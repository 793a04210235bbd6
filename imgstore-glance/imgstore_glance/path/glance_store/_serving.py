"""The registry's entries, and one line in the log that tells which library serves."""

from __future__ import annotations

import contextlib
import logging
import os
import site
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import imgstore_glance

import imgstore
from glance_store import exceptions, location
from glance_store.capabilities import BitMasks

LOG = logging.getLogger(__name__)

PTH: Final = "imgstore-glance.pth"
PYTHONPATH: Final = "PYTHONPATH"


def announce() -> None:
    """Log that imgstore serves, by which switch, and which programs would do without it."""
    path = imgstore_glance.path()
    switch = switch_of_children(path)
    LOG.info(
        "glance_store is imgstore %s, by imgstore-glance %s in %s%s",
        imgstore.__version__,
        imgstore_glance.__version__,
        path,
        _reach(switch),
    )
    if switch is None:
        LOG.warning(
            "neither PYTHONPATH nor a file %s names %s as a whole path: Python programs that this "
            "process starts use %s",
            PTH,
            path,
            _without(),
        )


def _reach(switch: str | None) -> str:
    if switch != PYTHONPATH:
        return "" if switch is None else f", for every program of this environment by {switch}"
    return f", by {PYTHONPATH}: a program that is started without that variable uses {_without()}"


def _without() -> str:
    """Return which glance_store a program has that does not look here; it logs no such line."""
    try:
        return f"glance-store {version('glance-store')}"
    except PackageNotFoundError:
        return "no glance_store, as none is installed"


def switch_of_children(path: str) -> str | None:
    """Return what lets Python programs that this process starts find the same glance_store."""
    for place in site.getsitepackages():
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if path in (Path(place) / PTH).read_text(encoding="utf-8"):
                return PTH
    listed = os.environ.get(PYTHONPATH, "").split(os.pathsep)
    found = any(os.path.isabs(each) and Path(each).resolve() == Path(path) for each in listed)
    return PYTHONPATH if found else None


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
