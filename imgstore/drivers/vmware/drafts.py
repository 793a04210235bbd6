"""What the data of an image are called until it is complete."""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

from imgstore.drivers.vmware.settings import MARK

_BYTES: Final = 16
_LENGTH: Final = len(MARK) + 2 * _BYTES


class Draft:
    """The name of an add's data, known as alive for as long as it is under way."""

    def __init__(self, live: set[str]) -> None:
        """``live`` are the names of all that are under way."""
        self._live = live
        self._name = f"{MARK}{secrets.token_hex(_BYTES)}"

    def __enter__(self) -> str:
        """Return the name."""
        self._live.add(self._name)
        return self._name

    def __exit__(self, *exc_info: object) -> None:
        """End it."""
        self._live.discard(self._name)


def claim(draft: str, image_id: str) -> str:
    """Return the name of a draft that is complete, and claims its id in all datastores."""
    return f"{draft}{_ending(image_id)}"


def claims(image_id: str) -> str:
    """Return the pattern that is for the claims of all adds of an id."""
    return f"{MARK}*{_ending(image_id)}"


def draft_of(name: str) -> str:
    """Return the name of the draft that a file is, or was until it became a claim."""
    return name[:_LENGTH]


def _ending(image_id: str) -> str:
    return f"-{hashlib.sha256(image_id.encode()).hexdigest()[:32]}"
