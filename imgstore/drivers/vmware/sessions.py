"""Sessions at a server, the connections that calls in them use, and their end."""

from __future__ import annotations

import atexit
import contextlib
import functools
import http.client
import os
import time
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from xml.parsers.expat import ExpatError, ParserCreate

from imgstore.drivers._http.answers import is_interim
from imgstore.errors import Unavailable

IDLE: Final = 60  # seconds that idle connections are kept
_HURRY: Final = 2.0  # seconds for a connection and for an answer, where nobody can wait
_EXIT: Final = 5.0  # seconds for all sessions of a process that ends
_OF_API: Final = frozenset({200, 500})  # statuses of answers that pyVmomi parses
_ENVELOPE: Final = "Envelope"  # the element that each answer of the API is (SOAP 1.1, 4)
_CODING: Final = 32 + zlib.MAX_WBITS  # zlib: gzip or deflate, as its head says
_INTERIM: Final = 100  # interim answers before the final one
_LINE: Final = 65536  # bytes of a header, as http.client has it


@dataclass(eq=False)
class Session:
    """A login; ``datacenters`` and their ``datastores`` are those found in it, by their paths."""

    stub: Any
    content: Any
    datacenters: dict[str, Any] = field(default_factory=dict)
    datastores: dict[str, list[Any]] = field(default_factory=dict)
    pid: int = field(default_factory=os.getpid)

    def forget(self) -> bool:
        """Forget what was found; return whether there was anything."""
        was_any = bool(self.datacenters or self.datastores)
        self.datacenters.clear()
        self.datastores.clear()
        return was_any

    @property
    def cookie(self) -> str:
        """Return what requests for files show."""
        return str(self.stub.cookie).partition(";")[0]


# A server keeps what nobody ends for half an hour, and has room for some hundreds.
_begun: dict[Session, weakref.ref[Any]] = {}  # with whose they are
_exits: list[int] = []  # of processes: those that end their sessions when they exit
_exited: list[int] = []


def begin(session: Session, owner: object) -> Session:
    """See to it that a session ends with the process, or some time after its ``owner``.

    Raises Unavailable where the process has ended its sessions.
    """
    pid = os.getpid()
    if pid in _exited:
        raise Unavailable("the interpreter exits")
    if pid not in _exits:  # a child does not do at its exit what its parent was asked to
        _exits.append(pid)
        atexit.register(_exit)
    for other, its_owner in list(_begun.items()):
        if other.pid == pid and its_owner() is None:  # its store was dropped, not closed
            end(other, hurry=True)
    _begun[session] = weakref.ref(owner)
    return session


def forget(session: Session) -> bool:
    """Leave a session alone, which is over; return whether it was to be ended."""
    return _begun.pop(session, None) is not None


def end(session: Session, *, hurry: bool = False) -> None:
    """Log out; where that fails, the server ends the session some time after its last use."""
    if not forget(session):
        return
    stub = session.stub
    if hurry:
        stub.DropConnections()
        stub.schemeArgs["timeout"] = _HURRY
        stub.scheme = functools.partial(Connection, read_timeout=_HURRY)
    with contextlib.suppress(Exception):
        session.content.sessionManager.Logout()
    stub.poolSize = 0  # for connections that other threads still use
    stub.DropConnections()


def _exit() -> None:
    """End the sessions of this process, not those of its parent."""
    pid, latest = os.getpid(), time.monotonic() + _EXIT
    _exited.append(pid)
    for session in list(_begun):
        if session.pid == pid and time.monotonic() < latest:
            end(session, hurry=True)


def stub_class(soap: Any) -> Any:
    """Return pyVmomi's stub with a pool that needs no lock.

    Its own is taken without a ``finally``: an interrupt in between would leave it taken for ever.
    """

    class Stub(soap.SoapStubAdapter):  # type: ignore[misc]
        def GetConnection(self) -> Any:  # noqa: N802
            now = time.monotonic()
            with contextlib.suppress(IndexError):
                while True:
                    connection, since = self.pool.pop()
                    if now - since < IDLE:
                        return connection
                    connection.close()
            host = self.host.rpartition(":")[0].strip("[]")
            connection = self.scheme(host=host, port=self.port, **self.schemeArgs)
            connection.connect()
            return connection

        def ReturnConnection(self, conn: Any) -> None:  # noqa: N802
            if len(self.pool) < self.poolSize:
                self.pool.append((conn, time.monotonic()))
            else:
                conn.close()

        def DropConnections(self) -> None:  # noqa: N802
            with contextlib.suppress(IndexError):
                while True:
                    connection, _ = self.pool.pop()
                    with contextlib.suppress(Exception):
                        connection.close()

    return Stub


class _Root:
    """Finds out which element a document is, while its beginning is read in pieces."""

    def __init__(self, coding: str) -> None:
        self._decode = zlib.decompressobj(_CODING).decompress if coding else bytes
        self._parser = ParserCreate(namespace_separator=" ")
        self._parser.StartElementHandler = self._begin
        self._name = ""
        self._is_none = False  # no document, which pyVmomi refuses

    def name_after(self, data: bytes) -> str:
        """Return the element's name without its namespace, "" as long as it is not known.

        The end of the document is no data.
        """
        if not (self._name or self._is_none):
            try:
                self._parser.Parse(self._decode(data), not data)
            except (ExpatError, zlib.error):
                self._is_none = True
        return self._name

    def _begin(self, name: str, attributes: object) -> None:
        self._name = self._name or name.rpartition(" ")[2]


class _Response(http.client.HTTPResponse):
    """Says so when it is cut or no answer of the API, while the parser reads it in pieces.

    Interim answers are skipped (RFC 9110 15.2), of which http.client knows one.
    """

    _root: _Root | None = None

    def read(self, amt: int | None = None) -> bytes:
        data = super().read(amt)
        if amt and not data and self.length:
            raise http.client.IncompleteRead(b"", self.length)
        if self.status in _OF_API:
            self._root = self._root or _Root(self.getheader("Content-Encoding", ""))
            # pyVmomi takes any other document for an answer that says nothing.
            if self._root.name_after(data) not in {"", _ENVELOPE}:
                raise http.client.HTTPException(f"{self.status} {self.reason}")
        return data

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(_INTERIM):
            line: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
            if not is_interim(line[1]):
                return line
            for _ in range(_INTERIM):  # lines of its head
                if not self.fp.readline(_LINE).strip():
                    break
            else:
                break
        raise http.client.HTTPException("interim answers without end")


class Connection(http.client.HTTPSConnection):
    """Connects within one time limit, and waits for answers within another."""

    response_class = _Response

    def __init__(self, *args: Any, read_timeout: float, **kwargs: Any) -> None:
        """``read_timeout`` is in seconds."""
        super().__init__(*args, **kwargs)
        self._read_timeout = read_timeout

    def connect(self) -> None:
        """Connect."""
        with self._named():
            super().connect()
        self.sock.settimeout(self._read_timeout)

    def getresponse(self) -> http.client.HTTPResponse:
        """Return an answer of the API; any other one raises what is raised for its status.

        Faults have the status 500, as pages of a proxy have.
        """
        with self._named():
            response = super().getresponse()
        kind = response.getheader("Content-Type", "xml").lower()
        if response.status in _OF_API and ("html" in kind or "xml" not in kind):
            raise http.client.HTTPException(f"{response.status} {response.reason}")
        return response

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Let what is raised say which server it was."""
        try:
            yield
        except Exception as exc:
            exc.peer = f"{self.host}:{self.port}"  # type: ignore[attr-defined]
            raise
