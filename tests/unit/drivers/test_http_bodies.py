"""Bodies that are sent over HTTP: begun when the server wants them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest
import requests

from imgstore.drivers._http.connections import Transport
from imgstore.drivers._http.errors import classify
from imgstore.drivers._http.guard import AddressGuard
from imgstore.drivers._http.reading import settle
from imgstore.drivers._http.urls import Url
from imgstore.errors import Unavailable
from imgstore.location import Location

DATA = [b"one", b"two"]
EXPECT = {"Expect": "100-continue"}
CONTINUE = b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n"
CREATED = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
REFUSED = b"HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 4\r\n\r\nfull"

Script = Callable[[socket.socket], None]


class Server:
    """Answers each connection as a script says, and keeps what it was sent."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.connections = 0
        self.received: list[bytes] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def url(self) -> Url:
        port = self._listening.getsockname()[1]
        return Url.of(Location("http", f"127.0.0.1:{port}/file"))

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def until(self, made: socket.socket, end: bytes) -> bool:
        """Receive until something comes; return whether it did."""
        data = b""
        while end not in data:
            piece = made.recv(65536)
            if not piece:
                break
            data += piece
        self.received.append(data)
        return end in data

    def _serve(self) -> None:
        while True:
            try:
                made, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            with made:
                self._script(made)


@pytest.fixture
def transport() -> Iterator[Transport]:
    made = Transport(
        guard=AddressGuard(), verify=True, proxies={}, connect_timeout=5, read_timeout=5
    )
    yield made
    made.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Script], Server]]:
    servers: list[Server] = []

    def start(script: Script) -> Server:
        servers.append(Server(script))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def sent(begun: list[bool]) -> Iterator[bytes]:
    begun.append(True)
    yield from DATA


@pytest.mark.parametrize(
    ("headers", "framed"),
    [
        ({"Content-Length": "6"}, b"onetwo"),
        ({}, b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"),
    ],
    ids=["known", "chunked"],
)
@pytest.mark.parametrize("leave", ["early", "late", "never"])
def test_a_body_is_sent(
    transport: Transport,
    serve: Callable[[Script], Server],
    headers: dict[str, str],
    framed: bytes,
    leave: str,
) -> None:
    """At once where the server says so, and a second later where it says nothing."""

    def script(made: socket.socket) -> None:
        server.until(made, b"\r\n\r\n")
        if leave == "early":
            made.sendall(CONTINUE)
        server.until(made, framed[-7:])
        if leave == "late":
            made.sendall(CONTINUE)
        made.sendall(CREATED)
        server.until(made, b"never")

    server = serve(script)
    response = transport.send("PUT", server.url, EXPECT | headers, sent([]))
    assert response.status_code == 201
    settle(response)
    transport.close()
    head, body = server.received[:2]
    assert b"Expect: 100-continue" in head
    assert body == framed
    assert (b"Transfer-Encoding: chunked" in head) == (not headers)
    assert (b"Content-Length" in head) == bool(headers)


def test_a_refusal_comes_before_the_body(
    transport: Transport, serve: Callable[[Script], Server]
) -> None:
    """Then nothing of it is read, and nobody uses the connection again."""
    begun: list[bool] = []

    def script(made: socket.socket) -> None:
        server.until(made, b"\r\n\r\n")
        made.sendall(REFUSED)
        server.until(made, b"never")

    server = serve(script)
    for number in (1, 2):
        response = transport.send("PUT", server.url, EXPECT, sent(begun))
        assert (response.status_code, response.content) == (507, b"full")
        assert server.connections == number
    assert begun == []


def test_an_answer_right_behind_the_leave_is_kept(
    transport: Transport, serve: Callable[[Script], Server]
) -> None:
    """They may arrive together, before the body is sent."""

    def script(made: socket.socket) -> None:
        server.until(made, b"\r\n\r\n")
        made.sendall(CONTINUE + REFUSED)
        server.until(made, b"0\r\n\r\n")

    server = serve(script)
    response = transport.send("PUT", server.url, EXPECT, sent([]))
    assert (response.status_code, response.content) == (507, b"full")


def test_a_connection_serves_one_body_after_another(
    transport: Transport, serve: Callable[[Script], Server]
) -> None:
    """Whether they wait for the server's leave or not."""

    def script(made: socket.socket) -> None:
        while server.until(made, b"\r\n\r\n"):
            if b"Expect" in server.received[-1]:
                made.sendall(CONTINUE)
            if not server.received[-1].endswith(b"0\r\n\r\n"):  # what waits for no leave
                server.until(made, b"0\r\n\r\n")
            made.sendall(CREATED)

    server = serve(script)
    for headers in (EXPECT, {}, EXPECT):
        response = transport.send("PUT", server.url, headers, sent([]))
        assert response.status_code == 201
        settle(response)
    assert server.connections == 1
    transport.close()


def test_an_answer_in_the_middle_is_read(
    transport: Transport, serve: Callable[[Script], Server]
) -> None:
    def script(made: socket.socket) -> None:
        server.until(made, b"\r\n\r\n")
        made.sendall(REFUSED)
        made.shutdown(socket.SHUT_WR)
        made.recv(65536)

    server = serve(script)
    body = (bytes(1 << 20) for _ in range(64))
    response = transport.send("PUT", server.url, {}, body)
    assert response.status_code == 507
    response.close()


def test_no_answer_before_the_body(transport: Transport, serve: Callable[[Script], Server]) -> None:
    """A connection that ends there has taken nothing."""
    begun: list[bool] = []

    def script(made: socket.socket) -> None:
        server.until(made, b"\r\n\r\n")

    server = serve(script)
    with pytest.raises(requests.ConnectionError) as caught:
        transport.send("PUT", server.url, EXPECT, sent(begun))
    assert isinstance(classify(caught.value), Unavailable)
    assert begun == []


def test_what_a_body_raises_comes_out(
    transport: Transport, serve: Callable[[Script], Server]
) -> None:
    """And the connection is closed, or the server would wait for the rest."""
    closed = threading.Event()

    def script(made: socket.socket) -> None:
        server.until(made, b"\r\n\r\n")
        made.sendall(CONTINUE)
        server.until(made, b"never")
        closed.set()

    def body() -> Iterator[bytes]:
        yield b"one"
        raise LookupError("the source")

    server = serve(script)
    with pytest.raises(LookupError, match="the source"):
        transport.send("PUT", server.url, EXPECT, body())
    assert closed.wait(5)
