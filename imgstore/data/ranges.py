"""Reading a remote object as ranges, several at a time."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

from imgstore.data.opened import Opened
from imgstore.data.parts import DEFAULT_BUDGET
from imgstore.data.units import MIB
from imgstore.errors import IntegrityError, Unavailable, Unsupported
from imgstore.process.patience import Patience

LOG = logging.getLogger(__name__)

RANGE: Final = 8 * MIB
_PIECE: Final = MIB // 2  # larger ones are slower: they wait for more at a time
_RETRIES: Final = 3
_RETRY_PAUSE: Final = 0.2  # seconds
# RFC 9110 14.4; int() takes no more than 4,300 digits
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")


class Arriving(Protocol):
    """The body of an answer."""

    def read(self, n: int = ..., /) -> bytes:
        """Return at most ``n`` bytes, all that follow without it, none at the end."""

    def close(self) -> None:
        """Give up the rest."""


@dataclass(frozen=True)
class Got:
    """An object, or a range of it, as it begins to arrive; ``size`` is the whole object's."""

    body: Arriving
    size: int
    version: str | None


class Request(Protocol):
    """Asks for a range, of ``version`` where that is given; may be called from many threads."""

    def __call__(
        self,
        offset: int,
        length: int | None,
        version: str | None,
        is_cancelled: Callable[[], bool],
    ) -> Got:
        """Return what arrives; raises Unsupported where ranges are not served.

        A request that failed is not sent again once ``is_cancelled()``.
        """


def open_whole(request: Request, offset: int, length: int | None, version: str | None) -> Opened:
    """Open an object with one request."""
    got = request(offset, length, version, lambda: False)
    return Opened(_pieces(got.body), got.size, got.version, got.body.close, close_waits=True)


def open_ranges(
    request: Request, offset: int, length: int | None, version: str | None, *, workers: int
) -> Opened:
    """Open an object that is read in ranges, ``workers`` at once; a small one with one request."""
    if workers == 1:
        return open_whole(request, offset, length, version)
    first = RANGE if length is None else min(RANGE, length)
    try:
        got = request(offset, first, version, lambda: False)
    except Unsupported:
        return open_whole(request, offset, length, version)
    wanted = got.size - offset if length is None else min(length, got.size - offset)
    if got.version is None:  # ranges of what is not pinned may be of different images
        got.body.close()
        return open_whole(request, offset, length, version)
    if wanted <= first:
        return Opened(_pieces(got.body), got.size, got.version, got.body.close, close_waits=True)
    ranges = _Ranges(request, got.version, offset, got.body)
    chunks = read_in_parts(
        ranges.fetch,
        offset=offset,
        length=wanted,
        part_size=RANGE,
        workers=workers,
        retries=_RETRIES,
        is_retryable=lambda exc: isinstance(exc, _BrokenError),
    )

    def close() -> None:
        ranges.close()
        chunks.close()

    return Opened(chunks, got.size, got.version, close, close_waits=True)


class _BrokenError(Unavailable):
    """A body that broke off; requests are repeated by the driver."""


class _Ranges:
    """Fetches ranges of one version of an object; ``body`` is that of the first, open already."""

    def __init__(self, request: Request, version: str, offset: int, body: Arriving) -> None:
        self._request = request
        self._version = version
        self._offset = offset
        self._first = [body]
        self._body = body
        self._is_closed = False

    def fetch(self, offset: int, length: int) -> bytes:
        """Return a range; from several threads."""
        body = self._open(offset, length)
        try:
            return bytes(body.read())
        except IntegrityError:  # the driver knows why no more arrives
            raise
        except Exception as exc:
            if self._is_closed:
                raise
            raise _BrokenError("the connection broke while data arrived") from exc
        finally:
            body.close()

    def _open(self, offset: int, length: int) -> Arriving:
        if offset == self._offset and self._first:  # not when it broke off and is fetched again
            return self._first.pop()
        return self._request(offset, length, self._version, lambda: self._is_closed).body

    def close(self) -> None:
        """Let requests under way be the last, and none be repeated."""
        self._is_closed = True
        self._body.close()


def read_in_parts(
    fetch: Callable[[int, int], bytes],
    *,
    offset: int,
    length: int,
    part_size: int,
    workers: int,
    retries: int,
    is_retryable: Callable[[Exception], bool],
    budget: int = DEFAULT_BUDGET,
) -> Generator[bytes, None, None]:
    """Yield ``length`` bytes from ``offset``, fetched in parts side by side, in order.

    ``fetch(offset, n)`` returns ``n`` bytes of one pinned version, from several threads. A part
    whose failure ``is_retryable`` is fetched again, up to ``retries`` times. At most ``workers``
    parts are in flight or waiting, and fewer where ``budget`` bytes would be exceeded, but always
    one. Closing the iterator cancels what has not begun and waits for what has.
    """

    def fetch_part(at: int, n: int) -> bytes:
        data = fetch(at, n)
        if len(data) != n:
            raise IntegrityError(f"a part has {len(data)} of {n} bytes", retryable=True)
        return data

    def may_pass(exc: Exception) -> bool:
        return is_retryable(exc) or (isinstance(exc, IntegrityError) and exc.retryable)

    def fetch_again(at: int, n: int) -> bytes:
        def again(exc: Exception) -> None:
            LOG.info("%d bytes from %d on are asked for again: %s", n, at, exc)

        return patience.repeat(lambda: fetch_part(at, n), may_pass, again)

    patience = Patience(_RETRY_PAUSE, times=retries)
    ahead = max(1, min(workers, budget // part_size))
    end = offset + length
    pool = ThreadPoolExecutor(max_workers=ahead, thread_name_prefix="imgstore-part")
    waiting: deque[Future[bytes]] = deque()
    try:
        while offset < end or waiting:
            while offset < end and len(waiting) < ahead:
                n = min(part_size, end - offset)
                waiting.append(pool.submit(fetch_again, offset, n))
                offset += n
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def whole_size(content_range: str, offset: int, declared: int | None) -> int:
    """Return the size of the object of which ``declared`` bytes from ``offset`` on arrive.

    None is for an answer that does not tell how many. Raises Unsupported for an answer that is not
    a range, IntegrityError for another range.
    """
    match = _CONTENT_RANGE.fullmatch(content_range)
    if match is None:
        raise Unsupported("the server takes no notice of ranges: it reads whole objects only")
    first, last, size = map(int, match.groups())
    if first != offset or declared not in {None, last - first + 1}:
        raise IntegrityError(f"asked for bytes from {offset} on, the server sends {match[0]!r}")
    return size


def _pieces(body: Arriving) -> Iterator[bytes]:
    while piece := body.read(_PIECE):
        yield piece
