"""Waiting for librbd, which may never return, only as long as the cluster answers.

Time limits are for requests that were sent, and one call of librbd is many requests: where an OSD
does not answer, closing an image has been seen to wait for 17 of them, one after the other. An
image that is open for writing is watched, too. Where its watch is lost librbd sends nothing until
it has set a new one, for which it needs the OSD of the image's header
(librbd::Watcher::handle_rewatch; librbd::ManagedLock: "watcher not registered - delaying").
"""

from __future__ import annotations

import errno
import functools
import logging
import math
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

from imgstore.drivers._librbd.connection import Connection
from imgstore.drivers._librbd.errors import RequestFailed, quietly
from imgstore.process.interrupts import in_a_thread

LOG = logging.getLogger(__name__)
T = TypeVar("T")

# How many time limits what is a few requests may take, also of a cluster that answers.
_FEW: Final = 10
_LONG: Final = frozenset({"resize"})  # methods that are as many requests as the image has objects


class _Call:
    """One call, with its outcome once it has ended."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._to_make = [call]  # the thread that takes it decides whether it is made
        # A lock changes in one step; a future that an interrupt left half changed does not.
        self._waiting = threading.Lock()
        self._waiting.acquire()
        self._has_ended = False
        self.result: Any = None
        self.error: BaseException | None = None

    def make(self) -> None:
        """Call, unless it was cancelled, and let nothing of it live on in this thread."""
        try:
            self.result = self._to_make.pop()()
        except BaseException as exc:  # handed to the thread that waits
            self.error = exc
        self._has_ended = True
        self._waiting.release()

    def cancel(self) -> bool:
        """Let it not be made; return whether it is not."""
        try:
            self._to_make.pop()
        except IndexError:
            return False
        return True

    def has_ended(self, seconds: float | None) -> bool:
        """Wait for the end for so long; return whether it came. For one thread."""
        # An interrupt may come when the lock has been taken, so it is not asked again then.
        if not self._has_ended:
            self._waiting.acquire(timeout=-1 if seconds is None else seconds)
        return self._has_ended


class Watchdog:
    """Makes calls one after the other in a thread of its own, and gives up those that never end.

    A call that takes longer than the connection's time limit for a request is given up once the
    cluster leaves a question unanswered, too: about ``object_name``, in ``pool``; or after so many
    ``limits``. The thread goes on with the call, and then with what was left to it; the connection
    stays that long.
    """

    def __init__(self, connection: Connection, pool: Any, object_name: str) -> None:
        """Begin no thread yet; without a time limit there is none."""
        self.object_name = object_name
        self.is_over = False
        self._limit = connection.limit
        self._connection = connection
        self._pool = pool
        self._lock = threading.Lock()
        self._working = threading.Lock()
        self._calls: deque[_Call] = deque()

    def __call__(self, call: Callable[[], T], *, limits: float = math.inf) -> T:
        """Return what the call returns; raises RequestFailed with ETIMEDOUT if it is given up."""
        if not self._limit:
            return call()
        if self.is_over:
            raise RequestFailed(-errno.ETIMEDOUT)
        made = _Call(call)
        try:
            self._begin(made)
            self._await(made, limits)
        except Exception:
            raise
        except BaseException:  # an interrupt: what undoes the call must not meet it
            if not made.cancel():
                self._await(made, limits)
            raise
        if made.error is not None:
            raise made.error
        result: T = made.result
        return result

    def wait(self, until: Callable[[float | None], bool], *, limits: float = _FEW) -> bool:
        """Wait until ``until``, which gets some seconds, returns true; return whether it did."""
        while not until(0 if self.is_over else self._limit or None):
            limits -= 1
            if self.is_over or limits < 1 or not self._is_answered():
                self._give_up()
                return False
        return True

    def end(self, call: Callable[[], object] | None = None) -> None:
        """Make a last call, as any other one; after one that was given up it is not awaited."""
        if self.is_over:
            self._begin(_Call(functools.partial(self._make_last, call)))
        elif call is not None:
            try:
                self(call, limits=_FEW)
            finally:
                if self.is_over:
                    self.end()

    def _await(self, made: _Call, limits: float) -> None:
        if not self.wait(made.has_ended, limits=limits):
            made.result = None
            raise RequestFailed(-errno.ETIMEDOUT)

    def _is_answered(self) -> bool:
        try:
            self._pool.stat(self.object_name)
        except Exception as exc:
            number: int = getattr(exc, "errno", None) or 0
            return abs(number) != errno.ETIMEDOUT
        return True

    def _give_up(self) -> None:
        with self._lock:
            if not self.is_over:
                self.is_over = True
                self._connection.keep()
                LOG.warning("librbd waits for an OSD that does not answer: it is left alone")

    def _make_last(self, call: Callable[[], object] | None) -> None:
        try:
            if call is not None:
                with quietly("closing an image late"):
                    call()
        finally:
            self._connection.release()

    def _begin(self, made: _Call) -> None:
        self._calls.append(made)
        in_a_thread(self._work)

    def _work(self) -> None:
        """Make all calls that there are, after those of the threads before."""
        with self._working:
            while self._calls:
                made = self._calls.popleft()
                made.make()
                if self.is_over:
                    made.result = None  # an image that nobody waits for closes here
                del made


class Guarded:
    """One of librbd's images, its methods called under a watchdog; those of aio return soon."""

    def __init__(self, sdk: Any, watchdog: Watchdog) -> None:
        """Stand for ``sdk``."""
        self._sdk = sdk
        self._watchdog = watchdog

    def __getattr__(self, name: str) -> Any:
        """Return a method."""
        method = getattr(self._sdk, name)
        if name.startswith("aio_"):
            return method
        limits = math.inf if name in _LONG else _FEW

        def call(*arguments: Any, **options: Any) -> Any:
            return self._watchdog(functools.partial(method, *arguments, **options), limits=limits)

        return call
