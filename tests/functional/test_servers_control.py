"""The harness itself: servers that outlive the command that started them."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from servers import missing
from servers.ceph import Ceph
from servers.containers import container, session
from servers.glance import ENVIRONMENT as GLANCE
from servers.keystone import KeystoneUser
from servers.nginx import Nginx
from servers.openstack import ask
from servers.process import state, until
from servers.radosgw import SwiftUser
from servers.swift import Swift
from servers.vsphere import VSphere

pytestmark = [
    pytest.mark.servers("control", "nginx", "ceph", "keystone", "swift", "vsphere", "glance"),
    pytest.mark.lab,
]

HERE = Path(__file__).parent


class Control:
    """The commands, with a directory and servers of this test's own."""

    def __init__(self, path: Path) -> None:
        self.directory = path / "servers"
        self._temporary = path / "temporary"
        self._temporary.mkdir()
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(HERE),
            "TMPDIR": str(self._temporary),
        }

    def command(self, *words: str) -> list[str]:
        where = ["--directory", str(self.directory)]
        return [sys.executable, "-m", "servers.control", *where, *words]

    def run(self, *words: str, status: int = 0, seconds: float = 120, **environment: str) -> str:
        """Run a command to its end and return what it said."""
        done = subprocess.run(
            self.command(*words),
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    @property
    def state(self) -> Any:
        return json.loads((self.directory / "servers.json").read_text())

    @property
    def pids(self) -> list[int]:
        """The holder and its servers."""
        return [self.state["holder"], *self.state["processes"].values()]

    def holders(self) -> list[int]:
        """Return the holders of this directory that live, found by their command line."""
        wanted = os.fsencode(self.directory) + b"\0hold\0"
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if wanted in path.read_bytes() and state(int(path.parent.name)):
                    found.append(int(path.parent.name))
        return found

    def assert_nothing_left(self) -> None:
        """There is no holder, no description and no file of a server."""
        assert self.holders() == []
        assert not list(self.directory.glob("servers.*"))
        assert list(self._temporary.iterdir()) == []


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    """The commands; whatever still runs at the end of the test is stopped."""
    made = Control(tmp_path)
    yield made
    made.run("down")


def answers(url: str) -> int:
    """Return the status that a URL answers with."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", parts.path)
        response = connection.getresponse()
        response.read()
        return response.status


def test_servers_stay_until_they_are_stopped(control: Control, nginx: Nginx) -> None:
    """They run after the command ended, are started once, and end with the second command."""
    said = control.run("up", "nginx")
    described = control.state["servers"]["nginx"]
    Path(described["directory"], "image").write_bytes(b"data")
    assert answers(described["url"] + "image") == 200
    assert all(value in said for value in described.values())
    again = control.run("up", "nginx")
    assert "Running already" in again
    assert described["url"] in again
    assert answers(described["url"] + "image") == 200
    pids = control.pids
    assert "Stopped" in control.run("down")
    assert not any(state(pid) for pid in pids)
    control.assert_nothing_left()
    assert "Nothing was running" in control.run("down")
    assert nginx.process.alive


def test_description_is_for_shells_too_and_private(control: Control, nginx: Nginx) -> None:
    """The assignments say what the JSON says; nobody else can read either."""
    del nginx  # wanted: it skips where there is none
    control.run("up", "nginx")
    assigned = control.directory / "servers.env"
    words = shlex.split(assigned.read_text())
    described = control.state["servers"]["nginx"]
    assert words == [f"IMGSTORE_NGINX_{name.upper()}={value}" for name, value in described.items()]
    for path in (assigned, assigned.with_suffix(".json")):
        assert path.stat().st_mode & 0o077 == 0


def test_ceph_serves_s3_and_rbd(control: Control, ceph: Ceph) -> None:
    """One cluster for both, with a bucket, a pool and their user."""
    control.run("up", "rbd,s3")
    servers = control.state["servers"]
    assert list(servers) == ["s3", "rbd"]
    assert answers(servers["s3"]["url"]) == 200
    assert "s3" in control.run("up", "nginx", status=1)
    admin = ["radosgw-admin", "-n", "client.rgw", "--log-to-stderr=false", "bucket", "list"]
    assert json.loads(ceph.run(admin, conf=Path(servers["s3"]["admin_conf"]))) == ["images"]
    conf = Path(servers["rbd"]["conf"])
    assert ceph.run(["rbd", "--id", "glance", "--pool", "images", "ls"], conf=conf) == ""
    pids = control.pids
    assert len(pids) == 4
    os.kill(control.state["holder"], signal.SIGKILL)
    until(lambda: not any(state(pid) for pid in pids), seconds=10, what="all are gone")


def user_of(described: Mapping[str, str]) -> KeystoneUser:
    """Return the user that a server's description names."""
    return KeystoneUser(
        url=described["auth_url"],
        id="",
        name=described["user"],
        password=described["password"],
        project=described["project"],
        project_id="",
        domain=described["domain"],
    )


def test_swift_serves_both_kinds_of_users(control: Control, swift: Swift) -> None:
    """What is described opens an account by Keystone and by v1 authentication."""
    del swift  # wanted: it skips where there is none
    control.run("up", "swift")
    described = control.state["servers"]["swift"]
    user = user_of(described)
    v1 = SwiftUser(described["v1_user"], described["v1_key"], described["v1_auth_url"])
    for one in (user, v1):
        with container(one) as made:
            made.put("key", b"data")
            assert made.content("key") == b"data"
    assert len(control.pids) == 7


def test_vsphere_takes_files(control: Control, vsphere: VSphere) -> None:
    """What is described opens a datastore, whose files are in the directory."""
    del vsphere  # wanted: it skips where there is none
    control.run("up", "vsphere")
    described = control.state["servers"]["vsphere"]
    login = base64.b64encode(f"{described['username']}:{described['password']}".encode()).decode()
    datacenter, _, datastore = described["datastores"].partition(";")[0].partition(":")
    query = urlencode({"dcPath": datacenter, "dsName": datastore})
    url = f"https://{described['host']}/folder/file?{query}"
    headers = {"Authorization": f"Basic {login}"}
    assert ask("PUT", url, headers, b"data", ca=Path(described["ca_file"])).status == 201
    assert Path(described["directory"], "file").read_bytes() == b"data"
    assert len(control.pids) == 2


@pytest.mark.timeout(600)  # all servers that there are begin one after the other
def test_glance_serves_every_store(control: Control, ceph: Ceph, swift: Swift) -> None:
    """What is described lets a client in, and each store takes, gives and deletes an image."""
    del ceph, swift  # wanted: it skips where there is none of them
    missing.root("cinder")
    missing.tool("rabbitmq-server", what="cinder", package="rabbitmq-server")
    if not (GLANCE / ".made.stamp").exists():
        raise missing.Missing("glance", f"Glance is not installed in {GLANCE}")
    control.run("up", "glance", seconds=240)
    described = control.state["servers"]["glance"]
    user = user_of(described)
    login = {"X-Auth-Token": session(user).get_token()}
    stores = described["stores"].split(",")
    assert stores == ["files", "objects", "container", "pool", "volumes"]
    images, kind = f"{described['url']}/v2/images", {"Content-Type": "application/octet-stream"}
    for store in stores:
        about = {"disk_format": "raw", "container_format": "bare"}
        json_kind = {"Content-Type": "application/json"}
        made = ask("POST", images, login | json_kind, json.dumps(about).encode())
        at = f"{images}/{json.loads(made.body)['id']}"
        sent = login | kind | {"X-Image-Meta-Store": store}
        assert ask("PUT", f"{at}/file", sent, b"data", seconds=120).status == 204
        assert ask("GET", f"{at}/file", login).body == b"data"
        assert ask("DELETE", at, login).status == 204
    control.run("down")
    control.assert_nothing_left()


def test_killed_holder_is_cleaned_up_after(control: Control, nginx: Nginx) -> None:
    """SIGKILL to the holder ends the servers; the next command starts anew."""
    del nginx  # wanted: it skips where there is none
    control.run("up", "nginx")
    pids = control.pids
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: not any(state(pid) for pid in pids), seconds=10, what="both are gone")
    assert "Starting" in control.run("up", "nginx")
    assert set(control.pids).isdisjoint(pids)
    control.run("down")
    control.assert_nothing_left()


def test_number_of_a_dead_holder_is_not_trusted(control: Control) -> None:
    """Another process that has the number written down is let alone."""
    control.directory.mkdir()
    with subprocess.Popen(["sleep", "60"]) as bystander:
        for name in ("holder", "servers.json"):
            (control.directory / name).write_text(json.dumps({"holder": bystander.pid}))
        assert "Nothing was running" in control.run("down")
        assert state(bystander.pid)
        bystander.kill()
    control.assert_nothing_left()


def test_server_that_does_not_come_up_is_reported(control: Control) -> None:
    """The command fails with what the log says, and nothing is left."""
    said = control.run("up", "nginx", status=1, PATH=str(control.directory))
    assert "did not come up" in said
    assert "is not installed (apt-get install" in said
    control.assert_nothing_left()


# A shell starts what runs in the background with SIGINT ignored, and children inherit that.
INTERRUPTIBLE = """
import signal, sys
from servers.control import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_start_leaves_nothing(
    control: Control, ceph: Ceph, number: signal.Signals
) -> None:
    """Ctrl-C in mid-start, or worse, ends what was started so far."""
    del ceph  # wanted: it skips where there is none
    command = [sys.executable, "-c", INTERRUPTIBLE, *control.command("up", "s3")[3:]]
    with subprocess.Popen(command, env=control.environment, stdout=subprocess.DEVNULL) as starting:
        until(
            lambda: any(control._temporary.glob("*/ceph-mon-*/data/store.db")),
            seconds=30,
            what="a server is started",
        )
        starting.send_signal(number)
        starting.wait(60)
    assert starting.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    until(lambda: control.holders() == [], seconds=60, what="the holder is gone")
    control.assert_nothing_left()
