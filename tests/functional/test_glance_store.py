"""glance_store's interface on real servers: what Glance gets from RBD and from S3."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from as_glance import prefixed, serving
from oslo_config import cfg
from servers.buckets import Bucket
from servers.ceph import Ceph
from servers.pools import RbdPool
from servers.process import free_port
from servers.radosgw import RadosGateway

from imgstore.testing.harness import new_id, pattern

pytestmark = pytest.mark.servers("ceph", "radosgw")

DATA = pattern(9 * 1024 * 1024 + 7)  # more than one of S3's parts, or of RBD's chunks


@pytest.fixture
def down() -> str:
    """A URL where nobody listens."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture
def stores(
    ceph: Ceph, radosgw: RadosGateway, rbd_pool: RbdPool, bucket: Bucket, down: str
) -> Iterator[Any]:
    """Return the interface with a store of each kind, and one whose server is away."""
    in_parts = {"large_object_size": 5, "large_object_chunk_size": 5}
    objects = bucket.options() | in_parts
    with serving(
        {"pool": "rbd", "objects": "s3", "down": "s3"},
        pool=prefixed("rbd_store_", rbd_pool.options),
        objects=prefixed("s3_store_", objects),
        down=prefixed("s3_store_", objects | {"host": down, "max_attempts": 1}),
    ) as library:
        yield library
    rbd_pool.empty()


@pytest.fixture(params=["pool", "objects"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def add(stores: Any, name: str) -> Callable[..., Any]:
    """Return what adds an image to the store, as Glance does."""

    def add(image_id: str, data: bytes = DATA, size: int = 0) -> Any:
        source = io.BytesIO(data)
        return stores.add_with_multihash(cfg.CONF, image_id, source, size, name, "sha512")

    return add


def test_an_image(
    stores: Any, name: str, add: Callable[..., Any], rbd_pool: RbdPool, bucket: Bucket
) -> None:
    """Added with and without a size, read whole and in ranges, found by its URL, deleted."""
    service = bucket.options()["host"].partition("://")[2]
    own = {
        "pool": f"rbd://{rbd_pool.cluster.fsid}/{rbd_pool.name}",
        "objects": f"s3://{service}/{bucket.name}",
    }[name]
    for size in (0, len(DATA)):
        image_id = new_id()
        url, stored, md5, multihash, metadata = add(image_id, size=size)
        assert (stored, len(md5), len(multihash)) == (len(DATA), 32, 128)
        assert metadata == {"store": name}
        assert url == f"{own}/{image_id}{'/snap' if name == 'pool' else ''}"
        assert url.startswith(stores.get_store_from_store_identifier(name).url_prefix)
        data, length = stores.get(url, name)
        assert (b"".join(data), length) == (DATA, len(DATA))
        data, length = stores.get(url, None, offset=4_000_000, chunk_size=5_000_000)
        assert (b"".join(data), length) == (DATA[4_000_000:9_000_000], 5_000_000)
        assert stores.get_size_from_uri_and_backend(url, name) == len(DATA)
        stores.delete(url, name)
        with pytest.raises(stores.NotFound):
            stores.get(url, name)


def test_what_is_served_for_a_while_leaves_nothing(tmp_path: Path) -> None:
    """Stores are closed, and where one has a wrong option everything is as it was before."""
    before = list(sys.path)
    place = {"filesystem_store_datadir": str(tmp_path)}
    with serving({"files": "file"}, files=place) as library:
        url = library.add(cfg.CONF, "x", io.BytesIO(b"data"), 4, "files")[0]
        store = library.get_store_from_store_identifier("files")
        at = library.location.get_location_from_uri_and_backend(url, "files")
    with pytest.raises(ValueError, match="closed"):
        store.get_size(at)
    with pytest.raises(cfg.NoSuchOptError), serving({"files": "file"}, files={"no_option": 1}):
        pass
    assert sys.path == before
    assert cfg.CONF.enabled_backends is None


def test_what_is_refused(stores: Any, name: str, add: Callable[..., Any]) -> None:
    """Classes that Glance's answers depend on."""
    image_id = new_id()
    url = add(image_id, b"data")[0]
    with pytest.raises(stores.Duplicate):
        add(image_id, b"other")
    with pytest.raises(stores.Invalid):
        add(new_id(), b"data", size=5)
    with pytest.raises(stores.Invalid):
        stores.get(url, name, offset=5)
    gone = url.replace(image_id, new_id())
    for call in (stores.get, stores.get_size_from_uri_and_backend, stores.delete):
        with pytest.raises(stores.NotFound):
            call(gone, name)
    malformed = {"pool": "rbd://a/b", "objects": "s3://a/b"}[name]
    elsewhere = {"pool": "rbd://f/images/x/snap", "objects": "s3://elsewhere/images/x"}[name]
    for call in (stores.get, stores.get_size_from_uri_and_backend, stores.delete):
        with pytest.raises(stores.BadStoreUri):
            call(malformed, name)
    with pytest.raises(stores.NotFound):
        stores.get(elsewhere, name)
    with pytest.raises(stores.Forbidden, match="store_also_owns"):
        stores.delete(elsewhere, name)
    assert stores.get(url, name)[1] == 4


def test_an_image_that_is_cloned(stores: Any, rbd_pool: RbdPool) -> None:
    """It stays, and Glance says that it is in use."""
    image_id = new_id()
    url = stores.add(cfg.CONF, image_id, io.BytesIO(b"data"), 4, "pool")[0]
    context = rbd_pool.context
    rbd_pool.verbs.clone(context, image_id, "snap", context, "clone", features=1)
    with pytest.raises(stores.InUseByStore):
        stores.delete(url, "pool")
    assert stores.get_size_from_uri_and_backend(url, "pool") == 4
    rbd_pool.verbs.remove(context, "clone")
    stores.delete(url, "pool")


def test_a_server_that_is_away(stores: Any, down: str) -> None:
    """An upload or a deletion may be tried again, a download is unavailable."""
    url = f"s3://{down.partition('://')[2]}/images/x"
    with pytest.raises(stores.TimeoutError):
        stores.add(cfg.CONF, "x", io.BytesIO(b"data"), 4, "down")
    with pytest.raises(stores.TimeoutError):
        stores.delete(url, "down")
    for call in (stores.get, stores.get_size_from_uri_and_backend):
        with pytest.raises(stores.RemoteServiceUnavailable):
            call(url, "down")


def test_the_cluster_is_known(stores: Any, rbd_pool: RbdPool) -> None:
    """Glance shows its fsid, which URLs begin with."""
    prefix = stores.get_store_from_store_identifier("pool").url_prefix
    assert prefix == f"rbd://{rbd_pool.cluster.fsid}/{rbd_pool.name}/"
