"""Names of pyVmomi that are none of its documented API.

The driver overrides them, or looks at them. They mean in pyVmomi 9.1 what the driver takes them
for; a test fails where another version means something else.
"""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from pyVmomi import SoapAdapter, VmomiSupport, vim

TIME = b"""<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/">
<soapenv:Body><CurrentTimeResponse xmlns="urn:vim25"><returnval>2020-01-02T03:04:05Z</returnval>
</CurrentTimeResponse></soapenv:Body></soapenv:Envelope>"""


class Connection:
    """Answers each request with the time, or breaks."""

    def __init__(self, *, breaks: bool = False, **made: Any) -> None:
        self.made = made
        self.closed = False
        self._breaks = breaks

    def connect(self) -> None:
        """Connect to nothing."""

    def request(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> None:
        self.headers = headers
        if self._breaks:
            raise ConnectionResetError

    def getresponse(self) -> Any:
        read = io.BytesIO(TIME).read
        told = {"Set-Cookie": "vmware_soap_session=1; Path=/"}
        return SimpleNamespace(
            status=200, read=read, getheader=lambda name, default=None: told.get(name, default)
        )

    def close(self) -> None:
        self.closed = True


def noting(connection: Any) -> tuple[Any, list[Any]]:
    """Return a stub that has one connection, and what it does with that."""
    done: list[Any] = []

    class Stub(SoapAdapter.SoapStubAdapter):  # type: ignore[misc]
        def GetConnection(self) -> Any:  # noqa: N802
            done.append("get")
            return connection

        def ReturnConnection(self, conn: Any) -> None:  # noqa: N802
            assert conn is connection
            done.append("return")

        def DropConnections(self) -> None:  # noqa: N802
            done.append("drop")

    return Stub(host="localhost", port=1, version="vim.version.version9"), done


def asked(stub: Any) -> Any:
    return vim.ServiceInstance("ServiceInstance", stub).CurrentTime()


def test_a_call_takes_a_connection_and_gives_it_back() -> None:
    """By two methods that a stub with another pool overrides."""
    stub, done = noting(Connection())
    assert asked(stub).year == 2020
    assert done == ["get", "return"]


def test_a_call_that_fails_drops_all_connections() -> None:
    """It closes its own one."""
    connection = Connection(breaks=True)
    stub, done = noting(connection)
    with pytest.raises(ConnectionResetError):
        asked(stub)
    assert done == ["get", "drop"]
    assert connection.closed


def test_the_session_is_the_cookie() -> None:
    """It is kept as the server sends it, and shown in later calls."""
    connection = Connection()
    stub, _ = noting(connection)
    asked(stub)
    assert stub.cookie == "vmware_soap_session=1; Path=/"
    asked(stub)
    assert connection.headers["Cookie"] == stub.cookie


@pytest.mark.parametrize("host", ["localhost", "::1"])
def test_where_a_stub_connects_to(host: str) -> None:
    """What makes a connection stands in the stub, as does the pool."""
    stub = SoapAdapter.SoapStubAdapter(
        host=host, port=1, poolSize=7, httpConnectionTimeout=5, sslContext=None
    )
    assert stub.host.rpartition(":")[0].strip("[]") == host
    assert stub.port == 1
    assert callable(stub.scheme)
    assert stub.schemeArgs["timeout"] == 5
    assert (list(stub.pool), stub.poolSize) == ([], 7)


def test_the_id_of_an_object() -> None:
    """A task is found again by it, in another session."""
    task: Any = vim.Task("task-1", None)
    assert task._GetMoId() == "task-1"


def test_versions_of_the_api() -> None:
    """They come newest first, with the names that servers call them by."""
    versions = VmomiSupport.GetServiceVersions("vim25")
    names = [VmomiSupport.versionIdMap[version] for version in versions]
    assert names.index("8.0.0.0") < names.index("5.5")
