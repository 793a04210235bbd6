"""The http store against servers that lie, stall, break off, and answer in odd ways."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
import traceback

import pytest
from servers.hostile import MARKER, full_backlog
from servers.process import free_port

from imgstore import errors
from imgstore.drivers.http import HttpStore

pytestmark = pytest.mark.servers("nginx")

MIB = 1 << 20
SECRET = "signature-of-the-query"
PART_IN_CHUNKS = (
    b"HTTP/1.1 206 OK\r\nContent-Range: bytes 0-3/4\r\nTransfer-Encoding: chunked\r\n\r\n"
)


@pytest.fixture
def make():
    """Make stores that are closed at the end of the test; time-outs in seconds are short."""
    with contextlib.ExitStack() as stack:

        def store(**options) -> HttpStore:
            options = {"connect_timeout": 2.0, "read_timeout": 2.0, **options}
            return stack.enter_context(HttpStore("web", **options))

        yield store


@pytest.fixture
def store(make):
    return make()


def read(store: HttpStore, url: str, **arguments) -> bytes:
    with store.get(url, **arguments) as reader:
        return reader.read()


class TestFaults:
    @pytest.mark.parametrize("arguments", [{}, {"offset": 9}, {"offset": MIB - 10, "length": 10}])
    def test_more_than_was_stated_is_an_error(self, store, hostile, arguments):
        """Bytes behind the end of a body are noticed and the last chunk is held back."""
        with pytest.raises(errors.IntegrityError, match="more bytes"):
            read(store, hostile.url("longer"), **arguments)

    @pytest.mark.parametrize("coding", ["gzip", "deflate"])
    def test_encoded_images_are_refused(self, store, hostile, coding):
        """Compressed bytes are never passed off as the image."""
        for call in (store.get, store.size):
            with pytest.raises(errors.Unsupported, match=coding):
                call(hostile.url(f"compress?coding={coding}"))

    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            (401, errors.PermissionDenied),
            (403, errors.PermissionDenied),
            (404, errors.NotFound),
            (408, errors.Unavailable),
            (410, errors.NotFound),
            (418, errors.StoreError),
            (429, errors.Throttled),
            (500, errors.Unavailable),
            (501, errors.Unsupported),
            (503, errors.Unavailable),
        ],
    )
    def test_a_status_says_what_is_wrong(self, store, hostile, code, kind):
        """Each status has its class; the body of the answer stays where it is."""
        for call in (store.get, store.size):
            with pytest.raises(kind, match=str(code)) as caught:
                call(hostile.url(f"error?code={code}"))
            assert type(caught.value) is kind
            assert MARKER not in "".join(traceback.format_exception(caught.value))

    @pytest.mark.parametrize("target", ["garbage", "endless-headers", "long-header"])
    def test_what_is_not_http_is_an_error(self, store, hostile, target):
        """Garbage and heads without end are reported, and not tried again."""
        with pytest.raises(errors.StoreError, match="not sound HTTP") as caught:
            store.get(hostile.url(target))
        assert not caught.value.retryable

    @pytest.mark.parametrize(
        "line",
        [b"Content-Length: 4, 5", b"Content-Length: 4\r\nContent-Length: 5", b"Content-Length: +4"],
    )
    def test_a_length_is_one_number(self, store, line):
        """An answer that states two lengths, or none that is a number, cannot be trusted."""
        with answering(b"HTTP/1.1 200 OK\r\n" + line + b"\r\n\r\nfour", b"", pause=0.05) as url:
            for call in (store.get, store.size):
                with pytest.raises(errors.StoreError, match="not sound HTTP"):
                    call(url)

    @pytest.mark.parametrize(
        "framing",
        [
            b"Transfer-Encoding: chunked, chunked",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: chunked ",
            b"Transfer-Encoding: identity, chunked",
            b"Transfer-Encoding: chunked;a=b",
        ],
    )
    def test_framing_is_never_read_as_the_image(self, store, framing):
        """What is not plainly chunked is refused."""
        head = b"HTTP/1.1 206 OK\r\nContent-Range: bytes 0-3/4\r\n" + framing + b"\r\n\r\n"
        with answering(head + b"4\r\nfour\r\n0\r\n\r\n", b"", pause=0.05) as url:
            for call in (store.size, lambda url: read(store, url, length=4)):
                with pytest.raises(errors.StoreError, match=r"framing|not sound HTTP"):
                    call(url)

    @pytest.mark.parametrize(
        "body",
        [b"4\r\nfour+++0", b"+4\r\nfour", b"0x4\r\nfour", b"-4\r\nfour", b"\r\nfour", b"4 4\r\n"],
    )
    def test_a_chunk_is_as_long_as_it_says(self, store, body):
        """Whatever int() would make of its length, and whatever stands where its end should be."""
        answer = PART_IN_CHUNKS + body + b"\r\n0\r\n\r\n"
        with (
            answering(answer, b"", pause=0.05) as url,
            pytest.raises(errors.StoreError, match="not sound HTTP"),
        ):
            read(store, url, length=4)

    @pytest.mark.parametrize("tells", [b"Content-Range: bytes */4\r\n", b""])
    def test_a_range_that_ends_beyond_the_image_is_cut(self, store, tells):
        """RFC 9110 14.1.2 wants the server to do it; some answer 416 instead."""

        def strict(connection: socket.socket) -> None:
            match = re.search(rb"Range: bytes=(\d+)-(\d+)", seen[-1])
            first, last = (int(match[1]), int(match[2])) if match else (0, 3)
            if last > 3:
                head, body = b"416 No\r\n" + tells, b""
            else:
                head = b"206 Part\r\nContent-Range: bytes %d-%d/4\r\n" % (first, last)
                body = b"four"[first : last + 1]
            length = b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
            connection.sendall(b"HTTP/1.1 " + head + length + body)

        seen: list[bytes] = []
        with scripted(strict, seen) as url:
            assert read(store, url, offset=2, length=9) == b"ur"
            assert read(store, url, offset=4, length=9) == b""
            with pytest.raises(errors.InvalidRange):
                store.get(url, offset=5, length=9)

    def test_interim_answers_are_skipped(self, store):
        """102 and 103 precede the answer (RFC 9110 15.2), as 100 does."""
        interim = b"".join(
            b"HTTP/1.1 %d Because\r\nLink: </a>\r\n\r\n" % code for code in (100, 102, 103, 199)
        )
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfour"
        with answering(interim + head, b"", pause=0.05) as url:
            assert read(store, url) == b"four"

    @pytest.mark.parametrize("target", ["close", "reset"])
    def test_a_connection_that_breaks_is_unavailable(self, store, hostile, target):
        """A server that hangs up without an answer is asked once more, then it is Unavailable."""
        with pytest.raises(errors.Unavailable):
            store.get(hostile.url(target))
        assert len(hostile.requests) == 2

    def test_nobody_there_is_unavailable(self, make, hostile):
        """A refused connection and an unknown name are Unavailable; who was asked, and why not."""
        port = free_port()
        there = hostile.url("good")
        for store, url, peer, reason in (
            (make(), f"http://127.0.0.1:{port}/image", f"http://127.0.0.1:{port}", "refused"),
            (
                make(),
                "http://there-is-none.invalid/image",
                "http://there-is-none.invalid:80",
                "resolved",
            ),
            # The location names another one.
            (make(), hostile.url(f"redirect?to=http://127.0.0.1:{port}/x"), f":{port}", "refused"),
            (
                make(proxy_information={"http": f"me:hidden@127.0.0.1:{port}"}),
                there,
                f"proxy http://127.0.0.1:{port}",
                "refused",
            ),
        ):
            with pytest.raises(errors.Unavailable, match=reason) as caught:
                store.get(url)
            assert peer in caught.value.reason
            assert "hidden" not in "".join(traceback.format_exception(caught.value))

    def test_every_wait_is_bounded(self, make, hostile):
        """A stall is TimedOut: while connecting, before the head, and in the body."""
        store = make(connect_timeout=0.5, read_timeout=0.5)
        store.read_retries = 0
        with full_backlog() as (host, port):
            urls = [f"http://{host}:{port}/", hostile.url("stall-head"), hostile.url("stall?at=9")]
            for url in urls:
                began = time.monotonic()
                with pytest.raises(errors.TimedOut):
                    read(store, url)
                assert time.monotonic() - began < 5

    @pytest.mark.parametrize(
        ("start", "piece"),
        [(b"HTTP/1.1 200 OK\r\nA: ", b"X"), (b"", b"HTTP/1.1 100 Continue\r\n\r\n")],
        ids=["head", "interim"],
    )
    def test_a_head_that_trickles_is_bounded(self, make, start, piece):
        """A head must be complete in time, though every wait for a byte is short."""
        with answering(start, piece, pause=0.05) as url:
            began = time.monotonic()
            with pytest.raises(errors.TimedOut):
                make(read_timeout=0.5).get(url)
            assert time.monotonic() - began < 5

    def test_a_head_has_its_time_once(self, make):
        """Neither in pieces nor over a second connection is there more of it."""

        def slowly(connection: socket.socket) -> None:
            if not is_given_up(connection):
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                if not is_given_up(connection):
                    connection.sendall(b"Content-Length: 0\r\n\r\n")

        def late(connection: socket.socket) -> None:
            if not is_given_up(connection) and len(seen) > 1:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        def is_given_up(connection: socket.socket) -> bool:
            connection.settimeout(1.2)
            with contextlib.suppress(TimeoutError):
                return connection.recv(1) == b""
            return False

        for script in (slowly, late):
            seen: list[bytes] = []
            with scripted(script, seen) as url, pytest.raises(errors.Unavailable):
                make(read_timeout=1.5).get(url)

    def test_bodies_that_are_withheld_cost_no_time_out(self, make):
        """Neither those of redirects nor those of errors are waited for."""

        def withhold(connection: socket.socket) -> None:
            end = b"Content-Length: 9\r\n\r\n"
            if len(seen) < 5:
                connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /%d\r\n" % len(seen) + end)
            else:
                connection.sendall(b"HTTP/1.1 404 Not Found\r\n" + end)
            connection.recv(1)  # until the client has enough of it

        seen: list[bytes] = []
        began = time.monotonic()
        with scripted(withhold, seen) as url, pytest.raises(errors.NotFound):
            make(read_timeout=8.0).get(url)
        assert len(seen) == 5
        assert time.monotonic() - began < 20

    def test_trailers_without_end_are_bounded(self, make):
        """A chunked body that is followed by trailers for ever is not read for ever."""
        body = b"4\r\nfour\r\n0\r\n"
        store = make()
        with (
            answering(PART_IN_CHUNKS + body, b"X-Trailer: more and more\r\n" * 1000) as url,
            pytest.raises(errors.StoreError, match="not sound HTTP"),
        ):
            read(store, url, length=4)

    @pytest.mark.parametrize("status", [b"200 OK", b"302 Found"])
    def test_a_head_that_is_not_sound_is_not_quoted(self, store, caplog, status):
        """urllib3 would log what follows a line without a colon, a signed Location for example."""
        caplog.set_level("DEBUG", logger="")
        lines = [b"HTTP/1.1 " + status, b"no header", f"Location: /x?sig={SECRET}".encode()]
        head = b"\r\n".join([*lines, b"Content-Length: 4", b"", b"four"])
        with answering(head, b"", pause=0.05) as url:
            for call in (store.get, store.size):
                with pytest.raises(errors.StoreError, match="not sound HTTP") as caught:
                    call(f"{url}?sig={SECRET}")
                assert SECRET not in "".join(traceback.format_exception(caught.value))
        assert SECRET not in caplog.text
        assert not any(record.levelname == "WARNING" for record in caplog.records)

    @pytest.mark.parametrize(
        "answer",
        [
            b"GET /image?sig=%s HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 %s OK\r\n\r\n",
            b"HTTP/%s 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Encoding: %s\r\nConnection: close\r\n\r\n1",
            b"HTTP/1.1 404 %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            PART_IN_CHUNKS + b"%s\r\n",
        ],
        ids=["line", "status", "version", "length", "coding", "reason", "chunk"],
    )
    def test_a_server_that_echoes_is_not_quoted(self, store, caplog, answer):
        """What a server says may hold the signature that it was sent."""
        caplog.set_level("DEBUG", logger="")
        with answering(answer.replace(b"%s", SECRET.encode()), b"", pause=0.05) as url:
            for arguments in ({}, {"length": 4}):
                with pytest.raises(errors.StoreError) as caught:
                    read(store, f"{url}?sig={SECRET}", **arguments)
                assert SECRET not in "".join(traceback.format_exception(caught.value))
        assert SECRET not in caplog.text


@contextlib.contextmanager
def scripted(script, seen: list[bytes]):
    """Answer each connection, one at a time, as a script does; keep what was asked in `seen`."""

    def accept() -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(10)
                seen.append(connection.recv(65536))
                script(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/image"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(timeout=10)


@contextlib.contextmanager
def answering(start: bytes, repeated: bytes, *, pause: float = 0.0):
    """Answer every connection with `start`, and with one thing for ever from then on."""
    ended = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(start)
            while not ended.wait(pause):
                connection.sendall(repeated)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = listener.accept()[0]
                connection.settimeout(10)
                threads.append(threading.Thread(target=serve, args=(connection,)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads = [threading.Thread(target=accept)]
        threads[0].start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/image"
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(timeout=10)
