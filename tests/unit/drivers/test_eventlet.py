"""Drivers in a process whose standard library eventlet has replaced, as old services still do."""

from __future__ import annotations

import importlib.util
import pkgutil
import subprocess
import sys

import pytest

import imgstore.drivers

CHILD = """
import eventlet
eventlet.monkey_patch()

import http.server, importlib, os, sys, tempfile, threading

for name in sys.argv[1:]:
    importlib.import_module(f"imgstore.drivers.{name}")

from imgstore.drivers.filesystem import FilesystemStore
from imgstore.drivers.http import HttpStore
from imgstore.drivers.memory import MemoryStore
from imgstore.errors import IntegrityError, TimedOut

DATA = os.urandom(3_000_000)
STOP = threading.Event()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/late":
            STOP.wait(20)
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()
        self.wfile.write(DATA + b"+" * (self.path == "/longer"))

    def log_message(self, *args):
        pass


with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    with HttpStore("web", read_timeout=10.0) as web, HttpStore("slow", read_timeout=0.2) as slow:
        for _ in range(2):
            assert web.get(f"{url}/good").read() == DATA
            assert web.size(f"{url}/good") == len(DATA)
        for call, kind in (
            (lambda: web.get(f"{url}/longer").read(), IntegrityError),
            (lambda: slow.get(f"{url}/late"), TimedOut),
        ):
            try:
                call()
            except kind:
                continue
            raise SystemExit(f"no {kind.__name__}")
        STOP.set()
    server.shutdown()

with tempfile.TemporaryDirectory() as datadir:
    for store in (FilesystemStore("files", datadir=datadir), MemoryStore("memory")):
        with store:
            image = store.add("image", DATA)
            assert store.get(image.location).read() == DATA
            store.delete(image.location)
"""


@pytest.mark.skipif(importlib.util.find_spec("eventlet") is None, reason="eventlet is missing")
def test_drivers_load_and_work_where_eventlet_has_been():
    """Nothing that eventlet takes away, such as select.poll, is needed by any of them."""
    found = pkgutil.iter_modules(imgstore.drivers.__path__)
    names = [module.name for module in found if not module.name.startswith("_")]
    assert {"http", "swift", "vmware", "cinder", "s3"} <= set(names)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, *names],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
