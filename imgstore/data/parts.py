"""Transfers in parts, several at a time, bounded in memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Final, Generic, Protocol, TypeVar

from imgstore.data.streams import Body
from imgstore.data.units import MIB
from imgstore.process.committing import attempted, is_in_doubt
from imgstore.process.per_process import PerProcess

DEFAULT_BUDGET: Final = 256 * MIB

D = TypeVar("D")
D_contra = TypeVar("D_contra", contravariant=True)
P = TypeVar("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Part:
    """The bytes of a part, or of a whole image, in blocks of 1 MiB; SDKs read it like a file.

    Not in one piece: pieces of some MiB leave holes in the heap that the next one does not fit
    into, and memory would grow by half.
    """

    def __init__(self, blocks: Sequence[bytes]) -> None:
        """Keep blocks of 1 MiB, of which only the last may be shorter."""
        self._blocks = blocks
        self._size = sum(map(len, blocks))
        self._position = 0

    def __len__(self) -> int:
        """Return the number of bytes."""
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        """Iterate the blocks."""
        return iter(self._blocks)

    def __bytes__(self) -> bytes:
        """Return all bytes in one piece."""
        return b"".join(self._blocks)

    def read(self, n: int = -1, /) -> bytes:
        """Return at most ``n`` bytes from where the last read ended, none at the end."""
        if n < 0:
            rest = bytes(self)[self._position :]
            self._position = self._size
            return rest
        if self._position >= self._size:
            return b""
        number, start = divmod(self._position, MIB)
        piece = self._blocks[number][start : start + n]
        self._position += len(piece)
        return piece

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Let the next read begin elsewhere; return where."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Return where the next read begins."""
        return self._position


def read_part(body: Body, size: int) -> Part:
    """Return the next ``size`` bytes, fewer only at the end."""
    blocks = []
    while size > 0:
        block = body.read(min(size, MIB))
        if block:
            blocks.append(block)
        if len(block) < min(size, MIB):
            break
        size -= len(block)
    return Part(blocks)


class PartedUpload(Protocol[D_contra, P, R_co]):
    """An upload in parts, as a backend does it; ``put`` is called from several threads."""

    def put(self, number: int, data: D_contra) -> P:
        """Send part ``number``, counted from 1, and return what ``finish`` needs of it."""

    def finish(self, parts: list[P]) -> R_co:
        """Commit the parts, given in order; if the answer is lost, ask after it.

        What is raised with ``indeterminate`` set is not followed by ``abort``.
        """

    def cancel(self) -> object:
        """Let parts in flight end soon: the upload has failed."""

    def abort(self) -> object:
        """Remove everything that was sent; no part is in flight any more."""


class Shares:
    """A number of ``parts`` in memory, divided among the uploads that are under way at once."""

    def __init__(self, parts: int) -> None:
        """``parts`` is what one upload alone may have."""
        self.parts = parts
        self._uploads: PerProcess[set[object]] = PerProcess(set, set.clear)

    @property
    def each(self) -> int:
        """Return how many parts each upload may have now, at least one."""
        return max(1, self.parts // max(1, len(self._uploads.get())))

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Count an upload inside as one that is under way."""
        uploads, upload = self._uploads.get(), object()
        uploads.add(upload)
        try:
            yield
        finally:
            uploads.discard(upload)


def upload_in_parts(
    body: Body,
    *,
    start: Callable[[], PartedUpload[Part, P, R]],
    put_whole: Callable[[Part], R],
    part_size: Callable[[int], int],
    shares: Shares,
    budget: int = DEFAULT_BUDGET,
) -> R:
    """Upload ``body``, in one piece if it ends inside the first part, else in parts.

    ``start`` begins an upload in parts, once two parts are known to be needed. ``part_size``
    gives the bytes of part 1, 2, …. At most its share of parts is in memory, in flight or being
    read, and fewer where they would exceed ``budget`` bytes, but always two. The first failure
    cancels what has not begun, waits for what has, and aborts.
    """
    first = read_part(body, part_size(1))
    following = read_part(body, part_size(2)) if len(first) == part_size(1) else Part(())
    if not following:
        return put_whole(first)
    with shares.taken(), Parts(shares.parts, start) as parts:
        sending = _WholeParts(parts, shares, budget)
        sending.send(first)
        sending.send(following)
        del first, following
        while True:
            size = part_size(parts.count + 1)
            sending.make_room(size)
            data = read_part(body, size)
            if not data:
                return parts.finish()
            sending.send(data)
            del data


class Parts(Generic[D, P, R]):
    """The parts of one upload, which are sent by ``workers`` threads.

    Used with ``with``: a failure inside cancels what has not begun, waits for what has, and aborts
    the upload, unless it may be committed.
    """

    def __init__(self, workers: int, start: Callable[[], PartedUpload[D, P, R]]) -> None:
        """Begin the upload."""
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="imgstore-part")
        self._futures: list[Future[P]] = []
        self._finishing = False
        self.upload = start()  # last: what fails before needs no abort

    @property
    def count(self) -> int:
        """Return how many parts were sent, or are to be."""
        return len(self._futures)

    def send(self, data: D) -> Future[P]:
        """Send the next part as soon as a worker is free."""
        future = self._pool.submit(self.upload.put, self.count + 1, data)
        self._futures.append(future)
        return future

    def finish(self) -> R:
        """Wait for all parts and commit; raises what the first to fail raised."""
        wait(self._futures, return_when=FIRST_EXCEPTION)
        for future in self._futures:
            if future.done():
                future.result()
        sent = [future.result() for future in self._futures]
        self._finishing = True
        return self.upload.finish(sent)

    def __enter__(self) -> Parts[D, P, R]:
        """Return self."""
        return self

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        """End the threads; after a failure, undo."""
        if exc is None:
            self._pool.shutdown()
            return
        self.upload.cancel()
        self._pool.shutdown(wait=True, cancel_futures=True)
        # Interrupted while it commits, an upload may be committed.
        is_unknown = self._finishing and not isinstance(exc, Exception)
        if not is_unknown and not is_in_doubt(exc):
            attempted(self.upload.abort, "the removal of an upload")


class _WholeParts(Generic[P, R]):
    """Sends parts that are in memory as a whole, a bounded number at once."""

    def __init__(self, parts: Parts[Part, P, R], shares: Shares, budget: int) -> None:
        self._parts = parts
        self._shares = shares
        self._budget = budget
        self._flying: dict[Future[P], int] = {}

    def make_room(self, size: int) -> None:
        """Wait until a part of ``size`` bytes may be read; raises what a part raised."""
        while len(self._flying) > max(1, self._shares.each - 1) or (
            len(self._flying) > 1 and sum(self._flying.values()) + size > self._budget
        ):
            self._land()

    def send(self, data: Part) -> None:
        """Send the next part as soon as a worker is free; raises what a part raised."""
        while len(self._flying) >= self._shares.each:
            self._land()
        self._flying[self._parts.send(data)] = len(data)

    def _land(self) -> None:
        done, _ = wait(self._flying, return_when=FIRST_COMPLETED)
        for future in done:
            del self._flying[future]
            future.result()
