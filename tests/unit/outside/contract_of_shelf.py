"""The contract on a driver from outside; its author's whole test file."""

from __future__ import annotations

import pytest
from imgstore_shelf import ShelfStore

from imgstore.testing import StoreContract


class TestShelf(StoreContract):
    # The longest ids leave no room for what this driver puts before them.
    good_ids = tuple(image_id for image_id in StoreContract.good_ids if len(image_id) < 100)
    foreign_locations = ("shelf://other/image", "shelf://shelf/a/b", "shelf://shelf-2/image")
    secrets = ("open sesame",)
    memory_limit = 40 * 1024 * 1024

    @pytest.fixture
    def store(self, tmp_path):
        directory = tmp_path / "shelf"
        directory.mkdir()
        with ShelfStore("shelf", directory=str(directory), password="open sesame") as store:
            yield store

    @pytest.fixture
    def leaves(self, tmp_path):
        return lambda: sorted(path.name for path in (tmp_path / "shelf").iterdir())
