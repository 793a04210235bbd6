"""Answers of the API as the connections of a session read them."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import socket
from collections.abc import Callable, Iterator

import pytest

from imgstore import errors
from imgstore.drivers.vmware.errors import classify, may_pass
from imgstore.drivers.vmware.sessions import Connection

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: 21\r\n\r\n<Envelope></Envelope>"
PAGE = b"Content-Type: text/html; charset=utf-8\r\nContent-Length: 4\r\n\r\n<p/>"

Ask = Callable[[bytes], http.client.HTTPResponse]


@pytest.fixture
def ask() -> Iterator[Ask]:
    """Return what a server's bytes are read as; it closes the connection after them."""
    with contextlib.ExitStack() as stack:

        def ask(sent: bytes) -> http.client.HTTPResponse:
            mine, its = socket.socketpair()
            connection = Connection("vcenter.example", 8443, read_timeout=5.0)
            connection.sock = mine
            stack.callback(connection.close)
            with its:
                its.sendall(sent)
                connection.request("POST", "/sdk", b"x")
                return connection.getresponse()

        yield ask


@pytest.mark.parametrize("head", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
def test_interim_answers_are_skipped(ask: Ask, head: bytes) -> None:
    interim = b"HTTP/1.1 %s\r\nLink: </x>\r\n\r\n" % head
    response = ask(3 * interim + OK)
    assert (response.status, response.read()) == (200, b"<Envelope></Envelope>")


def test_interim_answers_without_end(ask: Ask) -> None:
    with pytest.raises(http.client.HTTPException, match="without end"):
        ask(200 * b"HTTP/1.1 102 Processing\r\n\r\n" + OK)


@pytest.mark.parametrize("line", [b"HTTP/1.1 200 OK", b"HTTP/1.1 500 Error"])
def test_a_page_in_place_of_an_answer_may_pass(ask: Ask, line: bytes) -> None:
    """Well-formed, it would be an answer that says nothing; and of a fault, no exception."""
    with pytest.raises(http.client.HTTPException) as caught:
        ask(b"%s\r\n%s" % (line, PAGE))
    assert may_pass(caught.value)


@pytest.mark.parametrize("line", [b"HTTP/1.1 200 OK", b"HTTP/1.1 500 Error"])
@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize(
    "page",
    [
        b"<html/>",
        b'<?xml version="1.0"?>\n<!-- a proxy -->\n<status>down</status>',
        b'<error xmlns="urn:proxy"><Envelope/></error>',
    ],
)
@pytest.mark.parametrize("step", [None, 1])
def test_another_document_in_place_of_an_answer_may_pass(
    ask: Ask, line: bytes, page: bytes, step: int | None, *, is_packed: bool
) -> None:
    """As XML it would be an answer that says nothing, such as that of Logout."""
    body = gzip.compress(page) if is_packed else page
    coding = b"Content-Encoding: gzip\r\n" if is_packed else b""
    head = b"%s\r\nContent-Type: text/xml\r\n%sContent-Length: %d\r\n\r\n"
    response = ask(head % (line, coding, len(body)) + body)
    with pytest.raises(http.client.HTTPException) as caught:
        list(iter(lambda: response.read(step), b""))
    assert may_pass(caught.value)


def test_an_answer_may_begin_with_other_things(ask: Ask) -> None:
    """Comments, a declaration, whatever prefix its namespace has; and it may be in pieces."""
    body = b'<?xml version="1.0"?>\n<!-- <a> -->\n<s:Envelope xmlns:s="urn:s"><a/></s:Envelope>'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n"
    response = ask(head % len(body) + body)
    assert b"".join(iter(lambda: response.read(7), b"")) == body


def test_a_connection_that_fails_names_the_server() -> None:
    """With the cause."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        connection = Connection("127.0.0.1", port, read_timeout=5.0)
        with pytest.raises(ConnectionRefusedError) as caught:
            connection.connect()
    found = classify(caught.value)
    assert isinstance(found, errors.Unavailable)
    assert f"127.0.0.1:{port}" in found.reason
    assert "Connection refused" in found.reason
