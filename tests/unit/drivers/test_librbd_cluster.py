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
from imgstore.drivers._librbd.errors import RequestFailed, classify
from imgstore.drivers._librbd.images import OpenImage

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


def test_missing_rights_are_asked_for_again_but_not_all_the_time(ceph: Ceph) -> None:
    """Those may have been given since; who is refused for ever does not connect for ever."""
    cluster = Cluster(ACCESS)

    def refused() -> None:
        with pytest.raises(OSError, match="denied"), cluster.connection():
            raise OSError(errno.EPERM, "denied")

    with cluster.lent() as used:
        refused()
        assert not used.retired
        with cluster.connection() as anew:
            assert anew is not used
        assert len(ceph.connected) == 2
    for _ in range(1000):
        refused()
    assert ceph.made < 20
    assert len(ceph.connected) == 1
    with ExitStack() as readers:
        for _ in range(100):
            readers.enter_context(cluster.lent()).is_denied = True
        assert len(ceph.connected) < 10
    cluster.close()
    assert ceph.connected == []


class Image:
    """What librbd opens, and cannot close."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def id(self) -> str:
        return "1"

    def close(self) -> None:
        raise OSError(errno.ETIMEDOUT, "not closed")


def test_what_was_done_to_an_image_is_done_although_it_cannot_be_closed(
    ceph: Ceph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deletion for one; but nobody else uses that connection."""
    monkeypatch.setattr(sys.modules["rbd"], "Image", Image, raising=False)
    cluster = Cluster(ACCESS)
    with cluster.connection() as connection:
        with OpenImage(connection, None, "image"):
            pass
        assert connection.retired
    cluster.close()
    assert ceph.connected == []


def test_what_is_read_only_is_no_matter_of_keys() -> None:
    found = classify(RequestFailed(-errno.EROFS))
    assert isinstance(found, errors.PermissionDenied)
    assert "another cluster" in str(found)
    assert "key" not in str(found)


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
