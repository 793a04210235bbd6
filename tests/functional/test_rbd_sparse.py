"""What is read of RBD images that are mostly holes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from servers.ceph import Ceph
from servers.pools import RbdPool

from imgstore.drivers.filesystem import FilesystemStore
from imgstore.testing.harness import new_id, pattern

pytestmark = pytest.mark.servers("ceph")

MIB = 1024 * 1024
SIZE = 256 * MIB
# Where there is data, a MiB each: at the begin, around the end of an object, at the end.
PLACES = (0, 40, 47, 48, 100, 101, 200, 255)
OBJECTS = len({place // 8 for place in PLACES})
LITTLE = 1.1 * len(PLACES) * MIB
FEATURES = {
    "an object map": "layering,exclusive-lock,object-map,fast-diff",
    "no object map": "layering,exclusive-lock",
}


class Sparse(NamedTuple):
    """A sparse file, and its digests."""

    path: Path
    digests: dict[str, str]


@pytest.fixture
def pool(ceph: Ceph, rbd_pool: RbdPool) -> Iterator[RbdPool]:
    yield rbd_pool
    rbd_pool.empty()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Sparse:
    path = tmp_path_factory.mktemp("sparse") / "source"
    block = pattern(MIB)
    with path.open("wb") as file:
        file.truncate(SIZE)
        for place in PLACES:
            file.seek(place * MIB)
            file.write(block)
    return Sparse(path, {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})


def sent_by(pool: RbdPool) -> int:
    """Return how many bytes the cluster has sent to clients so far."""
    status, answer, _ = pool.client.osd_command(0, json.dumps({"prefix": "perf dump"}), b"")
    assert status == 0
    sent: int = json.loads(answer)["osd"]["op_r_out_bytes"]
    return sent


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
def test_holes_are_not_read(pool: RbdPool, source: Sparse, features: str) -> None:
    """The cluster sends the data, and little beside it."""
    with pool.store(features=features) as store:
        at = store.add(new_id(), source.path).location
        before = sent_by(pool)
        store.verify(at, source.digests)
        assert sent_by(pool) - before <= LITTLE


def test_holes_stay_holes(pool: RbdPool, source: Sparse, tmp_path: Path) -> None:
    """They are not read, and take no room in a saved file; those of whole objects in no store."""
    saved = tmp_path / "saved"
    with pool.store() as store, FilesystemStore("files", datadir=str(tmp_path / "files")) as files:
        at = store.add(new_id(), source.path).location
        before = sent_by(pool)
        store.save(at, saved, expected=source.digests)
        assert sent_by(pool) - before <= LITTLE
        copy = store.copy(at, new_id(), to=files, expected=source.digests).location
        assert sent_by(pool) - before <= 2 * LITTLE
    assert saved.stat().st_blocks * 512 <= LITTLE
    copied = Path(copy.url.removeprefix("file://"))
    assert copied.stat().st_blocks * 512 <= 1.1 * OBJECTS * 8 * MIB
