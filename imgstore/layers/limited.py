"""A store that does so much at once, and no more."""

from __future__ import annotations

import queue
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from imgstore import errors
from imgstore.context import RequestContext
from imgstore.data.opened import Opened
from imgstore.data.reader import ImageReader
from imgstore.data.streams import Body
from imgstore.layers.layer import Layer
from imgstore.location import Location
from imgstore.model import Added, Stat
from imgstore.process.per_process import PerProcess
from imgstore.store import Store


class Limited(Layer):
    """A store with at most ``limit`` operations under way in this process.

    A slot is held from the call until a reader is closed or all its bytes were fetched, or until
    an add ends. An image that is copied from the store to itself has one slot, not two.
    A caller that waits longer than ``timeout`` seconds gets Throttled.
    """

    def __init__(self, store: Store, limit: int, *, timeout: float = 60.0) -> None:
        """Wrap ``store``; raises InvalidArgument unless ``limit`` is positive."""
        super().__init__(store)
        if type(limit) is not int or limit < 1 or timeout < 0:
            raise errors.InvalidArgument(
                f"limit is {limit!r} and timeout {timeout!r}",
                remedy="pass a whole number of at least 1 and seconds of at least 0",
            )
        self._limit = limit
        self._timeout = timeout
        # A forked child has slots of its own: nobody in it gives back those of its parent.
        self._slots = PerProcess(lambda: _slots(limit), lambda slots: None)
        self._reading: weakref.WeakSet[Opened] = weakref.WeakSet()

    def _acquire(self) -> Callable[[], None]:
        """Take a slot and return what gives it back."""
        slots = self._slots.get()
        try:
            slots.get(timeout=self._timeout)
        except queue.Empty:
            raise errors.Throttled(
                f"{self._limit} operations were under way for {self._timeout:g} seconds",
                remedy="try again later, close readers, or raise the limit",
            ) from None
        return lambda: slots.put(None)

    @contextmanager
    def _slot(self) -> Iterator[None]:
        release = self._acquire()
        try:
            yield
        finally:
            release()

    def _get(self, *args: Any, **kwargs: Any) -> Opened:
        release = _Once(self._acquire())
        try:
            opened = super()._get(*args, **kwargs)
        except BaseException:
            release()
            raise
        close = opened.close

        def close_and_release() -> None:
            self._reading.discard(opened)
            try:
                close()
            finally:
                release()

        opened.close = close_and_release
        self._reading.add(opened)
        return opened

    def _add(self, image_id: str, body: Body, *, context: RequestContext | None) -> Added:
        source = body.source
        if isinstance(source, ImageReader) and source.opened in self._reading:
            # Waiting for a second slot while holding the reader's could wait for ever.
            return super()._add(image_id, body, context=context)
        with self._slot():
            return super()._add(image_id, body, context=context)

    def _size(self, location: Location, *, context: RequestContext | None) -> int:
        with self._slot():
            return super()._size(location, context=context)

    def _stat(self, location: Location, *, context: RequestContext | None) -> Stat:
        with self._slot():
            return super()._stat(location, context=context)

    def _delete(self, location: Location, *, context: RequestContext | None) -> None:
        with self._slot():
            super()._delete(location, context=context)

    def _copy(
        self, location: Location, origin: Store, image_id: str, *, context: RequestContext | None
    ) -> Added | None:
        with self._slot():
            return super()._copy(location, origin, image_id, context=context)


def _slots(limit: int) -> queue.SimpleQueue[None]:
    """Return a semaphore that a finalizer may release while its own thread is in it."""
    slots: queue.SimpleQueue[None] = queue.SimpleQueue()
    for _ in range(limit):
        slots.put(None)
    return slots


class _Once:
    """A call that happens the first time only, whichever thread makes it."""

    def __init__(self, call: Any) -> None:
        self._pending = [call]

    def __call__(self) -> None:
        try:
            call = self._pending.pop()
        except IndexError:
            return
        call()
