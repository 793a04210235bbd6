"""Devices by os-brick, of which one kind is there already: that needs no storage."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from imgstore import errors
from imgstore.drivers.cinder.connectors import (
    Connectors,
    StillConnected,
    _address_towards,
    _never_began,
    _read,
    _shown,
)
from imgstore.drivers.cinder.devices import Clusters
from imgstore.drivers.cinder.locks import Locks
from imgstore.drivers.cinder.options import OPTIONS
from imgstore.drivers.cinder.settings import read
from imgstore.drivers.cinder.volumes import Volume

DEFAULTS: dict[str, Any] = {name: opt.default for name, opt in OPTIONS.items()}
NOW = datetime.now(timezone.utc)
ID = "5d0a0a5e-7c4b-4c3a-9b1f-0a1b2c3d4e5f"


def volume(**more: Any) -> Volume:
    plain: dict[str, Any] = {
        "id": ID,
        "size": 1,
        "status": "attaching",
        "volume_type": None,
        "metadata": {},
        "uses": {},
        "encrypted": False,
        "created": NOW,
        "updated": NOW,
    }
    return Volume(**plain | more)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / f"volume-{volume().id}"
    path.write_bytes(bytes(4096))
    return path


@pytest.fixture
def connection(place: Path) -> dict[str, Any]:
    data = {"device_path": os.fspath(place)}
    return {"driver_volume_type": "gpfs", "data": data, "attachment_id": "a"}


@pytest.fixture
def locks(tmp_path: Path) -> Locks:
    return Locks(os.fspath(tmp_path / "locks"))


@pytest.fixture
def connectors(locks: Locks) -> Connectors:
    return Connectors(read(DEFAULTS), locks)


def held(locks: Locks) -> list[str]:
    return sorted(path.name.split("-")[2] for path in locks.directory.iterdir())


def test_written_and_read(connectors: Connectors, connection: Any, locks: Locks) -> None:
    device = connectors.connect(volume(), connection)
    assert device.can_grow
    writing = device.writing()
    writing.write(b"data", 1)
    writing.finish()
    assert writing.size() == 4096
    writing.close()
    with ExitStack() as closing:
        assert b"".join(device.reading(0, 6, closing)) == b"\0data\0"
    reading = device.reading(0, 6, ExitStack())
    assert held(locks) == ["use"]
    device.disconnect()
    assert held(locks) == []
    with pytest.raises(ValueError, match="closed"):
        next(reading)


def test_a_device_of_two_processes(connectors: Connectors, connection: Any, locks: Locks) -> None:
    """The last one disconnects."""
    one = connectors.connect(volume(), connection)
    two = connectors.connect(volume(), connection)
    one.disconnect()
    assert held(locks) == ["use"]
    two.disconnect()
    assert held(locks) == []


def test_a_device_of_a_process_that_died(
    connectors: Connectors, connection: Any, locks: Locks
) -> None:
    """It is disconnected, but not from under those who use it."""
    connectors.disconnect(volume().id, connection)
    assert held(locks) == []
    device = connectors.connect(volume(), connection)
    connectors.disconnect(volume().id, connection)
    assert held(locks) == ["use"]
    device.disconnect()
    assert held(locks) == []


@pytest.mark.parametrize("connection", [{}, {"driver_volume_type": "nfs", "data": {}}])
def test_what_has_no_device(connectors: Connectors, connection: Any, locks: Locks) -> None:
    connectors.disconnect(volume().id, connection)
    assert not locks.directory.exists()


@pytest.mark.parametrize("protocol", ["nfs", "quobyte"])
@pytest.mark.parametrize(
    "name", ["/etc/hostname", "../x", f"../{ID}", f"{ID}/", f"/{ID}", "", ".", f"{ID}\0", "other"]
)
def test_files_that_are_no_volumes(
    connectors: Connectors, locks: Locks, protocol: str, name: str
) -> None:
    """A Cinder that is somebody else's names files of this host."""
    asked = {"driver_volume_type": protocol, "data": {"export": "h:/e", "name": name}}
    with pytest.raises(errors.Unsupported, match="no volume's id"):
        connectors.connect(volume(), asked)
    assert not locks.directory.exists()


@pytest.mark.parametrize(
    ("protocol", "path"),
    [("local", "/etc/hostname"), ("local", "/dev/null"), ("gpfs", "/etc/hostname")],
)
def test_devices_that_are_none(
    connectors: Connectors, locks: Locks, protocol: str, path: str
) -> None:
    asked = {"driver_volume_type": protocol, "data": {"device_path": path}}
    device = connectors.connect(volume(), asked)
    for opening in (device.writing, lambda: device.reading(0, 1, ExitStack())):
        with pytest.raises(PermissionError, match=r"no block device|that of a volume"):
            opening()
    device.disconnect()
    assert held(locks) == []


@pytest.mark.parametrize("protocol", ["nfs", "quobyte"])
@pytest.mark.parametrize(
    ("data", "more"), [({"format": "qcow2"}, {}), ({"encrypted": True}, {}), ({}, {"encrypted": 1})]
)
def test_files_that_are_not_the_image(
    connectors: Connectors, protocol: str, data: Any, more: Any
) -> None:
    asked = {"driver_volume_type": protocol, "data": data | {"export": "h:/e", "name": "volume-x"}}
    with pytest.raises(errors.Unsupported, match=protocol):
        connectors.connect(volume(**more), asked)


def test_secrets_of_the_storage() -> None:
    """os-brick can use them, and shows none; what a program says of them is not repeated."""
    plain = {"keyring": "[client.x]\nkey = s3cret==", "targets": [{"auth_password": "s3cret=="}]}
    _, data = _read({"driver_volume_type": "rbd", "data": plain | {"name": "pool/x"}})
    assert "s3cret" not in repr(data) + str(data)
    assert data["targets"][0]["auth_password"] == "s3cret=="
    assert f"{data['keyring']}".endswith("key = s3cret==")
    found = _shown(OSError("failed to decode key 's3cret=='"), data)
    assert isinstance(found, errors.Unavailable)
    assert str(found).startswith("os-brick: OSError")
    assert "s3cret" not in str(found)
    plain_error = OSError("no route to host")
    assert _shown(plain_error, data) is plain_error


def test_what_os_brick_cannot_connect(connectors: Connectors, locks: Locks, place: Path) -> None:
    """Nothing stays."""
    place.unlink()
    with pytest.raises(Exception, match="device"):
        connectors.connect(volume(), {"driver_volume_type": "gpfs", "data": {"name": "x"}})
    assert held(locks) == []


@pytest.fixture
def rbd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Write the program with which os-brick maps and unmaps images, as a line of the shell."""
    if os.geteuid() != 0:
        pytest.skip("others would ask the helper")

    def write(line: str) -> None:
        program = tmp_path / "rbd"
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return write


MAPPED: dict[str, Any] = {
    "driver_volume_type": "rbd",
    "data": {
        "name": "pool/volume",
        "hosts": ["127.0.0.1"],
        "ports": ["9"],
        "auth_username": "user",
        "cluster_name": "ceph",
        "keyring": "[client.user]\nkey = of-the-storage==",
        "do_local_attach": True,
    },
}


def test_what_may_be_left_after_all(
    connectors: Connectors, locks: Locks, rbd: Callable[[str], None]
) -> None:
    """A connect that failed, and whose undoing fails as well, may have left a device."""
    rbd("echo 'no of-the-storage==' >&2; exit 1")
    with pytest.raises(StillConnected) as caught:
        connectors.connect(volume(), MAPPED)
    assert "of-the-storage" not in "".join(traceback.format_exception(caught.value))
    assert held(locks) == []
    rbd("[ $1 = showmapped ] && echo '[]' || exit 1")
    with pytest.raises(Exception, match="map") as other:
        connectors.connect(volume(), MAPPED)
    assert not isinstance(other.value, StillConnected)
    assert held(locks) == []


def test_a_device_that_lingers_is_told(
    connectors: Connectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connectors that remove devices by force do what they can, and then raise what went wrong."""
    connector = pytest.importorskip("os_brick.initiator.connector")

    class Lingering:
        def connect_volume(self, data: Any) -> Any:
            raise OSError("no device found")

        def disconnect_volume(self, *args: Any, force: bool, ignore_errors: bool) -> None:
            if not (force and ignore_errors):
                raise OSError("some devices remain")

    monkeypatch.setattr(connector.InitiatorConnector, "factory", lambda *_, **__: Lingering())
    asked = {"driver_volume_type": "iscsi", "data": {"target_lun": 1}}
    with pytest.raises(StillConnected):
        connectors.connect(volume(), asked)
    with pytest.raises(OSError, match="remain"):
        connectors.disconnect(volume().id, asked)


def test_what_never_began_leaves_nothing() -> None:
    cfg = pytest.importorskip("oslo_config.cfg")
    daemon = pytest.importorskip("oslo_privsep.daemon")
    failed = OSError("no route to host")
    assert _never_began(failed, cfg.RequiredOptError("lock_path", cfg.OptGroup("os_brick")))
    assert _never_began(failed, daemon.FailedToDropPrivileges("sudo: a password is required"))
    assert _never_began(KeyError("target_portal"), KeyError("target_portal"))
    assert not _never_began(failed, KeyError("target_portal"))
    assert not _never_began(failed, OSError("no route to host"))


@pytest.mark.tree  # Ceph's modules are there for one interpreter
@pytest.mark.parametrize(
    ("keyring", "said"),
    [
        ("[client.user]\nkey = of-the-storage==", "names no monitor"),
        ("of-the-storage", r"\(the volume's connection at Cinder\) cannot be read"),
    ],
)
def test_a_cluster_that_cinder_describes_wrongly(keyring: str, said: str) -> None:
    """Who sees to it has set no option of an rbd store."""
    pytest.importorskip("rados")
    data = {"name": "pool/volume", "hosts": [], "ports": [], "auth_username": "user"}
    clusters = Clusters()
    device = clusters.device(data | {"keyring": keyring})
    with pytest.raises(errors.ConfigError, match=said) as caught:
        device.reading(0, 1, ExitStack())
    clusters.close()
    assert caught.value.remedy.endswith("that the volume's connection at Cinder names")
    assert "rbd_store" not in str(caught.value)
    assert "of-the-storage" not in str(caught.value)


def test_the_address_that_cinder_is_told() -> None:
    """It is the one from which packets go to Cinder; on one host, that of its name if of use."""
    own = _address_towards("http://127.0.0.1:8776/v3")
    assert _address_towards("http://[::1]:8776/v3") in {own, "::1"}
    assert _address_towards("http://no-such-host.invalid/v3") == own
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            asked.connect(("192.0.2.200", 9))
            outer = asked.getsockname()[0]
    except OSError:
        pytest.skip("there is no way out of this machine")
    assert _address_towards(f"http://{outer}:8776/v3") == outer
    assert _address_towards("https://192.0.2.200/v3") == outer
    assert not outer.startswith("127.")
