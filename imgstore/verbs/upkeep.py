"""Looking after stores: what is wrong with them, and what unfinished adds left."""

from __future__ import annotations

import inspect
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from imgstore import errors
from imgstore.model import Leftover

if TYPE_CHECKING:
    from imgstore.store import Store


def old_leftovers(store: Store, age: timedelta) -> Iterator[Leftover]:
    """Yield what the driver lists and is of that age; a driver that lists more is no danger.

    At an age of 0 clocks do not count.
    """
    now = datetime.now(timezone.utc)
    for leftover in store._leftovers(age):
        if not age or now - leftover.modified >= age:
            yield leftover


def remove_leftovers(store: Store, age: timedelta) -> list[Leftover]:
    """Remove them, and return those that were; raises at the end what one of them failed with.

    Only where the backend is away the others are not tried.
    """
    removed, failure = [], None
    # Listed to the end first: a removal may change what the driver goes through.
    for leftover in list(old_leftovers(store, age)):
        try:
            store._remove_leftover(leftover)
            removed.append(leftover)
        except Exception as exc:
            error = store._translate(exc, "remove_leftovers")
            if isinstance(error, errors.NotFound):
                continue
            if isinstance(error, errors.Unavailable) and not isinstance(error, errors.TimedOut):
                raise
            failure = failure or error
    if failure is not None:
        raise failure
    return removed


class CannotCheckError(errors.Unsupported):
    """A driver whose hook has no ``write`` was to check without it."""


def ask(store: Store, *, write: bool) -> Iterable[str]:
    """Call the hook ``_check``, also of a driver from before it had ``write``.

    Raises CannotCheckError where that driver is not to write.
    """
    parameters = inspect.signature(store._check).parameters.values()
    if any(p.name == "write" or p.kind is p.VAR_KEYWORD for p in parameters):
        return store._check(write=write)
    if write:
        old_hook: Any = store._check
        found: Iterable[str] = old_hook()
        return found
    raise CannotCheckError(
        "its driver cannot check without writing", remedy="check with write=True, or update it"
    )


def problems(
    stores: Sequence[Store], *, write: bool, timeout: float | None
) -> Iterator[tuple[Store, list[str]]]:
    """Yield each store with what is wrong with it; all are asked at once, within ``timeout``.

    A store that has not answered by then is left to its thread, for which nobody waits.
    """
    _check_timeout(timeout)
    if timeout is None and len(stores) == 1:
        yield stores[0], _problems(stores[0], write=write)
        return
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    asked = [_Asking(store, partial(_problems, store, write=write)) for store in stores]
    for asking in asked:
        if asking.found is None:
            asking.join(None if timeout is None else max(0.0, deadline - time.monotonic()))
    for asking in asked:
        if asking.found is None:
            late = errors.TimedOut(
                f"no answer after {timeout:g} seconds",
                remedy="see whether the backend can be reached, or allow more time",
            )
            asking.found = [_text(asking.store, late)]
        yield asking.store, asking.found


def _check_timeout(timeout: object) -> None:
    is_number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if timeout is not None and not (is_number and 0 <= timeout <= threading.TIMEOUT_MAX):  # type: ignore[operator]  # a number
        raise errors.InvalidArgument(
            f"timeout is {timeout!r}", remedy="pass a number of seconds, or None for no limit"
        )


class _Asking(threading.Thread):
    """A daemon: neither closing the store nor the end of the interpreter waits for it."""

    def __init__(self, store: Store, call: Callable[[], list[str]]) -> None:
        super().__init__(name=f"imgstore-check-{store.name}", daemon=True)
        self.store = store
        self.found: list[str] | None = None
        self._call = call
        try:
            self.start()
        except Exception as exc:  # RuntimeError: a process has only so many threads
            self.found = [_text(store, exc)]

    def run(self) -> None:
        try:
            self.found = self._call()
        except BaseException as exc:  # SystemExit of an SDK: an answer like another
            self.found = [_text(self.store, RuntimeError(repr(exc)))]


def _problems(store: Store, *, write: bool) -> list[str]:
    found: list[str] = []
    try:
        for text in ask(store, write=write):
            clean = store._redaction.text(text)
            found.append(clean)  # what was found is kept when the next one raises
    except Exception as exc:
        found.append(_text(store, exc))
    return found


def _text(store: Store, exc: Exception) -> str:
    return str(store._translate(exc, "check"))
