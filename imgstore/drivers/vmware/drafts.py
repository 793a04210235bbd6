"""The data of an add until they are an image."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from imgstore.drivers.vmware.places import DRAFT_PREFIX

_BYTES: Final = 16
_LENGTH: Final = len(DRAFT_PREFIX) + 2 * _BYTES


@contextmanager
def new_draft(live: set[str]) -> Iterator[str]:
    """Yield a name for an add's data, which is among those ``live`` for as long as it goes on."""
    name = f"{DRAFT_PREFIX}{secrets.token_hex(_BYTES)}"
    live.add(name)
    try:
        yield name
    finally:
        live.discard(name)


def draft_of(name: str) -> str:
    """Return the name of the draft that a file is, or was until it became a claim."""
    return name[:_LENGTH]
