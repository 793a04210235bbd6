"""What the servers of OpenStack have in common: environment, plain requests, and logs."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from servers.ceph import environment as without_python
from servers.missing import Missing
from servers.process import ServerFailed
from servers.request_log import RequestLog

ENVIRONMENT = Path(__file__).resolve().parents[3] / ".venv" / "openstack"

_PROGRAM = Path(__file__).with_name("openstack_program.py")


def command(what: str, verb: str, options: Mapping[str, Any]) -> list[str]:
    """Return how to run a verb of `openstack_program`; raises Missing, naming `what`."""
    # Written last: before that an installation is under way, or failed.
    if not (ENVIRONMENT / ".made.stamp").exists():
        remedy = "python -m tools.environments openstack"
        said = f"OpenStack's servers are not installed in {ENVIRONMENT} ({remedy})"
        raise Missing(what, said)
    python = [os.fspath(ENVIRONMENT / "bin" / "python"), "-I", "-W", "ignore"]
    return [*python, os.fspath(_PROGRAM), verb, json.dumps(options, default=os.fspath)]


def environment() -> dict[str, str]:
    """Return the environment of the servers: no proxy is between them."""
    kept = without_python()
    return {name: kept[name] for name in kept if not name.lower().endswith("_proxy")}


def run(what: str, verb: str, options: Mapping[str, Any]) -> None:
    """Run a verb to its end; raises ServerFailed."""
    done = subprocess.run(
        command(what, verb, options),
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode != 0:
        raise ServerFailed(f"{verb}: {done.stderr.strip()}")


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; the names of its headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def ask(
    method: str,
    url: str,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    *,
    ca: Path | None = None,
    seconds: float = 30.0,
) -> Answer:
    """Send one plain request, without any SDK; over https the server's CA is `ca`."""
    parts = urlsplit(url)
    target = f"{parts.path}?{parts.query}" if parts.query else parts.path
    host, port = parts.hostname or "", parts.port
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=ca)
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=seconds, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=seconds)
    with contextlib.closing(connection):
        connection.request(method, target, body, dict(headers or {}))
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, response.read())


@dataclass(frozen=True)
class Logged:
    """A request as a server logged it; the names of its `headers` are in lower case.

    `service` is "Confirmed" or "Invalid" where the request had an X-Service-Token.
    """

    method: str
    path: str
    query: str
    status: int
    headers: dict[str, str] = field(repr=False)
    service: str = ""


class Requests(RequestLog):
    """The requests that clients sent to a server, each logged before its answer goes out."""

    def read(self, method: str = "") -> list[Logged]:
        """Return the requests, or those of one method, in the order in which they were answered."""
        found = [Logged(**line) for line in self._lines()]
        return [request for request in found if method in ("", request.method)]
