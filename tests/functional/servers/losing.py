"""An HTTP forwarder that loses requests, or the answers to them, which it is told to lose."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_BLOCK = 64 * 1024
_ANSWERS = {
    "entries": (200, b"[]"),
    "nonsense": (200, b"[{"),
    "forbidden": (403, b"[]"),
    "throttled": (429, b"[]"),
}


@dataclass
class _Loss:
    method: str
    part: str
    times: int
    what: str
    done: Callable[[], object]


class Losing:
    """Forwards requests to `target`; made with `losing`."""

    def __init__(self, target: tuple[str, int], port: int) -> None:
        self.target = target
        self.url = f"http://127.0.0.1:{port}"
        self.lost: list[str] = []
        self.statuses: dict[int, int] = {}  # what is said instead of others
        self.unsized: set[str] = set()  # methods whose answers have no Content-Length
        self.interim = b""  # what comes before each answer
        self.is_strict = False  # 416 to ranges that end beyond an object
        self._losses: list[_Loss] = []
        self._lock = threading.Lock()

    def lose(
        self,
        method: str,
        part: str,
        *,
        times: int = 1,
        what: str = "answer",
        done: Callable[[], object] = lambda: None,
    ) -> None:
        """Lose the `answer` to requests, or the `request` itself, whose target contains `part`.

        With `entries` the request is answered by a listing without any, with `nonsense` by the
        beginning of one, with `forbidden` by 403 and with `throttled` by 429; with `half` the last
        half of a body is lost. `done` is called when the server has answered, before that shows.
        """
        self._losses.append(_Loss(method, part, times, what, done))

    def _take(self, method: str, target: str) -> _Loss | None:
        with self._lock:
            for loss in self._losses:
                if loss.times and loss.method == method and loss.part in target:
                    loss.times -= 1
                    self.lost.append(f"{method} {target}")
                    return loss
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    losing: Losing

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _forward(self) -> None:
        loss = self.losing._take(self.command, self.path)
        self.close_connection = True
        if loss is not None and loss.what == "request":
            for _ in self._body() or ():
                pass
            return
        if loss is not None and loss.what in _ANSWERS:
            for _ in self._body() or ():
                pass
            loss.done()
            status, body = _ANSWERS[loss.what]
            self.send_response_only(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        with contextlib.closing(HTTPConnection(*self.losing.target, timeout=120)) as server:
            headers = {name: value for name, value in self.headers.items() if name != "Expect"}
            chunked = "Transfer-Encoding" in self.headers
            server.request(self.command, self.path, self._body(), headers, encode_chunked=chunked)
            answer = server.getresponse()
            if loss is not None:
                loss.done()
                if loss.what == "half":
                    self._begin(answer)
                    self.wfile.write((data := answer.read())[: len(data) // 2])
                return
            self.close_connection = False
            if self.losing.is_strict and self._is_beyond(answer):
                self.send_response_only(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self._begin(answer)
            while block := answer.read(_BLOCK):
                self.wfile.write(block)

    def _is_beyond(self, answer: Any) -> bool:
        last = self.headers.get("Range", "").rpartition("-")[2]
        size = answer.getheader("Content-Range", "").rpartition("/")[2]
        return bool(last and size) and int(last) >= int(size)

    def _begin(self, answer: Any) -> None:
        self.wfile.write(self.losing.interim)
        self.send_response_only(self.losing.statuses.get(answer.status, answer.status))
        left_out = {"transfer-encoding", "connection"}
        if self.command in self.losing.unsized:
            left_out.add("content-length")
        for name, value in answer.getheaders():
            if name.lower() not in left_out:
                self.send_header(name, value)
        has_length = answer.getheader("Content-Length") and "content-length" not in left_out
        sized = has_length or self.command == "HEAD"
        if not sized and answer.status != 204:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward  # noqa: N815

    def _body(self) -> Iterator[bytes] | None:
        if "Transfer-Encoding" in self.headers:
            return self._chunks()
        size = int(self.headers.get("Content-Length") or 0)
        return self._sized(size) if size else None

    def _sized(self, size: int) -> Iterator[bytes]:
        while size:
            block = self.rfile.read1(min(size, _BLOCK))
            if not block:
                raise ConnectionResetError
            size -= len(block)
            yield block

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Print nothing: connections are cut on purpose."""


@contextlib.contextmanager
def losing(host: str, port: int) -> Iterator[Losing]:
    """Give a forwarder to a server of plain http."""
    handler = type("Handler", (_Handler,), {})
    with _Server(("127.0.0.1", 0), handler) as server:
        made = handler.losing = Losing((host, port), server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
