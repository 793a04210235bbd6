"""The Cinder store and answers that no Cinder of the tests gives."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from servers.cinder_pretender import Pretender, pretender
from servers.losing import losing

from imgstore import RequestContext, Store, errors
from imgstore.drivers.cinder import CinderStore
from imgstore.drivers.memory import MemoryStore

pytestmark = pytest.mark.servers("cinder", "keystone")

UUID = "5d0a0a5e-7c4b-4c3a-9b1f-0a1b2c3d4e5f"
CONTEXT = RequestContext(token="t0ken-of-caller", project_id="project")
SECRET = "AQAA8VNlAAAAABAAczNjcmV0T2ZTdG9yYWdlIQ=="  # a key as Ceph writes them
ISCSI: dict[str, Any] = {
    "driver_volume_type": "iscsi",
    "data": {
        "target_portal": "127.0.0.1:9",
        "target_iqn": "iqn.2026-01.org.example:x",
        "target_lun": 1,
        "auth_method": "CHAP",
        "auth_username": "user",
        "auth_password": SECRET,
        "discovery_auth_method": "CHAP",
        "discovery_auth_username": "user",
        "discovery_auth_password": SECRET,
    },
}
RBD: dict[str, Any] = {
    "driver_volume_type": "rbd",
    "data": {
        "name": "pool/volume",
        "hosts": ["127.0.0.1"],
        "ports": ["9"],
        "auth_username": "user",
        "cluster_name": "ceph",
        "keyring": f"[client.user]\nkey = {SECRET}\nclient_mount_timeout = 1",
    },
}


@pytest.fixture
def server() -> Iterator[Pretender]:
    with pretender() as made:
        yield made


@pytest.fixture(autouse=True)
def _no_rbd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program would wait for a cluster."""
    program = tmp_path / "rbd"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.fixture
def make(server: Pretender, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Make stores that end with the test."""
    made: list[Store] = []

    def one(**options: Any) -> Any:
        plain = {"endpoint_template": server.template, "http_retries": 0, "poll_interval": 0.05}
        plain |= {"wait_for_delete": True, "attachment_retry_attempts": 1}
        plain |= {"lock_path": str(tmp_path / "locks"), "mount_point_base": str(tmp_path)}
        made.append(CinderStore("one", **plain | options))
        return made[-1]

    yield one
    for store in made:
        store.close()


@pytest.fixture
def path(tmp_path: Path, server: Pretender) -> Path:
    """The file of any volume."""
    path = tmp_path / "volume-5d0a0a5e-7c4b-4c3a-9b1f-0a1b2c3d4e5f"
    path.write_bytes(bytes(4096))
    server.connection = {"driver_volume_type": "gpfs", "data": {"device_path": str(path)}}
    return path


def test_the_address_that_cinder_is_told(make: Any, server: Pretender, path: Path) -> None:
    """That from which this host reaches Cinder, or the one configured; the rest is os-brick's."""
    make(my_ip="2001:db8::7").add("x", b"1", context=CONTEXT)
    assert server.connectors[-1]["ip"] == "2001:db8::7"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect(("192.0.2.200", 9))
        except OSError:
            return  # there is no address but those of the host alone
        address = str(asked.getsockname()[0])
    with pretender(address) as other:
        other.connection = server.connection
        make(endpoint_template=other.template).add("x", b"1", context=CONTEXT)
    (told,) = other.connectors
    assert (told["ip"], told["host"]) == (address, socket.gethostname())
    assert "platform" in told


BUSY = {"computeFault": {"code": 500, "message": "The server has either erred"}}


@pytest.mark.parametrize("request_", [("PUT", "/attachments/"), ("POST", "/action")])
def test_a_server_that_is_too_busy(
    make: Any, server: Pretender, path: Path, request_: tuple[str, str]
) -> None:
    """Twice may pass, and does; three times is an error that leaves nothing."""
    store = make()
    server.answers += [(*request_, 500, BUSY)] * 2
    image = store.add("x", b"data", context=CONTEXT)
    assert path.read_bytes()[:4] == b"data"
    assert (len(server.volumes), server.attachments) == (1, {})
    server.answers += [(*request_, 500, BUSY)] * 3
    with pytest.raises(errors.Unavailable, match="500"):
        store.add("y", b"data", context=CONTEXT)
    assert (len(server.volumes), server.attachments, server.answers) == (1, {}, [])
    server.answers.append((*request_, 500, BUSY))
    with store.get(image.location, context=CONTEXT) as reader:
        assert reader.read() == b"data"
    assert server.attachments == {}


@pytest.mark.parametrize(
    ("state", "kind", "remedy"),
    [
        ("maintenance", errors.InUse, "once an administrator has ended that"),
        ("awaiting-transfer", errors.InUse, "once the transfer is accepted or cancelled"),
        ("backing-up", errors.InUse, "once Cinder is done"),
        ("retyping", errors.InUse, "once Cinder is done"),
        ("uploading", errors.InUse, "once Cinder is done"),
        ("downloading", errors.InUse, "once Cinder is done"),
        ("error", errors.StoreError, "an administrator can reset the state"),
    ],
)
def test_states_that_last(
    make: Any, server: Pretender, state: str, kind: type[errors.StoreError], remedy: str
) -> None:
    """They are named, at once, whoever wants the image; what does not pass is not retryable."""
    volume, store = server.make(status=state), make(attachment_retry_attempts=99)
    url = f"cinder://one/{volume}"
    available = (
        "GET",
        f"/volumes/{volume}",
        200,
        {"volume": server.volumes[volume] | {"status": "available"}},
    )
    said = f"Invalid volume: Volume {volume} status must be available or downloading to reserve, "
    said += f"but the current status is {state}. (HTTP 400)"
    refusal = {"badRequest": {"code": 400, "message": said}}

    def later() -> None:
        server.answers[:] = [available, ("POST", "/attachments", 400, refusal)]
        store.get(url, context=CONTEXT)

    def delete() -> None:
        server.answers[:] = [("DELETE", "/volumes/", 400, refusal)]
        store.delete(url, context=CONTEXT)

    copies = MemoryStore("copies")
    for call in (
        lambda: store.get(url, context=CONTEXT),
        lambda: store.copy(url, "copy", to=copies, context=CONTEXT),
        later,
        delete,
    ):
        with pytest.raises(errors.StoreError, match=f"the state '{state}'.*{remedy}") as caught:
            call()
        assert type(caught.value) is kind
        assert caught.value.retryable == (kind is errors.InUse)
        assert server.answers == []
    assert store.size(url, context=CONTEXT) == 1 << 20


def test_a_file_that_is_no_volume(make: Any, server: Pretender) -> None:
    """A Cinder that is somebody else's may name any file of this host."""
    server.connection = {"driver_volume_type": "local", "data": {"device_path": "/etc/hostname"}}
    with pytest.raises(errors.Unsupported, match="not opened: it is no block device"):
        make().get(f"cinder://one/{server.make()}", context=CONTEXT)


def shown(exc: BaseException) -> str:
    return "".join(traceback.format_exception(exc))


def test_errors_that_echo_the_request(
    make: Any, server: Pretender, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a token nor a password is quoted, in no exception of the chain and no log."""
    caplog.set_level(logging.DEBUG)
    volume = server.make()
    echo = {"badRequest": {"code": 400, "message": "X-Auth-Token: t0ken-of-caller, refused"}}
    server.answers += [("POST", "/volumes", 400, echo), ("DELETE", "/volumes/", 400, echo)]
    store = make()
    with pytest.raises(errors.StoreError, match="refused") as caught:
        store.add("x", b"1", context=CONTEXT)
    assert "t0ken" not in shown(caught.value)
    with pytest.raises(errors.InUse, match="refused") as caught:
        store.delete(f"cinder://one/{volume}", context=CONTEXT)
    assert "t0ken" not in shown(caught.value)
    password = 's3cret "quoted"'
    said = {"error": {"code": 401, "message": f"no {password}", "title": "Unauthorized"}}
    server.answers.append(("POST", "/auth/tokens", 401, said))
    address = server.template.partition("/v3/")[0]
    own = {"auth_address": address, "user_name": "u", "password": password, "project_name": "p"}
    with pytest.raises(errors.PermissionDenied) as caught:
        make(**own).size(f"cinder://one/{volume}")
    assert "s3cret" not in shown(caught.value) + caplog.text
    assert "t0ken" not in caplog.text


CHILD = """
import json, logging, os, sys
from imgstore import RequestContext
from imgstore.drivers.cinder import CinderStore
from imgstore.drivers.memory import MemoryStore
store = CinderStore("one", **json.loads(sys.argv[1]))
try:
    store.add("x", b"1", context=RequestContext(token="t", project_id="p"))
except Exception as exc:
    print(type(exc).__name__, exc)
print(sorted(os.listdir(sys.argv[2])))
"""


def test_os_brick_locks_where_the_store_does(server: Pretender, tmp_path: Path) -> None:
    """It reads the global configuration, which a service need not have."""
    server.connection = ISCSI
    locks = tmp_path / "locks"
    options = {"endpoint_template": server.template, "lock_path": str(locks), "poll_interval": 0.1}
    environment = {name: os.environ[name] for name in os.environ if name != "OSLO_LOCK_PATH"}
    command = [sys.executable, "-W", "ignore", "-c", CHILD, json.dumps(options), str(locks)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True, env=environment
    )
    assert "RequiredOptError" not in done.stdout + done.stderr
    assert "os-brick-connect_volume" in done.stdout
    assert (server.volumes, server.attachments) == ({}, {})


BAD: list[dict[str, Any]] = [
    ISCSI,
    RBD,
    {"driver_volume_type": "unheard-of", "data": {}},
    {"driver_volume_type": "iscsi", "data": {}},
    {"driver_volume_type": "nvmeof", "data": {}},
    {"driver_volume_type": "local", "data": {"device_path": "/etc/hostname"}},
    {"driver_volume_type": "gpfs", "data": {"device_path": None}},
    {"driver_volume_type": "nfs", "data": {"export": "h:/e", "name": "/etc/hostname"}},
    {"driver_volume_type": "quobyte", "data": {"export": "h:/e", "name": "../x"}},
    {"driver_volume_type": "rbd", "data": {}},
]


def test_no_failure_to_connect_leaves_anything(
    make: Any, server: Pretender, tmp_path: Path
) -> None:
    """Neither an attachment, nor a volume, nor a lock, nor a bare exception."""
    store, volume = make(), server.make()
    for connection in BAD:
        server.connection = connection
        with pytest.raises(errors.StoreError):
            store.add("y", b"1", context=CONTEXT)
        assert (list(server.volumes), server.attachments) == ([volume], {}), connection
        with pytest.raises(errors.StoreError):
            store.get(f"cinder://one/{volume}", context=CONTEXT).read()
        assert server.attachments == {}, connection
        left = [path.name for path in (tmp_path / "locks").iterdir()]
        assert [name for name in left if not name.startswith("os-brick")] == [], connection


@pytest.mark.parametrize("name", ["id", "size", "status", "created_at"])
def test_volumes_that_lack_something(make: Any, server: Pretender, name: str) -> None:
    """The error says what; nothing is left of an add."""
    store, volume = make(), server.make()
    lacking = {key: said for key, said in server.volumes[volume].items() if key != name}
    about = ("GET", "/volumes/", 200, {"volume": lacking})
    server.answers += [about, about]
    for verb in (store.size, store.get):
        with pytest.raises(errors.Unsupported, match=f"no {name}; look for a server"):
            verb(f"cinder://one/{volume}", context=CONTEXT)
    server.answers[:] = [("GET", "/volumes/detail", 200, {"volumes": [lacking]})]
    with pytest.raises(errors.Unsupported, match=f"no {name}"):
        store.add("y", b"1", context=CONTEXT)
    assert (list(server.volumes), server.answers) == ([volume], [])


@pytest.mark.parametrize(
    ("connection", "name"),
    [
        ({"driver_volume_type": "rbd", "data": {}}, "name"),
        ({"driver_volume_type": "rbd", "data": {"name": "pool/volume"}}, "hosts"),
        ({"driver_volume_type": "iscsi", "data": {}}, "target_"),
        ({"driver_volume_type": "nfs", "data": {"name": f"volume-{UUID}"}}, "export"),
    ],
)
def test_connections_that_lack_something(
    make: Any, server: Pretender, connection: dict[str, Any], name: str
) -> None:
    server.connection = connection
    with pytest.raises(errors.Unsupported, match=f"answer has no {name}"):
        make().get(f"cinder://one/{server.make()}", context=CONTEXT)
    assert server.attachments == {}


def test_an_attachment_without_an_id(make: Any, server: Pretender) -> None:
    server.answers.append(("POST", "/attachments", 200, {"attachment": {"status": "reserved"}}))
    with pytest.raises(errors.Unsupported, match="answer has no id"):
        make().get(f"cinder://one/{server.make()}", context=CONTEXT)


@pytest.mark.parametrize("page", ["a proxy's page", None, [], {"volume": None}])
def test_a_page_in_place_of_an_answer(
    make: Any, server: Pretender, path: Path, page: object
) -> None:
    """What only asks is asked again; what changes something is not, and nothing is left of it."""
    volume = server.make()
    server.answers.append(("GET", "/volumes/", 200, page))
    with pytest.raises(errors.Unavailable, match="not that of Cinder's API; check"):
        make().size(f"cinder://one/{volume}", context=CONTEXT)
    server.answers.append(("GET", "/volumes/", 200, page))
    assert make(http_retries=1).size(f"cinder://one/{volume}", context=CONTEXT) == 1 << 20
    server.answers.append(("POST", "/volumes", 202, page))
    with pytest.raises(errors.Unavailable, match="not that of Cinder's API"):
        make(http_retries=1).add("y", b"1", context=CONTEXT)
    assert (list(server.volumes), server.answers) == ([volume], [])


def test_a_listing_that_is_cut(
    make: Any, server: Pretender, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is asked for again, as often as other requests are, with a line in the log."""
    caplog.set_level(logging.INFO, "imgstore")
    with losing("127.0.0.1", urlsplit(server.template).port or 0) as proxy:
        template = f"{proxy.url}/v3/%(tenant)s"
        proxy.lose("GET", "/volumes/detail", what="half")
        make(endpoint_template=template, http_retries=1).add("x", b"data", context=CONTEXT)
        assert "a request of Cinder is tried again" in caplog.text
        proxy.lose("GET", "/volumes/detail", what="half")
        with pytest.raises(errors.Unavailable, match="broke off"):
            make(endpoint_template=template).add("y", b"data", context=CONTEXT)
    assert (len(server.volumes), server.attachments) == (1, {})


def test_a_device_that_may_be_left_keeps_its_attachment(
    make: Any, server: Pretender, tmp_path: Path
) -> None:
    """Until it is disconnected: it could become another volume's."""
    if os.geteuid() != 0:
        pytest.skip("others would ask the helper")
    store, volume = make(), server.make()
    server.connection = RBD | {"data": RBD["data"] | {"do_local_attach": True}}
    with pytest.raises(errors.Unavailable, match="disconnecting it failed as well"):
        store.get(f"cinder://one/{volume}", context=CONTEXT)
    assert len(server.attachments) == 1
    server.volumes[volume]["status"] = "in-use"
    (tmp_path / "rbd").write_text("#!/bin/sh\n[ $1 = showmapped ] && echo '[]' || exit 1\n")
    store.delete(f"cinder://one/{volume}", context=CONTEXT)
    assert (server.volumes, server.attachments) == ({}, {})


def test_nobody_logs_how_to_connect(
    make: Any, server: Pretender, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the level: not the SDK of Cinder, nor Keystone's, nor os-brick."""
    store = make()
    for name in ("", "cinderclient", "keystoneauth", "os_brick", "oslo_privsep", "urllib3"):
        caplog.set_level(logging.DEBUG, name)
    for connection in (ISCSI, RBD, RBD | {"data": RBD["data"] | {"do_local_attach": True}}):
        server.connection = connection
        with pytest.raises(errors.StoreError) as caught:
            store.add("x", b"1", context=CONTEXT)
        said = caplog.text + "".join(traceback.format_exception(caught.value))
        assert "POST" in said
        assert SECRET not in said
        assert "t0ken" not in said
