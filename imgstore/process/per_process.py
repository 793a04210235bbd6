"""Clients that are built once per process, for servers that fork."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class _Slot(Generic[T]):
    """The client of one process, and the lock under which it is built.

    The lock belongs to the slot: one that another thread held during a fork never reaches the
    child, which has a slot of its own.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.value: T | None = None
        self.closed = False


class PerProcess(Generic[T]):
    """A lazily built object, one per process; a child never uses or closes its parent's.

    A child keeps its parent's object referenced, because finalizing a client may talk to the
    server over the parent's connection.
    """

    def __init__(self, build: Callable[[], T], close: Callable[[T], None]) -> None:
        """Remember how to build and close the object; build nothing yet."""
        self._build = build
        self._close = close
        self._slots: dict[int, _Slot[T]] = {}

    def get(self) -> T:
        """Return this process's object, building it on the first call."""
        # dict.setdefault is atomic: two threads of a new child agree on one slot.
        slot = self._slots.setdefault(os.getpid(), _Slot())
        value = slot.value
        if value is not None:
            return value
        with slot.lock:
            if slot.value is None:
                slot.value = self._build()
            value = slot.value
        if slot.closed:
            self._end(slot)
        return value

    def close(self) -> None:
        """Close this process's object if there is one; the next ``get`` builds anew.

        One that another thread is building is closed by that: its backend may not answer.
        """
        slot = self._slots.pop(os.getpid(), None)
        if slot is not None:
            slot.closed = True
            self._end(slot)

    def _end(self, slot: _Slot[T]) -> None:
        # Not found free, the lock is another thread's, which looks at ``closed`` afterwards.
        if not slot.lock.acquire(blocking=False):
            return
        try:
            value, slot.value = slot.value, None
        finally:
            slot.lock.release()
        if value is not None:
            self._close(value)
