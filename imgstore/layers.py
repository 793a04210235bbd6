"""Stores that wrap a store and change what it permits."""

from __future__ import annotations

import queue
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from imgstore import errors
from imgstore._process import PerProcess
from imgstore.context import RequestContext
from imgstore.location import Location
from imgstore.store import Added, Capability, Leftover, Ownership, Store
from imgstore.streams import Body, ImageReader, Opened
from imgstore.upkeep import CannotCheckError, ask

if TYPE_CHECKING:
    from typing_extensions import Self


class Layer(Store):
    """A store that passes every hook on to the one inside it; subclasses override some.

    A layer has the name and the settings of the store inside and closes it when it is closed.
    """

    def __new__(cls, *args: Any, **given: Any) -> Self:
        """Know no secrets: those of the store inside are the layer's."""
        return object.__new__(cls)

    def __init__(self, store: Store) -> None:
        """Wrap ``store``."""
        super().__init__(
            store.name, weight=store.weight, description=store.description, single=store.single
        )
        self.inner = store
        self._redaction = store._redaction
        self.also_owns = store.also_owns
        self.capabilities = store.capabilities
        self.read_retries = store.read_retries
        # Per instance here: a layer is what the store inside it is.
        self.driver = store.driver  # type: ignore[misc]
        self.schemes = store.schemes  # type: ignore[misc]

    def _check_open(self) -> None:
        super()._check_open()
        self.inner._check_open()

    @property
    def unwrapped(self) -> Store:
        """Return the driver under all layers."""
        return self.inner.unwrapped

    @property
    def url_prefix(self) -> str | None:
        """Return the prefix of the store inside."""
        return self.inner.url_prefix

    def owns(self, location: Location) -> Ownership:
        """Ask the store inside."""
        return self.inner.owns(location)

    def _get(
        self,
        location: Location,
        offset: int,
        length: int | None,
        *,
        if_version: str | None,
        context: RequestContext | None,
    ) -> Opened:
        return self.inner._get(location, offset, length, if_version=if_version, context=context)

    def _size(self, location: Location, *, context: RequestContext | None) -> int:
        return self.inner._size(location, context=context)

    def _holds(self, location: Location, *, context: RequestContext | None) -> bool:
        return self.inner._holds(location, context=context)

    def _add(self, image_id: str, body: Body, *, context: RequestContext | None) -> Added:
        return self.inner._add(image_id, body, context=context)

    def _delete(self, location: Location, *, context: RequestContext | None) -> None:
        self.inner._delete(location, context=context)

    def _classify(self, exc: Exception) -> errors.ImgStoreError | type[errors.ImgStoreError] | None:
        return self.inner._classify(exc)

    def _copy(
        self, location: Location, origin: Store, image_id: str, *, context: RequestContext | None
    ) -> Added | None:
        return self.inner._copy(location, origin, image_id, context=context)

    def _set_acls(
        self,
        location: Location,
        *,
        public: bool,
        read: Sequence[str],
        write: Sequence[str],
        context: RequestContext | None,
    ) -> None:
        self.inner._set_acls(location, public=public, read=read, write=write, context=context)

    def _leftovers(self, older_than: timedelta) -> Iterable[Leftover]:
        return self.inner._leftovers(older_than)

    def _remove_leftover(self, leftover: Leftover) -> None:
        self.inner._remove_leftover(leftover)

    def _check(self, *, write: bool = True) -> Iterable[str]:
        return ask(self.inner, write=write)

    def _close(self) -> None:
        self.inner.close()


class ReadOnly(Layer):
    """A store that images can be read from, and nothing else."""

    def __init__(self, store: Store) -> None:
        """Wrap ``store``."""
        super().__init__(store)
        self.capabilities = store.capabilities & (Capability.READ | Capability.RANGES)

    def _remove_leftover(self, leftover: Leftover) -> None:
        raise errors.Unsupported("this store is read-only")

    def _check(self, *, write: bool = True) -> Iterable[str]:
        try:
            yield from ask(self.inner, write=False)
        except CannotCheckError:  # no fault of the store: it is never written to
            return


class Limited(Layer):
    """A store with at most ``limit`` operations under way in this process.

    A slot is held from the call until a reader is closed or all its bytes were fetched, or until
    an add ends. An image that is copied from the store to itself has one slot, not two.
    Whoever waits longer than ``timeout`` seconds gets Throttled.
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
