"""One HTTP request at a time over pooled connections that go where they were checked to go.

An adapter of requests is used without a requests.Session: a session would read proxies, CA bundles
and passwords from the environment, keep cookies, and load the bodies of redirects.

requests, urllib3 and http.client each parse URLs in ways of their own. Here none of them decides
anything: host and port of the pool, the Host field, the target of the request and the proxy are
those of the Url that was checked.

requests and urllib3 put URLs into their log lines and exceptions. Here they only ever see a URL
without its query; the full target of a request travels in a header of its own to the connection,
which takes it out again. So a signature in a query cannot be logged, whatever level is set.
"""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from imgstore.drivers._http.answers import Answer
from imgstore.drivers._http.errors import causes_of
from imgstore.drivers._http.guard import AddressGuard
from imgstore.drivers._http.urls import INSTALL, Url
from imgstore.process import lazy

if TYPE_CHECKING:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.connection import HTTPConnection

    _ConnectionBase = HTTPConnection
    _AdapterBase = HTTPAdapter
else:
    _ConnectionBase = _AdapterBase = object

_TARGET: Final = "Imgstore-Target"  # never sent: _Connection takes it out
_HOSTS: Final = 16  # whose idle connections are kept
_CONNECTIONS: Final = 32  # idle ones kept per host
_CONTINUE: Final = "100-continue"
_WAIT: Final = 1.0  # seconds to wait for an answer before a body is sent
_STALE: Final = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)


class Transport:
    """Sends requests; ``verify`` is a CA file, or whether to verify by the default bundle.

    ``proxies`` maps schemes to the proxies to ask, whose URLs may have credentials.
    ``connect_timeout`` (seconds) bounds connecting, the TLS handshake and a proxy's answer each,
    ``read_timeout`` the wait for a complete head and for every piece of a body. Resolving a name
    takes as long as the system's resolver allows.
    """

    def __init__(
        self,
        *,
        guard: AddressGuard,
        verify: str | bool,
        proxies: Mapping[str, Url],
        connect_timeout: float,
        read_timeout: float,
    ) -> None:
        """Load requests; nothing is connected yet."""
        self._requests = lazy.load("requests", install=INSTALL)
        self._guard = guard
        self._verify = verify
        self._proxies = dict(proxies)
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._adapter = _adapter(guard, read_timeout, self._proxies)

    def send(
        self, method: str, url: Url, headers: Mapping[str, str], body: Iterable[bytes] | None = None
    ) -> requests.Response:
        """Send one request and return the answer, its body unread; redirects are answers.

        A ``body`` is sent in chunks unless ``headers`` have its Content-Length. With "Expect:
        100-continue" (RFC 9110 10.1.1) the server has a second to answer before it is begun.
        Raises PermissionDenied where the guard refuses host or address, and what requests raises.
        """
        self._guard.check_host(url.host)
        if url.scheme in self._proxies:
            # The proxy connects, to what it resolves itself; what is known here is checked.
            self._guard.check_proxied(url)
        request = self._request(method, url, headers, body)
        began = time.monotonic()
        try:
            return self._send(request, self._read_timeout)
        except self._requests.ConnectionError as exc:
            left = self._read_timeout - (time.monotonic() - began)
            stale = any(isinstance(cause, _STALE) for cause in causes_of(exc))
            if not stale or left <= 0 or method not in {"GET", "HEAD"}:
                raise
        # A server closes idle connections when it likes, also while one is being used again.
        return self._send(request, left)

    def _request(
        self, method: str, url: Url, headers: Mapping[str, str], body: Iterable[bytes] | None
    ) -> Any:
        usual = {"User-Agent": "imgstore", "Accept-Encoding": "identity", "Accept": "*/*"}
        sent = {**usual, "Host": url.host_field, **headers}
        request: Any = self._requests.Request(method, "http://localhost/", headers=sent).prepare()
        request.url = url.text  # verbatim: preparing would rewrite it, and signatures cover it
        request.destination = url
        request.peer = self._proxies.get(url.scheme, url)  # whom errors name
        if body is not None:  # of which preparing would look for the length
            request.body = body
            if "Content-Length" not in headers:
                del request.headers["Content-Length"]
        return request

    def _send(self, request: Any, seconds: float) -> requests.Response:
        """Send a request, whose answer's head has that many seconds."""
        return self._adapter.send(
            request,
            stream=True,
            timeout=(self._connect_timeout, seconds),
            verify=self._verify,
        )

    def close(self) -> None:
        """Close the idle connections."""
        self._adapter.close()


class _Connection(_ConnectionBase):
    """Mixed into urllib3's connections: connects to addresses that the guard has seen."""

    guard: ClassVar[AddressGuard]
    read_timeout: ClassVar[float]
    response_class: Any
    _target: str | None = None
    _expects = False
    _early: Answer | None = None  # whose beginning was read before the body was sent

    def request(
        self, method: str, url: str, body: Any = None, headers: Any = None, **options: Any
    ) -> None:
        sent = dict(headers or {})
        self._target = sent.pop(_TARGET, None)
        self._expects = sent.get("Expect") == _CONTINUE
        super().request(method, url, body=body, headers=sent, **options)

    def send(self, data: Any) -> None:
        is_connected = self.sock is not None
        try:
            super().send(data)
        except (ConnectionError, ssl.SSLError) as exc:
            if not is_connected:
                raise
            # The server has closed the connection, perhaps after an answer.
            raise BrokenPipeError(errno.EPIPE, "the server takes no more data") from exc

    def endheaders(self, *args: Any, **kwargs: Any) -> None:
        super().endheaders(*args, **kwargs)
        self.sock.settimeout(self.read_timeout)  # of sending a piece; it was that of connecting
        if self._expects and self._is_answered():
            # What urllib3 takes for the sign that the answer is to be read now.
            raise BrokenPipeError(errno.EPIPE, "the server answered before the body was sent")

    def _is_answered(self) -> bool:
        """Wait for an answer to the head of a request; return whether it is the final one."""
        # What holds the socket is closed with the connection, whatever is raised here.
        self._early = self.response_class(self.sock, method=self._method)  # type: ignore[attr-defined]
        self.sock.settimeout(min(_WAIT, self.read_timeout))
        try:
            self._early.fp.peek(1)
        except TimeoutError:
            self._early.close()
            self._early = None
            return False
        finally:
            self.sock.settimeout(self.read_timeout)
        return self._early.is_final()

    def getresponse(self, *args: Any, **kwargs: Any) -> Any:
        early, self._early = self._early, None
        if early is None:
            return super().getresponse(*args, **kwargs)
        self.response_class = lambda *args, **kwargs: early
        try:
            return super().getresponse(*args, **kwargs)
        finally:
            del self.response_class

    def close(self) -> None:
        early, self._early = self._early, None
        super().close()
        if early is not None:  # it holds the socket, too
            early.close()

    def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        super().putrequest(method, self._target or url, *args, **kwargs)

    def _tunnel(self) -> None:
        super()._tunnel()
        self.sock.settimeout(self.timeout)  # of the handshake; the proxy's answer has used some

    def _new_conn(self) -> socket.socket:
        if self.proxy is not None:  # the operator named it
            return super()._new_conn()
        addresses = self.guard.addresses(self._dns_host, self.port)
        end = time.monotonic() + float(self.timeout or 0)
        failure: OSError | None = None
        for tried, address in enumerate(addresses):
            # Each address gets its share of what is left: one that is dead starves none.
            share = max(0.001, (end - time.monotonic()) / (len(addresses) - tried))
            try:
                made = socket.create_connection((address, self.port), share, self.source_address)
            except OSError as exc:
                failure = exc
                continue
            for option in self.socket_options or ():
                made.setsockopt(*option)
            made.settimeout(self.timeout)
            return made
        raise failure or OSError("the host has no address")


class _Adapter(_AdapterBase):
    """Mixed into requests' adapter: its pools make our connections, its log lines no queries."""

    pools: ClassVar[Mapping[str, Any]]
    proxies: ClassVar[Mapping[str, Url]]

    def init_poolmanager(self, connections: int, maxsize: int, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(connections, maxsize, *args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = dict(self.pools)
        managers = lazy.load("urllib3.poolmanager", install=INSTALL)
        for scheme, proxy in self.proxies.items():
            secret = proxy.authorization
            made = managers.proxy_from_url(
                proxy.origin,
                proxy_headers={"Proxy-Authorization": secret.reveal()} if secret else {},
                num_pools=connections,
                maxsize=maxsize,
            )
            made.pool_classes_by_scheme = dict(self.pools)
            self.proxy_manager[scheme] = made

    def get_connection_with_tls_context(
        self, request: Any, verify: Any, proxies: Any = None, cert: Any = None
    ) -> Any:
        url: Url = request.destination
        _, settings = self.build_connection_pool_key_attributes(request, verify, cert)
        manager: Any = self.proxy_manager.get(url.scheme, self.poolmanager)
        return manager.connection_from_host(url.literal, url.port, url.scheme, pool_kwargs=settings)

    def request_url(self, request: Any, proxies: Any) -> str:
        url: Url = request.destination
        is_forwarded = url.scheme == "http" and "http" in self.proxies
        request.headers[_TARGET] = url.text if is_forwarded else url.target
        shown = "/" + url.target.partition("?")[0].lstrip("/")
        if "@" in shown:  # perhaps the rest of a password with an unescaped "/" in it
            shown = "/***"
        return f"{url.origin}{shown}" if is_forwarded else shown


def _adapter(guard: AddressGuard, read_timeout: float, proxies: Mapping[str, Url]) -> HTTPAdapter:
    """Return an adapter of requests whose connections ask ``guard``."""
    adapters = lazy.load("requests.adapters", install=INSTALL)
    made = pool_classes(read_timeout, _Connection, guard=guard)
    classes = (_Adapter, adapters.HTTPAdapter)
    adapter: HTTPAdapter = type("Adapter", classes, {"pools": made, "proxies": proxies})(
        pool_connections=_HOSTS, pool_maxsize=_CONNECTIONS
    )
    return adapter


def pool_classes(read_timeout: float, *mixed_in: type, **own: Any) -> dict[str, Any]:
    """Return urllib3's pools by scheme, whose connections give answers of this package.

    They have ``own`` attributes, and those of classes that are ``mixed_in``.
    """
    connections = lazy.load("urllib3.connection", install=INSTALL)
    pools = lazy.load("urllib3.connectionpool", install=INSTALL)
    answer = type("Answer", (Answer,), {"read_timeout": read_timeout})
    made = {}
    for scheme in ("http", "https"):
        bases = (*mixed_in, getattr(connections, f"{scheme.upper()}Connection"))
        about = {**own, "read_timeout": read_timeout, "response_class": answer}
        connection = type("Connection", bases, about)
        pool = getattr(pools, f"{scheme.upper()}ConnectionPool")
        made[scheme] = type(pool.__name__, (pool,), {"ConnectionCls": connection})
    return made
