"""Calls of librbd that do not return."""

from __future__ import annotations

import errno
import signal
import sys
import threading
from types import ModuleType
from typing import Any

import pytest

from imgstore import errors
from imgstore.drivers._librbd.connection import Connection, pin
from imgstore.drivers._librbd.errors import RequestFailed, classify
from imgstore.drivers._librbd.waiting import Guarded, Watchdog

LIMIT = 0.05
LONG = 60.0


class Client:
    """What librados gives: a client, and a pool whose OSD answers or does not."""

    def __init__(self, limit: float, answer: int = errno.ETIMEDOUT) -> None:
        self.limit = limit
        self.answer = answer
        self.asked: list[str] = []
        self.ended = threading.Event()

    def get_fsid(self) -> str:
        return "fsid"

    def conf_get(self, _: str) -> str:
        return str(self.limit)

    def shutdown(self) -> None:
        self.ended.set()

    def stat(self, name: str) -> None:
        self.asked.append(name)
        raise OSError(self.answer, "")


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a function that makes a client, its connection, and a watchdog for it."""
    monkeypatch.setitem(sys.modules, "rbd", Sdk("rbd"))

    def make(limit: float = LIMIT, **how: Any) -> tuple[Client, Connection, Watchdog]:
        client = pin(Client(limit, **how))
        connection = Connection(client, None)  # type: ignore[arg-type]
        return client, connection, Watchdog(connection, client, "rbd_header.1")

    return make


class Sdk(ModuleType):
    """Ceph's module, as far as a connection needs it."""

    RBD = object


def test_an_osd_that_does_not_answer_ends_it(make: Any) -> None:
    """The connection stays until librbd returns and the image was closed, then it ends."""
    client, connection, watchdog = make()
    answer, closed = threading.Event(), threading.Event()
    with pytest.raises(RequestFailed) as caught:
        watchdog(lambda: answer.wait(LONG))
    assert isinstance(classify(caught.value), errors.TimedOut)
    assert set(client.asked) == {"rbd_header.1"}
    with pytest.raises(RequestFailed):
        watchdog(closed.set)
    watchdog.end(closed.set)
    connection.shutdown()
    assert not closed.is_set()
    assert not client.ended.is_set()
    answer.set()
    assert closed.wait(LONG)
    assert client.ended.wait(LONG)


def test_a_cluster_that_answers_is_awaited(make: Any) -> None:
    """A copy takes as long as it takes; an answer of any kind is one."""
    client, _, watchdog = make(answer=errno.ENOENT)
    ended = threading.Event()

    def copy() -> str:
        assert ended.wait(LONG)
        return "copied"

    def watch() -> None:
        while len(client.asked) < 12:
            pass
        ended.set()

    threading.Thread(target=watch).start()
    assert watchdog(copy) == "copied"
    assert not watchdog.is_over


def test_a_few_requests_take_no_more_than_a_few_limits(make: Any) -> None:
    """Also where the cluster answers, and librbd waits for something else."""
    client, connection, watchdog = make(limit=0.01, answer=errno.ENOENT)
    answer = threading.Event()

    class Image:
        def flush(self) -> None:
            answer.wait(LONG)

    with pytest.raises(RequestFailed):
        Guarded(Image(), watchdog).flush()
    assert watchdog.is_over
    watchdog.end()
    connection.shutdown()
    answer.set()
    assert client.ended.wait(LONG)


def test_an_interrupt_that_comes_with_the_end(make: Any) -> None:
    """Whoever waits again after it, as a caller does that was interrupted, does not wait long."""
    _, _, watchdog = make(limit=LONG)

    def work() -> None:
        while True:
            watchdog(lambda: None)

    for attempt in range(30):
        timer = threading.Timer(attempt * 0.001, signal.raise_signal, (signal.SIGINT,))
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012  # the interrupt may come at once
            timer.start()
            work()
        timer.join()
        assert watchdog(lambda: 7) == 7


def test_a_close_that_is_given_up_ends_the_connection_later(make: Any) -> None:
    """Once librbd returns from it; nothing else is left to be done."""
    client, connection, watchdog = make()
    answer = threading.Event()
    with pytest.raises(RequestFailed):
        watchdog.end(lambda: answer.wait(LONG))
    connection.shutdown()
    assert not client.ended.is_set()
    answer.set()
    assert client.ended.wait(LONG)


def test_an_image_that_opens_too_late_is_closed(make: Any) -> None:
    """By the thread that opened it, before the connection ends."""
    client, connection, watchdog = make()
    answer, order = threading.Event(), []

    class Image:
        def __init__(self) -> None:
            answer.wait(LONG)

        def __del__(self) -> None:
            order.append(client.ended.is_set())

    with pytest.raises(RequestFailed) as caught:
        watchdog(Image)
    watchdog.end()
    connection.shutdown()
    answer.set()
    assert client.ended.wait(LONG)
    assert order == [False]
    assert caught.value.errno == errno.ETIMEDOUT


@pytest.mark.parametrize("limit", [0, LONG])
def test_what_a_call_returns_and_raises(make: Any, limit: float) -> None:
    """As without a watchdog; without a limit it is made by the caller's own thread."""
    client, _, watchdog = make(limit=limit)
    assert watchdog(lambda: 7) == 7
    with pytest.raises(ValueError, match="seven"):
        watchdog(lambda: int("seven"))
    assert (watchdog(threading.get_ident) == threading.get_ident()) == (limit == 0)
    closed: list[int] = []
    watchdog.end(lambda: closed.append(1))
    assert (closed, client.asked) == ([1], [])
