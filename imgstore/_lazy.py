"""SDKs are imported when a store first needs them; a missing one says what to install."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from imgstore.errors import DriverUnavailable


def require(*modules: str, install: str) -> None:
    """Raise DriverUnavailable unless every top-level module can be found; none is imported.

    ``install`` completes the remedy "install …", e.g. ``imgstore[http]``.
    """
    for module in modules:
        try:
            found = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:  # a missing parent package
            found = False
        if not found:
            raise DriverUnavailable(
                f"the Python module {module!r} is missing", remedy=f"install {install}"
            )


def load(module: str, *, install: str) -> Any:
    """Import and return a module, or raise DriverUnavailable with the remedy."""
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        raise DriverUnavailable(
            f"the Python module {module!r} cannot be imported: {exc}", remedy=f"install {install}"
        ) from exc
