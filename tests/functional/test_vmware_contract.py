"""The contract on a vCenter Server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from servers.everything import Again, Slow
from servers.kept import Kept
from servers.vsphere import PASSWORD, VSphere

from imgstore import Capability, Location, Store
from imgstore.drivers.vmware import VmwareStore
from imgstore.testing import StoreContract
from imgstore.testing.adding import Adding
from imgstore.testing.concurrency import Concurrency
from imgstore.testing.harness import Rot
from imgstore.testing.verifying import flip

pytestmark = pytest.mark.servers("vsphere")


class Datastores(Slow):
    """A store on a server without any file."""

    capabilities = (
        Capability.READ | Capability.WRITE | Capability.DELETE | Capability.RANGES | Capability.COPY
    )
    foreign_locations = (
        "vsphere://elsewhere.example.org/folder/openstack_glance/image?dsName=images&dcPath=DC0",
        "vsphere://127.0.0.1:1/folder/openstack_glance/image?dsName=images&dcPath=DC0",
        "vsphere://image",
    )
    secrets = (PASSWORD,)
    options: ClassVar[dict[str, Any]] = {}

    @pytest.fixture
    def store(self, vsphere: VSphere, kept: Kept) -> Store:
        return kept.get(lambda: VmwareStore("vmware", **login(vsphere), **self.options))

    @pytest.fixture
    def leaves(self, vsphere: VSphere) -> Callable[[], list[str]]:
        return lambda: [
            datastore.full(name) for datastore in vsphere.datastores for name in datastore.names()
        ]

    @pytest.fixture
    def rot(self, vsphere: VSphere) -> Rot:
        def rot(location: Location) -> None:
            path = Path("openstack_glance", location.rest.partition("?")[0].rpartition("/")[2])
            flip(vsphere.datastore().root / path)

        return rot


def login(server: VSphere) -> dict[str, Any]:
    return {
        "server_host": f"127.0.0.1:{server.ports['https']}",
        "server_username": server.user,
        "server_password": server.password,
        "ca_file": str(server.ca),
    }


class TestOne(Datastores, StoreContract):
    """One datastore."""

    options: ClassVar[dict[str, Any]] = {"datastores": ["DC0:images"]}


class TestSeveral(Again, Datastores, Adding, Concurrency):
    """Datastores of two datacenters, of which two have one name."""

    options: ClassVar[dict[str, Any]] = {
        "datastores": ["DC0:images", "F0/DC1:images", r"/F0/DC1/:odd\:+&name"],
    }
