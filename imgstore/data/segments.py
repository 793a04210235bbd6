"""Transfers in parts that are sent while they are read, bounded in memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from imgstore.data.parts import DEFAULT_BUDGET, Part, PartedUpload, Parts
from imgstore.data.streams import Body
from imgstore.data.units import MIB

P = TypeVar("P")
R = TypeVar("R")


class AbandonedError(Exception):
    """What iterating a segment raises once the transfer has failed elsewhere."""


class _Memory:
    """The bytes of one transfer that are in memory, and the condition on which all wait."""

    def __init__(self, budget: int) -> None:
        self.change = threading.Condition(threading.Lock())
        self.budget = budget
        self.used = 0
        self.failed = False
        self.error: BaseException | None = None  # of the segment that failed first

    def fail(self, exc: BaseException | None = None) -> None:
        """Let the reading and the sending thread learn of a failure."""
        with self.change:
            if not self.failed:
                self.failed, self.error = True, exc
            self.change.notify_all()

    def take(self, size: int, segment: Segment) -> None:
        """Wait for room for ``size`` more bytes of ``segment``, or for a failure; holds ``change``.

        A segment that alone fills the memory goes on without a second chance.
        """
        while self.used and self.used + size > self.budget and not self.failed:
            if not segment.is_alone:
                self.change.wait()
            else:
                segment.stop_keeping()
        self.used += size


class Segment:
    """A part that is sent while it is read; one thread iterates its blocks of at most 1 MiB.

    ``size`` is the number of bytes, None where the source does not tell. Blocks are kept, and may
    be iterated from the start again, as long as memory suffices: ``may_restart`` says so.
    """

    def __init__(self, size: int | None, memory: _Memory) -> None:
        """Create it empty; ``upload_in_segments`` fills it."""
        self.size = size
        self._memory = memory
        self._change = memory.change
        self._blocks: deque[bytes] = deque()
        self._dropped = 0  # blocks
        self._sent = 0
        self._is_kept = True
        self._is_whole = False

    def __iter__(self) -> Iterator[bytes]:
        """Iterate from the start, waiting for what is not read yet; raises AbandonedError."""
        self._sent, missing = 0, self.size
        # After the last byte a failure comes too late for the server: it has the whole segment.
        while missing != 0 and (block := self._next()) is not None:
            yield block
            missing = None if missing is None else missing - len(block)

    def _next(self) -> bytes | None:
        with self._change:
            if not self._is_kept:
                self._drop(self._sent)
            if self._sent < self._dropped:
                raise AbandonedError("what was sent is not in memory any more")
            at = self._sent - self._dropped
            while at >= len(self._blocks) and not self._is_whole and not self._memory.failed:
                self._change.wait()
                at = self._sent - self._dropped
            if self._memory.failed:
                raise AbandonedError("the transfer failed elsewhere")
            if at >= len(self._blocks):
                return None
            self._sent += 1
            return self._blocks[at]

    @property
    def length(self) -> int | None:
        """Return the number of bytes if it is known by now: declared, or all of it in memory."""
        with self._change:
            if self.size is None and self._is_whole and self._is_kept:
                return sum(map(len, self._blocks))
            return self.size

    @property
    def may_restart(self) -> bool:
        """Return whether all that was read is in memory still."""
        return self._is_kept

    def wait_whole(self) -> bool:
        """Wait until all of it was read, and return whether all is in memory.

        It is not where the segment alone exceeds the memory. Raises AbandonedError.
        """
        with self._change:
            while self._is_kept and not self._is_whole and not self._memory.failed:
                self._change.wait()
            if self._memory.failed:
                raise AbandonedError("the transfer failed elsewhere")
            return self._is_kept

    def append(self, block: bytes) -> None:
        """Add a block once there is room; without effect once the transfer failed."""
        with self._change:
            self._memory.take(len(block), self)
            self._blocks.append(block)
            self._change.notify_all()

    @property
    def is_alone(self) -> bool:
        """Return whether all that is in memory is what this segment keeps; holds ``change``."""
        return self._is_kept and self._memory.used == sum(map(len, self._blocks))

    def stop_keeping(self) -> None:
        """Give back what was sent; holds ``change``."""
        self._is_kept = False
        self._drop(self._sent - 1)  # the last one may be on its way still

    def _drop(self, until: int) -> None:
        while self._blocks and self._dropped < until:
            self._memory.used -= len(self._blocks.popleft())
            self._dropped += 1
        self._change.notify_all()

    def end(self) -> None:
        """Say that nothing follows."""
        with self._change:
            self._is_whole = True
            self._change.notify_all()

    def release(self) -> None:
        """Give the memory back."""
        with self._change:
            self._drop(self._dropped + len(self._blocks))


class _Releasing(Generic[P, R]):
    """An upload whose segments give their memory back once they were sent."""

    def __init__(self, upload: PartedUpload[Segment, P, R], memory: _Memory) -> None:
        self._upload = upload
        self._memory = memory
        self.finish = upload.finish
        self.abort = upload.abort

    def put(self, number: int, data: Segment) -> P:
        try:
            return self._upload.put(number, data)
        except BaseException as exc:
            self._memory.fail(exc)
            raise
        finally:
            data.release()

    def cancel(self) -> None:
        self._upload.cancel()
        self._memory.fail()


def upload_in_segments(
    body: Body,
    *,
    start: Callable[[], PartedUpload[Segment, P, R]],
    segment_size: int,
    workers: int,
    head: Part | None = None,
    budget: int = DEFAULT_BUDGET,
) -> R:
    """Upload ``body`` in segments, which are sent while they are read, ``workers`` at once.

    ``head`` is what was read of it before. At most ``budget`` bytes are in memory. A segment that
    alone exceeds them cannot be sent again. The first failure ends all, and aborts. An empty image
    has one segment.
    """
    memory = _Memory(budget)
    blocks = _blocks(body, head)
    with Parts(workers, lambda: _Releasing(start(), memory)) as parts:
        block, done = next(blocks, b""), 0
        while block or not parts.count:
            rest = None if body.size is None else body.size - done
            segment = Segment(rest if rest is None else min(segment_size, rest), memory)
            parts.send(segment)
            missing = segment_size
            while block and missing:
                piece, block = block[:missing], block[missing:]
                segment.append(piece)
                if memory.error is not None:
                    raise memory.error
                missing -= len(piece)
                block = block or next(blocks, b"")
            segment.end()
            done += segment_size - missing
        try:
            return parts.finish()
        except AbandonedError:
            raise memory.error or RuntimeError("abandoned without a failure") from None


def _blocks(body: Body, head: Part | None) -> Iterator[bytes]:
    if head is not None:
        yield from head
    while block := body.read(MIB):
        yield block
