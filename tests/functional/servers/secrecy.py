"""What a store shows of itself: results, errors with all that they come from, and every logger."""

from __future__ import annotations

import base64
import contextlib
import html
import http.server
import json
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote

import pytest

from imgstore import Store, errors
from servers.process import free_port

MIB = 1024 * 1024
WRONG: Final = "wr%ng:p@ss/word&<more>"

Caplog = pytest.LogCaptureFixture


def nowhere() -> str:
    """Return where no server listens."""
    return f"127.0.0.1:{free_port()}"


class Shown:
    """Calls verbs and keeps what they show; from its making on every logger is at DEBUG."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("DEBUG", logger="")
        self._caplog = caplog
        self._texts: list[str] = []

    def call(self, verb: Callable[[], Any]) -> Any:
        """Return what a verb returns, None where it raises an error of the tree."""
        try:
            found = verb()
        except errors.ImgStoreError as exc:
            self._texts += [repr(exc), *traceback.format_exception(exc)]
            return None
        self._texts.append(repr(found))
        return found

    def smoke(self, store: Store, missing: str) -> None:
        """Add, read and delete an image, look for a missing one, and check."""
        self.call(lambda: store)
        image = self.call(lambda: store.add("image-of-smoke", bytes(MIB)))
        at = missing if image is None else image.location
        for verb in (store.size, store.get, store.delete, store.delete):
            found = self.call(lambda verb=verb: verb(at))  # type: ignore[misc]
            if hasattr(found, "close"):
                found.close()
        self.call(store.check)
        self.call(lambda: store.leftovers(older_than=0))
        with contextlib.closing(store):
            self.call(lambda: vars(store))

    def text(self) -> str:
        """Return all of it."""
        return "\n".join([*self._texts, self._caplog.text])

    def has_none_of(self, secrets: Iterable[str]) -> None:
        """Assert that no secret was shown, as it is, quoted, or in base64."""
        text = self.text()
        for secret in secrets:
            encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
            for form in {secret, quote(secret), quote(secret, safe=""), encoded[:-1]}:
                at = text.find(form)
                assert at < 0, text[max(0, at - 300) :][:400]


@contextlib.contextmanager
def echo_server(status: int = 400) -> Iterator[str]:
    """Run a server that answers every request with all of it, and yield its URL.

    The headers, the body and, of Basic credentials, their text are there as they are, as HTML and
    as XML of S3 have them; so do some proxies and debugging tools.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            said = f"{self.requestline} {self.rfile.read(length).decode('utf-8', 'replace')}"
            for name, value in self.headers.items():
                plain = base64.b64decode(value[6:]).decode() if value.startswith("Basic ") else ""
                said += f" {name}={value} {plain}"
            body = {
                "Code": "InvalidRequest",
                "Message": said,
                "error": {"message": said, "code": status, "title": "no"},
            }
            page = json.dumps(body)
            if "xml" in self.headers.get("Accept", "") or "AWS4" in said:
                page = f"<Error><Code>Odd</Code><Message>{html.escape(said)}</Message></Error>"
            data = page.encode()
            self.send_response(status, "odd")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Content-Type", "application/json" if "{" in page[:1] else "text/xml")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815  # as http.server has it

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
