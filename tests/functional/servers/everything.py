"""How much of the contract a class runs: most settings of a driver need not repeat all of it.

`make test-all` repeats all of it on every setting.
"""

from __future__ import annotations

import os

from imgstore.testing.failures import FAILURES, KINDS

EVERYTHING = os.environ.get("IMGSTORE_TESTS") == "all"
# What sources raise in classes on a server: in process it is every exception.
FEW = tuple(FAILURES) if EVERYTHING else KINDS
