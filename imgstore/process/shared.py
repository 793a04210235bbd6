"""What one thread makes for all: a login, a connection."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from imgstore.errors import ImgStoreError

T = TypeVar("T")


class Shared(Generic[T]):
    """A value that one thread makes while all others wait, as long as it is good.

    Those who wait share a failure, too: a backend that does not answer is asked once. An interrupt
    is the one thread's own; another one makes the value then.
    """

    def __init__(self, make: Callable[[], T], is_good: Callable[[T], bool] = bool) -> None:
        """Remember how to make a value, and how to tell whether it is still good."""
        self._make = make
        self._is_good = is_good
        # Waited for by all: unlike a future, an interrupt cannot leave it taken.
        self._making = threading.Lock()
        # The garbage collector may run what drops the value inside any of the methods.
        self._changing = threading.RLock()
        self._value: T | None = None
        self._failures: tuple[int, Exception | None] = (0, None)

    def get(self, *, instead_of: T | None = None) -> T:
        """Return a good value that is not ``instead_of``; raises what making one raises."""
        value = self.peek(instead_of=instead_of)
        if value is not None:
            return value
        known, _ = self._failures
        with self._making:
            value = self.peek(instead_of=instead_of)
            if value is not None:
                return value
            count, failure = self._failures
            if failure is not None and count > known:  # while this thread waited
                raise _again(failure) from failure
            return self._made()

    def _made(self) -> T:
        try:
            value = self._make()
        except Exception as exc:
            self._failures = (self._failures[0] + 1, exc)
            raise
        with self._changing:
            self._value = value
        self._failures = (self._failures[0], None)
        return value

    def peek(self, *, instead_of: T | None = None) -> T | None:
        """Return a good value that is not ``instead_of`` if there is one; nothing is made."""
        value = self._value
        is_wanted = value is not None and value is not instead_of and self._is_good(value)
        return value if is_wanted else None

    def drop(self, value: T | None = None) -> T | None:
        """Forget the value, or no other than ``value``, and return what was forgotten."""
        with self._changing:
            known = self._value
            if known is None or (value is not None and known is not value):
                return None
            self._value = None
            return known


def _again(exc: Exception) -> Exception:
    """Return the same error for another thread: each has its own context and traceback."""
    if not isinstance(exc, ImgStoreError):
        return exc
    again = type(exc)(exc.reason, remedy=exc.remedy)
    vars(again).update(vars(exc), store=None, operation=None, image_id=None, location=None)
    return again
