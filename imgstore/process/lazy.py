"""SDKs are imported when a store first needs them; a missing one says what to install."""

from __future__ import annotations

import _thread
import importlib
import importlib.util
import sys
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


def load_apart(module: str, *, install: str) -> Any:
    """Import like ``load``, but in a thread that nobody joins.

    eventlet, which OpenStack's libraries import where it is installed, loads a second copy of
    ``threading``. That takes the thread that imports it for the main one, and replaces the lock by
    which others learn of its end: a thread of a pool could never be joined any more, and no
    interpreter exit that waits for it would end.
    """
    if module in sys.modules:
        return load(module, install=install)
    found: list[Any] = []
    raised: list[BaseException] = []
    ended = _thread.allocate_lock()
    ended.acquire()

    def run() -> None:
        try:
            found.append(load(module, install=install))
        except BaseException as exc:  # raised by the thread that waits
            raised.append(exc)
        finally:
            ended.release()

    _thread.start_new_thread(run, ())
    ended.acquire()
    if raised:
        raise raised[0]
    return found[0]
