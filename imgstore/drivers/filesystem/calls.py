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
from contextlib import suppress
from itertools import starmap
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

from imgstore.errors import TimedOut
from imgstore.process.interrupts import Descriptors
from imgstore.process.per_process import PerProcess

LOG = logging.getLogger(__name__)
T = TypeVar("T")

_IDLE: Final = 2.0  # seconds after which a thread without work ends
_QUIET: Final = 60.0  # seconds between two warnings


class Job:
    """One call: waiting, then running, then delivered or given up, whichever is first.

    What was given up is cleaned up by ``late``, once the call has returned or will not be made.
    """

    def __init__(self, call: Callable[[], Any], late: Callable[[], object] | None) -> None:
        """Queue nothing yet."""
        self.call = call
        self.late = late
        self.ended = threading.Lock()  # given back at the end; takes and gives in one step
        self.ended.acquire()
        self.result: Any = None
        self.error: BaseException | None = None
        self.queued: list[None] = []  # not empty: a thread has it, or will
        self._fate: dict[None, bool] = {}

    def give_up(self) -> bool:
        """Leave the outcome to the thread; return whether that is how it is now."""
        given_up = self._fate.setdefault(None, True)
        if given_up:
            self.call = _nothing  # lets go of its data
        return given_up

    @property
    def given_up(self) -> bool:
        """Return whether the caller waits no more and never will."""
        return self._fate.get(None, False)

    @property
    def lost(self) -> bool:
        """Return whether it was given up and a thread will clean up after it."""
        return self.given_up and bool(self.queued)

    def run(self) -> bool:
        """Make the call unless it was given up; return whether the outcome is the caller's."""
        call = self.call
        if not self.given_up:
            try:
                self.result = call()
            except BaseException as exc:  # handed to the waiting thread
                self.error = exc
        self.call = _nothing
        return not self._fate.setdefault(None, False)

    def clean(self) -> None:
        """Undo what the call achieved after its caller had gone."""
        try:
            if self.late is not None:
                self.late()
        except Exception as exc:  # nobody is left to tell
            LOG.debug("cleaning up after a late file system call failed: %s", exc)


def _nothing() -> None:
    return None


def _popped(place: list[None]) -> list[None]:
    """Take what is in a list, if another thread has not done so."""
    try:
        return [place.pop()]
    except IndexError:
        return []


class _Pool:
    """Up to ``size`` daemon threads: one that hangs must not keep the interpreter from exiting.

    They end when there is nothing to do, so a store that is closed or dropped leaves none behind.
    There is no lock: each step is one of C, so neither an interrupt nor a file that the garbage
    collector closes, in whatever this thread does, finds anything half done.
    """

    def __init__(self, size: int, threshold: int) -> None:
        self._size = size
        self._threshold = threshold
        self._free: deque[None] = deque([None] * size)  # one for each thread that may be started
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._unfinished: deque[None] = deque()  # one for each job, waiting or running
        self._quiet_until = 0.0

    def submit(self, job: Job) -> None:
        # Counted, put and noted, in this order and in one step.
        counted = map(self._unfinished.append, (None,))
        put, noted = map(self._jobs.put, (job,)), map(job.queued.append, (None,))
        deque(zip(counted, put, noted, strict=True), maxlen=0)
        # After putting it: a thread that ends looks for jobs after it has freed its place.
        try:
            self._grow()
        except RuntimeError:  # no more threads are to be had
            if len(self._free) == self._size:
                job.give_up()
                raise
        except BaseException:  # an interrupt: the job may be one that closes something
            with suppress(RuntimeError):
                self._grow()
            raise

    def _grow(self) -> None:
        """Start a thread if there are more jobs than threads, and fewer of these than may be."""
        place: list[None] = []  # the thread takes it, or else it is given back
        try:
            if len(self._unfinished) > self._size - len(self._free):
                with suppress(IndexError):
                    place.extend(starmap(self._free.pop, ((),)))  # in one step
            if place:
                work = functools.partial(self._work, place)
                threading.Thread(target=work, name="imgstore-file", daemon=True).start()
        except BaseException:
            self._free.extend(_popped(place))
            raise

    def _take_place(self) -> bool:
        try:
            self._free.pop()
        except IndexError:
            return False
        return True

    def _work(self, place: list[None]) -> None:
        if not _popped(place):
            return
        while True:
            try:
                job = self._jobs.get(timeout=_IDLE)
            except Empty:
                self._free.append(None)
                if self._jobs.empty() or not self._take_place():
                    return
                continue
            self._watch()
            if not job.run():
                job.clean()
            self._unfinished.pop()
            job.ended.release()
            del job

    def _watch(self) -> None:
        """Warn if the pool has filled beyond the threshold, at most once a minute."""
        active = min(len(self._unfinished), self._size - len(self._free))
        full = active * 100 >= self._threshold * self._size
        if full and time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + _QUIET
            LOG.warning(
                "%d of %d threads for file system calls are busy; is a file server down?",
                active,
                self._size,
            )


class Calls:
    """Runs system calls directly, or with a time limit in a pool of threads.

    ``timeout`` is in seconds for each call, 0 for none. A call that exceeds it raises TimedOut, and
    one that had not begun by then is never made.
    """

    def __init__(self, *, timeout: int, size: int, threshold: int) -> None:
        """Make the pool when it is first needed, once per process."""
        self.timeout = timeout
        self._pool = PerProcess(lambda: _Pool(size, threshold), lambda pool: None)

    def __call__(self, call: Callable[..., T], *args: Any) -> T:
        """Return ``call(*args)``."""
        if not self.timeout:
            return call(*args)
        result: T = self.outcome(Job(functools.partial(call, *args), None))
        return result

    def outcome(self, job: Job) -> Any:
        """Have a job done within the time limit; ``job.given_up`` tells whether it was not."""
        try:
            self._pool.get().submit(job)
            job.ended.acquire(timeout=self.timeout)
        finally:  # also when the caller is interrupted
            job.give_up()
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
        # While the interpreter ends its threads stand still, and the kernel closes everything.
        if not sys.is_finalizing():
            job = Job(held.close, None)
            self._pool.get().submit(job)
            job.ended.acquire(timeout=self.timeout)


class OpenFile:
    """A descriptor, of a file or a directory, whose calls have a time limit.

    After a call was given up the descriptor is still in use by it, so the thread that hangs
    closes it when it comes back: a number that is closed too early may be given to another file.
    ``lost`` tells that this happened. Used as ``with file, file:``, see Descriptors.
    """

    def __init__(self, calls: Calls) -> None:
        """Open nothing yet."""
        self.held = Descriptors()
        self._calls = calls
        self._job: Job | None = None  # the last one
        self.has_time_limit = bool(calls.timeout)

    def open(self, call: Callable[..., T], *args: Any) -> T:
        """Return ``call(held, *args)``, which opens it; ``held`` is a Descriptors."""
        if not self.has_time_limit:
            return call(self.held, *args)
        return self._in_time(call, self.held, *args)

    def __call__(self, call: Callable[..., T], *args: Any) -> T:
        """Return ``call(fd, *args)``."""
        fd = self.held.last
        if not self.has_time_limit:
            return call(fd, *args)
        if self.lost or fd < 0:
            raise OSError(errno.EBADF, "the file was given up before")
        return self._in_time(call, fd, *args)

    def _in_time(self, call: Callable[..., T], *args: Any) -> T:
        self._job = Job(functools.partial(call, *args), self._clean)
        result: T = self._calls.outcome(self._job)
        return result

    def _clean(self) -> None:
        """Release everything after a call that was given up."""
        self.held.close()

    @property
    def fd(self) -> int:
        """Return the descriptor, -1 if it is not open."""
        return self.held.last

    @property
    def lost(self) -> bool:
        """Return whether a call was given up that has the descriptor."""
        return self._job is not None and self._job.lost

    def reader(self, n: int) -> Callable[[], bytes]:
        """Return a function that reads up to ``n`` bytes, as direct as the time limit allows."""
        if self.has_time_limit:
            return functools.partial(self, os.read, n)
        return functools.partial(os.read, self.fd, n)

    def close(self) -> None:
        """Close the descriptor once."""
        if not self.has_time_limit:
            self.held.close()
            return
        if self._job is not None:
            self._job.give_up()
        if not self.lost and self.fd >= 0:
            self._calls.close(self.held)

    def __del__(self) -> None:
        """Close what an interrupt dropped before anybody else had it."""
        if hasattr(self, "has_time_limit") and self.fd >= 0:
            self.close()

    def __enter__(self) -> OpenFile:
        """Return self."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close."""
        self.close()
