"""The contract on a vCenter Server or ESXi host that the environment names.

``IMGSTORE_VSPHERE_HOST``, ``_USERNAME``, ``_PASSWORD`` and ``_DATASTORES``
(``<datacenter>:<datastore>``, separated by semicolons or line ends) are needed; ``_CA_FILE`` or
``_INSECURE`` say how the server is verified. Images lie in a directory of the run's own.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers.kept import Kept

from imgstore import Capability, Store
from imgstore.drivers.vmware import VmwareStore
from imgstore.drivers.vmware.datastores import Datastores
from imgstore.drivers.vmware.deleting import delete
from imgstore.drivers.vmware.places import Place
from imgstore.drivers.vmware.settings import Settings
from imgstore.testing import StoreContract

PREFIX = "IMGSTORE_VSPHERE_"
NEEDED = ("HOST", "USERNAME", "PASSWORD", "DATASTORES")

pytestmark = pytest.mark.filterwarnings("ignore:Unverified HTTPS request")  # as _INSECURE wants it


def options() -> dict[str, Any]:
    given = {name: os.environ.get(PREFIX + name, "") for name in (*NEEDED, "CA_FILE", "INSECURE")}
    if missing := [PREFIX + name for name in NEEDED if not given[name]]:
        pytest.exit(f"set {', '.join(missing)}", returncode=2)
    return {
        "server_host": given["HOST"],
        "server_username": given["USERNAME"],
        "server_password": given["PASSWORD"],
        "datastores": [
            text for text in re.split(r"\s*[;\n]\s*", given["DATASTORES"].strip()) if text
        ],
        "ca_file": given["CA_FILE"] or None,
        "insecure": given["INSECURE"].lower() in {"1", "true", "yes"},
    }


def settings_of(store: VmwareStore) -> Settings:
    return store._settings


@pytest.fixture(scope="session")
def directory() -> Iterator[str]:
    """A directory for images, removed with all that is in it."""
    name = f"imgstore-test-{secrets.token_hex(8)}"
    with VmwareStore("vmware", store_image_dir=name, **options()) as store:
        problems = store.check()
    if problems:
        with contextlib.suppress(Exception):
            remove(name)
        # Hundreds of tests that try a wrong password would lock its account.
        pytest.exit("\n".join(problems), returncode=1)
    yield name
    remove(name)


def remove(name: str) -> None:
    with VmwareStore("vmware", store_image_dir=name, **options()) as store:
        settings = settings_of(store)
    datastores = Datastores(settings)
    try:
        for datastore, _ in settings.datastores:
            datastores.make_directory(datastore)
            delete(datastores, Place(settings.service, datastore, name))
    finally:
        datastores.close()


@pytest.fixture(scope="session")
def kept() -> Iterator[Kept]:
    """The store that the tests have in common."""
    kept = Kept()
    yield kept
    kept.close()


class TestContract(StoreContract):
    """Needs minutes: every test is some tasks of the server."""

    capabilities = (
        Capability.READ | Capability.WRITE | Capability.DELETE | Capability.RANGES | Capability.COPY
    )
    foreign_locations = (
        "vsphere://elsewhere.example.org/folder/openstack_glance/image?dsName=images&dcPath=DC0",
        "vsphere://image",
    )
    secrets = (os.environ.get(f"{PREFIX}PASSWORD") or "unset",)
    patience = 30.0

    @pytest.fixture
    def store(self, directory: str, kept: Kept) -> Iterator[Store]:
        yield kept.get(lambda: VmwareStore("vmware", store_image_dir=directory, **options()))
        kept.close_readers()
        with VmwareStore("vmware", store_image_dir=directory, **options()) as cleaning:
            datastores = Datastores(settings_of(cleaning))
            for place in found(cleaning):
                datastores.discard(place)
            datastores.close()

    @pytest.fixture
    def leaves(self, directory: str) -> Iterator[Callable[[], list[str]]]:
        with VmwareStore("vmware", store_image_dir=directory, **options()) as store:
            yield lambda: [place.full for place in found(store)]


def found(store: VmwareStore) -> list[Place]:
    """Return all files in the directory for images."""
    settings = settings_of(store)
    datastores = Datastores(settings)
    try:
        return [place for place, _ in datastores.search("*")]
    finally:
        datastores.close()
