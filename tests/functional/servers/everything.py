"""How much of the contract a class on a server runs.

In process all of it runs. A driver cannot tell some cases apart, and most of its settings need not
repeat what one of them shows. `make test-all` repeats all of it on every setting.
"""

from __future__ import annotations

import os

from imgstore.testing.failures import FAILURES, KINDS, SHAPES, SOURCES
from imgstore.testing.harness import MIB, Harness
from imgstore.testing.sources import FEW_KINDS, IN_MEMORY

EVERYTHING = os.environ.get("IMGSTORE_TESTS") == "all"


class Slow(Harness):
    """A store on a server: its driver is shown no case twice that it cannot tell apart."""

    failures = tuple(FAILURES) if EVERYTHING else KINDS
    origins = tuple(SOURCES) if EVERYTHING else SHAPES
    kinds = tuple(IN_MEMORY) if EVERYTHING else FEW_KINDS


class Again(Harness):
    """Another setting of a driver of which one class runs the whole contract."""

    library_half = EVERYTHING
    if not EVERYTHING:
        sizes = (0, 1, MIB + 1, 5 * MIB + 3)
        good_ids = tuple(Harness.good_ids[at] for at in (0, 7, 8))
