"""glance_store, used as Glance uses it: the multi-store functions over the global configuration."""

from __future__ import annotations

import importlib
import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from configuration import STORE, configuration_file

# Installed in the incumbent's environment only, and it has no types.
cfg = importlib.import_module("oslo_config.cfg")
glance_store = importlib.import_module("glance_store")

logging.getLogger("oslo_config").setLevel(logging.ERROR)  # not that options are deprecated


class Side:
    def __init__(self, driver: str, options: Mapping[str, str]) -> None:
        self._conf = cfg.CONF
        self._context: SimpleNamespace | None = None
        self._conf.register_opt(cfg.DictOpt("enabled_backends"))
        with configuration_file(driver, options) as path:
            self._conf(["--config-file", str(path)], project="bench")
        glance_store.register_store_opts(self._conf)
        glance_store.create_multi_stores(self._conf)
        if driver == "vmware":
            # Stores are looked for by the name of their driver, and registered by their scheme.
            known = importlib.import_module("glance_store.location").SCHEME_TO_CLS_BACKEND_MAP
            known["vmware"] = known["vsphere"]
        if driver == "cinder":
            # Volumes get its project, and cannot be made without.
            self._context = SimpleNamespace(project_id="bench")
            # The helper would read the configuration file, which is gone by then.
            self._conf.set_override("helper_command", "privsep-helper", group="privsep_osbrick")
        glance_store.verify_store()

    def add(
        self, image_id: str, source: Any, *, size: int, algorithms: Sequence[str]
    ) -> tuple[str, Mapping[str, str]]:
        """Store the image; md5 is always computed, beside the last of `algorithms`."""
        url, _, md5, multihash, _ = glance_store.add_with_multihash(
            self._conf, image_id, source, size, STORE, algorithms[-1], context=self._context
        )
        return url, {"md5": md5, algorithms[-1]: multihash}

    def chunks(self, url: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        data, _ = glance_store.get(url, STORE, offset=offset, chunk_size=length)
        yield from data

    def send(self, url: str, sink: socket.socket) -> None:
        for chunk in self.chunks(url):
            sink.sendall(chunk)

    def delete(self, url: str) -> None:
        glance_store.delete(url, STORE)
