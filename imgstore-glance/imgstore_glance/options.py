"""The options of glance_store, as oslo-config-generator and services ask for them."""

from __future__ import annotations

import copy
import functools
from importlib.metadata import PackageNotFoundError, distribution
from typing import Final, TypeAlias

from oslo_config import cfg

from imgstore.config import driver_options, list_opts
from imgstore.errors import DriverUnavailable

Listed: TypeAlias = "list[tuple[str, list[cfg.Opt]]]"

DRIVERS: Final = ("file", "http", "rbd", "s3", "swift", "cinder", "vmware")
GROUP: Final = "glance_store"


def library_options(*names: str) -> list[cfg.Opt]:
    """Return the options of these names that tell which stores there are, and the default."""
    return [_library()[name] for name in names]


@functools.cache
def _library() -> dict[str, cfg.Opt]:
    groups = (opts for group, opts in list_opts() if group is not None and group.name == GROUP)
    return {opt.name: opt for opts in groups for opt in opts}


def list_single() -> Listed:
    """Return the options of the form without ``enabled_backends``: all are in one group."""
    found = {opt.name: opt for _, opts in _of_drivers() for opt in opts}
    library = copy.deepcopy(library_options("stores", "default_store"))
    return [(GROUP, [*library, *found.values()])]


def list_multi() -> Listed:
    """Return the options of the form with ``enabled_backends``: a group stands for each driver."""
    return [(GROUP, copy.deepcopy(library_options("default_backend"))), *_of_drivers()]


def _of_drivers() -> Listed:
    found = []
    for name in DRIVERS:
        try:
            found.append((name, driver_options(name)))
        except DriverUnavailable:  # which is said when somebody wants it
            continue
    return found


def list_single_unless_listed() -> Listed:
    """Return the options, or none where glance-store is installed, whose entry point lists them."""
    return [] if _has_glance_store() else list_single()


def list_multi_unless_listed() -> Listed:
    """Return the options, or none where glance-store is installed, whose entry point lists them."""
    return [] if _has_glance_store() else list_multi()


def _has_glance_store() -> bool:
    try:
        distribution("glance-store")
    except PackageNotFoundError:
        return False
    return True
