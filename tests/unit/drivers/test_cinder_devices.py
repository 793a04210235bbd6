"""Devices by os-brick, of which one kind is there already: that needs no storage."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from imgstore import errors
from imgstore.drivers.cinder.client import Volume
from imgstore.drivers.cinder.connectors import Connectors, _read, _refuse_to_show
from imgstore.drivers.cinder.locks import Locks
from imgstore.drivers.cinder.options import OPTIONS
from imgstore.drivers.cinder.settings import read

DEFAULTS: dict[str, Any] = {name: opt.default for name, opt in OPTIONS.items()}
NOW = datetime.now(timezone.utc)
ID = "5d0a0a5e-7c4b-4c3a-9b1f-0a1b2c3d4e5f"


def volume(**more: Any) -> Volume:
    plain: dict[str, Any] = {
        "id": ID,
        "size": 1,
        "status": "attaching",
        "kind": None,
        "metadata": {},
        "uses": (),
        "multiattach": True,
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
    reading = device.reading(0, 6)
    assert b"".join(reading) == b"\0data\0"
    assert held(locks) == ["use"]
    device.disconnect()
    assert held(locks) == []
    with pytest.raises(ValueError, match="closed"):
        next(iter(reading))


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
    connectors.forget(volume().id, connection)
    assert held(locks) == []
    device = connectors.connect(volume(), connection)
    connectors.forget(volume().id, connection)
    assert held(locks) == ["use"]
    device.disconnect()
    assert held(locks) == []


@pytest.mark.parametrize("connection", [{}, {"driver_volume_type": "nfs", "data": {}}])
def test_what_has_no_device(connectors: Connectors, connection: Any, locks: Locks) -> None:
    connectors.forget(volume().id, connection)
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
    for opening in (device.writing, lambda: device.reading(0, 1)):
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
    with pytest.raises(errors.Unavailable, match="os-brick: OSError") as caught:
        _refuse_to_show(OSError("failed to decode key 's3cret=='"), data)
    assert "s3cret" not in str(caught.value)
    _refuse_to_show(OSError("no route to host"), data)


def test_what_os_brick_cannot_connect(connectors: Connectors, locks: Locks, place: Path) -> None:
    """Nothing stays."""
    place.unlink()
    with pytest.raises(Exception, match="device"):
        connectors.connect(volume(), {"driver_volume_type": "gpfs", "data": {"name": "x"}})
    assert held(locks) == []
