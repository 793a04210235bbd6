"""glance_store's interface with stores, configured as Glance does it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from oslo_config import cfg

ROOT = Path(__file__).parents[1] / "imgstore-glance"


@contextmanager
def serving(drivers: Mapping[str, str], **options: Mapping[str, Any]) -> Iterator[ModuleType]:
    """Give the package ``glance_store`` with stores; ``options`` are by their names."""
    paths = [str(ROOT / "imgstore_glance" / "path"), str(ROOT)]
    sys.path[:0] = paths
    import glance_store  # noqa: PLC0415

    conf = cfg.CONF
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
    try:
        yield glance_store
    finally:
        glance_store.location.SCHEME_TO_CLS_BACKEND_MAP.clear()
        conf.reset()
        for path in paths:
            sys.path.remove(path)


def prefixed(prefix: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by the names that they have in files, for keywords of a constructor."""
    return {f"{prefix}{keyword}": value for keyword, value in options.items()}
