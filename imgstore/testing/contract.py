"""The whole contract, put together."""

from __future__ import annotations

from typing import Any

from imgstore.testing.adding import Adding, AddingRefused
from imgstore.testing.concurrency import Concurrency
from imgstore.testing.copying import Copying
from imgstore.testing.failures import Failures
from imgstore.testing.harness import is_wanted
from imgstore.testing.lifecycle import Lifecycle
from imgstore.testing.locations import Locations
from imgstore.testing.pinning import Pinning
from imgstore.testing.ranges import Ranges, RangesRefused
from imgstore.testing.reading import Reading
from imgstore.testing.resources import Resources
from imgstore.testing.sources import Sources


class StoreContract(
    Adding,
    AddingRefused,
    Sources,
    Failures,
    Reading,
    Ranges,
    RangesRefused,
    Pinning,
    Locations,
    Copying,
    Concurrency,
    Lifecycle,
    Resources,
):
    """Every test of the contract; derive from it and give it a ``store`` fixture."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Leave out the tests that do not suit what the class says about its store."""
        super().__init_subclass__(**kwargs)
        for name in dir(StoreContract):
            if not name.startswith("test_"):
                continue
            test = getattr(StoreContract, name)
            if not is_wanted(test, cls):
                setattr(cls, name, None)  # pytest passes over what cannot be called
            elif getattr(cls, name) is None:  # left out by a class in between
                setattr(cls, name, test)
