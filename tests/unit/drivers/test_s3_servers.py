"""Servers of S3 that differ, or are not there, and what the environment says of them."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from imgstore import errors
from imgstore.drivers.s3 import S3Store
from imgstore.drivers.s3.claims import Claim

KEYS = {"access_key": "access-key-of-tests", "secret_key": "secret-key-of-tests"}
TOKEN = "x-amz-meta-imgstore-add"
LEASE = "x-amz-meta-imgstore-lease"
DATA = bytes(range(256)) * 40
DATE = {"Last-Modified": "Mon, 30 Nov 2020 10:00:00 GMT"}

Answer = tuple[int, dict[str, str], bytes]
Make = Callable[..., S3Store]
Serve = Callable[..., str]


class Request(BaseHTTPRequestHandler):
    """What arrived; a Content-Length of "none" lets the answer have chunks."""

    protocol_version = "HTTP/1.1"
    answers: dict[str, Callable[[Request], Answer]]
    body = b""

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, headers, body = self.answers[self.command](self)
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), **headers}
        is_chunked = headers["Content-Length"] == "none"
        if is_chunked:
            del headers["Content-Length"]
            headers["Transfer-Encoding"] = "chunked"
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

    @property
    def range(self) -> tuple[int, int | None] | None:
        """The first and the last byte that are asked for."""
        match = re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", self.headers.get("Range", ""))
        return match and (int(match[1]), int(match[2]) if match[2] else None)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Print nothing: clients give connections up."""


def error(status: int, code: str) -> Answer:
    return status, {}, f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode()


def part_of(data: bytes, request: Request, **headers: str) -> Answer:
    """Answer a GET as servers do that cut ranges."""
    if request.range is None:
        return 200, {"ETag": '"1"', **DATE, **headers}, data
    first, last = request.range
    last = len(data) - 1 if last is None else min(last, len(data) - 1)
    told = {"Content-Range": f"bytes {first}-{last}/{len(data)}", "ETag": '"1"', **DATE, **headers}
    return 206, told, data[first : last + 1]


def head_of(data: bytes, **headers: str) -> Callable[[Request], Answer]:
    told = {"Content-Length": str(len(data)), "ETag": '"1"', **DATE, **headers}
    return lambda _: (200, told, b"")


@pytest.fixture
def make() -> Iterator[Make]:
    """Make stores that ask once; options win."""
    usual = {"host": "http://127.0.0.1:1", "bucket": "images", "max_attempts": 1, **KEYS}
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(S3Store("s3", **usual | options))


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers with answers by method, and return their addresses."""
    with contextlib.ExitStack() as stack:

        def start(**answers: Callable[[Request], Answer]) -> str:
            handler = type("Handler", (Request,), {"answers": answers})
            server = stack.enter_context(Server(("127.0.0.1", 0), handler))
            serving = {"poll_interval": 0.01}
            thread = threading.Thread(target=server.serve_forever, kwargs=serving)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_address[1]}"

        yield start


class TestConnections:
    def test_a_refused_one_names_address_and_cause(self, make: Make) -> None:
        """An operator sees which server is meant, and what the system says."""
        store = make()
        for verb in (
            lambda: store.add("image", b"data"),
            lambda: store.size(f"{store.url_prefix}/image"),
        ):
            with pytest.raises(errors.Unavailable, match=r"127\.0\.0\.1:1 .*: Connection refused"):
                verb()

    def test_a_proxy_is_named_without_its_password(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The proxy is what cannot be connected to."""
        monkeypatch.setenv("http_proxy", "http://somebody:pa55word@127.0.0.1:2")
        monkeypatch.setenv("no_proxy", "")
        store = make(host="http://s3.example.org")
        with pytest.raises(errors.Unavailable, match=r"proxy 127\.0\.0\.1:2 .*refused") as caught:
            store.size(f"{store.url_prefix}/image")
        assert "pa55word" not in str(caught.value)


class TestProfiles:
    @pytest.fixture(autouse=True)
    def _missing(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("AWS_PROFILE", "not-there")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))

    def test_keys_win_over_a_missing_one(self, make: Make, serve: Serve) -> None:
        """The environment is somebody else's."""
        store = make(host=serve(HEAD=head_of(DATA)))
        assert store.size(f"{store.url_prefix}/image") == len(DATA)

    def test_without_keys_it_is_named(self, make: Make) -> None:
        """Also where it comes from: no option need have been set."""
        store = make(access_key=None, secret_key=None)
        with pytest.raises(errors.ConfigError, match=r"not-there.*AWS_PROFILE"):
            store.size(f"{store.url_prefix}/image")


class TestRanges:
    @pytest.mark.parametrize("size", [0, 1, len(DATA)])
    @pytest.mark.parametrize("workers", [1, 3])
    def test_refused_if_they_end_beyond_the_object(
        self, make: Make, serve: Serve, workers: int, size: int
    ) -> None:
        """They are cut, as of any server; AWS, too, refuses any range of an empty object."""
        data = DATA[:size]

        def get(request: Request) -> Answer:
            if request.range and max(request.range[0], request.range[1] or 0) >= size:
                return error(416, "InvalidRange")
            return part_of(data, request)

        store = make(host=serve(GET=get, HEAD=head_of(data)), get_workers=workers)
        url = f"{store.url_prefix}/image"
        assert store.get(url).read() == data
        assert store.get(url, length=size + 9).read() == data
        if size > 5:
            assert store.get(url, offset=size - 5, length=100).read() == data[-5:]
        with pytest.raises(errors.InvalidRange):
            store.get(url, offset=size + 1, length=5)


class TestUntold:
    @pytest.mark.parametrize("workers", [1, 3])
    def test_answers_in_chunks_are_read(self, make: Make, serve: Serve, workers: int) -> None:
        """Content-Range has the size, or else HEAD."""

        def get(request: Request) -> Answer:
            return part_of(DATA, request, **{"Content-Length": "none"})

        store = make(host=serve(GET=get, HEAD=head_of(DATA)), get_workers=workers)
        url = f"{store.url_prefix}/image"
        assert store.get(url).read() == DATA
        assert store.get(url, offset=7, length=9).read() == DATA[7:16]
        assert store.get(url, offset=7).read() == DATA[7:]

    def test_a_size_that_nothing_tells(self, make: Make, serve: Serve) -> None:
        """Neither verb guesses it."""
        told = {"Content-Length": "none", "ETag": '"1"', **DATE}
        host = serve(GET=lambda _: (200, told, DATA), HEAD=lambda _: (200, told, b""))
        store = make(host=host)
        for verb in (store.get, store.size):
            with pytest.raises(errors.Unsupported, match="no ContentLength"):
                verb(f"{store.url_prefix}/image")

    def test_another_image_is_not_measured(self, make: Make, serve: Serve) -> None:
        """The one that HEAD sees may have come meanwhile."""
        get = (200, {"Content-Length": "none", "ETag": '"1"', **DATE}, DATA)
        store = make(host=serve(GET=lambda _: get, HEAD=head_of(DATA, ETag='"2"')))
        with pytest.raises(errors.IntegrityError, match="changed"):
            store.get(f"{store.url_prefix}/image")


class TestWeakTags:
    WEAK = 'W/"1"'

    def test_are_no_validators(self, make: Make, serve: Serve) -> None:
        """A read that breaks is not resumed by one, which no server takes for a match."""
        asked = list[str | None]()

        def get(request: Request) -> Answer:
            asked.append(request.headers.get("If-Match"))
            status, headers, body = part_of(DATA, request, ETag=self.WEAK)
            request.close_connection = True
            return status, {"Content-Length": str(len(body)), **headers}, body[:1000]

        store = make(host=serve(GET=get, HEAD=head_of(DATA, ETag=self.WEAK)))
        with pytest.raises(errors.StoreError) as caught:
            store.get(f"{store.url_prefix}/image").read()
        assert "changed" not in str(caught.value)
        assert caught.value.retryable
        assert set(asked) == {None}

    def test_do_not_keep_an_image_from_being_copied(self, make: Make, serve: Serve) -> None:
        """The condition is left out; afterwards the copy is compared."""
        tokens = dict[str, str]()

        def look(request: Request) -> Answer:
            if request.path.endswith("copy") and not tokens:
                return error(404, "")
            return head_of(DATA, ETag=self.WEAK, **tokens)(request)

        def put(request: Request) -> Answer:
            if "x-amz-copy-source-if-match" in request.headers:
                return error(412, "PreconditionFailed")
            tokens[TOKEN] = request.headers[TOKEN]
            return 200, {}, b"<CopyObjectResult><ETag>W/1</ETag></CopyObjectResult>"

        store = make(host=serve(HEAD=look, PUT=put), conditional_writes=False)
        assert store.copy(f"{store.url_prefix}/image", "copy").size == len(DATA)

    def test_do_not_keep_a_dead_claim_from_being_taken_over(self, make: Make, serve: Serve) -> None:
        """A proxy that compresses made it of a tag that the server itself compares."""
        held = {TOKEN: "dead", LEASE: "0"}

        def put(request: Request) -> Answer:
            if request.headers.get("If-Match") != '"1"':
                return error(412, "PreconditionFailed")
            held.update({TOKEN: request.headers[TOKEN], LEASE: "1"})
            return 200, {}, b""

        def look(request: Request) -> Answer:
            return head_of(DATA, ETag=self.WEAK, **held)(request)

        client = make(host=serve(PUT=put, HEAD=look))._client.get()
        claim = Claim(client, "image", lease=1)
        claim.take(lambda: None)
        assert held[TOKEN] != "dead"
