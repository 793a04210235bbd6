"""Services with stores, configured as Glance does it."""

from __future__ import annotations

from pathlib import Path

import glance_store
import imgstore_glance

HERE = Path(__file__).parent.parent
PATH = Path(imgstore_glance.path())
RESERVED = {"os_glance_staging_store": "file", "os_glance_tasks_store": "file"}


class Service:
    """A service with stores, configured as Glance does it."""

    def __init__(self, conf, tmp_path):
        self.conf = conf
        self.tmp_path = tmp_path

    def multi(self, options=None, reserved=None, **backends):
        """Create stores; ``options`` maps groups to values, file stores get a directory each."""
        self.conf.set_override("enabled_backends", backends)
        reserved = reserved or {}
        glance_store.register_store_opts(self.conf, reserved)
        if backends:
            self.conf.set_override("default_backend", next(iter(backends)), group="glance_store")
        for name, driver in {**backends, **reserved}.items():
            if driver == "file":
                self.set(name, filesystem_store_datadir=str(self.tmp_path / name))
        for group, values in (options or {}).items():
            self.set(group, **values)
        return glance_store.create_multi_stores(self.conf, reserved)

    def single(self, *drivers, **values):
        """Create stores of the form without names."""
        glance_store.register_opts(self.conf)
        self.set(
            "glance_store",
            stores=list(drivers),
            **{"filesystem_store_datadir": str(self.tmp_path / "single")} | values,
        )
        return glance_store.create_stores(self.conf)

    def set(self, group, **values):
        for name, value in values.items():
            self.conf.set_override(name, value, group=group)
