"""What a store does with the files and directories of its datastores."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from imgstore.drivers._placement import Candidate
from imgstore.drivers._told import not_told, told
from imgstore.drivers.vmware.errors import SERVICE
from imgstore.drivers.vmware.files import Files
from imgstore.drivers.vmware.places import Datastore, Place
from imgstore.drivers.vmware.sessions import Session
from imgstore.drivers.vmware.settings import Settings
from imgstore.drivers.vmware.tasks import Tasks
from imgstore.errors import NotFound, Unavailable

LOG = logging.getLogger(__name__)

_NORMAL: Final = "normal"


class Datastores:
    """The datastores of one store, as one process sees them."""

    def __init__(self, settings: Settings) -> None:
        """Connect to nothing yet."""
        self.settings = settings
        self.files = Files(settings)
        self.api = self.files.api
        self._tasks = Tasks(settings, self.api)
        self._made: set[tuple[str, str]] = set()  # with the directory for images

    def close(self) -> None:
        """Log out and close the connections."""
        self.files.close()

    def place(self, datastore: Datastore, name: str) -> Place:
        """Return a file in the directory for images."""
        settings = self.settings
        return Place(settings.service, datastore, f"{settings.directory}/{name}")

    # Where images go.

    def candidates(self) -> list[Candidate[Datastore]]:
        """Return the datastores that can be used now; raises Unavailable if there are none."""
        candidates, faults = [], []
        found = self._look()
        for datastore, weight in self.settings.datastores:
            fault = _fault(found[datastore.key])
            if fault:
                faults.append(f"{datastore}: {fault}")
            else:
                free = int(told(found[datastore.key], "summary.freeSpace", service=SERVICE))
                candidates.append(Candidate(datastore, weight, functools.partial(int, free)))
        if not candidates:
            raise Unavailable(f"no datastore can be used: {', '.join(faults)}")
        return candidates

    def faults(self) -> Iterator[tuple[Datastore, str]]:
        """Yield each datastore and why it cannot be used, which is empty where it can."""
        found = self._look()
        for datastore, _ in self.settings.datastores:
            yield datastore, _fault(found[datastore.key])

    def _look(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return what the server says now of each datastore, or a "fault" where it says nothing."""
        names: dict[str, list[str]] = {}
        for datastore, _ in self.settings.datastores:
            names.setdefault(datastore.key[0], []).append(datastore.name)
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for path, listed in names.items():
            fault = "its datacenter has no such datastore, or none that this user may see"
            said: dict[str, dict[str, Any]] = {}
            try:
                said = self.api.call(functools.partial(self._find, path=path, names=listed))
            except NotFound as exc:  # the datacenter
                fault = exc.reason
            found.update({(path, name): said.get(name, {"fault": fault}) for name in listed})
        return found

    def _center(self, session: Session, path: str) -> Any:
        """Return a datacenter by its path in the inventory; raises NotFound."""
        found = session.datacenters.get(path)
        if found is None:
            found = session.content.searchIndex.FindByInventoryPath(path)
            if not isinstance(found, self.api.vim.Datacenter):
                raise NotFound(
                    f"the server has no datacenter {path!a}",
                    remedy="write its path, with the folders that it is in",
                )
            session.datacenters[path] = found
        return found

    def _find(
        self, session: Session, path: str, names: Collection[str]
    ) -> dict[str, dict[str, Any]]:
        """Return what counts of the datastores of a datacenter that have these names."""
        known = session.datastores.get(path, [])
        found = self._describe(session, known)
        if not found.keys() >= set(names):  # a datacenter may have hundreds
            center = self._center(session, path)
            found = self._describe(session, center.datastore)
            wanted = {name: found[name] for name in names if name in found}
            session.datastores[path] = [each["datastore"] for each in wanted.values()]
        return {name: found[name] for name in names if name in found}

    def _describe(self, session: Session, datastores: Sequence[Any]) -> dict[str, dict[str, Any]]:
        """Return name, state and free space of datastores, by their names."""
        if not datastores:
            return {}
        spec = self.api.vmodl.query.PropertyCollector
        names = ("name", "accessible", "maintenanceMode", "freeSpace")
        wanted = spec.PropertySpec(
            type=self.api.vim.Datastore, pathSet=[f"summary.{name}" for name in names]
        )
        objects = [spec.ObjectSpec(obj=each) for each in datastores]
        asked = spec.FilterSpec(objectSet=objects, propSet=[wanted])
        found = self.api.retrieve(session, asked, is_all_needed=False)
        return {
            properties["summary.name"]: {**properties, "datastore": each}
            for each, properties in found
            if "summary.name" in properties  # others are not for this user
        }

    # Files.

    def make_directory(self, datastore: Datastore, *, anew: bool = False) -> None:
        """Make the directory for images where it is missing; ask only once unless ``anew``."""
        if datastore.key in self._made and not anew:
            return
        full = self.place(datastore, "").full.rstrip("/")

        def make(session: Session) -> None:
            center = self._center(session, datastore.key[0])
            session.content.fileManager.MakeDirectory(full, center, createParentDirectories=True)

        with contextlib.suppress(self.api.vim.fault.FileAlreadyExists):
            self.api.call(make)
        self._made.add(datastore.key)

    def move(self, place: Place, to: Place) -> None:
        """Rename a file, once; raises DoubtfulError where it may be, or become, renamed."""

        def start(session: Session) -> Any:
            center = self._center(session, place.datastore.key[0])
            return session.content.fileManager.MoveDatastoreFile_Task(
                place.full, center, to.full, center, False
            )

        self._tasks.commit(start)

    def delete(self, place: Place) -> None:
        """Delete a file, once; raises DoubtfulError where it may be, or become, deleted."""

        def start(session: Session) -> Any:
            center = self._center(session, place.datastore.key[0])
            return session.content.fileManager.DeleteDatastoreFile_Task(place.full, center)

        self._tasks.commit(start)

    def copy(self, place: Place, to: Place) -> None:
        """Let the server copy a file."""

        def start(session: Session) -> Any:
            return session.content.fileManager.CopyDatastoreFile_Task(
                place.full,
                self._center(session, place.datastore.key[0]),
                to.full,
                self._center(session, to.datastore.key[0]),
                False,
            )

        self._tasks.run(start, again=False)

    def search(self, pattern: str, *, but: Datastore | None = None) -> Iterator[tuple[Place, Any]]:
        """Yield the files of a pattern in all datastores that can be used now, ``but`` one.

        With each comes what the server says of it.
        """
        found = self._look()
        for datastore, _ in self.settings.datastores:
            if but is not None and datastore.key == but.key:
                continue
            said = found[datastore.key]
            if not (fault := _fault(said)):
                for each in self._search(datastore, said, pattern):
                    yield self.place(datastore, each.path), each
            elif but is None:
                LOG.warning("datastore %s is not searched for leftovers: %s", datastore, fault)

    def _search(self, datastore: Datastore, said: dict[str, Any], pattern: str) -> list[Any]:
        vim = self.api.vim.host.DatastoreBrowser
        details = vim.FileInfo.Details(
            fileType=False, fileSize=True, fileOwner=False, modification=True
        )
        spec = vim.SearchSpec(matchPattern=[pattern], details=details)
        full = self.place(datastore, "").full.rstrip("/")

        def start(session: Session) -> Any:
            mine = self.api.vim.Datastore(said["datastore"]._GetMoId(), session.stub)
            return mine.browser.SearchDatastore_Task(full, spec)

        try:
            found = self._tasks.run(start)
        except self.api.vim.fault.FileNotFound:
            return []
        if found is None:
            raise not_told("result of a search", service=SERVICE)
        return list(found.file)

    def now(self) -> datetime:
        """Return the server's time."""
        instance = self.api.vim.ServiceInstance
        now: datetime = self.api.call(
            lambda session: instance("ServiceInstance", session.stub).CurrentTime()
        )
        return now


def _fault(said: dict[str, Any]) -> str:
    """Return why a datastore cannot be used."""
    if "fault" in said:
        return str(said["fault"])
    if not told(said, "summary.accessible", service=SERVICE):
        return "it is not accessible"
    mode = said.get("summary.maintenanceMode") or _NORMAL
    if mode != _NORMAL:
        return f"it is in maintenance ({mode})"
    return ""
