"""Answers as http.client of each Python reads them with the library's help."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from imgstore.drivers._http.answers import Answer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfour"
INTERIM = b"HTTP/1.1 %d Because\r\nLink: </a>\r\n\r\n"


class Patient(Answer):
    read_timeout = 5


@contextlib.contextmanager
def answer(*pieces: bytes, seconds: float = 5, ends: bool = False) -> Iterator[Answer]:
    """Make an answer of what is sent, and perhaps ended; its head is not read yet."""
    near, far = socket.socketpair()

    def send() -> None:
        with contextlib.suppress(OSError):
            for piece in pieces:
                far.sendall(piece)
            if ends:
                far.shutdown(socket.SHUT_WR)

    with near, far:
        near.settimeout(seconds)
        sender = threading.Thread(target=send)
        sender.start()
        made = Patient(near, method="GET")
        try:
            yield made
        finally:
            made.close()
            near.shutdown(socket.SHUT_RDWR)
            sender.join()


@pytest.mark.parametrize("times", [1, 500])
@pytest.mark.parametrize("codes", [(100,), (102,), (103,), (100, 102, 103, 199)])
def test_interim_answers_are_skipped(codes: tuple[int, ...], times: int) -> None:
    """They precede the answer (RFC 9110 15.2), whatever they are and however many."""
    interim = b"".join(INTERIM % code for code in codes) * times
    with answer(interim, OK) as made:
        made.begin()
        assert (made.status, made.read()) == (200, b"four")


def test_switching_protocols_is_no_interim_answer() -> None:
    """No HTTP follows it."""
    with answer(INTERIM % 101, OK) as made:
        made.begin()
        assert made.status == 101


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"


@pytest.mark.parametrize("length", range(1, len(HEAD) - 1))
def test_a_head_that_breaks_off(length: int) -> None:
    """Some of it is no head, though http.client takes it for one wherever a line ends."""
    broken = pytest.raises(ConnectionResetError, match="in the head")
    with answer(HEAD[:length], ends=True) as made, broken:
        made.begin()


def test_text_that_breaks_off() -> None:
    """It is not HTTP, and asking again will not make it so."""
    other = pytest.raises(http.client.HTTPException)
    with answer(b"SSH-2.0-OpenSSH", ends=True) as made, other:
        made.begin()


def test_interim_answers_without_end() -> None:
    """A server that sends nothing else is given up: after so many bytes, or in time."""
    began = time.monotonic()
    ended = pytest.raises((http.client.HTTPException, TimeoutError))
    with answer(*[INTERIM % 103 * 1000] * 1000, seconds=20) as made, ended:
        made.begin()
    with answer(INTERIM % 103, seconds=0.1) as made, pytest.raises(TimeoutError):
        made.begin()
    assert time.monotonic() - began < 60
