"""An API of Cinder without anything behind it, that says what a test wants it to.

For what no real Cinder can be brought to: connections by storage that no machine of the tests has,
and answers that are wrong. Whoever asks needs a context with a token, whatever it is.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NOW = "2026-01-01T00:00:00.000000"


class Pretender:
    """What it has: `volumes` and `attachments` by their ids.

    `connection` is how any of them is connected to. `answers` are statuses and bodies that the next
    requests of a method get instead, where a word is in their path. `requests` are those it got,
    `connectors` what it was told of hosts.
    """

    def __init__(self) -> None:
        self.volumes: dict[str, dict[str, Any]] = {}
        self.attachments: dict[str, dict[str, Any]] = {}
        self.connection: dict[str, Any] = {}
        self.answers: list[tuple[str, str, int, Any]] = []
        self.requests: list[str] = []
        self.connectors: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.template = ""

    def make(self, **about: Any) -> str:
        """Make a volume that is an image of 1 MiB."""
        made = str(uuid.uuid4())
        metadata = {"glance_image_id": "x", "image_size": str(1 << 20)}
        plain = {"id": made, "size": 1, "status": "available", "metadata": metadata}
        self.volumes[made] = plain | {"created_at": NOW, "attachments": []} | about
        return made

    def answer(self, method: str, path: str, asked: Any) -> tuple[int, Any]:
        """Do what a request asks for."""
        with self.lock:
            self.requests.append(f"{method} {path}")
            for each in self.answers:
                if each[0] == method and each[1] in path:
                    self.answers.remove(each)
                    return each[2], each[3]
            # /v3/<project>/<what>/<id>/<verb>
            what, *rest = path.partition("?")[0].split("/")[3:]
            if what == "volumes":
                return self._volume(method, rest, asked)
            return self._attachment(method, rest, asked)

    def _volume(self, method: str, rest: list[str], asked: Any) -> tuple[int, Any]:
        if method == "POST" and not rest:
            about = asked["volume"]
            made = self.make(size=about["size"], metadata=about["metadata"])
            return 202, {"volume": self.volumes[made]}
        if rest == ["detail"]:
            return 200, {"volumes": list(self.volumes.values())}
        found = self.volumes.get(rest[0])
        if found is None:
            return 404, {"itemNotFound": {"code": 404, "message": "no such volume"}}
        if method == "DELETE":
            del self.volumes[rest[0]]
            return 202, None
        if rest[1:] == ["metadata"]:
            found["metadata"] = asked["metadata"]
            return 200, asked
        return (202, None) if rest[1:] == ["action"] else (200, {"volume": found})

    def _attachment(self, method: str, rest: list[str], asked: Any) -> tuple[int, Any]:
        if not rest or rest == ["detail"]:
            if method == "GET":
                return 200, {"attachments": list(self.attachments.values())}
            made = str(uuid.uuid4())
            volume = asked["attachment"]["volume_uuid"]
            about = {"id": made, "volume_id": volume, "status": "reserved", "instance": None}
            self.attachments[made] = about | {"connection_info": {}}
        elif method == "DELETE":
            self.attachments.pop(rest[0], None)
            return 200, {"attachments": []}
        else:
            made = rest[0]
            if method == "PUT":
                self.connectors.append(asked["attachment"]["connector"])
            self.attachments[made]["connection_info"] = self.connection
        return 200, {"attachment": self.attachments[made]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    pretender: Pretender

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        asked = json.loads(body) if body else None
        status, said = self.pretender.answer(self.command, self.path, asked)
        content = b"" if said is None else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

    def log_message(self, *about: Any) -> None:
        """Say nothing."""


@contextmanager
def pretender(host: str = "127.0.0.1") -> Iterator[Pretender]:
    """Run one, at an address of this machine.

    Its `template` is the URL for `cinder_endpoint_template`.
    """
    made = Pretender()
    handler = type("Handler", (_Handler,), {"pretender": made})
    with ThreadingHTTPServer((host, 0), handler) as server:
        server.daemon_threads = True
        made.template = f"http://{host}:{server.server_port}/v3/%(tenant)s"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
