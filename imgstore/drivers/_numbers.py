"""Numbers that servers write as text."""

from __future__ import annotations

import re
from typing import Final

# int() takes digits of all scripts, and raises ValueError for more than 4,300 of them.
_NUMBER: Final = re.compile(r"[0-9]{1,18}")


def whole_number(said: object) -> int | None:
    """Return a number of at most 18 digits, None for all else; JSON has them as numbers, too."""
    if isinstance(said, int) and not isinstance(said, bool):
        return said if 0 <= said < 10**18 else None
    return int(said) if isinstance(said, str) and _NUMBER.fullmatch(said) else None
