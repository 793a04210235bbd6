"""What one thread makes for all: a login, a connection."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from imgstore.errors import ImgStoreError

T = TypeVar("T")


class _InterruptedError(Exception):
    """The thread that was to make it was interrupted."""


class Shared(Generic[T]):
    """A value that one thread makes while all others wait, as long as it is good.

    Those who wait share a failure, too: a backend that does not answer is asked once. An interrupt
    is the one thread's own; another one makes the value then.
    """

    def __init__(self, make: Callable[[], T], is_good: Callable[[T], bool] = bool) -> None:
        """Remember how to make a value, and how to tell whether it is still good."""
        self._make = make
        self._is_good = is_good
        # The garbage collector may run what asks for a value inside any of the methods.
        self._lock = threading.RLock()
        self._value: T | None = None
        self._attempt: Future[T] | None = None

    def get(self, *, instead_of: T | None = None) -> T:
        """Return a good value that is not ``instead_of``; raises what making one raises."""
        while True:
            own: Future[T] = Future()
            try:
                with self._lock:
                    value = self.peek(instead_of=instead_of)
                    if value is not None:
                        return value
                    attempt = self._attempt = self._attempt or own
                if attempt is own:
                    return self._end(own, self._make())
            except BaseException as exc:
                self._give_up(own, exc)
                raise
            try:
                return attempt.result()
            except _InterruptedError:
                continue
            except ImgStoreError as exc:
                raise _again(exc) from exc

    def peek(self, *, instead_of: T | None = None) -> T | None:
        """Return a good value that is not ``instead_of`` if there is one; nothing is made."""
        value = self._value
        is_wanted = value is not None and value is not instead_of and self._is_good(value)
        return value if is_wanted else None

    def drop(self, value: T | None = None) -> T | None:
        """Forget the value, or no other than ``value``, and return what was forgotten."""
        with self._lock:
            known = self._value
            if known is None or (value is not None and known is not value):
                return None
            self._value = None
            return known

    def _end(self, own: Future[T], value: T) -> T:
        with self._lock:
            self._value, self._attempt = value, None
        own.set_result(value)
        return value

    def _give_up(self, own: Future[T], exc: BaseException) -> None:
        with self._lock:
            if self._attempt is own:
                self._attempt = None
        if not own.done():
            own.set_exception(exc if isinstance(exc, Exception) else _InterruptedError())


def _again(exc: ImgStoreError) -> ImgStoreError:
    """Return the same error for another thread: each has its own context and traceback."""
    again = type(exc)(exc.reason, remedy=exc.remedy)
    vars(again).update(vars(exc))
    return again
