"""Services with stores, configured as Glance does it."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import glance_store
import imgstore_glance
from oslo_config import cfg

HERE = Path(__file__).parent.parent
PATH = Path(imgstore_glance.path())
RESERVED = {"os_glance_staging_store": "file", "os_glance_tasks_store": "file"}
HAS_CEPH = importlib.util.find_spec("rados") is not None
VOLUME = "3c2ae8a1-93a7-41f6-a1d2-64ac1d2eb5a0"
S3 = {"s3_store_host": "https://s3.example.org", "s3_store_bucket": "images"}
SWIFT = {
    "swift_store_auth_address": "https://keys.example.org/v3",
    "swift_store_user": "p:u",
    "swift_store_key": "k/e:y",
}
VMWARE = {
    "vmware_server_host": "vc.example.org",
    "vmware_server_username": "u",
    "vmware_server_password": "p",
    "vmware_datastores": ["DC0:one:10"],
}


def store(name):
    return glance_store.get_store_from_store_identifier(name)


def add(name, image_id="image", data=b"data"):
    return glance_store.add_with_multihash(
        cfg.CONF, image_id, io.BytesIO(data), len(data), name, "sha256"
    )


def content(url, name, **given):
    data, size = glance_store.get(url, name, **given)
    found = b"".join(data)
    data.close()
    assert size == len(found)
    return found


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
