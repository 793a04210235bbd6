"""Digests of a byte stream, computed beside the transfer."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any, Final, Protocol

from imgstore.data.units import MIB
from imgstore.errors import DigestMismatch, InvalidArgument, StoreError
from imgstore.process.interrupts import uninterrupted

# Below this many bytes a thread per digest costs more than it saves.
_INLINE_LIMIT: Final = MIB
# What may wait for one digest; a block larger than this waits alone.
_BACKLOG: Final = 16 * MIB


class Hasher(Protocol):
    """The part of a hashlib object that is used here."""

    digest_size: int

    def update(self, data: bytes, /) -> None:
        """Take in more bytes."""

    def hexdigest(self) -> str:
        """Return the digest of everything so far."""


def new_hasher(name: str) -> Hasher:
    """Return a hashlib object for ``name``, which need not be for security (FIPS hosts).

    Raises InvalidArgument for a name that is not lower-case, unknown to this Python's hashlib or
    of extendable output (``shake_128``), whose digests have no length of their own.
    """
    if not isinstance(name, str):
        raise InvalidArgument(f"a digest's name is text, not {type(name).__name__}")
    remedy = "use a lower-case name of hashlib.algorithms_available such as sha256"
    if name != name.lower():
        raise InvalidArgument(f"digest {name!r} is not in lower case", remedy=remedy)
    try:
        hasher: Any = hashlib.new(name, usedforsecurity=False)
    except (ValueError, TypeError) as exc:
        raise InvalidArgument(f"unknown digest {name!r}", remedy=remedy) from exc
    if hasher.digest_size == 0:
        raise InvalidArgument(f"digest {name!r} has no fixed length", remedy=remedy)
    return hasher  # type: ignore[no-any-return]  # hashlib's own class has no public name


def checked_digests(expected: Mapping[str, str] | None) -> dict[str, str]:
    """Return expected digests in lower case; None expects nothing.

    Raises InvalidArgument for a name that ``new_hasher`` refuses, for a digest that is not as many
    hexadecimal digits as its algorithm has, and for a mapping without any: a copy that a backend
    made has no digests, and would be compared with nothing.
    """
    if expected is None:
        return {}
    if not isinstance(expected, Mapping) or not expected:
        raise InvalidArgument(
            f"expected is {expected!r}",
            remedy="pass a mapping such as {'sha256': '9f86d0…'}, or None to expect nothing",
        )
    return {name: _checked_digest(name, digest) for name, digest in expected.items()}


def _checked_digest(name: str, digest: object) -> str:
    digits = new_hasher(name).digest_size * 2
    if not isinstance(digest, str) or re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", digest) is None:
        raise InvalidArgument(
            f"the expected {name} is {digest!r}", remedy=f"pass {digits} hexadecimal digits"
        )
    return digest.lower()


def compare(expected: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Raise DigestMismatch unless what was found is what was expected."""
    for name, digest in expected.items():
        if found[name] != digest:
            raise DigestMismatch(f"its {name} is {found[name]}, expected was {digest}")


class Expected:
    """Digests that a stream is to have; the last chunk is judged before it is handed on."""

    def __init__(self, digests: Mapping[str, str]) -> None:
        """Check names and digests; see ``checked_digests``."""
        self._expected = checked_digests(digests)
        self._digests = Digests(self._expected)
        self._is_judged = False

    def take(self, chunk: bytes, *, is_last: bool) -> None:
        """Take in the next chunk; raises DigestMismatch where the last one shows a difference."""
        self._digests.update(chunk)
        if is_last and not self._is_judged:
            self._is_judged = True
            compare(self._expected, self._digests.results())

    def close(self) -> None:
        """End the threads; harmless after the last chunk."""
        self._digests.close()


class _Worker(threading.Thread):
    """One digest on a thread of its own, fed through a queue that is bounded in bytes.

    One thread feeds it. An interrupt of that one leaves no simple queue half changed, as it would
    leave a condition.
    """

    def __init__(self, name: str, hasher: Hasher) -> None:
        super().__init__(name=f"imgstore-{name}", daemon=True)
        self._hasher = hasher
        self._blocks: SimpleQueue[bytes | None] = SimpleQueue()
        self._taken: SimpleQueue[int] = SimpleQueue()
        self._waiting = 0
        self._discards = False
        self._ended = threading.Lock()
        self._ended.acquire()
        self.error: BaseException | None = None

    def feed(self, block: bytes) -> None:
        """Queue a block, waiting while too much is queued."""
        if self.error:
            return  # results() raises it
        while self._waiting and self._waiting + len(block) > _BACKLOG:
            self._waiting -= self._taken.get()
        self._blocks.put(block)
        self._waiting += len(block)

    def end(self, *, discard: bool) -> None:
        """Tell the thread that nothing follows; with ``discard``, drop what is queued."""
        self._discards = discard
        self._blocks.put(None)

    def run(self) -> None:
        """Hash blocks until the end."""
        while (block := self._blocks.get()) is not None:
            if not self._discards and self.error is None:
                try:
                    self._hasher.update(block)
                except BaseException as exc:  # handed to the feeding thread
                    self.error = exc
            size = len(block)
            del block  # before the feeder may go on
            self._taken.put(size)
        self._ended.release()

    def wait(self) -> None:
        """Wait for the end of a thread that was told of it; returns at once if it never began."""
        if self.ident is None:
            return
        # Until Python 3.13, a join that is interrupted takes the thread for ended.
        with self._ended:
            pass
        self.join()


class Digests:
    """Digests of one stream: in line for the first MiB, then a thread for each algorithm.

    hashlib releases the GIL, so digests run beside each other and beside the transfer. At most
    16 MiB, or one block, wait for each. Used by one thread; ``close`` ends the threads.
    """

    def __init__(self, algorithms: Iterable[str], more: Iterable[str] = ()) -> None:
        """Check every name; raises InvalidArgument before a byte is read."""
        if isinstance(algorithms, str | bytes):
            raise InvalidArgument(
                "algorithms is one name", remedy=f"pass a sequence: ({algorithms!r},)"
            )
        try:
            names: Sequence[str] = tuple(dict.fromkeys([*algorithms, *more]))
        except TypeError as exc:
            raise InvalidArgument("algorithms is not a sequence of names") from exc
        self._hashers = {name: new_hasher(name) for name in names}
        self._workers: list[_Worker] = []
        self._pid = os.getpid()
        self._seen = 0

    def __bool__(self) -> bool:
        """Return whether there is anything to compute."""
        return bool(self._hashers)

    def update(self, block: bytes) -> None:
        """Take in the next block."""
        if not self._hashers:
            return
        self._seen += len(block)
        if self._seen > _INLINE_LIMIT and not self._workers:
            self._start()
        if self._workers:
            self._check_process()
            for worker in self._workers:
                worker.feed(block)
        else:
            for hasher in self._hashers.values():
                hasher.update(block)

    def _start(self) -> None:
        self._workers = [_Worker(name, hasher) for name, hasher in self._hashers.items()]
        self._pid = os.getpid()
        uninterrupted(self._start_workers)  # or one that started half would never end

    def _start_workers(self) -> None:
        for worker in self._workers:
            worker.start()

    def results(self) -> dict[str, str]:
        """Wait for the threads and return lower-case name to hexadecimal digest."""
        if self._workers:
            self._check_process()
        self._join(discard=False)
        for worker in self._workers:
            if worker.error is not None:
                raise worker.error
        return {name: hasher.hexdigest() for name, hasher in self._hashers.items()}

    def close(self) -> None:
        """End the threads without waiting for what is queued; harmless after ``results``."""
        self._join(discard=True)

    def _check_process(self) -> None:
        if self._is_forked():
            raise StoreError(
                "digests that were begun before a fork cannot be computed in the child",
                remedy="open the image in the child",
            )

    def _is_forked(self) -> bool:
        """Return whether the threads are another process's: here nobody would end them."""
        return os.getpid() != self._pid

    def _join(self, *, discard: bool) -> None:
        if self._is_forked():
            return
        for worker in self._workers:
            worker.end(discard=discard)
        for worker in self._workers:
            worker.wait()
