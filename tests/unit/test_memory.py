"""The store in memory, beyond the contract."""

from __future__ import annotations

import pytest

from imgstore import Location, errors
from imgstore.drivers.memory import MemoryStore
from imgstore.model import Ownership


def test_two_stores_share_nothing():
    """Stores of the same name do not see each other's images."""
    with MemoryStore("same") as one, MemoryStore("same") as two:
        at = one.add("image", b"data").location
        assert at.url == "memory://same/image"
        with pytest.raises(errors.NotFound):
            two.size(at)


def test_a_store_owns_what_lies_below_its_name():
    """The store's name is one whole segment."""
    store = MemoryStore("a", also_owns=["memory://old"])
    owned = {"memory://a/x": "yes", "memory://ab/x": "no", "memory://a": "no"}
    owned |= {"memory://old/x": "yes", "memory://older/x": "no", "file://a/x": "no"}
    for url, expected in owned.items():
        assert store.ownership(Location.parse(url)) is Ownership(expected)


def test_a_replaced_image_is_another_version():
    """An image deleted and added again does not pass for the one that was opened."""
    with MemoryStore("a") as store:
        at = store.add("image", b"data").location
        version = store._get(at, 0, None, if_version=None, context=None).version
        store._get(at, 0, None, if_version=version, context=None).close()
        store.delete(at)
        store.add("image", b"data")
        with pytest.raises(errors.IntegrityError):
            store._get(at, 0, None, if_version=version, context=None)
