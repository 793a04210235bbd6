"""Fields that an answer of a server has to have, and may lack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imgstore.errors import Unsupported


def told(answer: Any, *path: str, service: str) -> Any:
    """Return what an answer of a ``service`` has at the end of a ``path`` of names.

    Raises Unsupported where it has nothing there.
    """
    found = answer
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
        if found is None:
            raise not_told(name, service=service)
    return found


def not_told(name: str, *, service: str) -> Unsupported:
    """Return the error for an answer that lacks something."""
    return Unsupported(
        f"the server's answer has no {name}",
        remedy=f"look for a server or a proxy there that does not speak all of {service}'s API",
    )
