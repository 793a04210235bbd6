"""glance_store's interface with stores, configured as Glance does it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

from oslo_config import cfg


@contextmanager
def serving(drivers: Mapping[str, str], **options: Mapping[str, Any]) -> Iterator[ModuleType]:
    """Give the package ``glance_store`` with stores; ``options`` are by their names.

    The façade is the one that is installed, or that PYTHONPATH names.
    """
    import imgstore_glance  # noqa: PLC0415

    conf = cfg.CONF
    with ExitStack() as undone:
        path = imgstore_glance.path()
        sys.path.insert(0, path)
        undone.callback(sys.path.remove, path)
        import glance_store  # noqa: PLC0415

        undone.callback(conf.reset)
        undone.callback(_forget, glance_store.location.SCHEME_TO_CLS_BACKEND_MAP)
        conf.reset()
        conf([], project="glance", default_config_files=[], default_config_dirs=[])
        if "enabled_backends" not in conf:
            conf.register_opt(cfg.DictOpt("enabled_backends"))
        conf.set_override("enabled_backends", dict(drivers))
        glance_store.register_store_opts(conf)
        for group, values in options.items():
            for name, value in values.items():
                conf.set_override(name, value, group=group)
        glance_store.create_multi_stores(conf)
        yield glance_store


def _forget(registry: dict[str, dict[str, Any]]) -> None:
    """Close all stores; the interface itself has no verb for that."""
    for entries in registry.values():
        for entry in entries.values():
            if (store := getattr(entry["store"], "_store", None)) is not None:
                store.close()
    registry.clear()


def prefixed(prefix: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by the names that they have in files, for keywords of a constructor."""
    return {f"{prefix}{keyword}": value for keyword, value in options.items()}
