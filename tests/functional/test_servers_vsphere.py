"""The harness itself: a vCenter Server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from pyVmomi import vim, vmodl
from servers.datacenters import (
    datacenter_of,
    finished,
    managed,
    raw_vsphere,
    session_cookie,
    ticket_cookie,
)
from servers.process import until
from servers.vsphere import PASSWORD, USER, Datastore, VSphere

pytestmark = [pytest.mark.servers("vsphere"), pytest.mark.lab]

MIB = 1 << 20
DATA = bytes(range(256)) * 8192  # 2 MiB


class Client:
    """A session of the API, and requests for files with its cookie."""

    def __init__(self, server: VSphere, service: Any, web: requests.Session) -> None:
        self.server = server
        self.service = service
        self.web = web
        self.files = service.content.fileManager

    def ask(
        self,
        method: str,
        datastore: Datastore,
        path: str,
        data: Any = None,
        *,
        cookie: str | None = None,
        **headers: str,
    ) -> requests.Response:
        """Send a request for a file, with the session's cookie unless another one is given."""
        cookie = session_cookie(self.service) if cookie is None else cookie
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.web.request(
            method,
            datastore.url(path),
            data=data,
            headers={"Cookie": cookie, **sent} if cookie else sent,
            verify=str(self.server.ca),
            allow_redirects=False,
            timeout=30,
        )

    def move(self, datastore: Datastore, path: str, to: str, **options: Any) -> Any:
        """Return what became of a move in one datastore."""
        return finished(
            self.files.MoveDatastoreFile_Task(
                datastore.full(path),
                datacenter_of(self.service, datastore),
                datastore.full(to),
                **options,
            )
        )

    def delete(self, datastore: Datastore, path: str) -> Any:
        """Return what became of a removal."""
        center = datacenter_of(self.service, datastore)
        return finished(self.files.DeleteDatastoreFile_Task(datastore.full(path), center))

    def search(self, datastore: Datastore, path: str = "", *patterns: str) -> Any:
        """Return what became of a search."""
        flags = vim.host.DatastoreBrowser.FileInfo.Details(
            fileType=True, fileSize=True, fileOwner=False, modification=True
        )
        spec = vim.host.DatastoreBrowser.SearchSpec(matchPattern=list(patterns), details=flags)
        browser = managed(self.service, datastore).browser
        return finished(browser.SearchDatastore_Task(datastore.full(path), spec))


@pytest.fixture
def client(vsphere: VSphere) -> Iterator[Client]:
    with raw_vsphere(vsphere) as service, requests.Session() as web:
        web.trust_env = False
        yield Client(vsphere, service, web)


@pytest.fixture
def images(vsphere: VSphere) -> Datastore:
    return vsphere.datastore()


def test_inventory_has_the_same_names_twice(client: Client) -> None:
    """Each datastore is its own, although the other datacenter has one of the name."""
    find = client.service.content.searchIndex.FindByInventoryPath
    assert find("DC1") is None
    assert find("/F0/DC1") == find("F0/DC1")
    found = {managed(client.service, one)._moId for one in client.server.datastores}
    assert len(found) == len(client.server.datastores) == 6
    for number, one in enumerate(client.server.datastores):
        assert client.ask("PUT", one, "a file", b"%d" % number).status_code == 201
    assert [one.content("a file") for one in client.server.datastores] == [
        b"%d" % number for number in range(6)
    ]


def test_file_is_read_in_ranges(client: Client, images: Datastore) -> None:
    """Whatever its name is; a directory answers with a page, nothing with 404."""
    for path in ("dir/%41 & ü+?#", "plain"):
        assert client.ask("PUT", images, path, DATA).status_code == 201
        assert client.ask("GET", images, path).content == DATA
        part = client.ask("GET", images, path, Range="bytes=5-9")
        assert (part.status_code, part.content) == (206, DATA[5:10])
        assert part.headers["Content-Range"] == f"bytes 5-9/{len(DATA)}"
        assert client.ask("GET", images, path, Range=f"bytes={len(DATA)}-").status_code == 416
        head = client.ask("HEAD", images, path)
        assert (head.headers["Content-Length"], head.content) == (str(len(DATA)), b"")
    assert images.names() == ["dir/%41 & ü+?#", "plain"]
    page = client.ask("GET", images, "dir")
    assert (page.status_code, page.headers["Content-Type"][:9]) == (200, "text/html")
    assert client.ask("GET", images, "none").status_code == 404
    assert client.ask("PUT", images, "dir", b"").status_code == 405


def test_put_replaces_or_conflicts(client: Client, images: Datastore) -> None:
    """201 for a new file, then 200, or 409 where the server behaves so; chunked is as good."""
    assert client.ask("PUT", images, "d/one", iter([b"some", b"thing"])).status_code == 201
    assert client.server.requests.read("PUT")[0].headers["transfer-encoding"] == "chunked"
    assert client.ask("PUT", images, "d/one", b"other").status_code == 200
    assert images.content("d/one") == b"other"
    client.server.behave(conflict=True, parents=False)
    assert client.ask("PUT", images, "d/one", b"third").status_code == 409
    assert client.ask("PUT", images, "e/two", b"third").status_code == 404
    assert images.content("d/one") == b"other"


def test_datacenter_is_named_by_its_path(client: Client, images: Datastore) -> None:
    """A name alone, or none, is not found; neither is an unknown datastore."""
    twin = client.server.datastore("F0/DC1")
    twin.put("file", b"data")
    assert client.ask("GET", twin, "file").content == b"data"
    for query in ("dcPath=DC1&dsName=images", "dsName=images", "dcPath=DC0&dsName=none"):
        url = client.server.url(f"/folder/file?{query}")
        answer = client.web.get(url, auth=(USER, PASSWORD), verify=str(client.server.ca))
        assert answer.status_code == 404, query
    leading = client.server.url("/folder/file?dcPath=%2FF0%2FDC1&dsName=images")
    answer = client.web.get(leading, auth=(USER, PASSWORD), verify=str(client.server.ca))
    assert answer.content == b"data"


def test_delete_by_http(client: Client, images: Datastore) -> None:
    """204, then 404."""
    images.put("file", b"data")
    assert client.ask("DELETE", images, "file").status_code == 204
    assert client.ask("DELETE", images, "file").status_code == 404
    assert images.names() == []


def test_files_are_closed_to_strangers(client: Client, images: Datastore) -> None:
    """A wrong password, an ended session or no cookie at all is 401, with nothing written."""
    url, ca = images.url("file"), str(client.server.ca)
    put = client.web.put(url, b"data", auth=(USER, PASSWORD), verify=ca)
    assert put.status_code == 201
    logged = client.server.requests.read("PUT")[-1]
    assert logged.password
    assert logged.headers["authorization"].startswith("Basic ")
    assert client.web.put(url, b"no", auth=(USER, "wrong"), verify=ca).status_code == 401
    cookie = session_cookie(client.service)
    assert client.ask("GET", images, "file", cookie=cookie).status_code == 200
    client.server.expire()
    for refused in ("", cookie, 'vmware_soap_session="none"'):
        assert client.ask("PUT", images, "file", b"no", cookie=refused).status_code == 401
    assert not client.server.requests.read("PUT")[-1].password
    assert images.content("file") == b"data"


def test_ticket_is_for_one_request(client: Client, images: Datastore) -> None:
    """It opens just the URL and the method that it was asked for, once, without a session."""
    url = images.url("file")
    good = ticket_cookie(client.service, "PUT", url)
    assert client.ask("PUT", images, "file", b"data", cookie=good).status_code == 201
    assert client.ask("PUT", images, "file", b"more", cookie=good).status_code == 401
    for asked, where in (("PUT", url), ("GET", images.url("other"))):
        wrong = ticket_cookie(client.service, asked, where)
        assert client.ask("GET", images, "file", cookie=wrong).status_code == 401
    late = ticket_cookie(client.service, "GET", url)
    client.server.expire()
    assert client.ask("GET", images, "file", cookie=late).content == b"data"


def test_api_wants_a_login(vsphere: VSphere) -> None:
    """A wrong password is InvalidLogin; without a session there is nothing to see."""
    with pytest.raises(vim.fault.InvalidLogin), raw_vsphere(vsphere, password="wrong"):
        pass
    with raw_vsphere(vsphere) as service:
        index = service.content.searchIndex
        vsphere.expire()
        for call in (
            lambda: index.FindByInventoryPath("DC0"),
            lambda: service.content.rootFolder.name,
            service.CurrentTime,
        ):
            with pytest.raises(vim.fault.NotAuthenticated):
                call()
        service.content.sessionManager.Login(vsphere.user, vsphere.password)
        assert index.FindByInventoryPath("DC0").name == "DC0"
    assert vsphere.requests.read("Login")[-1].password
    assert not any(one.password for one in vsphere.requests.read("Fetch"))


def test_session_ends_when_idle_or_terminated(client: Client, vsphere: VSphere) -> None:
    """One is ended by another user's call, or by itself when nobody used it."""
    key = client.service.content.sessionManager.currentSession.key
    with raw_vsphere(vsphere) as other:
        # Those that other tests left may be there as well.
        assert {key, other.content.sessionManager.currentSession.key} <= set(vsphere.sessions())
        other.content.sessionManager.TerminateSession([key])
        assert key not in vsphere.sessions()
        with pytest.raises(vim.fault.NotAuthenticated):
            client.service.CurrentTime()
        vsphere.behave(idle_seconds=0.3)
        other.CurrentTime()
        time.sleep(0.5)
        with pytest.raises(vim.fault.NotAuthenticated):
            other.CurrentTime()


def test_free_space_is_what_files_leave(client: Client, images: Datastore) -> None:
    """The API says so at once; capacity, accessibility and maintenance are as they were set."""
    seen = managed(client.service, images)
    images.resize(capacity=10 * MIB, free=4 * MIB)
    assert (seen.summary.capacity, seen.summary.freeSpace) == (10 * MIB, 4 * MIB)
    client.ask("PUT", images, "file", DATA)
    assert seen.summary.freeSpace == 2 * MIB
    images.put("other", b"x" * MIB)
    seen.RefreshDatastore()
    assert seen.summary.freeSpace == MIB
    client.delete(images, "file")
    client.ask("DELETE", images, "other")
    assert seen.summary.freeSpace == 4 * MIB
    images.change(accessible=False, maintenance="inMaintenance")
    assert (seen.summary.accessible, seen.summary.maintenanceMode) == (False, "inMaintenance")
    assert client.ask("GET", images, "file").status_code == 500
    error = client.delete(images, "file").error
    assert isinstance(error, vim.fault.InaccessibleDatastore)
    client.server.heal()
    assert (seen.summary.accessible, seen.summary.maintenanceMode) == (True, "normal")


@pytest.mark.parametrize("chunked", [False, True])
def test_full_datastore_answers_507(client: Client, images: Datastore, *, chunked: bool) -> None:
    """What fits stays as a partial file."""
    images.resize(free=MIB)
    body = iter([DATA]) if chunked else DATA
    assert client.ask("PUT", images, "file", body).status_code == 507
    assert images.content("file") == DATA[:MIB]
    assert managed(client.service, images).summary.freeSpace == 0


def test_move_is_exclusive(client: Client, images: Datastore) -> None:
    """Of two moves to one name one fails with FileAlreadyExists, unless it is forced."""
    for name in ("a", "b", "c"):
        images.put(name, name.encode())
    center = datacenter_of(client.service, images)
    tasks = [
        client.files.MoveDatastoreFile_Task(images.full(name), center, images.full("to"))
        for name in ("a", "b")
    ]
    ends = [finished(task) for task in tasks]
    assert sorted(end.state for end in ends) == ["error", "success"]
    failed = next(end for end in ends if end.state == "error")
    assert isinstance(failed.error, vim.fault.FileAlreadyExists)
    assert failed.error.file == images.full("to")
    assert client.move(images, "c", "to", force=False).state == "error"
    assert client.move(images, "c", "to", force=True).state == "success"
    assert images.content("to") == b"c"
    assert len(images.names()) == 2


def test_what_is_missing_is_not_found(client: Client, images: Datastore) -> None:
    """Neither deleted, nor moved, nor the directory that is moved to, nor searched."""
    images.put("file", b"data")
    for end in (
        client.delete(images, "none"),
        client.move(images, "none", "to"),
        client.move(images, "file", "none/to"),
        client.search(images, "none"),
    ):
        assert isinstance(end.error, vim.fault.FileNotFound)
        assert "none" in end.error.file
    assert isinstance(client.delete(images, "").error, vim.fault.InvalidDatastorePath)
    assert images.names() == ["file"]


def test_directories(client: Client, images: Datastore) -> None:
    """One is made once, with its parents on request, and removed with all that is in it."""
    make = client.files.MakeDirectory
    center = datacenter_of(client.service, images)
    with pytest.raises(vim.fault.FileNotFound):
        make(images.full("a/b"), center)
    make(images.full("a/b"), center, createParentDirectories=True)
    with pytest.raises(vim.fault.FileAlreadyExists):
        make(images.full("a/b"), center, createParentDirectories=True)
    images.put("a/b/file", b"data")
    assert client.delete(images, "a").state == "success"
    assert list(images.root.iterdir()) == []


def test_file_that_is_being_written_is_locked(client: Client, images: Datastore) -> None:
    """It is neither moved nor deleted."""
    client.server.stall("PUT", MIB)
    put = threading.Thread(target=client.ask, args=("PUT", images, "file", DATA))
    put.start()
    until(lambda: images.content("file") == DATA[:MIB], seconds=10, what="half of it is there")
    for end in (client.move(images, "file", "to"), client.delete(images, "file")):
        assert isinstance(end.error, vim.fault.FileLocked)
    client.server.release()
    put.join(20)
    assert client.move(images, "file", "to").state == "success"
    assert images.content("to") == DATA


def test_search_finds_what_was_put(client: Client, images: Datastore) -> None:
    """With its size, by a pattern or all of a directory."""
    client.ask("PUT", images, "dir/one", b"data")
    client.ask("PUT", images, "dir/two.part", b"")
    found = client.search(images, "dir", "one").result
    assert found.folderPath == images.full("dir/")
    assert [(one.path, one.fileSize) for one in found.file] == [("one", 4)]
    assert found.file[0].modification is not None
    assert [one.path for one in client.search(images, "dir").result.file] == ["one", "two.part"]
    (directory,) = client.search(images).result.file
    assert isinstance(directory, vim.host.DatastoreBrowser.FolderInfo)
    browser = managed(client.service, images).browser
    deep = finished(browser.SearchDatastoreSubFolders_Task(images.full())).result
    assert {one.folderPath for one in deep} == {images.full(), images.full("dir/")}


def wait_for(service: Any, task: Any) -> list[str]:
    """Return the states of a task that the server tells of, by a collector of this call's own."""
    collector = service.content.propertyCollector.CreatePropertyCollector()
    properties = vmodl.query.PropertyCollector.PropertySpec(
        type=vim.Task, pathSet=["info.state", "info.error"]
    )
    subject = vmodl.query.PropertyCollector.ObjectSpec(obj=task)
    spec = vmodl.query.PropertyCollector.FilterSpec(propSet=[properties], objectSet=[subject])
    collector.CreateFilter(spec, partialUpdates=True)
    states: list[str] = []
    version = ""
    try:
        while not states or states[-1] in ("queued", "running"):
            options = vmodl.query.PropertyCollector.WaitOptions(maxWaitSeconds=10)
            update = collector.WaitForUpdatesEx(version, options)
            assert update is not None
            version = update.version
            changes = update.filterSet[0].objectSet[0].changeSet
            states += [change.val for change in changes if change.name == "info.state"]
    finally:
        collector.DestroyPropertyCollector()
    return states


def test_slow_task_is_waited_for(client: Client, images: Datastore) -> None:
    """Updates come to everyone who waits, also in one session, and none is lost."""
    client.server.slow("DeleteDatastoreFile_Task", 0.5)
    center = datacenter_of(client.service, images)
    ends: dict[str, list[str]] = {}

    def delete(name: str) -> None:
        task = client.files.DeleteDatastoreFile_Task(images.full(name), center)
        ends[name] = wait_for(client.service, task)

    images.put("file", b"data")
    threads = [threading.Thread(target=delete, args=(name,)) for name in ("file", "none")]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert time.monotonic() - began >= 0.5
    assert {name: states[-1] for name, states in ends.items()} == {
        "file": "success",
        "none": "error",
    }
    assert client.server.requests.read("WaitForUpdatesEx")


def test_wait_ends_with_its_session_and_its_time(client: Client, images: Datastore) -> None:
    """Without news there is no answer but None; the end of the session is told to who waits."""
    client.server.slow("DeleteDatastoreFile_Task", 20)
    center = datacenter_of(client.service, images)
    task = client.files.DeleteDatastoreFile_Task(images.full("none"), center)
    collector = client.service.content.propertyCollector
    about = vmodl.query.PropertyCollector
    spec = about.FilterSpec(
        propSet=[about.PropertySpec(type=vim.Task, pathSet=["info.state"])],
        objectSet=[about.ObjectSpec(obj=task)],
    )
    collector.CreateFilter(spec, partialUpdates=True)
    version = collector.WaitForUpdatesEx("").version
    options = about.WaitOptions(maxWaitSeconds=1)
    until(
        lambda: collector.WaitForUpdatesEx(version, options) is None or task.info.state != "queued",
        seconds=10,
        what="the task runs",
    )
    timer = threading.Timer(0.3, client.server.expire)
    timer.start()
    with pytest.raises(vim.fault.NotAuthenticated):
        collector.WaitForUpdatesEx(collector.WaitForUpdatesEx("").version)
    timer.join()


def test_tasks_fail_as_they_are_told(client: Client, images: Datastore) -> None:
    """Before or after their work; a call that is refused does nothing."""
    server = client.server
    images.put("file", b"data")
    server.fail("DeleteDatastoreFile_Task", "CannotDeleteFile")
    assert isinstance(client.delete(images, "file").error, vim.fault.CannotDeleteFile)
    server.fail("MoveDatastoreFile_Task", "HostCommunication", done=True)
    assert isinstance(client.move(images, "file", "to").error, vmodl.fault.HostCommunication)
    assert images.names() == ["to"]
    server.refuse("MoveDatastoreFile_Task", "NotAuthenticated", nth=2)
    assert client.move(images, "to", "file").state == "success"
    with pytest.raises(vim.fault.NotAuthenticated):
        client.move(images, "file", "to")
    server.refuse("MakeDirectory", "NoPermission")
    with pytest.raises(vim.fault.NoPermission):
        client.files.MakeDirectory(images.full("d"), datacenter_of(client.service, images))
    assert images.names() == ["file"]
    assert list(images.root.iterdir()) == [images.root / "file"]
