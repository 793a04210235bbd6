"""Messages are not translated: these return what they are given."""

from __future__ import annotations


def _(text: str) -> str:
    """Return ``text``."""
    return text


_LE = _LI = _LW = _
