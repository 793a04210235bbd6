"""What unfinished images are called."""

from __future__ import annotations

import secrets
from typing import Final

from imgstore.boundary.arguments import OWN

_ADD: Final = OWN + "add-"
_COPY: Final = OWN + "copy-"
_PROBE: Final = OWN + "check-"


def of_add(image_id: str) -> str:
    """Return what an image is called while it is added: adds of one id get in each other's way."""
    return _ADD + image_id


def of_copy() -> str:
    """Return what an image is called while it is copied, another name each time."""
    return _COPY + secrets.token_hex(16)


def of_probe() -> str:
    """Return what an image of check() is called, another name each time."""
    return _PROBE + secrets.token_hex(8)


def added_as(draft: str) -> str | None:
    """Return the id under which a draft is added; None for others."""
    return draft[len(_ADD) :] if draft.startswith(_ADD) else None


def is_draft(name: str) -> bool:
    """Return whether an image of this name is an add, copy or probe, under way or left behind."""
    return name.startswith((_ADD, _COPY, _PROBE))
