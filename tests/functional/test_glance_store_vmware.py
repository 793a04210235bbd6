"""glance_store's interface on a vCenter Server."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from as_glance import prefixed, serving
from oslo_config import cfg
from servers.vmware_stores import DATA, files, login
from servers.vsphere import VSphere

from imgstore.testing.harness import new_id

pytestmark = pytest.mark.servers("vsphere")


@pytest.fixture
def stores(vsphere: VSphere) -> Iterator[Any]:
    """Return the interface with a store for one datastore."""
    options = login(vsphere) | {"datastores": ["DC0:images"], "task_poll_interval": 1}
    with serving({"disks": "vmware"}, disks=prefixed("vmware_", options)) as library:
        yield library


def test_an_image(stores: Any, vsphere: VSphere) -> None:
    """Added, read, found by its URL, refused a second time, deleted."""
    image_id = new_id()
    url, size, _, metadata = stores.add(cfg.CONF, image_id, io.BytesIO(DATA), 0, "disks")
    assert (size, metadata) == (len(DATA), {"store": "disks"})
    service = f"127.0.0.1:{vsphere.ports['https']}"
    query = "dsName=images&dcPath=DC0"
    assert url == f"vsphere://{service}/folder/openstack_glance/{image_id}?{query}"
    assert url.startswith(stores.get_store_from_store_identifier("disks").url_prefix)
    data, size = stores.get(url, "disks", offset=7, chunk_size=1000)
    assert (b"".join(data), size) == (DATA[7:1007], 1000)
    with pytest.raises(stores.Duplicate):
        stores.add(cfg.CONF, image_id, io.BytesIO(b"x"), 1, "disks")
    stores.delete(url, None)
    with pytest.raises(stores.NotFound):
        stores.get(url, "disks")
    with pytest.raises(stores.BadStoreUri):
        stores.get(f"vsphere://{service}/nowhere", "disks")
    assert files(vsphere) == []
