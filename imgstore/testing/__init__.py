"""The contract that every store keeps, as tests for authors of drivers.

A driver is tested by a class with one fixture::

    from imgstore.testing import StoreContract

    class TestShelf(StoreContract):
        @pytest.fixture
        def store(self, tmp_path):
            with ShelfStore("shelf", directory=tmp_path) as store:
                yield store

What else a class may set, for slow or read-only backends, is in ``Harness``. The tests for what
a store cannot do are left out, and tests that it says so take their place: nothing is skipped.
Needs the extra ``imgstore[testing]``.
"""

import pytest

pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in (
            "adding",
            "concurrency",
            "copying",
            "failures",
            "harness",
            "lifecycle",
            "locations",
            "pinning",
            "ranges",
            "reading",
            "resources",
            "sources",
        )
    )
)

from imgstore.testing.contract import StoreContract  # noqa: E402  # rewriting comes first

__all__ = ["StoreContract"]
