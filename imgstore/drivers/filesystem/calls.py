"""System calls that may hang on a dead server, given up after a time."""

from __future__ import annotations

import errno
import functools
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

from imgstore.errors import TimedOut
from imgstore.process.interrupts import Descriptors
from imgstore.process.per_process import PerProcess

LOG = logging.getLogger(__name__)
T = TypeVar("T")

_IDLE: Final = 2.0  # seconds after which a thread without work ends
_QUIET: Final = 60.0  # seconds between two warnings


class _Job:
    """One call: waiting, then running, then delivered or given up, whichever is first."""

    def __init__(self, call: Callable[[], Any], late: Callable[[Any], object] | None) -> None:
        self.call = call
        self.late = late
        self.ended = threading.Lock()  # given back at the end; takes and gives in one step
        self.ended.acquire()
        self.result: Any = None
        self.error: BaseException | None = None
        self.queued = False  # a thread has it, or will
        self._fate: dict[None, bool] = {}

    def give_up(self) -> bool:
        """Leave the outcome to the thread; return whether that is how it is now."""
        given_up = self._fate.setdefault(None, True)
        if given_up:
            self.call = _nothing  # lets go of its data
        return given_up

    def deliver(self) -> bool:
        """Leave the outcome to the caller; return whether that is how it is now."""
        return not self._fate.setdefault(None, False)

    @property
    def given_up(self) -> bool:
        """Return whether the caller waits no more and never will."""
        return self._fate.get(None, False)


def _nothing() -> None:
    return None


class _Pool:
    """Up to ``size`` daemon threads: one that hangs must not keep the interpreter from exiting.

    They end when there is nothing to do, so a store that is closed or dropped leaves none behind.
    """

    def __init__(self, size: int, threshold: int) -> None:
        self._size = size
        self._threshold = threshold
        # Reentrant: the garbage collector may drop a reader while this thread holds the lock.
        self._lock = threading.RLock()
        # Entered by its lock, which ``with`` takes in one step: an interrupt never leaves it held.
        self._change = threading.Condition(self._lock)
        self._owner: int | None = None
        self._waiting: deque[_Job] = deque()
        self._threads = 0
        self._active = 0
        self._quiet_until = 0.0

    def run(self, job: _Job, timeout: float, *, give_up: bool) -> None:
        if self._submit(job) and not give_up:
            return  # a finalizer closes a file: its thread holds the lock and must not wait here
        try:
            job.ended.acquire(timeout=timeout)
        finally:  # also when the caller is interrupted
            if give_up:
                job.give_up()

    def _submit(self, job: _Job) -> bool:
        """Queue a job; return whether this thread was inside here already."""
        nested = self._owner == threading.get_ident()
        with self._lock:
            self._owner = threading.get_ident()
            try:
                job.queued = True
                self._waiting.append(job)
                if self._active + len(self._waiting) > self._threads < self._size:
                    self._start(job)
                self._change.notify()
            finally:
                if not nested:
                    self._owner = None
        return nested

    def _start(self, job: _Job) -> None:
        thread = threading.Thread(target=self._work, name="imgstore-file", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads are to be had
            if not self._threads:
                self._waiting.remove(job)
                raise
        else:
            self._threads += 1

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._change.wait_for(lambda: self._waiting, _IDLE):
                    self._threads -= 1
                    return
                job = self._waiting.popleft()
                self._active += 1
                self._watch()
            call = job.call
            if not job.given_up:
                try:
                    job.result = call()
                except BaseException as exc:  # handed to the waiting thread
                    job.error = exc
            delivered = job.deliver()
            del call
            job.call = _nothing
            with self._lock:
                self._active -= 1
            job.ended.release()
            if not delivered:
                self._clean(job)
            del job

    def _watch(self) -> None:
        """Warn if the pool has filled beyond the threshold, at most once a minute."""
        full = self._active * 100 >= self._threshold * self._size
        if full and time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + _QUIET
            LOG.warning(
                "%d of %d threads for file system calls are busy; is a file server down?",
                self._active,
                self._size,
            )

    @staticmethod
    def _clean(job: _Job) -> None:
        """Undo what a call achieved after its caller had gone."""
        try:
            if job.late is not None:
                job.late(job.result)
        except Exception as exc:  # nobody is left to tell
            LOG.debug("cleaning up after a late file system call failed: %s", exc)


class Calls:
    """Runs system calls directly, or with a time limit in a pool of threads.

    ``timeout`` is in seconds for each call, 0 for none. A call that exceeds it raises TimedOut;
    when it returns after all, ``late`` gets its result (None if it failed) to release it. A call
    that had not begun by then is never made, and ``late`` gets None.
    """

    def __init__(self, *, timeout: int, size: int, threshold: int) -> None:
        """Make the pool when it is first needed, once per process."""
        self.timeout = timeout
        self._pool = PerProcess(lambda: _Pool(size, threshold), lambda pool: None)

    def __call__(
        self, call: Callable[..., T], *args: Any, late: Callable[[Any], object] | None = None
    ) -> T:
        """Return ``call(*args)``."""
        if not self.timeout:
            return call(*args)
        result: T = self.outcome(_Job(lambda: call(*args), late))
        return result

    def outcome(self, job: _Job) -> Any:
        """Have a job done within the time limit; ``job.given_up`` tells whether it was not."""
        self._pool.get().run(job, self.timeout, give_up=True)
        if job.given_up:
            raise TimedOut(
                f"the file system did not answer within {self.timeout} seconds",
                remedy="look at the mount, or raise filesystem_store_timeout",
            )
        if job.error is not None:
            raise job.error
        return job.result

    def close(self, held: Descriptors) -> None:
        """Close descriptors for certain, but wait for that only as long as for any other call.

        What a file system reports only now concerns nobody: data that matters was flushed before.
        """
        if self.timeout:
            # While the interpreter ends its threads stand still, and the kernel closes everything.
            if not sys.is_finalizing():
                self._pool.get().run(_Job(held.close, None), self.timeout, give_up=False)
            return
        held.close()


class OpenFile:
    """A descriptor, of a file or a directory, whose calls have a time limit.

    After a call was given up the descriptor is still in use by it, so the thread that hangs
    closes it when it comes back: a number that is closed too early may be given to another file.
    ``lost`` tells that this happened. Used as ``with file, file:``, see Descriptors.
    """

    def __init__(self, fd: int, calls: Calls) -> None:
        """Take over ``fd``; -1 is none yet."""
        self._held = Descriptors()
        if fd >= 0:
            self._held.take(fd)
        self._calls = calls
        self._job: _Job | None = None  # the last one

    def open(self, call: Callable[..., object], *args: Any) -> None:
        """Have ``call(held, *args)`` open it, where ``held`` is a Descriptors."""
        held = self._held
        if not self._calls.timeout:
            call(held, *args)
            return
        self._job = _Job(lambda: call(held, *args), lambda result: held.close())
        self._calls.outcome(self._job)

    def __call__(
        self,
        call: Callable[..., T],
        *args: Any,
        late: Callable[[Any], object] | None = None,
        also: OpenFile | None = None,
    ) -> T:
        """Return ``call(fd, *args)``; ``late`` as for Calls, before the descriptor is closed.

        ``also`` is another file that the call uses, and opens perhaps.
        """
        fd = self.fd
        if not self._calls.timeout:
            return call(fd, *args)

        def clean(result: Any) -> None:
            try:
                if late is not None:
                    late(result)
            finally:
                self._held.close()
                if also is not None:
                    also._held.close()

        if self.lost or fd < 0:
            raise OSError(errno.EBADF, "the file was given up before")
        job = self._job = _Job(lambda: call(fd, *args), clean)
        if also is not None:
            also._job = job
        result: T = self._calls.outcome(job)
        return result

    @property
    def held(self) -> Descriptors:
        """Return what holds the descriptor."""
        return self._held

    @property
    def fd(self) -> int:
        """Return the descriptor, -1 if it is not open."""
        return self._held.last

    @property
    def lost(self) -> bool:
        """Return whether a call was given up that has the descriptor."""
        return self._job is not None and self._job.given_up and self._job.queued

    def reader(self, n: int) -> Callable[[], bytes]:
        """Return a function that reads up to ``n`` bytes, as direct as the time limit allows."""
        if self.has_time_limit:
            return functools.partial(self, os.read, n)
        return functools.partial(os.read, self.fd, n)

    def close(self) -> None:
        """Close the descriptor once."""
        if self._job is not None and self._job.give_up() and self._job.queued:
            return
        if self.fd >= 0:
            self._calls.close(self._held)

    def __enter__(self) -> OpenFile:
        """Return self."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close."""
        self.close()

    @property
    def has_time_limit(self) -> bool:
        """Return whether calls are given up after a time."""
        return bool(self._calls.timeout)
