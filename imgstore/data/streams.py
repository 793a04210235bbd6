"""Image data on its way in (``Body``) and out (``Opened``, ``ImageReader``)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any, Final, NoReturn, final

from imgstore.data.extents import ZEROS, Holes, stretches_of_data
from imgstore.data.hashing import Digests, checked_digests, compare
from imgstore.data.opened import SourceFile
from imgstore.data.pace import STEP, Pace
from imgstore.data.sources import (
    READ_LIMIT,
    Input,
    Pieces,
    Progress,
    RefusedSource,
    Sink,
    open_input,
)
from imgstore.data.units import MIB
from imgstore.errors import (
    ImgStoreError,
    IntegrityError,
    InvalidArgument,
    SizeMismatch,
    TooLarge,
)
from imgstore.process.committing import is_in_doubt, mark_in_doubt
from imgstore.process.interrupts import Descriptors

_NO_STEP: Final = 1024 * MIB
_NO_INPUT: Final = Pieces(lambda n: b"")
_NO_HOLES: Final = Holes(None)


@final
class Body:
    """An image on its way into a store: exact blocks, sizes checked, digests beside it.

    ``read`` raises before it releases the last block when the source holds more or fewer bytes
    than ``size`` or more than ``max_size``, so the failure comes before the driver commits.
    ``size`` is the declared size, or that of a source which knows its own; None is unknown.
    ``error`` is what ended the body early; the library raises it whatever an SDK made of it.
    One thread uses a body.
    """

    def __init__(
        self,
        source: object,
        *,
        size: int | None = None,
        max_size: int | None = None,
        algorithms: Iterable[str] = (),
        sinks: Iterable[Sink] = (),
        progress: Progress | None = None,
        expected: Mapping[str, str] | None = None,
    ) -> None:
        """Check the arguments; nothing is opened or read yet."""
        self._declared = _count("size", size)
        self._max_size = _count("max_size", max_size)
        self._expected = checked_digests(expected)
        self._digests = Digests(algorithms, self._expected)
        self._sinks = _checked_sinks(sinks)
        if progress is not None and not callable(progress):
            raise InvalidArgument("progress is not callable")
        self._pace = None if progress is None else Pace(progress)
        if self._declared is not None:
            self._check_max(self._declared)
        self.source = source
        self.size = self._declared
        self.error: BaseException | None = None
        self.error_is_callers = False
        self._input: Input = _NO_INPUT
        self._held = Descriptors()
        self._total = 0
        self._ended = False
        self._results: dict[str, str] = {}
        self._holes = _NO_HOLES

    def __enter__(self) -> Body:
        """Open the source; what that raises is the caller's."""
        self._input = self._guard(open_input, self.source, self._held)
        if self._input.file is not None:
            self._holes = Holes(self._input.file)
        if self._declared is None:
            self.size = self._input.size
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """End the digests' threads and leave the source where reading ended; once."""
        try:
            self._digests.close()
        finally:
            try:
                self._input.close(self._total)
            finally:
                self._held.close()

    def read(self, n: int) -> bytes:
        """Return the next block of exactly ``n`` bytes, shorter or empty only at the end."""
        return self._read(n, self._gather)

    def _read(self, n: int, gather: Callable[[int], bytes]) -> bytes:
        """Return what ``gather`` returns: ``n`` bytes, ZEROS, or the rest."""
        self._check_failed()
        if self._ended:
            return b""
        limit = self._limit()
        want = n if limit is None else min(n, limit - self._total)
        block: bytes = self._guard(gather, want)
        if len(block) < want and block is not ZEROS:
            self._ended = True
        elif limit is not None and self._total + len(block) == limit:
            self._ended = not self._guard(self._input.pull, 1)
            if not self._ended:
                self._fail(self._excess(limit))
        if self._ended and self.size is not None and self._total + len(block) != self.size:
            self._fail(self._shortage(self._total + len(block)))
        if self._ended:
            self._check_source()
        if block:
            self._account(block)
        if self._ended:
            self._end()
        return block

    def hole(self) -> int:
        """Return how many zero bytes follow that need not be read; 0 where none are known.

        Only sources that are files tell, and only of 64 KiB or more. Follow up with ``skip``.
        """
        return 0 if self._ended else self._holes.at(self._total)

    def before_hole(self, n: int) -> int:
        """Return how many of the next ``n`` bytes lie before the next hole, where one is known."""
        return self._holes.before(self._total, n)

    def skip(self, n: int) -> None:
        """Pass over ``n`` bytes that ``hole`` told of; digests and sinks get zeros."""
        limit = self._limit()
        if limit is not None and self._total + n > limit:
            self._fail(self._excess(limit))
        self._input.skip(n)  # type: ignore[attr-defined]  # only files have holes
        if not self.observed:
            self._total += n
            self._guard(self._arrived, self._total)
            return
        while n > 0:
            self._account(ZEROS[:n])
            self._guard(self._arrived, self._total)
            n -= MIB

    def stretches(
        self, size: Callable[[], int], *, grain: int = 0, thin: bool = False
    ) -> Iterator[tuple[int, int, memoryview | None]]:
        """Yield position, length and bytes of all that the body holds, in order; None for a hole.

        Blocks are of ``size()`` bytes and end on multiples of ``grain``, or else of the size, so
        that no aligned zeros are split. With ``thin`` zeros within blocks are not yielded.
        """
        position = 0
        while True:
            hole = self.hole()
            if hole:
                self.skip(hole)
                yield position, hole, None
                position += hole
                continue
            piece = size()
            want = self.before_hole(piece - position % (grain or piece))
            block = self._read(want, self._gather_or_hole)
            if not block:
                return
            view = memoryview(block)
            if block is ZEROS:
                yield position, len(block), None
            elif thin:
                for start, end in stretches_of_data(block, position):
                    yield position + start, end - start, view[start:end]
            else:
                yield position, len(block), view
            if self._ended:
                return
            position += len(block)

    @property
    def file(self) -> SourceFile | None:
        """Return the regular file behind a source of which nothing has been read yet.

        None if its length breaks a limit: then reading finds out, before a copy is made.
        """
        file, limit = self._input.file, self._limit()
        fits = file is not None and (limit is None or file.length <= limit)
        return file if fits and self._total == 0 else None

    @property
    def observed(self) -> bool:
        """Return whether digests or sinks want the bytes."""
        return bool(self._digests) or bool(self._sinks)

    @property
    def step(self) -> int:
        """Return how many bytes a driver lets the kernel copy before it calls ``copied``."""
        return _NO_STEP if self._pace is None else STEP

    def copied(self, length: int) -> None:
        """Tell progress that the kernel has copied ``length`` bytes of the file so far."""
        self._check_failed()
        self._guard(self._arrived, length)

    def adopt(self, length: int, reread: Callable[[int, int], bytes]) -> None:
        """Account for the whole file, of which the driver made the kernel copy ``length`` bytes.

        ``reread(offset, n)`` reads the copy back, where digests or sinks want the bytes.
        """
        if self._max_size is not None and length > self._max_size:
            self._fail(self._excess(self._max_size))
        if self.size is not None and length != self.size:
            self._check_source()
            self._fail(self._shortage(length))
        self._ended = True
        if not self.observed:
            self._total = length
        while self._total < length:
            block = reread(self._total, min(MIB, length - self._total))
            if not block:
                self._fail(IntegrityError(f"the copy ends after {self._total} of {length} bytes"))
            self._account(block)
            self._guard(self._arrived, self._total)
        self._check_source()
        self._end()

    def _check_source(self) -> None:
        """Find out whether an image that is the source changed meanwhile."""
        self._guard(self._input.check)

    def _check_failed(self) -> None:
        if self.error is not None:
            raise RuntimeError("the source failed before") from self.error

    def finish(self) -> None:
        """Check that the driver read to the end; called by the library after the commit."""
        self._check_failed()
        if self._ended:
            return
        try:
            if self.read(1):
                raise IntegrityError("the driver committed before it had read the whole source")
        except IntegrityError as exc:  # and so it is there
            mark_in_doubt(exc)
            raise

    @property
    def total(self) -> int:
        """Return the bytes read so far."""
        return self._total

    def digests(self) -> dict[str, str]:
        """Return lower-case algorithm to hexadecimal digest, once everything was read."""
        return self._results

    def _gather(self, n: int) -> bytes:
        """Read ``n`` bytes however small the source's pieces are."""
        return self._gathered(self._pull(n, self._total) if n else b"", n)

    def _gathered(self, first: bytes, n: int) -> bytes:
        if len(first) == n or not first:
            return first
        pieces, missing = [first], n - len(first)
        while missing and (piece := self._pull(missing, self._total + n - missing)):
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def _gather_or_hole(self, n: int) -> bytes:
        """Read ``n`` bytes, or ZEROS where a source begins with that: it is a hole."""
        first = self._pull(n, self._total) if n else b""
        return first if first is ZEROS else self._gathered(first, n)

    def _pull(self, n: int, before: int) -> bytes:
        """Read up to ``n`` bytes, of which ``before`` have arrived already."""
        n = min(n, READ_LIMIT)
        if self._pace is None:
            return self._input.pull(n)
        piece = self._pace.pull(self._input.pull, n)
        self._arrived(before + len(piece))
        return piece

    def _account(self, block: bytes) -> None:
        self._digests.update(block)
        for sink in self._sinks:
            self._guard(sink.update, block)
        self._total += len(block)

    def _arrived(self, done: int) -> None:
        if self._pace is not None:
            self._pace.arrived(done, self.size)

    def _end(self) -> None:
        """Judge the image: the last block was not released yet, so nothing is committed."""
        self._results = self._digests.results()
        try:
            compare(self._expected, self._results)
        except IntegrityError as exc:
            self._fail(exc)
        for sink in self._sinks:
            self._finish(sink)
        if self._pace is not None:
            self._guard(self._pace.ended, self._total, self.size)

    def _finish(self, sink: Sink) -> None:
        answer = self._guard(getattr(sink, "finish", _nothing))
        if isinstance(answer, Coroutine):
            answer.close()  # or Python would warn that nobody awaited it
        if answer is not None:
            self._fail(
                InvalidArgument(
                    f"finish() of a sink of type {type(sink).__name__} returned {answer!r}",
                    remedy="return None, and raise to refuse the image",
                )
            )

    def _guard(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call the caller's code, remembering that an exception is the caller's."""
        try:
            return call(*args)
        except BaseException as exc:
            self.error = exc
            self.error_is_callers = not isinstance(exc, RefusedSource)
            if isinstance(exc, StopIteration):
                # It would end a driver's loop over the body like an image that is complete.
                raise RuntimeError("the source raised StopIteration") from exc
            if is_in_doubt(exc):
                # The doubt is that of another operation: a driver would leave its draft for it.
                raise RuntimeError("the source failed in doubt") from exc
            raise

    def _fail(self, error: ImgStoreError) -> NoReturn:
        self.error = error
        raise error

    def _limit(self) -> int | None:
        if self.size is None or self._max_size is None:
            return self._max_size if self.size is None else self.size
        return min(self.size, self._max_size)

    def _check_max(self, size: int) -> None:
        if self._max_size is not None and size > self._max_size:
            raise TooLarge(f"the image has {size} bytes, more than max_size={self._max_size}")

    def _excess(self, limit: int) -> ImgStoreError:
        if self.size is not None and limit == self.size:
            return self._shortage(None)
        return TooLarge(f"the source holds more than max_size={limit} bytes")

    def _shortage(self, found: int | None) -> ImgStoreError:
        found_text = "more" if found is None else str(found)
        if self._declared is None:
            return SizeMismatch(
                f"the source held {self.size} bytes at first and {found_text} at the end",
                remedy="do not change a source while it is stored",
            )
        return SizeMismatch(f"the source holds {found_text} bytes, declared were {self.size}")


def _checked_sinks(sinks: Iterable[Sink]) -> tuple[Sink, ...]:
    try:
        checked = tuple(sinks)
    except TypeError as exc:
        raise InvalidArgument("sinks is not a sequence") from exc
    for sink in checked:
        if not callable(getattr(sink, "update", None)):
            raise InvalidArgument(f"a sink of type {type(sink).__name__} has no update(bytes)")
        if not callable(getattr(sink, "finish", _nothing)):
            raise InvalidArgument(f"finish of a sink of type {type(sink).__name__} is not callable")
    return checked


def _nothing() -> None:
    """What a sink without ``finish`` has to say."""


def _count(name: str, value: int | None) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidArgument(
            f"{name} is {value!r}", remedy="pass a number of bytes, or None if unknown"
        )
    return value
