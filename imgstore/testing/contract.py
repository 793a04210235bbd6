"""The whole contract, put together."""

from __future__ import annotations

from imgstore.testing.adding import Adding, AddingRefused
from imgstore.testing.concurrency import Concurrency
from imgstore.testing.copying import Copying
from imgstore.testing.expecting import Expecting
from imgstore.testing.failures import Failures
from imgstore.testing.lifecycle import Lifecycle
from imgstore.testing.locations import Locations
from imgstore.testing.pinning import Pinning
from imgstore.testing.ranges import Ranges, RangesRefused
from imgstore.testing.reading import Reading
from imgstore.testing.resources import Resources
from imgstore.testing.sources import Sources
from imgstore.testing.verifying import Rotting, Verifying


class StoreContract(
    Adding,
    AddingRefused,
    Sources,
    Failures,
    Expecting,
    Reading,
    Verifying,
    Rotting,
    Ranges,
    RangesRefused,
    Pinning,
    Locations,
    Copying,
    Concurrency,
    Lifecycle,
    Resources,
    is_part=True,
):
    """Every test of the contract; derive from it and give it a ``store`` fixture."""
