"""Stores on the tests' vCenter Server, and what lies on it afterwards."""

from __future__ import annotations

from typing import Any

from imgstore import Store
from imgstore.testing.harness import content, difference, new_id, pattern
from servers.vsphere import VSphere

DATA = pattern(5 * (1 << 20) + 3)


def login(server: VSphere, *, host: str = "127.0.0.1", port: Any = "https") -> dict[str, Any]:
    """Return the options with which a store logs in."""
    return {
        "server_host": f"{host}:{server.ports[port]}",
        "server_username": server.user,
        "server_password": server.password,
        "ca_file": str(server.ca),
    }


def files(server: VSphere) -> list[str]:
    """Return all that is on the datastores."""
    return [datastore.full(name) for datastore in server.datastores for name in datastore.names()]


def used(server: VSphere, store: Store, data: bytes = DATA) -> None:
    """Add, read and delete an image, of which nothing is left."""
    before = files(server)
    image = store.add(new_id(), data)
    assert store.size(image.location) == len(data)
    assert not difference(content(store, image.location), data)
    store.delete(image.location)
    assert files(server) == before
