"""A store of VMware shows no secret, whoever logs, when all goes well or nothing does."""

from __future__ import annotations

import pytest
from servers.secrecy import WRONG, Caplog, Shown, nowhere
from servers.vsphere import VSphere

from imgstore.drivers.vmware import VmwareStore

pytestmark = pytest.mark.servers("vsphere")


def test_passwords_and_cookies(vsphere: VSphere, caplog: Caplog) -> None:
    """The password, and the cookie of a session."""
    shown = Shown(caplog)
    right = {
        "server_host": f"127.0.0.1:{vsphere.ports['https']}",
        "server_username": vsphere.user,
        "server_password": vsphere.password,
        "ca_file": str(vsphere.ca),
        "datastores": ["DC0:images"],
        "api_retry_count": 1,
    }
    cookies = []
    for options in ({}, {"server_password": WRONG}, {"server_host": nowhere()}):
        store = VmwareStore("vmware", **right | options)
        if not options:
            cookies.append(store._datastores.get().api.session().cookie)
        shown.smoke(store, f"{store.url_prefix}/missing?dcPath=DC0&dsName=images")
    assert "urllib3" in shown.text()
    shown.has_none_of([vsphere.password, WRONG, *cookies])
