"""glance_store's interface on Cinder: two volume types, and volumes of the single form."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from as_glance import prefixed, serving
from oslo_config import cfg
from servers.cinder import Cinder
from servers.cinder_stores import login

from imgstore.testing.harness import new_id

pytestmark = pytest.mark.servers("cinder", "keystone")


@pytest.fixture
def stores(cinder: Cinder) -> Iterator[Any]:
    """Return the interface with a store for each of two volume types."""
    options = prefixed("cinder_store_", login(cinder.user))
    options |= {
        "cinder_mount_point_base": str(cinder.mounts),
        "cinder_store_poll_interval": 0.05,
        "cinder_store_wait_for_delete": True,
    }
    with serving(
        {"fast": "cinder", "slow": "cinder"},
        fast=options | {"cinder_volume_type": "fast"},
        slow=options | {"cinder_volume_type": "slow"},
    ) as library:
        yield library
    cinder.empty()


def test_an_image(stores: Any) -> None:
    """Added, read, refused where the URL is no volume's, found by whose it is, deleted."""
    fast, slow = map(stores.get_store_from_store_identifier, ("fast", "slow"))
    data = b"volume" * 100_000
    url, size, *_, metadata = stores.add_with_multihash(
        cfg.CONF, new_id(), io.BytesIO(data), len(data), "fast", "sha512"
    )
    assert (size, metadata) == (len(data), {"store": "fast"})
    volume = url.rpartition("/")[2]
    assert url == f"cinder://fast/{volume}" == f"{fast.url_prefix}/{volume}"
    got, size = stores.get(url, "fast", offset=6, chunk_size=12)
    assert (b"".join(got), size) == (b"volume" * 2, 12)
    assert fast.is_image_associated_with_store(None, volume)
    assert not slow.is_image_associated_with_store(None, volume)
    assert not fast.is_image_associated_with_store(None, new_id())
    assert fast.store_conf.cinder_volume_type == "fast"
    # As rows have it of a time when there was one store.
    assert stores.get_size_from_uri_and_backend(f"cinder://{volume}", "fast") == len(data)
    with pytest.raises(stores.BadStoreUri):
        stores.get("cinder://fast/no-volume", "fast")
    with pytest.raises(stores.NotFound):
        stores.get(url, "slow")
    stores.delete(url, "fast")
    with pytest.raises(stores.NotFound):
        stores.get(url, "fast")
