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
from imgstore.drivers._librbd.waiting import Patience, Patient

LIMIT = 0.05
PATIENT = 60.0


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
    """Give a function that makes a client, its connection, and patience with it."""
    monkeypatch.setitem(sys.modules, "rbd", Sdk("rbd"))

    def make(limit: float = LIMIT, **how: Any) -> tuple[Client, Connection, Patience]:
        client = pin(Client(limit, **how))
        connection = Connection(client, None)  # type: ignore[arg-type]
        return client, connection, Patience(connection, client, "rbd_header.1")

    return make


class Sdk(ModuleType):
    """Ceph's module, as far as a connection needs it."""

    RBD = object


def test_an_osd_that_does_not_answer_ends_it(make: Any) -> None:
    """The connection stays until librbd returns and the image was closed, then it ends."""
    client, connection, patience = make()
    answer, closed = threading.Event(), threading.Event()
    with pytest.raises(RequestFailed) as caught:
        patience(lambda: answer.wait(PATIENT))
    assert isinstance(classify(caught.value), errors.TimedOut)
    assert set(client.asked) == {"rbd_header.1"}
    with pytest.raises(RequestFailed):
        patience(closed.set)
    patience.end(closed.set)
    connection.shutdown()
    assert not closed.is_set()
    assert not client.ended.is_set()
    answer.set()
    assert closed.wait(PATIENT)
    assert client.ended.wait(PATIENT)


def test_a_cluster_that_answers_is_awaited(make: Any) -> None:
    """A copy takes as long as it takes; an answer of any kind is one."""
    client, _, patience = make(answer=errno.ENOENT)
    ended = threading.Event()

    def copy() -> str:
        assert ended.wait(PATIENT)
        return "copied"

    def watch() -> None:
        while len(client.asked) < 12:
            pass
        ended.set()

    threading.Thread(target=watch).start()
    assert patience(copy) == "copied"
    assert not patience.is_over


def test_a_few_requests_take_no_more_than_a_few_limits(make: Any) -> None:
    """Also where the cluster answers, and librbd waits for something else."""
    client, connection, patience = make(limit=0.01, answer=errno.ENOENT)
    answer = threading.Event()

    class Image:
        def flush(self) -> None:
            answer.wait(PATIENT)

    with pytest.raises(RequestFailed):
        Patient(Image(), patience).flush()
    assert patience.is_over
    patience.end()
    connection.shutdown()
    answer.set()
    assert client.ended.wait(PATIENT)


def test_an_interrupt_that_comes_with_the_end(make: Any) -> None:
    """Whoever waits again after it, as a caller does that was interrupted, does not wait long."""
    _, _, patience = make(limit=PATIENT)

    def work() -> None:
        while True:
            patience(lambda: None)

    for attempt in range(30):
        timer = threading.Timer(attempt * 0.001, signal.raise_signal, (signal.SIGINT,))
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012  # the interrupt may come at once
            timer.start()
            work()
        timer.join()
        assert patience(lambda: 7) == 7


def test_a_close_that_is_given_up_ends_the_connection_later(make: Any) -> None:
    """Once librbd returns from it; nothing else is left to be done."""
    client, connection, patience = make()
    answer = threading.Event()
    with pytest.raises(RequestFailed):
        patience.end(lambda: answer.wait(PATIENT))
    connection.shutdown()
    assert not client.ended.is_set()
    answer.set()
    assert client.ended.wait(PATIENT)


def test_an_image_that_opens_too_late_is_closed(make: Any) -> None:
    """By the thread that opened it, before the connection ends."""
    client, connection, patience = make()
    answer, order = threading.Event(), []

    class Image:
        def __init__(self) -> None:
            answer.wait(PATIENT)

        def __del__(self) -> None:
            order.append(client.ended.is_set())

    with pytest.raises(RequestFailed) as caught:
        patience(Image)
    patience.end()
    connection.shutdown()
    answer.set()
    assert client.ended.wait(PATIENT)
    assert order == [False]
    assert caught.value.errno == errno.ETIMEDOUT


@pytest.mark.parametrize("limit", [0, PATIENT])
def test_what_a_call_returns_and_raises(make: Any, limit: float) -> None:
    """As without patience; without a limit it is made by the caller's own thread."""
    client, _, patience = make(limit=limit)
    assert patience(lambda: 7) == 7
    with pytest.raises(ValueError, match="seven"):
        patience(lambda: int("seven"))
    assert (patience(threading.get_ident) == threading.get_ident()) == (limit == 0)
    closed: list[int] = []
    patience.end(lambda: closed.append(1))
    assert (closed, client.asked) == ([1], [])
