"""The connection that the threads of a process share, and its end."""

from __future__ import annotations

import errno
import gc
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import ModuleType
from typing import Any

import pytest

from imgstore import errors
from imgstore.drivers._librbd.access import Access
from imgstore.drivers._librbd.cluster import Cluster

ACCESS = Access(
    pool="images",
    user=None,
    conf="",
    connect_timeout=-1,
    op_timeout=120,
    source="the volume's connection",
    if_unreadable="name another file",
    if_incomplete="name the monitors",
)


class Ceph:
    """What the modules rados and rbd give: clients, of which it is known which are connected."""

    def __init__(self) -> None:
        self.connected: list[Rados] = []
        self.made = 0
        self.unreadable = self.incomplete = False


class Rados:
    ceph: Ceph

    def __init__(self, **_: Any) -> None:
        if self.ceph.unreadable:
            raise OSError(errno.EINVAL, "not read")

    def connect(self) -> None:
        if self.ceph.incomplete:
            raise OSError(errno.ENOENT, "no monitors")
        self.ceph.made += 1
        self.ceph.connected.append(self)

    def get_fsid(self) -> str:
        return f"fsid of {self.ceph.made}"

    def conf_get(self, name: str) -> str:
        return "" if name == "fsid" else "0"

    def conf_set(self, name: str, value: str) -> None:
        pass

    def shutdown(self) -> None:
        if self in self.ceph.connected:
            self.ceph.connected.remove(self)


@pytest.fixture
def ceph(monkeypatch: pytest.MonkeyPatch) -> Ceph:
    found = Ceph()
    for name, members in (
        ("rados", {"Rados": type("Client", (Rados,), {"ceph": found})}),
        ("rbd", {"RBD": object}),
    ):
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    return found


def test_threads_share_one(ceph: Ceph) -> None:
    """It is made when needed, and stays until the cluster is closed."""
    cluster = Cluster(ACCESS)
    assert (ceph.made, cluster.fsid) == (0, None)
    with ThreadPoolExecutor(8) as pool, ExitStack() as stack:
        connections = pool.map(lambda _: stack.enter_context(cluster.lent()), range(8))
        assert (len(set(connections)), ceph.made, cluster.fsid) == (1, 1, "fsid of 1")
    assert len(ceph.connected) == 1
    cluster.close()
    assert ceph.connected == []


def test_a_broken_one_ends_with_its_last_user(ceph: Ceph) -> None:
    """All others get a new one; what breaks no connection leaves it as it is."""
    cluster = Cluster(ACCESS)
    using = ExitStack()
    first = using.enter_context(cluster.lent())
    with pytest.raises(OSError, match="no image"), cluster.connection():
        raise OSError(errno.ENOENT, "no image")
    with cluster.connection() as again:
        assert again is first
    with pytest.raises(OSError, match="cut off"), cluster.connection():
        raise OSError(errno.ESHUTDOWN, "cut off")
    with cluster.connection() as second:
        assert second is not first
        assert len(ceph.connected) == 2
        using.close()
        assert len(ceph.connected) == 1
    cluster.close()
    assert ceph.connected == []


def test_closing_leaves_those_alone_that_are_used(ceph: Ceph) -> None:
    """What undoes a verb may connect even then; that connection ends with it."""
    cluster = Cluster(ACCESS)
    with cluster.connection() as used:
        cluster.close()
        assert len(ceph.connected) == 1
        with cluster.connection(is_nested=True) as nested:
            assert nested is not used
        assert (len(ceph.connected), ceph.made) == (1, 2)
    assert ceph.connected == []
    cluster.close()


def test_one_that_is_not_closed_ends_when_nobody_has_it(ceph: Ceph) -> None:
    """At once, and not when garbage is collected the next time."""
    cluster = Cluster(ACCESS)
    with cluster.connection():
        pass
    gone = weakref.ref(cluster)
    gc.disable()
    try:
        del cluster
        assert (gone(), ceph.connected) == (None, [])
    finally:
        gc.enable()


@pytest.mark.parametrize("fault", ["unreadable", "incomplete"])
def test_remedies_are_those_of_the_driver(ceph: Ceph, fault: str) -> None:
    """Two drivers use the module, and an operator sets options of one."""
    setattr(ceph, fault, True)
    with pytest.raises(errors.ConfigError) as caught, Cluster(ACCESS).connection():
        pass
    assert caught.value.remedy == getattr(ACCESS, f"if_{fault}")
