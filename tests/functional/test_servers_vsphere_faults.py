"""The harness itself: what a vCenter Server does wrong when it is told to."""

from __future__ import annotations

import contextlib
import http.client
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from pyVmomi import vim
from servers import golang
from servers.datacenters import datacenter_of, finished, managed, raw_vsphere, session_cookie
from servers.missing import Missing
from servers.process import ServerFailed, state, until
from servers.scratch import Scratch
from servers.vsphere import Datastore, VSphere

pytestmark = [pytest.mark.servers("vsphere"), pytest.mark.lab]

HERE = Path(__file__).parent
MIB = 1 << 20
DATA = bytes(range(256)) * 8192  # 2 MiB

Ask = Callable[..., requests.Response]


@pytest.fixture
def images(vsphere: VSphere) -> Datastore:
    return vsphere.datastore()


@pytest.fixture
def ask(vsphere: VSphere) -> Iterator[Ask]:
    """Send requests with name and password: ``ask(method, url, **options)``."""
    with requests.Session() as web:
        web.trust_env = False

        def send(method: str, url: str, **options: Any) -> requests.Response:
            plain = {"auth": (vsphere.user, vsphere.password), "timeout": 30}
            secure = {"verify": str(vsphere.ca), "allow_redirects": False}
            return web.request(method, url, **plain | secure | options)

        yield send


def test_statuses_come_as_often_as_told(vsphere: VSphere, images: Datastore, ask: Ask) -> None:
    """401 once, then 503 twice, then all is well; and 401 for ever until it is healed."""
    images.put("file", b"data")
    url = images.url("file")
    vsphere.answer("GET", 401)
    vsphere.answer("GET", 503, times=2)
    assert [ask("GET", url).status_code for _ in range(4)] == [401, 503, 503, 200]
    vsphere.answer("folder", 401, times=None)
    assert [ask(method, url).status_code for method in ("GET", "HEAD", "PUT")] == [401] * 3
    assert b"no data of an image" in ask("GET", url).content
    vsphere.heal()
    vsphere.answer("HEAD", 500, nth=2)
    assert [ask("HEAD", url).status_code for _ in range(3)] == [200, 500, 200]
    assert [one.status for one in vsphere.requests.read("HEAD")] == [401, 200, 500, 200]
    assert images.content("file") == b"data"


def test_api_answers_statuses_too(vsphere: VSphere) -> None:
    """For one method, or all."""
    with raw_vsphere(vsphere) as service:
        vsphere.answer("CurrentTime", 503)
        with pytest.raises(http.client.HTTPException, match="503"):
            service.CurrentTime()
        vsphere.answer("sdk", 502)
        with pytest.raises(http.client.HTTPException, match="502"):
            service.content.rootFolder.name  # noqa: B018
        assert service.CurrentTime()


def test_redirect_is_sent(vsphere: VSphere, images: Datastore, ask: Ask) -> None:
    """To wherever it is told; the log tells where the client went and what it sent there."""
    images.put("file", b"data")
    vsphere.answer("GET", 302, location=images.url("file", host="127.0.0.2"))
    assert ask("GET", images.url("file"), allow_redirects=True).status_code == 401
    first, second = vsphere.requests.read("GET")
    assert (first.host, first.password) == ("127.0.0.1", True)
    assert (second.host, second.password) == ("127.0.0.2", False)
    assert "authorization" not in second.headers
    vsphere.answer("PUT", 307, location=images.url("file", "http"))
    assert ask("PUT", images.url("file"), data=b"new").headers["Location"][:7] == "http://"


def test_get_is_cut(vsphere: VSphere, images: Datastore, ask: Ask) -> None:
    """After so many bytes, and only as often as told."""
    images.put("file", DATA)
    vsphere.cut("GET", MIB + 5)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        ask("GET", images.url("file"))
    assert vsphere.requests.read("GET")[0].status == 200
    assert ask("GET", images.url("file")).content == DATA


def test_put_is_cut(vsphere: VSphere, images: Datastore, ask: Ask) -> None:
    """What came until then stays, as it does where the client goes."""
    vsphere.cut("PUT", MIB + 5)
    with pytest.raises(requests.exceptions.ConnectionError):
        ask("PUT", images.url("file"), data=DATA)
    until(lambda: images.content("file") == DATA[: MIB + 5], seconds=10, what="the part stays")
    assert vsphere.requests.read("PUT")[0].status == 0
    assert ask("PUT", images.url("file"), data=DATA).status_code == 200

    context = ssl.create_default_context(cafile=str(vsphere.ca))
    connection = http.client.HTTPSConnection("127.0.0.1", vsphere.ports["https"], context=context)
    with raw_vsphere(vsphere) as service, contextlib.closing(connection):
        headers = {"Cookie": session_cookie(service), "Content-Length": str(len(DATA))}
        connection.request("PUT", images.target("gone"), DATA[:MIB], headers)
        until(lambda: images.content("gone") == DATA[:MIB], seconds=10, what="a part is there")
    until(lambda: len(vsphere.requests.read("PUT")) == 3, seconds=10, what="it is logged")
    assert vsphere.requests.read("PUT")[2].status == 0
    assert images.content("gone") == DATA[:MIB]


@pytest.mark.parametrize("on", ["GET", "PUT"])
def test_file_stands_still(vsphere: VSphere, images: Datastore, ask: Ask, on: str) -> None:
    """In the middle, until it is released; nothing is lost."""
    if on == "GET":
        images.put("file", DATA)
        images.put("other", DATA)
    vsphere.stall(on, MIB)
    options = {"data": DATA} if on == "PUT" else {}
    with pytest.raises(requests.RequestException):
        ask(on, images.url("file"), timeout=0.5, **options)
    vsphere.heal()
    vsphere.stall(on, MIB)
    answers: list[requests.Response] = []
    thread = threading.Thread(
        target=lambda: answers.append(ask(on, images.url("other"), **options)), daemon=True
    )
    thread.start()
    thread.join(0.5)
    assert thread.is_alive()
    vsphere.release()
    thread.join(20)
    assert answers[0].ok
    assert images.content("other") == DATA


def test_refusal_comes_in_mid_put(vsphere: VSphere, images: Datastore, ask: Ask) -> None:
    """Before the rest of the body was read: the client sees the status, or that nobody listens."""
    vsphere.answer("PUT", 507, after=MIB)
    with contextlib.suppress(requests.exceptions.ConnectionError):
        assert ask("PUT", images.url("file"), data=DATA * 8).status_code == 507
    assert images.content("file") == DATA[:MIB]
    vsphere.behave(impatient=True)
    with contextlib.suppress(requests.exceptions.ConnectionError):
        answer = ask("PUT", images.url("other"), data=DATA * 8, auth=None)
        assert answer.status_code == 401
    assert [one.status for one in vsphere.requests.read("PUT")] == [507, 401]
    assert images.names() == ["file"]


def test_answers_are_lost(vsphere: VSphere, images: Datastore, ask: Ask) -> None:
    """All is done, but nobody learns of it."""
    vsphere.lose("PUT")
    with pytest.raises(requests.exceptions.ConnectionError):
        ask("PUT", images.url("file"), data=DATA)
    assert images.content("file") == DATA
    with raw_vsphere(vsphere) as service:
        vsphere.lose("MoveDatastoreFile_Task")
        center = datacenter_of(service, images)
        names = images.full("file"), center, images.full("to")
        with pytest.raises(http.client.RemoteDisconnected):
            service.content.fileManager.MoveDatastoreFile_Task(*names)
        until(lambda: images.names() == ["to"], seconds=10, what="it is moved")


def test_api_is_cut_or_stands_still(vsphere: VSphere) -> None:
    """Before anything is done."""
    with raw_vsphere(vsphere, httpConnectionTimeout=1) as service:
        vsphere.cut("CurrentTime")
        with pytest.raises(http.client.RemoteDisconnected):
            service.CurrentTime()
        vsphere.stall("CurrentTime")
        with pytest.raises(TimeoutError):
            service.CurrentTime()
        vsphere.slow("CurrentTime", 0.1, times=1)
        assert service.CurrentTime()


@pytest.mark.parametrize("port", ["expired", "foreign"])
def test_bad_certificates_are_bad(vsphere: VSphere, images: Datastore, ask: Ask, port: Any) -> None:
    """One expired, another one is of an authority that its own CA file knows."""
    said = r"expired|unable to get"
    with pytest.raises(ssl.SSLError, match=said), raw_vsphere(vsphere, port=port):
        pass
    images.put("file", b"data")
    with pytest.raises(requests.exceptions.SSLError, match=said):
        ask("GET", images.url("file", port))
    if port == "foreign":
        url = images.url("file", port)
        assert ask("GET", url, verify=str(vsphere.foreign_ca)).content == b"data"


def test_other_addresses_answer(vsphere: VSphere, images: Datastore, ask: Ask) -> None:
    """By name, on another address, and without TLS."""
    images.put("file", b"data")
    for url in (
        images.url("file", host="localhost"),
        images.url("file", host="127.0.0.2"),
        images.url("file", "http"),
    ):
        assert ask("GET", url).content == b"data"
    assert [one.scheme for one in vsphere.requests.read("GET")] == ["https", "https", "http"]


def test_killed_server_keeps_its_files(vsphere: VSphere, images: Datastore, ask: Ask) -> None:
    """And limits; back on its port it knows neither the sessions nor what was to go wrong."""
    with raw_vsphere(vsphere) as service:
        cookie = session_cookie(service)
        ask("PUT", images.url("file"), data=b"data")
        images.resize(capacity=100, free=40)
        vsphere.answer("GET", 503, times=None)
        vsphere.process.kill()
        images.put("other", b"x" * 10)
        with pytest.raises(requests.exceptions.ConnectionError):
            ask("GET", images.url("file"))
        vsphere.process.start()
        service._stub.DropConnections()  # they would fail first
        with pytest.raises(vim.fault.NotAuthenticated):
            service.CurrentTime()
    refused = ask("GET", images.url("file"), auth=None, headers={"Cookie": cookie})
    assert refused.status_code == 401
    assert ask("GET", images.url("file")).content == b"data"
    with raw_vsphere(vsphere) as service:
        summary = managed(service, images).summary
        assert (summary.capacity, summary.freeSpace) == (100, 30)


def test_frozen_server_goes_on(vsphere: VSphere, images: Datastore, ask: Ask) -> None:
    """It accepts connections, says nothing, and heals with its sessions."""
    images.put("file", b"data")
    with raw_vsphere(vsphere) as service:
        vsphere.process.freeze()
        with pytest.raises(requests.exceptions.Timeout):
            ask("GET", images.url("file"), timeout=0.5)
        vsphere.heal()
        assert service.CurrentTime()


def test_healing_ends_what_takes_long(vsphere: VSphere, images: Datastore) -> None:
    """A slow task goes on at once; datastores have all their space."""
    with raw_vsphere(vsphere) as service:
        vsphere.slow("DeleteDatastoreFile_Task", 600)
        images.put("file", b"data")
        images.resize(free=0)
        center = datacenter_of(service, images)
        task = service.content.fileManager.DeleteDatastoreFile_Task(images.full("file"), center)
        until(lambda: task.info.state == "running", seconds=10, what="it runs")
        assert images.names() == ["file"]
        vsphere.heal()
        assert finished(task).state == "success"
        summary = managed(service, images).summary
        assert summary.freeSpace == summary.capacity > 0


PROGRAM = """
import sys, time
from servers.scratch import Scratch
from servers.vsphere import vsphere
with Scratch() as scratch, vsphere(scratch) as server:
    print(server.process.pid, flush=True)
    time.sleep(60)
"""


def test_server_ends_with_a_killed_run(vsphere: VSphere) -> None:
    """It does not outlive the process that started it."""
    del vsphere  # wanted: it skips where there is none
    environment = os.environ | {"PYTHONPATH": str(HERE)}
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        assert state(pid)
        run.kill()
    until(lambda: not state(pid), seconds=10, what="the server is gone")
    with Scratch():
        pass  # removes what the killed run left


def _sources(path: Path, text: str) -> Path:
    made = path / "hello"
    made.mkdir(exist_ok=True)
    (made / "main.go").write_text(f"package main\n\nfunc main() {{ {text} }}\n")
    return made


def test_program_is_built_when_its_sources_change(vsphere: VSphere, tmp_path: Path) -> None:
    """And only then; an old one is removed, and what the compiler says is in the error."""
    del vsphere  # wanted: it skips where there is no Go
    about: dict[str, Any] = {"what": "x", "needs": "github.com/vmware/govmomi", "package": "p"}
    built = tmp_path / "built"
    first = golang.build(_sources(tmp_path, 'print("one")'), built=built, **about)
    made = first.stat().st_mtime_ns
    again = golang.build(_sources(tmp_path, 'print("one")'), built=built, **about)
    assert (again, again.stat().st_mtime_ns) == (first, made)
    other = golang.build(_sources(tmp_path, 'print("two")'), built=built, **about)
    said = subprocess.run([other], capture_output=True, text=True, timeout=30, check=True)
    assert said.stderr == "two"
    assert not first.exists()
    with pytest.raises(ServerFailed, match="undefined: nothing"):
        golang.build(_sources(tmp_path, "nothing()"), built=built, **about)
    with pytest.raises(Missing, match="apt-get install p"):
        golang.build(tmp_path, what="x", needs="example.invalid", package="p", built=built)
