"""The API of vCenter Server and ESXi: one session, and calls and tasks in it.

What is said here of the API follows the reference of the vSphere Web Services API.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Final, TypeVar
from xml.etree import ElementTree

from imgstore.drivers.vmware.faults import INSTALL, Patience, error_of, is_answer
from imgstore.drivers.vmware.sessions import (
    IDLE,
    Connection,
    Session,
    begin,
    end,
    forget,
    stub_class,
)
from imgstore.drivers.vmware.settings import Settings
from imgstore.errors import ImgStoreError, NotFound, StoreError, TimedOut
from imgstore.process import lazy

T = TypeVar("T")

_CONNECTIONS: Final = 32  # idle ones that are kept
_TASK_PATIENCE: Final = 10  # read time-outs until a task that does not end is given up
_CANCELLING: Final = 10.0  # seconds that a task is waited for that was cancelled
_PAUSE: Final = 0.2  # seconds between looks where the server cannot be left waiting
_OLDEST: Final = "vim.version.version9"  # 5.5, for servers that do not say what they know


class Api:
    """The API for all threads of one store and process; nothing is connected yet."""

    def __init__(self, settings: Settings, patience: Patience, versions: Callable[[], str]) -> None:
        """``versions`` fetches the document of the API's versions."""
        self._settings = settings
        self._patience = patience
        self._soap = lazy.load("pyVmomi.SoapAdapter", install=INSTALL)
        self._support = lazy.load("pyVmomi.VmomiSupport", install=INSTALL)
        self.vim: Any = lazy.load("pyVmomi", install=INSTALL).vim
        self.vmodl: Any = lazy.load("pyVmomi", install=INSTALL).vmodl
        fault = self.vim.fault.NotAuthenticated, self.vmodl.fault.ManagedObjectNotFound
        self._over: tuple[type[Exception], ...] = fault  # of a session or an object
        self._versions = versions
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._failures = 0  # of logins
        self._last_failure: ImgStoreError = StoreError()
        self._is_closed = False
        self._version = ""

    def close(self) -> None:
        """Log out; a login that is under way may take long, so its thread does it then."""
        self._is_closed = True
        if not self._lock.acquire(blocking=False):
            return
        try:
            session, self._session = self._session, None
            if session is not None:
                end(session)
        finally:
            self._lock.release()

    def session(self, instead_of: Session | None = None) -> Session:
        """Return the session, a new one if it is one that the server knows no more."""
        try:
            return self._current(instead_of)
        finally:
            if self._is_closed:
                self.close()

    def _current(self, instead_of: Session | None) -> Session:
        failures = self._failures
        with self._lock:
            if self._is_closed:
                raise StoreError("the store was closed meanwhile")
            if self._session is instead_of:
                self._session = None
                if instead_of is not None:
                    end(instead_of)
            if self._session is None:
                if self._failures > failures:  # while this thread waited
                    last = self._last_failure
                    raise type(last)(last.reason, remedy=last.remedy)
                self._session = self._log_in_or_note()
            return self._session

    def living(self, session: Session) -> Session:
        """Return a session if the server still knows it, another one otherwise.

        Of files it may refuse what the user has no privilege for; others use the session then.
        """
        try:
            is_known = session.content.sessionManager.currentSession is not None
        except self.vim.fault.NotAuthenticated:
            is_known = False
        return session if is_known else self.session(instead_of=session)

    def _log_in_or_note(self) -> Session:
        """Log in; who waits for a login that fails is not to try it as long again."""
        try:
            return self._log_in()
        except Exception as exc:
            error = error_of(exc)
            self._last_failure = type(error)(error.reason, remedy=error.remedy)
            self._failures += 1
            raise

    def _log_in(self) -> Session:
        settings = self._settings
        version = self._version = self._version or self._newest()
        stub = self._stub_class(
            host=settings.host,
            port=settings.port,
            version=version or _OLDEST,
            poolSize=_CONNECTIONS,
            connectionPoolTimeout=IDLE,
            httpConnectionTimeout=settings.connect_timeout,
            # Without one pyVmomi trusts whoever answers on this host.
            sslContext=self._context,
        )
        stub.scheme = functools.partial(Connection, read_timeout=settings.read_timeout)
        session = None
        try:
            content = self.vim.ServiceInstance("ServiceInstance", stub).RetrieveContent()
            session = begin(Session(stub, content), self)
            content.sessionManager.Login(settings.username, settings.password.reveal())
        except BaseException as exc:
            stub.DropConnections()
            if session is not None:  # at the server, unless it has said that it is not
                forget(session) if is_answer(exc) or not stub.cookie else end(session, hurry=True)
            raise
        settings.redaction.learn(session.cookie, session.cookie.partition("=")[2].strip('"'))
        return session

    @functools.cached_property
    def _stub_class(self) -> Any:
        return stub_class(self._soap)

    @functools.cached_property
    def _context(self) -> ssl.SSLContext:
        verify = self._settings.verify
        if isinstance(verify, str):
            return ssl.create_default_context(cafile=verify)
        # Files and calls trust the same authorities.
        bundle = lazy.load("requests.certs", install=INSTALL).where()
        context = ssl.create_default_context(cafile=bundle)
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _newest(self) -> str:
        """Return the newest version of the API that both sides know, nothing if it is not said."""
        try:
            document = ElementTree.fromstring(self._versions())  # noqa: S314  # expat bounds it
        except ElementTree.ParseError:
            return ""
        known = {element.text for element in document.iter("version")}
        for version in self._support.GetServiceVersions("vim25"):
            if self._support.versionIdMap.get(version) in known:
                return str(version)
        return ""

    # Calls.

    def call(self, ask: Callable[[Session], T], *, again: bool = True) -> T:
        """Return what a call returns; it is made anew when the session turns out to be over.

        ``again`` says that it may also be made anew when it is not known whether it was made.
        """

        def once() -> T:
            session = self.session()
            try:
                return ask(session)
            except self.vim.fault.NotAuthenticated:
                session = self.session(instead_of=session)
            except self.vmodl.fault.ManagedObjectNotFound:
                if not session.forget():
                    raise
            return ask(session)

        return self._patience.repeat(once) if again else once()

    def datacenter(self, session: Session, path: str) -> Any:
        """Return a datacenter by its path in the inventory; raises NotFound."""
        found = session.datacenters.get(path)
        if found is None:
            found = session.content.searchIndex.FindByInventoryPath(path)
            if not isinstance(found, self.vim.Datacenter):
                raise NotFound(
                    f"the server has no datacenter {path!a}",
                    remedy="write its path, with the folders that it is in",
                )
            session.datacenters[path] = found
        return found

    def datastores(
        self, session: Session, path: str, names: Collection[str]
    ) -> dict[str, dict[str, Any]]:
        """Return what counts of the datastores of a datacenter that have these names."""
        known = session.datastores.get(path, [])
        found = self._describe(session, known)
        if not found.keys() >= set(names):  # a datacenter may have hundreds
            center = self.datacenter(session, path)
            found = self._describe(session, center.datastore)
            wanted = {name: found[name] for name in names if name in found}
            session.datastores[path] = [each["datastore"] for each in wanted.values()]
        return {name: found[name] for name in names if name in found}

    def _describe(self, session: Session, datastores: Sequence[Any]) -> dict[str, dict[str, Any]]:
        """Return name, state and free space of datastores, by their names."""
        if not datastores:
            return {}
        spec = self.vmodl.query.PropertyCollector
        names = ("name", "accessible", "maintenanceMode", "freeSpace")
        wanted = spec.PropertySpec(
            type=self.vim.Datastore, pathSet=[f"summary.{name}" for name in names]
        )
        objects = [spec.ObjectSpec(obj=each) for each in datastores]
        asked = spec.FilterSpec(objectSet=objects, propSet=[wanted])
        found = self._retrieve(session, asked, is_all_needed=False)
        return {
            properties["summary.name"]: {**properties, "datastore": each}
            for each, properties in found
            if "summary.name" in properties  # others are not for this user
        }

    def _retrieve(
        self, session: Session, wanted: Any, *, is_all_needed: bool = True
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Yield each object and its properties; raises what hinders the server to tell them."""
        collector = session.content.propertyCollector
        options = self.vmodl.query.PropertyCollector.RetrieveOptions()
        page = collector.RetrievePropertiesEx([wanted], options)
        while page is not None:
            for each in page.objects:
                # Some versions answer so in a session that is over.
                for missing in each.missingSet or ():
                    if is_all_needed or isinstance(missing.fault, self._over):
                        raise missing.fault
                yield each.obj, {prop.name: prop.val for prop in each.propSet}
            page = collector.ContinueRetrievePropertiesEx(page.token) if page.token else None

    # Tasks.

    def run(
        self,
        start: Callable[[Session], Any],
        *,
        again: bool = True,
        cancels: bool = False,
        doubts: list[Exception] | None = None,
    ) -> Any:
        """Start a task, wait for its end, and return its result; raises what it failed with.

        ``cancels`` says that a task of which no end is seen is to be cancelled; one that is
        interrupted is in any case. To ``doubts`` goes an exception after which the task may be
        done, or become done later.
        """
        task = None
        try:
            task = self.call(start, again=again)._GetMoId()
            found = self._end_of(task)
        except BaseException as exc:
            if doubts is not None and isinstance(exc, Exception) and (task or not is_answer(exc)):
                doubts.append(exc)
            if task and (cancels or not isinstance(exc, Exception)):
                self._cancel(task)
            raise
        if found["info.state"] == self.vim.TaskInfo.State.success:
            return found.get("info.result")
        failure: Exception = found["info.error"]
        if doubts is not None and not is_answer(failure):
            doubts.append(failure)
        raise failure

    def _cancel(self, task: str) -> None:
        """Cancel a task, and wait a little until it is over."""
        with contextlib.suppress(Exception):
            self.call(lambda session: self._task(session, task).CancelTask(), again=False)
            end = time.monotonic() + _CANCELLING
            while not self._is_over(self.call(lambda session: self._about(session, task))):
                if time.monotonic() > end:
                    return
                time.sleep(_PAUSE)

    def _is_over(self, found: dict[str, Any]) -> bool:
        state = self.vim.TaskInfo.State
        return found["info.state"] in {state.success, state.error}

    def _task(self, session: Session, task: str) -> Any:
        return self.vim.Task(task, session.stub)

    def _end_of(self, task: str) -> dict[str, Any]:
        """Wait until a task is over; return what is to be known of it."""
        patience = _TASK_PATIENCE * self._settings.read_timeout
        progress = None
        end = time.monotonic() + patience
        while True:
            found = self.call(lambda session: self._about(session, task))
            if self._is_over(found):
                return found
            if found.get("info.progress") != progress:
                end, progress = time.monotonic() + patience, found.get("info.progress")
            if time.monotonic() > end:
                raise TimedOut(f"a task of the server makes no progress for {patience:g} s")
            self.call(lambda session: self._watch(session, task))

    def _about(self, session: Session, task: str) -> dict[str, Any]:
        """Return the properties of a task that count; whom it is for does not."""
        spec = self.vmodl.query.PropertyCollector
        names = [f"info.{name}" for name in ("state", "error", "result", "progress")]
        wanted = spec.PropertySpec(type=self.vim.Task, pathSet=names)
        of_task = spec.ObjectSpec(obj=self._task(session, task))
        asked = spec.FilterSpec(objectSet=[of_task], propSet=[wanted])
        ((_, found),) = self._retrieve(session, asked)
        return found

    def _watch(self, session: Session, task: str) -> None:
        """Wait until a task is over, or until it is time for another look."""
        settings = self._settings
        seconds = int(min(settings.poll_interval, settings.read_timeout / 2))
        if not seconds:
            time.sleep(_PAUSE)
            return
        spec = self.vmodl.query.PropertyCollector
        of_task = spec.ObjectSpec(obj=self._task(session, task))
        state = spec.PropertySpec(type=self.vim.Task, pathSet=["info.state"])
        over = {self.vim.TaskInfo.State.success, self.vim.TaskInfo.State.error}
        # Of its own: those who wait for different tasks do not get each other's updates.
        collector = session.content.propertyCollector.CreatePropertyCollector()
        try:
            collector.CreateFilter(
                spec.FilterSpec(objectSet=[of_task], propSet=[state]), partialUpdates=False
            )
            version, options = "", spec.WaitOptions(maxWaitSeconds=seconds)
            # The first update is how things are; None is that nothing changed.
            while update := collector.WaitForUpdatesEx(version, options):
                version = update.version
                if over & {change.val for change in _changes(update)}:
                    return
        finally:
            with contextlib.suppress(Exception):
                collector.DestroyPropertyCollector()


def _changes(update: Any) -> Iterator[Any]:
    for each in update.filterSet:
        for changed in each.objectSet:
            yield from changed.changeSet
