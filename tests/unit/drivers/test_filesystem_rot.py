"""Files whose bytes a disk has changed, without a trace in their times."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imgstore import errors
from imgstore.drivers.filesystem import FilesystemStore
from imgstore.testing.harness import pattern
from imgstore.testing.verifying import flip

DATA = pattern(3 * 1024 * 1024 + 1)


@pytest.fixture(params=[0, 5], ids=["direct", "with a time limit"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FilesystemStore]:
    with FilesystemStore("file", datadir=str(tmp_path), timeout=request.param) as made:
        yield made


@pytest.mark.parametrize("at", [0, len(DATA) // 2, len(DATA) - 1])
def test_rot_is_found(store: FilesystemStore, tmp_path: Path, at: int) -> None:
    """The digest that was told when the image was added no longer fits."""
    image = store.add("image", DATA)
    assert store.verify(image, image.digests) == image.digests
    flip(tmp_path / "image", at)
    with pytest.raises(errors.DigestMismatch):
        store.verify(image, image.digests)
    got: list[bytes] = []
    with store.get(image, expected=image.digests) as reader, pytest.raises(errors.DigestMismatch):
        got += reader
    assert sum(map(len, got)) < len(DATA)


def test_an_image_that_is_replaced_meanwhile(store: FilesystemStore, tmp_path: Path) -> None:
    """What was read is of one version, and no longer what lies there."""
    image = store.add("image", DATA)

    def replace(done: int, total: int | None) -> None:
        if done != total:
            return
        (tmp_path / "new").write_bytes(DATA)
        (tmp_path / "new").rename(tmp_path / "image")

    with pytest.raises(errors.IntegrityError) as caught:
        store.verify(image, progress=replace)
    assert not isinstance(caught.value, errors.DigestMismatch)


def test_an_image_that_is_deleted_meanwhile(store: FilesystemStore) -> None:
    """It is no more, whatever was read of it."""
    image = store.add("image", DATA)

    def delete(done: int, total: int | None) -> None:
        if done == total:
            store.delete(image)

    with pytest.raises(errors.NotFound):
        store.verify(image, progress=delete)
