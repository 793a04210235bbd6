"""Reading a remote object as ranges, from a server that is a list of answers."""

from __future__ import annotations

import io
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from imgstore.data.opened import Opened
from imgstore.data.ranges import RANGE, Got, open_ranges, open_whole, whole_size
from imgstore.errors import IntegrityError, NotFound, Unavailable, Unsupported

SIZE = 3 * RANGE + 12_345
DATA = random.Random(1).randbytes(SIZE)


class BodyOf(io.BytesIO):
    """A body, which may break off."""

    is_broken = False

    def read(self, n: int | None = -1, /) -> bytes:
        if self.is_broken:
            raise ConnectionResetError("gone")
        return super().read(n)


class Server:
    """Serves DATA, with faults for requests by the offset that they begin with."""

    def __init__(self, *, version: str | None = "v1") -> None:
        self.version = version
        self.asked: list[tuple[int, int | None, str | None]] = []
        self.bodies: list[BodyOf] = []
        self.broken: Counter[int] = Counter()  # how many bodies break off
        self.short: Counter[int] = Counter()  # how many end early
        self.refused: dict[int, Exception] = {}
        self.hanging: set[int] = set()  # what is answered only when it is cancelled
        self.is_asked_to_hang = threading.Event()
        self.was_cancelled = False

    def __call__(
        self,
        offset: int,
        length: int | None,
        version: str | None,
        is_cancelled: Callable[[], bool],
    ) -> Got:
        self.asked.append((offset, length, version))
        if offset in self.refused:
            raise self.refused[offset]
        if offset in self.hanging:
            self._hang(is_cancelled)
        end = SIZE if length is None else offset + length
        self.short[offset] -= 1
        self.broken[offset] -= 1
        body = BodyOf(DATA[offset:end][: -1 if self.short[offset] >= 0 else None])
        body.is_broken = self.broken[offset] >= 0
        self.bodies.append(body)
        return Got(body, SIZE, self.version)

    def _hang(self, is_cancelled: Callable[[], bool]) -> None:
        self.is_asked_to_hang.set()
        deadline = time.monotonic() + 60
        while not is_cancelled() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.was_cancelled = is_cancelled()
        raise Unavailable("cancelled, or too late")


def opened(
    server: Server,
    offset: int = 0,
    length: int | None = None,
    *,
    version: str | None = None,
    workers: int = 4,
) -> Opened:
    return open_ranges(server, offset, length, version, workers=workers)


def read(found: Opened) -> bytes:
    data = b"".join(found.chunks)
    found.close()
    return data


@pytest.fixture(autouse=True)
def no_threads_stay() -> Iterator[None]:
    yield
    assert not [each for each in threading.enumerate() if each.name.startswith("imgstore-part")]


def test_a_whole_object_is_one_request() -> None:
    server = Server()
    found = open_whole(server, 5, None, "v1")
    assert (found.image_size, found.version) == (SIZE, "v1")
    pieces = list(found.chunks)
    assert b"".join(pieces) == DATA[5:]
    assert max(map(len, pieces)) < RANGE
    assert server.asked == [(5, None, "v1")]
    found.close()
    assert server.bodies[0].closed


def test_one_worker_asks_once() -> None:
    server = Server()
    assert read(opened(server, 7, SIZE, workers=1)) == DATA[7:]
    assert server.asked == [(7, SIZE, None)]


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, None),
        (0, SIZE),
        (0, SIZE + 1),
        (1, None),
        (1, RANGE + 1),
        (RANGE - 1, 2 * RANGE),
        (SIZE - RANGE - 1, None),
        (SIZE - RANGE - 1, 9 * RANGE),
    ],
)
@pytest.mark.parametrize("workers", [2, 4, 64])
def test_ranges_come_in_order(offset: int, length: int | None, workers: int) -> None:
    """None is longer than RANGE, and together they are what was asked for."""
    server = Server()
    found = opened(server, offset, length, workers=workers)
    wanted = DATA[offset:] if length is None else DATA[offset : offset + length]
    assert (found.image_size, found.version) == (SIZE, "v1")
    assert read(found) == wanted
    covered = offset
    for begin, asked, _ in sorted(server.asked, key=lambda each: each[0]):
        assert begin == covered
        assert asked is not None
        assert asked <= RANGE
        covered += asked
    assert covered == offset + len(wanted)


@pytest.mark.parametrize(
    ("offset", "length", "asked"),
    [
        (0, 10, 10),
        (3, RANGE, RANGE),
        (SIZE - 5, None, RANGE),
        (SIZE - RANGE, None, RANGE),
        (SIZE - 5, SIZE, RANGE),
    ],
)
def test_what_fits_into_one_range_is_one_request(
    offset: int, length: int | None, asked: int
) -> None:
    server = Server()
    wanted = DATA[offset:] if length is None else DATA[offset : offset + length]
    assert read(opened(server, offset, length)) == wanted
    assert server.asked == [(offset, asked, None)]
    assert all(body.closed for body in server.bodies)


def test_later_ranges_are_of_the_version_that_came_first() -> None:
    server = Server()
    read(opened(server))
    assert [version for _, _, version in server.asked] == [None, "v1", "v1", "v1"]


def test_a_wanted_version_is_asked_for_from_the_start() -> None:
    server = Server()
    read(opened(server, version="v1"))
    assert {version for _, _, version in server.asked} == {"v1"}


def test_without_ranges_it_is_read_whole() -> None:
    class Old(Server):
        def __call__(self, offset: int, length: int | None, *rest: object) -> Got:
            if length is not None:
                self.asked.append((offset, length, None))
                raise Unsupported("no ranges")
            return super().__call__(offset, length, *rest)  # type: ignore[arg-type]

    server = Old()
    assert read(opened(server)) == DATA
    assert server.asked == [(0, RANGE, None), (0, None, None)]


def test_what_has_no_version_is_read_whole() -> None:
    """Ranges of it could be of different images; the first answer is given up."""
    server = Server(version=None)
    found = opened(server, 2, 2 * RANGE)
    assert server.bodies[0].closed
    assert read(found) == DATA[2 : 2 + 2 * RANGE]
    assert server.asked == [(2, RANGE, None), (2, 2 * RANGE, None)]


@pytest.mark.parametrize("kind", ["broken", "short"])
@pytest.mark.parametrize("offset", [0, RANGE, 3 * RANGE])
def test_a_range_that_broke_off_is_asked_for_again(
    kind: str, offset: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The first one too, whose answer had begun to arrive; and nothing else is; a line says so."""
    caplog.set_level("INFO")
    server = Server()
    getattr(server, kind)[offset] = 1
    assert read(opened(server)) == DATA
    begins = [begin for begin, _, _ in server.asked]
    assert begins.count(offset) == 2
    assert len(begins) == 4 + 1
    assert {version for begin, _, version in server.asked[1:]} == {"v1"}
    assert all(body.closed for body in server.bodies)
    (line,) = caplog.messages
    assert f"from {offset} on are asked for again: " in line


@pytest.mark.parametrize(("kind", "error"), [("broken", Unavailable), ("short", IntegrityError)])
def test_it_is_given_up_in_the_end(kind: str, error: type[Exception]) -> None:
    """Three times more are enough; what came before it was delivered."""
    server = Server()
    getattr(server, kind)[RANGE] = 9
    found = opened(server)
    arrived: list[bytes] = []
    with pytest.raises(error) as caught:
        arrived.extend(found.chunks)
    found.close()
    assert b"".join(arrived) == DATA[:RANGE]
    assert [begin for begin, _, _ in server.asked].count(RANGE) == 4
    if kind == "broken":
        assert isinstance(caught.value.__cause__, ConnectionResetError)


@pytest.mark.parametrize("error", [NotFound("gone"), Unavailable("down"), Unsupported("no ranges")])
def test_requests_that_fail_are_not_repeated_here(error: Exception) -> None:
    """Drivers do that, who know what may pass."""
    server = Server()
    server.refused[RANGE] = error
    found = opened(server)
    with pytest.raises(type(error)) as caught:
        list(found.chunks)
    found.close()
    assert caught.value is error
    assert [begin for begin, _, _ in server.asked].count(RANGE) == 1


def test_the_first_request_fails_as_it_is() -> None:
    server = Server()
    server.refused[0] = NotFound("gone")
    with pytest.raises(NotFound):
        opened(server)
    assert len(server.asked) == 1


def test_closing_cancels_what_is_under_way() -> None:
    """A request that waits learns of it, is not sent again, and is the last one."""
    server = Server()
    server.hanging.add(RANGE)
    found = opened(server, workers=2)
    assert next(iter(found.chunks)) == DATA[:RANGE]
    assert server.is_asked_to_hang.wait(60)
    found.close()
    assert server.was_cancelled
    assert [begin for begin, _, _ in server.asked] == [0, RANGE]
    assert all(body.closed for body in server.bodies)


def test_closing_before_reading() -> None:
    server = Server()
    found = opened(server)
    found.close()
    assert server.bodies[0].closed
    assert len(server.asked) == 1


class TestWholeSize:
    @pytest.mark.parametrize(
        ("text", "offset", "declared", "size"),
        [
            ("bytes 0-9/10", 0, 10, 10),
            ("bytes 5-9/10", 5, 5, 10),
            ("bytes 5-5/10", 5, 1, 10),
            (f"bytes 0-0/{2**60}", 0, 1, 2**60),
        ],
    )
    def test_it_is_what_follows_the_slash(
        self, text: str, offset: int, declared: int, size: int
    ) -> None:
        assert whole_size(text, offset, declared) == size

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "bytes */10",
            "bytes 0-9/*",
            "items 0-9/10",
            "bytes=0-9/10",
            "bytes 0-9/10 x",
            f"bytes 0-9/{'1' * 5000}",  # int() refuses them
        ],
    )
    def test_what_is_no_range(self, text: str) -> None:
        with pytest.raises(Unsupported):
            whole_size(text, 0, 10)

    @pytest.mark.parametrize(
        ("text", "offset", "declared"),
        [("bytes 1-10/11", 0, 10), ("bytes 0-8/11", 0, 10), ("bytes 0-10/11", 0, 10)],
    )
    def test_another_range_than_asked_for(self, text: str, offset: int, declared: int) -> None:
        with pytest.raises(IntegrityError, match="bytes from 0 on"):
            whole_size(text, offset, declared)
