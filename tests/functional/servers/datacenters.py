"""A vCenter Server seen through pyVmomi, as plain as it gets."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from typing import Any

from servers.process import until
from servers.vsphere import Datastore, Port, VSphere


@contextlib.contextmanager
def raw_vsphere(
    server: VSphere, *, port: Port = "https", password: str | None = None, **options: Any
) -> Iterator[Any]:
    """Log in, and out where the session still lives; the certificate is verified.

    `options` are those of pyVmomi's stub.
    """
    from pyVim import connect  # noqa: PLC0415  # not every user of the servers has it
    from pyVmomi import vim  # noqa: PLC0415

    # Without a context pyVmomi trusts whoever answers on 127.0.0.1.
    context = ssl.create_default_context(cafile=str(server.ca))
    plain = {"host": "127.0.0.1", "sslContext": context, "httpConnectionTimeout": 30}
    # Not SmartConnect: it leaves its connections open where the login is refused.
    stub = connect.SmartStubAdapter(port=server.ports[port], **plain | options)
    try:
        service = vim.ServiceInstance("ServiceInstance", stub)
        manager = service.content.sessionManager
        manager.Login(server.user, server.password if password is None else password)
        yield service
        with contextlib.suppress(Exception):
            manager.Logout()
    finally:
        stub.DropConnections()


def session_cookie(service: Any) -> str:
    """Return the header Cookie of a session."""
    return str(service._stub.cookie).partition(";")[0]


def ticket_cookie(service: Any, method: str, url: str) -> str:
    """Return the header Cookie for one request; `method` is that of HTTP."""
    from pyVmomi import vim  # noqa: PLC0415  # as above

    spec = vim.SessionManager.HttpServiceRequestSpec(method=f"http{method.title()}", url=url)
    ticket = service.content.sessionManager.AcquireGenericServiceTicket(spec)
    return f"vmware_cgi_ticket={ticket.id}"


def datacenter_of(service: Any, datastore: Datastore) -> Any:
    """Return the managed object of the datacenter that has a datastore."""
    return service.content.searchIndex.FindByInventoryPath(datastore.datacenter)


def managed(service: Any, datastore: Datastore) -> Any:
    """Return the managed object of a datastore."""
    found = datacenter_of(service, datastore).datastore
    return next(one for one in found if one.name == datastore.name)


def finished(task: Any, *, seconds: float = 20.0) -> Any:
    """Wait for a task and return what it says of itself: `state`, `result` and `error`."""
    until(lambda: task.info.state in ("success", "error"), seconds=seconds, what="the task is over")
    return task.info
