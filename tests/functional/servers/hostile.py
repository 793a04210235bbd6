"""A loopback HTTP server that lies, stalls and breaks off; the path selects how.

Everything is asked of `Hostile.content` (its ETag is `Hostile.etag`). Parameters go into the query;
those with ``times`` misbehave for the first so many requests of exactly that target and answer well
from then on (default: always). HEAD is answered like GET without its body, except where said.

========================================  =====================================================
/good                                     well-behaved: ranges, If-Range, ETag, Last-Modified
/truncate?at=N&times=K&then=THEN&end=END  N bytes of the body that Content-Length promised;
                                          THEN, what later requests meet: honour (a range, the
                                          default), ignore (200), changed (another ETag and
                                          content, If-Range honoured), lying (206 of the changed
                                          content in spite of If-Range); END: fin (default), reset
/longer?by=N                              N bytes more than Content-Length says
/wrong-start?by=N                         206 whose Content-Range starts N bytes late
/wrong-total?by=N                         206 whose Content-Range states N bytes too many
/star-total                               206 whose Content-Range states ``*``, which is legal
/other-range?by=N                         206 of a range N bytes further on, truly described
/no-content-range                         206 without Content-Range
/bad-content-range                        206 with a Content-Range that is not one
/multipart                                206 multipart/byteranges
/ignores-range                            200 and everything, whatever range was asked
/changing                                 other content and ETag on every GET
/no-etag                                  neither ETag nor Last-Modified; ranges work
/weak-etag                                a weak ETag; ranges work, If-Range never matches
/compress?coding=gzip                     Content-Encoding gzip or deflate, whatever was asked
/chunked?cut=N                            chunked; broken off after N bytes where cut is given
/no-length                                no Content-Length, ends with the connection
/stall?at=N                               stalls after N bytes of the body until released
/stall-head                               stalls before the status line until released
/endless-headers                          header lines for ever (64 MiB)
/long-header                              one header line for ever (64 MiB)
/head-size?by=N                           HEAD states N bytes too many
/head-status?code=C                       HEAD answers C, GET is good
/head-no-length                           HEAD has no Content-Length
/head-says?then=P&length=N                HEAD has Content-Length N (0), GET answers as /P does
/chunked-part?total=N                     chunked, with ranges; Content-Range may state total N
/status?code=C&times=K&retry_after=S      answers C with a short body and Retry-After: S
/error?code=C&size=N                      answers C (500) with N bytes (1 MiB) full of `MARKER`
/redirect?to=URL&code=C                   redirects to URL (percent-encoded), C is 302
/redirect-nowhere?code=C                  a redirect without Location
/circle                                   redirects to itself
/cookie                                   good, and sets a cookie on all paths
/close                                    closes without an answer
/reset                                    resets without an answer
/garbage                                  answers something that is not HTTP
========================================  =====================================================
"""

from __future__ import annotations

import contextlib
import gzip
import random
import socket
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import parse_qsl, urlsplit

from servers.process import free_port

MARKER = "s3cr3t-marker"
MODIFIED = "Wed, 21 Oct 2015 07:28:00 GMT"
DENIED = "http://169.254.169.254/latest/meta-data/"

_ENDLESS = 64 << 20
_IDLE_SECONDS = 30.0


@dataclass(frozen=True)
class Request:
    """A request as it came in; header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]

    @property
    def path(self) -> str:
        """The path without its query."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the query."""
        return dict(parse_qsl(urlsplit(self.target).query))

    def number(self, name: str, default: int) -> int:
        """Return a parameter as an integer."""
        return int(self.query.get(name, default))


@dataclass
class _Answer:
    """What to send: `content` is a whole resource until `_ranged` makes a part of it."""

    content: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = -1  # what Content-Length states: -1 the truth, None no such header
    stop_at: int | None = None  # bytes of the body after which something happens:
    stall: bool = False  # a stall there, otherwise the end of the connection
    reset: bool = False
    close: bool = False


class _Broken(Exception):
    """This connection ends here."""


class Hostile:
    """The server. `requests` are all it got; every stall ends with `release()` or `stall_seconds`.

    Runs in threads of this process; close() ends every one of them.
    """

    def __init__(self, content: bytes | None = None, *, stall_seconds: float = 30.0) -> None:
        self.content = random.Random(1).randbytes(1 << 20) if content is None else content
        self.changed = bytes(byte ^ 0xFF for byte in self.content)
        self.etag = '"first"'
        self.requests: list[Request] = []
        self.stall_seconds = stall_seconds
        self.address = ("127.0.0.1", free_port())
        self._released = threading.Event()
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(self.address, backlog=128)
        self._acceptor = threading.Thread(target=self._accept_all, daemon=True, name="hostile")
        self._acceptor.start()

    def __enter__(self) -> Hostile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def url(self, target: str) -> str:
        """Return the URL of a path and query (without a leading slash)."""
        return f"http://{self.address[0]}:{self.address[1]}/{target}"

    def release(self) -> None:
        """Let every stalled answer go on, now and from now on."""
        self._released.set()

    def forget(self) -> None:
        """Forget the requests and the ``times`` counted so far."""
        with self._lock:
            self.requests.clear()
            self._counts.clear()

    def close(self) -> None:
        """Close every connection and wait for every thread. Idempotent."""
        self.release()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(timeout=10)
        self._listener.close()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(timeout=10)

    def _accept_all(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return  # close() ended it
            thread = threading.Thread(
                target=self._serve, args=(connection,), daemon=True, name="hostile"
            )
            with self._lock:
                self._open.add(connection)
                self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(_IDLE_SECONDS)
        with connection, connection.makefile("rb") as stream:
            with contextlib.suppress(_Broken, OSError):
                while True:
                    request = _read_request(stream.readline)
                    with self._lock:
                        self.requests.append(request)
                    self._respond(connection, request)
            with self._lock:
                self._open.discard(connection)

    def _respond(self, connection: socket.socket, request: Request) -> None:
        if not self._raw(connection, request):
            name = request.path.strip("/").replace("-", "_")
            answer = getattr(self, f"_on_{name}", self._unknown)
            self._send(connection, request, answer(request))

    def _raw(self, connection: socket.socket, request: Request) -> bool:
        """Misbehave below HTTP where the path asks for it."""
        if request.path == "/close":
            raise _Broken
        if request.path == "/reset":
            _reset_on_close(connection)
            raise _Broken
        if request.path == "/garbage":
            connection.sendall(b"\x00\x01 this is not HTTP\r\n\r\n")
            raise _Broken
        if request.path in ("/endless-headers", "/long-header"):
            line = b"X-More: and more\r\n" if request.path == "/endless-headers" else b"more"
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-First: ")
            for _ in range(_ENDLESS // (len(line) * 1024)):
                connection.sendall(line * 1024)
            raise _Broken
        if request.path == "/stall-head":
            self._stall()
        return False

    def _stall(self) -> None:
        self._released.wait(self.stall_seconds)

    def _first(self, request: Request) -> bool:
        """Tell whether this is among the first ``times`` requests of its target."""
        times = request.query.get("times")
        with self._lock:
            self._counts[request.target] += 1
            return times is None or self._counts[request.target] <= int(times)

    def _send(self, connection: socket.socket, request: Request, answer: _Answer) -> None:
        lines = [f"HTTP/1.1 {answer.status} Because"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        if answer.length is not None:
            length = len(answer.content) if answer.length == -1 else answer.length
            lines.append(f"Content-Length: {length}")
        if answer.close:
            lines.append("Connection: close")
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        if request.method != "HEAD":
            connection.sendall(answer.content[: answer.stop_at])
            if answer.stop_at is not None and answer.stall:
                self._stall()
                connection.sendall(answer.content[answer.stop_at :])
            elif answer.stop_at is not None:
                if answer.reset:
                    _reset_on_close(connection)
                raise _Broken
        if answer.close:
            raise _Broken

    def _resource(self) -> _Answer:
        headers = {"ETag": self.etag, "Last-Modified": MODIFIED, "Accept-Ranges": "bytes"}
        return _Answer(self.content, headers=headers)

    def _changed(self) -> _Answer:
        return _Answer(self.changed, headers={"ETag": '"second"', "Accept-Ranges": "bytes"})

    def _unknown(self, request: Request) -> _Answer:
        return _Answer(b"no such behaviour\n", status=404)

    def _on_good(self, request: Request) -> _Answer:
        return _ranged(request, self._resource())

    _on_stall_head = _on_good

    def _on_truncate(self, request: Request) -> _Answer:
        if request.method == "HEAD":
            return self._resource()
        if not self._first(request):
            then = request.query.get("then", "honour")
            if then == "ignore":
                return self._resource()
            if then == "changed":
                return _ranged(request, self._changed())
            if then == "lying":
                return _ranged(request, self._changed(), check=False)
            return _ranged(request, self._resource())
        answer = _ranged(request, self._resource())
        answer.stop_at = request.number("at", 0)
        answer.reset = request.query.get("end") == "reset"
        return answer

    def _on_longer(self, request: Request) -> _Answer:
        answer = _ranged(request, self._resource())
        answer.length = len(answer.content)
        answer.content += b"+" * request.number("by", 1)
        return answer

    def _on_wrong_start(self, request: Request) -> _Answer:
        return _ranged(request, self._resource(), start=request.number("by", 1))

    def _on_wrong_total(self, request: Request) -> _Answer:
        total = len(self.content) + request.number("by", 1)
        return _ranged(request, self._resource(), total=str(total))

    def _on_star_total(self, request: Request) -> _Answer:
        return _ranged(request, self._resource(), total="*")

    def _on_other_range(self, request: Request) -> _Answer:
        return _ranged(request, self._resource(), move=request.number("by", 1))

    def _on_no_content_range(self, request: Request) -> _Answer:
        answer = _ranged(request, self._resource())
        answer.headers.pop("Content-Range", None)
        return answer

    def _on_bad_content_range(self, request: Request) -> _Answer:
        answer = _ranged(request, self._resource())
        if answer.status == 206:
            answer.headers["Content-Range"] = "bytes some-of/them"
        return answer

    def _on_multipart(self, request: Request) -> _Answer:
        answer = _ranged(request, self._resource())
        if answer.status == 206:
            described = answer.headers.pop("Content-Range")
            answer.headers["Content-Type"] = "multipart/byteranges; boundary=part"
            head = f"--part\r\nContent-Range: {described}\r\n\r\n".encode()
            answer.content = head + answer.content + b"\r\n--part--\r\n"
        return answer

    def _on_ignores_range(self, request: Request) -> _Answer:
        return self._resource()

    def _on_changing(self, request: Request) -> _Answer:
        with self._lock:
            number = self._counts[request.target]
            self._counts[request.target] += request.method == "GET"
        answer = self._changed() if number % 2 else self._resource()
        answer.headers["ETag"] = f'"number {number}"'
        return _ranged(request, answer)

    def _on_no_etag(self, request: Request) -> _Answer:
        return _ranged(request, _Answer(self.content, headers={"Accept-Ranges": "bytes"}))

    def _on_weak_etag(self, request: Request) -> _Answer:
        return _ranged(request, _Answer(self.content, headers={"ETag": 'W/"first"'}))

    def _on_compress(self, request: Request) -> _Answer:
        coding = request.query.get("coding", "gzip")
        packed = gzip.compress(self.content) if coding == "gzip" else zlib.compress(self.content)
        return _Answer(packed, headers={"Content-Encoding": coding, "ETag": self.etag})

    def _on_chunked(self, request: Request) -> _Answer:
        cut = request.query.get("cut")
        whole = self.content if cut is None else self.content[: int(cut)]
        body = b"%x\r\n%b\r\n" % (len(whole), whole) if whole else b""
        answer = _Answer(body, headers={"Transfer-Encoding": "chunked"}, length=None)
        if cut is None:
            answer.content += b"0\r\n\r\n"
        else:
            answer.stop_at = len(body)
        return answer

    def _on_no_length(self, request: Request) -> _Answer:
        return _Answer(self.content, headers={"ETag": self.etag}, length=None, close=True)

    def _on_stall(self, request: Request) -> _Answer:
        answer = _ranged(request, self._resource())
        answer.stop_at = request.number("at", 0)
        answer.stall = True
        return answer

    def _on_head_size(self, request: Request) -> _Answer:
        answer = _ranged(request, self._resource())
        if request.method == "HEAD":
            answer.length = len(answer.content) + request.number("by", 1)
        return answer

    def _on_head_says(self, request: Request) -> _Answer:
        if request.method == "HEAD":
            return _Answer(b"", length=request.number("length", 0))
        answer: _Answer = getattr(self, f"_on_{request.query['then'].replace('-', '_')}")(request)
        return answer

    def _on_chunked_part(self, request: Request) -> _Answer:
        answer = _ranged(request, self._resource(), total=request.query.get("total", ""))
        body = answer.content
        answer.content, answer.length = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body), None
        answer.headers["Transfer-Encoding"] = "chunked"
        return answer

    def _on_head_status(self, request: Request) -> _Answer:
        if request.method == "HEAD":
            return _Answer(b"", status=request.number("code", 405))
        return _ranged(request, self._resource())

    def _on_head_no_length(self, request: Request) -> _Answer:
        answer = _ranged(request, self._resource())
        if request.method == "HEAD":
            answer.length = None
        return answer

    def _on_status(self, request: Request) -> _Answer:
        if not self._first(request):
            return _ranged(request, self._resource())
        answer = _Answer(b"not now\n", status=request.number("code", 503))
        if "retry_after" in request.query:
            answer.headers["Retry-After"] = request.query["retry_after"]
        return answer

    def _on_error(self, request: Request) -> _Answer:
        size = request.number("size", 1 << 20)
        body = (f"{MARKER} ".encode() * (size // len(MARKER) + 1))[:size]
        headers = {"Content-Type": "text/plain"}
        return _Answer(body, status=request.number("code", 500), headers=headers)

    def _on_redirect(self, request: Request) -> _Answer:
        headers = {"Location": request.query["to"]}
        return _Answer(b"elsewhere\n", status=request.number("code", 302), headers=headers)

    def _on_redirect_nowhere(self, request: Request) -> _Answer:
        return _Answer(b"elsewhere\n", status=request.number("code", 302))

    def _on_circle(self, request: Request) -> _Answer:
        return _Answer(b"", status=302, headers={"Location": self.url("circle")})

    def _on_cookie(self, request: Request) -> _Answer:
        answer = _ranged(request, self._resource())
        answer.headers["Set-Cookie"] = "kept=yes; Path=/"
        return answer


def _ranged(
    request: Request,
    answer: _Answer,
    *,
    check: bool = True,
    start: int = 0,
    total: str = "",
    move: int = 0,
) -> _Answer:
    """Cut `answer` down to the range asked, where one was and If-Range (if `check`) allows it.

    `start` and `total` falsify Content-Range; `move` answers another range than asked.
    """
    asked = request.headers.get("range", "")
    condition = request.headers.get("if-range")
    held = {answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", "")} - {""}
    strong = {version for version in held if not version.startswith("W/")}
    if not asked.startswith("bytes=") or (check and condition and condition not in strong):
        return answer
    size = len(answer.content)
    low, _, high = asked.removeprefix("bytes=").partition("-")
    first = int(low) if low else max(0, size - int(high))
    last = min(int(high), size - 1) if low and high else size - 1
    if first >= size or last < first:
        return _Answer(b"", status=416, headers={"Content-Range": f"bytes */{size}"})
    first, last = min(first + move, size - 1), min(last + move, size - 1)
    answer.status = 206
    answer.content = answer.content[first : last + 1]
    described = f"bytes {first + start}-{last + start}/{total or size}"
    answer.headers["Content-Range"] = described
    return answer


@contextmanager
def full_backlog() -> Iterator[tuple[str, int]]:
    """Yield an address where a connection attempt hangs: its accept queue is full.

    Linux drops the SYN of a connection that finds the queue full, so connect() retries for minutes.
    """
    with contextlib.ExitStack() as held:
        address = ("127.0.0.1", free_port())
        held.enter_context(socket.create_server(address, backlog=0))
        for _ in range(8):
            client = held.enter_context(socket.socket())
            client.settimeout(0.3)
            try:
                client.connect(address)
            except TimeoutError:
                yield address
                return
        raise RuntimeError("the accept queue did not fill")


def _read_request(readline: Callable[[int], bytes]) -> Request:
    """Read one request; those of clients under test have no body. Raises _Broken at the end."""
    words = readline(65536).decode("latin-1").split()
    if len(words) != 3:
        raise _Broken
    headers = {}
    while line := readline(65536).decode("latin-1").strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Request(words[0], words[1], headers)


def _reset_on_close(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
