"""A store of RBD shows no secret, whoever logs, when all goes well or nothing does."""

from __future__ import annotations

import pytest
from servers.ceph import Ceph
from servers.pools import RbdPool
from servers.secrecy import Caplog, Shown

from imgstore.drivers.rbd import RbdStore

pytestmark = pytest.mark.servers("ceph")


def test_keys(ceph: Ceph, rbd_pool: RbdPool, caplog: Caplog) -> None:
    """The key of the store's user."""
    shown = Shown(caplog)
    for options in ({}, {"user": "nobody-of-the-cluster"}):
        given = {**rbd_pool.options, "rados_connect_timeout": 2, **options}
        shown.smoke(RbdStore("rbd", **given), "rbd://missing")
    shown.has_none_of([rbd_pool.key])
