"""Names of http.client, urllib3 and requests that are none of their documented API.

The transport overrides them, or looks at them. They mean in the versions that are named here what
the transport takes them for; a test fails where another version means something else.
"""

from __future__ import annotations

import http.client
import io
import socket
from typing import Any

import pytest
import requests
import requests.adapters
import urllib3
import urllib3.connection
import urllib3.connectionpool
import urllib3.poolmanager
from urllib3.util import response as parsing

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none"
CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"


def answer(
    data: bytes, kind: type[http.client.HTTPResponse] = http.client.HTTPResponse
) -> http.client.HTTPResponse:
    """Return an answer that is read up to its body."""
    near, far = socket.socketpair()
    with near, far:
        far.sendall(data)
        made = kind(near, method="GET")
    made.begin()
    return made


def spied(base: Any, name: str) -> tuple[Any, list[Any]]:
    """Return a class that notes what one of its methods returns, and the notes."""
    noted: list[Any] = []

    def call(self: Any, *args: Any, **options: Any) -> Any:
        noted.append(getattr(base, name)(self, *args, **options))
        return noted[-1]

    return type("Spied", (base,), {name: call}), noted


class TestHttpClient:
    """Of CPython 3.10 to 3.13."""

    def test_read_status(self) -> None:
        """It is called for every status line, also of interim answers, and returns its parts."""
        kind, noted = spied(http.client.HTTPResponse, "_read_status")
        assert answer(b"HTTP/1.1 100 Continue\r\n\r\n" + OK, kind).status == 200
        lines = [(version, status, reason.strip()) for version, status, reason in noted]
        assert lines == [("HTTP/1.1", 100, "Continue"), ("HTTP/1.1", 200, "OK")]

    def test_fp(self) -> None:
        """It is a buffer whose raw stream can be taken and wrapped before anything is read."""

        class Wrapped(http.client.HTTPResponse):
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                assert isinstance(self.fp, io.BufferedReader)
                self.fp = io.BufferedReader(self.fp.detach())

        assert answer(OK, Wrapped).read() == b"one"

    def test_length_and_chunked(self) -> None:
        """``length`` is what is left of a body that states it, None of one in chunks."""
        whole = answer(OK)
        assert (whole.length, whole.chunked) == (3, False)
        whole.read(2)
        assert whole.length == 1
        chunks = answer(CHUNKS)
        assert (chunks.length, bool(chunks.chunked)) == (None, True)

    def test_will_close(self) -> None:
        """It says that no other answer follows on the connection."""
        assert not answer(OK).will_close
        assert answer(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").will_close

    def test_get_chunk_left(self) -> None:
        """It is asked before each piece how much of a chunk is left; None is the end."""
        kind, noted = spied(http.client.HTTPResponse, "_get_chunk_left")
        read = answer(CHUNKS, kind)
        assert (read.read(2), read.read()) == (b"on", b"etwo")
        assert noted == [3, 1, 3, None]

    def test_chunk_left(self) -> None:
        """It is 0 where the line end of a chunk comes next, and None before a chunk's size."""
        read: Any = answer(CHUNKS)
        assert read.chunk_left is None
        read.read(3)
        assert read.chunk_left == 0
        read._safe_read(2)
        read.chunk_left = None
        assert read.read() == b"two"

    def test_read_next_chunk_size(self) -> None:
        """It is called for each chunk, the last one of no bytes included."""
        kind, noted = spied(http.client.HTTPResponse, "_read_next_chunk_size")
        assert answer(CHUNKS, kind).read() == b"onetwo"
        assert noted == [3, 3, 0]

    def test_safe_read(self) -> None:
        """It returns as many bytes as are asked for, or says what is missing."""
        read: Any = answer(OK)
        assert read._safe_read(2) == b"on"
        with pytest.raises(http.client.IncompleteRead):
            read._safe_read(2)

    def test_close_conn(self) -> None:
        """It closes the stream, after which nothing is read."""
        read: Any = answer(OK)
        stream = read.fp
        read._close_conn()
        assert stream.closed
        assert read.fp is None

    def test_method(self) -> None:
        """It is that of the request which was begun."""
        connection: Any = http.client.HTTPConnection("localhost")
        connection.putrequest("HEAD", "/")
        assert connection._method == "HEAD"


def connected(steps: list[str]) -> Any:
    """Return a connection of urllib3 that notes how it is made; ``far`` is its other end."""
    near, far = socket.socketpair()

    class Connection(urllib3.connection.HTTPConnection):
        def _new_conn(self) -> socket.socket:
            steps.append("_new_conn")
            return near

        def _tunnel(self) -> None:
            assert self.sock is near
            steps.append("_tunnel")

    connection: Any = Connection("localhost", 1)
    connection.far = far
    return connection


class TestUrllib3:
    """Of version 2.8."""

    def test_new_conn_and_tunnel(self) -> None:
        """Connecting makes a socket by the one, and lets the other ask a proxy over it."""
        steps: list[str] = []
        connection = connected(steps)
        with connection.far:
            connection.set_tunnel("example.org", 443)
            connection.connect()
            connection.close()
        assert steps == ["_new_conn", "_tunnel"]

    @pytest.mark.parametrize(
        ("host", "asked"),
        [("example.org.", "example.org."), ("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")],
    )
    def test_dns_host(self, host: str, asked: str) -> None:
        """It is the host to connect to, its final dot kept, without brackets."""
        connection: Any = urllib3.HTTPConnectionPool(host, 80)._new_conn()
        assert connection._dns_host == asked

    def test_response_class(self) -> None:
        """It makes the answer, of a socket and the request's method."""
        made = []

        class Answer(http.client.HTTPResponse):
            def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
                super().__init__(sock, *args, **options)
                made.append(options["method"])

        connection = connected([])
        connection.response_class = Answer
        with connection.far:
            connection.far.sendall(OK)
            connection.request("GET", "/", preload_content=False)
            read = connection.getresponse()
            assert made == ["GET"]
            assert type(read._original_response) is Answer
            assert read.length_remaining == 3
            connection.close()

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_pool_classes_by_scheme(self, scheme: str) -> None:
        """A manager makes pools by it, and these their connections by ``ConnectionCls``."""
        base: Any = getattr(urllib3.connectionpool, f"{scheme.upper()}ConnectionPool")
        connection = type("Connection", (base.ConnectionCls,), {})
        pool = type("Pool", (base,), {"ConnectionCls": connection})
        manager: Any = urllib3.poolmanager.PoolManager()
        manager.pool_classes_by_scheme = {scheme: pool}
        made = manager.connection_from_host("localhost", 1, scheme, pool_kwargs={})
        assert type(made) is pool
        assert type(made._new_conn()) is connection

    @pytest.mark.parametrize("line", [b"no header\r\n", b"A: b\r\n c\r\nno header\r\n"])
    def test_assert_header_parsing(self, line: bytes) -> None:
        """It finds lines that http.client passes over, and is content with sound ones."""
        parsing.assert_header_parsing(http.client.parse_headers(io.BytesIO(b"A: b\r\n\r\n")))
        headers = http.client.parse_headers(io.BytesIO(line + b"B: c\r\n\r\n"))
        with pytest.raises(urllib3.exceptions.HeaderParsingError):
            parsing.assert_header_parsing(headers)


class TestRequests:
    """Of version 2.34, whose adapters may override these methods."""

    def test_an_adapter_asks_for_its_manager_its_pool_and_its_url(self) -> None:
        """No more decides where a request goes."""
        asked = []

        class Adapter(requests.adapters.HTTPAdapter):
            def init_poolmanager(self, *args: Any, **options: Any) -> None:
                asked.append("init_poolmanager")
                super().init_poolmanager(*args, **options)
                assert self.proxy_manager == {}

            def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
                asked.append("get_connection_with_tls_context")
                return self.poolmanager.connection_from_host("localhost", 1, "http")

            def request_url(self, *args: Any) -> str:
                asked.append("request_url")
                return "/"

        adapter = Adapter(max_retries=0)
        request = requests.Request("GET", "http://elsewhere.example.org/").prepare()
        with pytest.raises(requests.ConnectionError, match="localhost"):
            adapter.send(request)
        assert asked == ["init_poolmanager", "get_connection_with_tls_context", "request_url"]

    def test_build_connection_pool_key_attributes(self) -> None:
        """It returns, besides the host, how a pool verifies servers."""
        adapter = requests.adapters.HTTPAdapter()
        request = requests.Request("GET", "https://localhost/").prepare()
        where, how = adapter.build_connection_pool_key_attributes(request, "/ca.pem")
        assert where["host"] == "localhost"
        assert how == {"cert_reqs": "CERT_REQUIRED", "ca_certs": "/ca.pem"}
        _, how = adapter.build_connection_pool_key_attributes(request, False)
        assert how["cert_reqs"] == "CERT_NONE"
