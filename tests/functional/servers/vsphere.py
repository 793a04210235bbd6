"""A vCenter Server: govmomi's simulator behind what it lacks, a program of ours in ``vcenter/``.

Below its two datacenters, ``DC0`` at the root and ``F0/DC1`` in a folder, are the same three
datastores, `DATASTORES`. There is one user; the API and ``/folder`` know him or her only.

=================================  ==============================================================
POST /sdk                          the API; without a session NotAuthenticated
/folder/PATH?dcPath=..&dsName=..   a file: GET (ranges), HEAD, PUT, DELETE; by the session's cookie,
                                   a ticket for just that request, once, or Basic authentication
=================================  ==============================================================

`ports`: "https"; "http", the same without TLS; "expired" and "foreign", with a certificate that
expired and with one of another authority, whose `foreign_ca` is here too. It listens on 127.0.0.1,
on 127.0.0.2 and, where the machine has it, on ::1; the certificates name them and localhost.

Faults are for requests `on`: "GET", "PUT", "HEAD", "DELETE" and, for all of them, "folder"; or a
method of the API ("Login", "MoveDatastoreFile_Task") and, for all of them, "sdk". Each is for
`times` requests (None: all) from the `nth` on; of several for one request the oldest counts.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlencode

from servers.certificates import Authority
from servers.golang import build
from servers.process import Process, ServerFailed, free_port
from servers.request_log import RequestLog
from servers.scratch import Scratch

USER = "VSPHERE.LOCAL\\imgstore"
PASSWORD = "pa%ss:w@rd/<&>\"'"
DATACENTERS = ("DC0", "F0/DC1")
# vSphere has such names, and they must be quoted in different ways.
DATASTORES = ("images", "spare disks", "odd:+&name")
CAPACITY = 1 << 40

Port = Literal["https", "http", "expired", "foreign"]

_SOURCES = Path(__file__).with_name("vcenter")
_HOSTS = ("127.0.0.1", "127.0.0.2", "[::1]")
_FOREVER = -1


@dataclass(frozen=True)
class Logged:
    """A request as the server logged it; the names of its `headers` are in lower case.

    `operation` is the API's method, `status` 0 where no answer was sent. `password` tells whether
    the password, plain or for Basic authentication, was anywhere but in the data of a file.
    """

    method: str
    path: str
    query: str
    operation: str
    status: int
    scheme: str
    host: str
    port: int
    password: bool
    headers: dict[str, str] = field(repr=False)


class Requests(RequestLog):
    """What was asked, each request logged before its answer goes out."""

    def read(self, on: str = "") -> list[Logged]:
        """Return the requests, or those `on` something, in the order in which they were answered.

        "GET" is for files, "Login" for the API, "folder" and "sdk" for either.
        """
        found = [Logged(**{**line, "port": int(line["port"])}) for line in self._lines()]
        return [one for one in found if on in ("", *_kinds(one))]


def _kinds(request: Logged) -> tuple[str, str]:
    if request.path.startswith("/folder"):
        return "folder", request.method
    return "sdk", request.operation


class Datastore:
    """A datastore; `datacenter` is the inventory path of its datacenter, `root` holds its files."""

    def __init__(self, server: VSphere, datacenter: str, name: str, root: Path) -> None:
        self.datacenter = datacenter
        self.name = name
        self.root = root
        self._server = server

    def names(self) -> list[str]:
        """Return the paths of all files."""
        found = (path for path in self.root.rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self.root)) for path in found)

    def content(self, path: str) -> bytes:
        """Return what a file holds."""
        return (self.root / path).read_bytes()

    def put(self, path: str, data: bytes) -> None:
        """Write a file, and make its directory."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        self._server._count()

    def empty(self) -> None:
        """Remove all files and directories."""
        for path in self.root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        self._server._count()

    def resize(self, *, capacity: int | None = None, free: int | None = None) -> None:
        """Say how many bytes it has, and how many are free: fewer with every byte written."""
        self._tell(Capacity=capacity, Free=free)

    def change(self, *, accessible: bool | None = None, maintenance: str | None = None) -> None:
        """Make it (in)accessible; `maintenance` is "normal" or "inMaintenance"."""
        self._tell(Accessible=accessible, Maintenance=maintenance)

    def full(self, path: str = "") -> str:
        """Return a path as the API has it."""
        return f"[{self.name}] {path}"

    def target(self, path: str) -> str:
        """Return the target of a request for a file."""
        query = urlencode({"dcPath": self.datacenter, "dsName": self.name})
        return f"/folder/{quote(path)}?{query}"

    def url(self, path: str, port: Port = "https", *, host: str = "127.0.0.1") -> str:
        """Return the URL of a file."""
        return self._server.url(self.target(path), port, host=host)

    def _tell(self, **wanted: object) -> None:
        where = {"Datacenter": self.datacenter, "Name": self.name}
        given = {name: value for name, value in wanted.items() if value is not None}
        self._server._control("datastore", where | given)


class VSphere:
    """A running server; killed and started again it has its files and limits, but no sessions."""

    def __init__(self, scratch: Scratch, *, port: int, wsdl: Path | None) -> None:
        program = build(
            _SOURCES,
            what="vsphere",
            needs="github.com/vmware/govmomi/simulator",
            package="golang-github-vmware-govmomi-dev",
        )
        directory = scratch.directory("vsphere")
        self.user, self.password = USER, PASSWORD
        self.ports: dict[Port, int] = {
            "https": port or free_port(),
            "http": free_port(),
            "expired": free_port(),
            "foreign": free_port(),
        }
        self._control_port = free_port()
        self.requests = Requests(directory / "requests.json")
        files = directory / "datastores"
        files.mkdir()
        self.datastores = [
            Datastore(self, datacenter, name, files / f"datacenter-{number}-{index}")
            for number, datacenter in enumerate(DATACENTERS)
            for index, name in enumerate(DATASTORES)
        ]
        settings = {
            "Directory": str(files),
            "Log": str(self.requests.path),
            "Wsdl": str(wsdl or ""),
            "Control": f"127.0.0.1:{self._control_port}",
            "User": USER,
            "Password": PASSWORD,
            "Datastores": DATASTORES,
            "Capacity": CAPACITY,
            "Listen": self._listen(scratch.directory("vsphere-certificates")),
        }
        configuration = directory / "vcenter.json"
        configuration.touch(mode=0o600)
        configuration.write_text(json.dumps(settings))
        command = [program, configuration]
        self.process = Process("vsphere", command, directory=directory, ready=self._answers)

    def url(self, target: str = "", port: Port = "https", *, host: str = "127.0.0.1") -> str:
        """Return the URL of a target of requests, which starts with a slash."""
        scheme = "http" if port == "http" else "https"
        return f"{scheme}://{host}:{self.ports[port]}{target}"

    def datastore(self, datacenter: str = "DC0", name: str = "images") -> Datastore:
        """Return a datastore by the inventory path of its datacenter and by its name."""
        wanted = (datacenter, name)
        return next(one for one in self.datastores if (one.datacenter, one.name) == wanted)

    def heal(self) -> None:
        """Bring the server back, with free and accessible datastores, and without faults.

        Files and, unless it was dead, sessions stay.
        """
        self.process.revive()
        self._control("heal")

    def empty(self) -> None:
        """Remove all files."""
        for datastore in self.datastores:
            datastore.empty()

    def answer(
        self,
        on: str,
        status: int,
        *,
        location: str = "",
        after: int = 0,
        at_once: bool = False,
        nth: int = 1,
        times: int | None = 1,
    ) -> None:
        """Answer with a status and a page of HTML, or redirect to a `location`.

        The body of a request is read before, or only `after` bytes of a file, which stay as a
        partial file; with `at_once` nothing.
        """
        about = {"Status": status, "Location": location, "After": -1 if at_once else after}
        self._rule("status", on, nth, times, **about)

    def refuse(self, method: str, fault: str, *, nth: int = 1, times: int | None = 1) -> None:
        """Let a call of the API do nothing but raise a fault ("NotAuthenticated")."""
        self._rule("fault", method, nth, times, Fault=fault)

    def fail(
        self, task: str, fault: str, *, done: bool = False, nth: int = 1, times: int | None = 1
    ) -> None:
        """Let a task ("MoveDatastoreFile_Task") end with a fault; where `done`, its work is."""
        self._rule("task", task, nth, times, Fault=fault, Done=done)

    def slow(self, on: str, seconds: float, *, nth: int = 1, times: int | None = None) -> None:
        """Let requests, or tasks, take so long before anything is done for them."""
        kind = "task" if on.endswith("_Task") else "slow"
        self._rule(kind, on, nth, times, Seconds=seconds)

    def cut(self, on: str, after: int = 0, *, nth: int = 1, times: int | None = 1) -> None:
        """Close the connection `after` bytes of a file, in GET and PUT, or without an answer.

        What a PUT brought until then stays as a partial file. Other requests do nothing.
        """
        self._rule("cut", on, nth, times, After=after)

    def lose(self, on: str, after: int = 0, *, nth: int = 1, times: int | None = 1) -> None:
        """Close the connection when all is done but the answer.

        Of an answer of the API the head and `after` bytes are sent.
        """
        self._rule("lose", on, nth, times, After=after)

    def stall(self, on: str, after: int = 0, *, nth: int = 1, times: int | None = 1) -> None:
        """Stand still `after` bytes of a file, or before anything is done, until `release()`."""
        self._rule("stall", on, nth, times, After=after)

    def still(self) -> int:
        """Return how many requests stand still."""
        return int(json.loads(self._control("still")))

    def release(self) -> None:
        """Let all go on that stands still or is slow."""
        self._control("release")

    def behave(
        self,
        *,
        conflict: bool | None = None,
        parents: bool | None = None,
        impatient: bool | None = None,
        idle_seconds: float | None = None,
    ) -> None:
        """Change how the server treats everyone, until it is healed.

        `conflict`: a PUT to a file that exists is refused with 409, instead of replacing it (200).
        `parents`: a PUT makes missing directories, as by default, or is refused with 404.
        `impatient`: what is refused is refused before its body was read, not afterwards.
        `idle_seconds`: a session that the API did not see for so long has ended; 0 is never.
        """
        given = {
            "Conflict": conflict,
            "Parents": parents,
            "Impatient": impatient,
            "Idle": idle_seconds,
        }
        self._control("settings", {k: v for k, v in given.items() if v is not None})

    def sessions(self) -> list[str]:
        """Return the keys of the sessions that live."""
        return [each["Key"] for each in json.loads(self._control("sessions")) or ()]

    def expire(self) -> None:
        """End all sessions; tickets stay."""
        self._control("expire")

    def _rule(self, kind: str, on: str, nth: int, times: int | None, **about: object) -> None:
        when = {"Nth": nth, "Times": _FOREVER if times is None else times}
        self._control("rule", {"Kind": kind, "On": on, **when, **about})

    def _count(self) -> None:
        """Let the server see files that it did not write."""
        if self.process.alive:
            self._control("count")

    def _control(self, verb: str, about: dict[str, Any] | None = None) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._control_port, timeout=10)
        with contextlib.closing(connection):
            connection.request("POST", f"/{verb}", json.dumps(about or {}))
            response = connection.getresponse()
            said = response.read()
        if response.status != 200:
            raise ServerFailed(f"{verb} {about}: {said.decode()}")
        return said

    def _answers(self) -> bool:
        self._control("sessions")
        context = ssl.create_default_context(cafile=str(self.ca))
        port = self.ports["https"]
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=2, context=context)
        with contextlib.closing(connection):
            connection.request("GET", "/sdk/vimServiceVersions.xml")
            return connection.getresponse().status == 200

    def _listen(self, directory: Path) -> list[dict[str, object]]:
        (directory / "foreign").mkdir()
        authority = Authority(directory)
        foreign = Authority(directory / "foreign", name="another authority")
        self.ca, self.foreign_ca = authority.ca, foreign.ca
        named = ["IP:127.0.0.1", "IP:127.0.0.2", "IP:::1", "DNS:localhost"]
        certificates = {
            "https": authority.issue("vsphere", named),
            "expired": authority.issue("expired", named, days=-1),
            "foreign": foreign.issue("foreign", named),
        }
        listen: list[dict[str, object]] = []
        for name, port in self.ports.items():
            tls = certificates.get(name)
            files = {"Certificate": str(tls.chain), "Key": str(tls.key)} if tls else {}
            listen += [
                {"Address": f"{host}:{port}", "Optional": host == "[::1]", **files}
                for host in _HOSTS
            ]
        return listen


@contextlib.contextmanager
def vsphere(scratch: Scratch, *, port: int = 0, wsdl: Path | None = None) -> Iterator[VSphere]:
    """Run a vCenter Server; raises Missing where Go, govmomi or openssl is not installed.

    `port` is that of "https", else a free one. The ``.wsdl`` and ``.xsd`` files of a directory
    `wsdl` are served below ``/sdk/``, for clients that ask for them.
    """
    server = VSphere(scratch, port=port, wsdl=wsdl)
    with server.process:
        yield server
