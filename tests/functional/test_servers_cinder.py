"""The harness itself: a Cinder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import cinder as module
from servers.ceph import Ceph
from servers.cinder import Cinder
from servers.cinder import cinder as run_cinder
from servers.keystone import Keystone
from servers.missing import Missing
from servers.process import ServerFailed, state, until
from servers.scratch import Scratch

pytestmark = [pytest.mark.servers("cinder", "keystone"), pytest.mark.lab]


@pytest.fixture(autouse=True)
def _emptied(cinder: Cinder) -> Iterator[None]:
    yield
    cinder.heal()
    cinder.empty()


@pytest.mark.parametrize(
    ("kind", "multiattach"), [("fast", False), ("slow", False), ("multi", True)]
)
def test_types(cinder: Cinder, kind: str, multiattach: bool) -> None:  # noqa: FBT001
    """A volume of each can be made, is where the type says, and is removed."""
    made = cinder.make(kind=kind, name="some")
    volume = cinder.volume(made)
    assert volume is not None
    assert (volume["volume_type"], volume["multiattach"]) == (kind, multiattach)
    files = [path.name for path in cinder.export.iterdir()]
    assert (f"volume-{made}" in files) == (kind == "slow")
    cinder.empty()
    assert cinder.volume(made) is None
    assert list(cinder.export.iterdir()) == []


def test_the_default_type(cinder: Cinder) -> None:
    found = cinder.call("GET", "types/default")
    assert found["volume_type"]["name"] == "fast"


def test_a_service_that_is_gone_comes_back(cinder: Cinder) -> None:
    """The others notice, and what was asked for meanwhile is done then, or failed."""
    cinder.services["nfs"].kill()
    asked = {"volume": {"size": 1, "volume_type": "slow"}}
    made = cinder.call("POST", "volumes", asked)["volume"]["id"]
    cinder.heal()
    assert cinder.wait(made, "available", "error") in {"available", "error"}
    assert cinder.wait(cinder.make(kind="slow"), "available")


def test_who_did_nothing_has_nothing_to_heal(cinder: Cinder) -> None:
    cinder.requests.forget()
    cinder.heal()
    cinder.empty()
    assert cinder.requests.read() == []


def test_a_test_that_hangs_is_rescued(cinder: Cinder) -> None:
    """Whatever it waits for comes back."""
    osd, service = cinder.cluster.osd, cinder.services["nfs"]
    with cinder.rescue(after=0.5):
        osd.kill()
        service.freeze()
        until(lambda: osd.alive and state(service.pid) != "T", seconds=60, what="both go on")
        cinder.heal()
    assert cinder.wait(cinder.make(), "available")


def test_users_see_their_own_volumes(cinder: Cinder, keystone: Keystone) -> None:
    other = keystone.user("onlooker")
    made = cinder.make(kind="slow")
    assert [volume["id"] for volume in cinder.volumes()] == [made]
    assert cinder.volumes(user=other) == []


def test_quotas(cinder: Cinder) -> None:
    cinder.quota(volumes=0)
    try:
        with pytest.raises(ServerFailed, match="413"):
            cinder.make()
    finally:
        cinder.quota(volumes=-1)


def test_requests_are_logged(cinder: Cinder) -> None:
    cinder.requests.forget()
    cinder.volumes()
    (request,) = cinder.requests.read()
    assert (request.method, request.status) == ("GET", 200)
    assert request.path.endswith("/volumes/detail")


def test_clients_mount_without_a_kernel_that_can(cinder: Cinder) -> None:
    assert Path(cinder.path.partition(":")[0], "mount").exists()
    assert os.environ["PATH"] == cinder.path
    assert os.environ["OSLO_LOCK_PATH"] == str(cinder.locks)


def test_missing_cinder_is_named(
    scratch: Scratch,
    keystone: Keystone,
    cinder: Cinder,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / ".made.stamp").touch()
    monkeypatch.setattr(module, "ENVIRONMENT", tmp_path)
    cluster: Ceph = cinder.cluster
    with (
        pytest.raises(Missing, match=r"^cinder: .* not installed"),
        run_cinder(scratch, keystone, cluster),
    ):
        pass
