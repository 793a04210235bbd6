"""The API of vCenter Server and ESXi: one session, and calls in it.

What is said here of the API follows the reference of the vSphere Web Services API.
"""

from __future__ import annotations

import functools
import logging
import ssl
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar
from xml.etree import ElementTree

from imgstore.drivers.vmware.errors import INSTALL, error_of, is_answer, may_pass
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
from imgstore.errors import StoreError
from imgstore.process import lazy
from imgstore.process.patience import noted
from imgstore.process.shared import Shared

LOG = logging.getLogger(__name__)

T = TypeVar("T")

_CONNECTIONS: Final = 32  # idle ones that are kept
_OLDEST: Final = "vim.version.version9"  # 5.5, for servers that do not say what they know


class Api:
    """The API for all threads of one store and process; nothing is connected yet."""

    def __init__(self, settings: Settings, versions: Callable[[], str]) -> None:
        """``versions`` fetches the document of the API's versions."""
        self._settings = settings
        self._stub_class = stub_class(lazy.load("pyVmomi.SoapAdapter", install=INSTALL))
        self._support = lazy.load("pyVmomi.VmomiSupport", install=INSTALL)
        self.vim: Any = lazy.load("pyVmomi", install=INSTALL).vim
        self.vmodl: Any = lazy.load("pyVmomi", install=INSTALL).vmodl
        fault = self.vim.fault.NotAuthenticated, self.vmodl.fault.ManagedObjectNotFound
        self._over: tuple[type[Exception], ...] = fault  # of a session or an object
        self._versions = versions
        self._login = Shared(self._log_in)
        self._is_closed = False
        self._version = ""

    def close(self) -> None:
        """Log out; a login that is under way may take long, so its thread does it then."""
        self._is_closed = True
        self._drop()

    def _drop(self, session: Session | None = None) -> None:
        """End the session, or no other than ``session``."""
        dropped = self._login.drop(session)
        if dropped is not None:
            end(dropped)

    def session(self, instead_of: Session | None = None) -> Session:
        """Return the session, a new one if it is one that the server knows no more."""
        if self._is_closed:
            raise StoreError("the store was closed meanwhile")
        try:
            if instead_of is not None:
                self._drop(instead_of)
            return self._login.get(instead_of=instead_of)
        finally:
            if self._is_closed:
                self._drop()

    def living(self, session: Session) -> Session:
        """Return a session if the server still knows it, another one otherwise.

        Of files it may refuse what the user has no privilege for; others use the session then.
        """
        try:
            is_known = session.content.sessionManager.currentSession is not None
        except self.vim.fault.NotAuthenticated:
            is_known = False
        return session if is_known else self.session(instead_of=session)

    def _log_in(self) -> Session:
        """Log in; those who wait for that can share no error but one of ours."""
        try:
            return self._begin()
        except Exception as exc:
            error = error_of(exc)
            if error is exc:
                raise
            raise error from exc

    def _begin(self) -> Session:
        settings = self._settings
        version = self._version = self._version or self._newest()
        stub = self._stub_class(
            host=settings.host,
            port=settings.port,
            version=version or _OLDEST,
            poolSize=_CONNECTIONS,
            connectionPoolTimeout=IDLE,
            httpConnectionTimeout=settings.connect_timeout,
            # Without one pyVmomi trusts any server that answers on this host.
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

        if not again:
            return once()
        return self._settings.patience.repeat(once, may_pass, noted(LOG, "a call of vSphere"))

    def retrieve(
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
