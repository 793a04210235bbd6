"""One HTTP request at a time over pooled connections that go where they were checked to go.

An adapter of requests is used without a requests.Session: a session would read proxies, CA bundles
and passwords from the environment, keep cookies, and load the bodies of redirects.

requests and urllib3 put URLs into their log lines and exceptions. Here they only ever see a URL
without its query; the full target of a request travels in a header of its own to the connection,
which takes it out again. So a signature in a query cannot be logged, whatever level is set.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import re
import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from select import POLLIN, poll
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from imgstore import _lazy
from imgstore.drivers._http import INSTALL, AddressGuard, Url
from imgstore.errors import (
    ImgStoreError,
    IntegrityError,
    InvalidLocation,
    PermissionDenied,
    StoreError,
    TimedOut,
    Unavailable,
)
from imgstore.hashing import MIB

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
_LINE: Final = 65536  # bytes of a header, as http.client has it
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_CONTINUE: Final = "100-continue"
_PATIENCE: Final = 1.0  # seconds to wait for an answer before a body is sent
_STALE: Final = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)


class Sender(Protocol):
    """What reads images: a transport, or what adds to its requests."""

    def send(self, method: str, url: Url, headers: Mapping[str, str]) -> requests.Response:
        """Send one request and return the answer, its body unread; redirects are answers."""

    def close(self) -> None:
        """Close the idle connections."""


class Transport:
    """Sends requests; ``verify`` is a CA file, or whether to verify by the default bundle.

    ``connect_timeout`` (seconds) bounds connecting, the TLS handshake and a proxy's answer each,
    ``read_timeout`` the wait for a complete head and for every piece of a body. Resolving a name
    takes as long as the system's resolver allows.
    """

    def __init__(
        self,
        *,
        guard: AddressGuard,
        verify: str | bool,
        proxies: Mapping[str, str],
        connect_timeout: float,
        read_timeout: float,
    ) -> None:
        """Load requests; nothing is connected yet."""
        self._requests = _lazy.load("requests", install=INSTALL)
        self._guard = guard
        self._verify = verify
        self._proxies = dict(proxies)
        self._timeout = (connect_timeout, read_timeout)
        self._adapter = _adapter(guard, read_timeout)

    def send(
        self, method: str, url: Url, headers: Mapping[str, str], body: Iterable[bytes] | None = None
    ) -> requests.Response:
        """Send one request and return the answer, its body unread; redirects are answers.

        A ``body`` is sent in chunks unless ``headers`` have its Content-Length. With "Expect:
        100-continue" (RFC 9110 10.1.1) the server has a second to answer before it is begun.
        Raises PermissionDenied where the guard refuses host or address, and what requests raises.
        """
        self._guard.check_host(url.host)
        if self._requests.utils.select_proxy(url.text, self._proxies):
            # The proxy connects, to what it resolves itself; what is known here is checked.
            with contextlib.suppress(OSError):
                self._guard.addresses(url.host, url.port)
        sent = {"User-Agent": "imgstore", "Accept-Encoding": "identity", "Accept": "*/*", **headers}
        request = self._requests.Request(method, f"{url.origin}/", headers=sent).prepare()
        request.url = url.text  # verbatim: preparing would rewrite it, and signatures cover it
        if body is not None:  # of which preparing would look for the length
            request.body = body
            if "Content-Length" not in headers:
                del request.headers["Content-Length"]
        try:
            return self._send(request)
        except self._requests.ConnectionError as exc:
            stale = any(isinstance(cause, _STALE) for cause in _causes(exc))
            if not stale or method not in {"GET", "HEAD"}:
                raise
        # A server closes idle connections when it likes, also while one is being used again.
        return self._send(request)

    def _send(self, request: requests.PreparedRequest) -> requests.Response:
        return self._adapter.send(
            request,
            stream=True,
            timeout=self._timeout,
            verify=self._verify,
            proxies=self._proxies,
        )

    def close(self) -> None:
        """Close the idle connections."""
        self._adapter.close()


class _Wire(io.RawIOBase):
    """A connection's bytes; hands out at most ``allowance`` of them, until ``deadline`` if any."""

    def __init__(self, raw: io.RawIOBase, deadline: float | None) -> None:
        self._raw = raw
        self.deadline = deadline
        self.allowance = 16 * MIB

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise TimeoutError("the head of the answer is not complete in time")
        count: int | None = self._raw.readinto(buffer)
        self.allowance -= count or 0
        if self.allowance < 0:
            raise http.client.HTTPException("the answer is framing without end")
        return count

    def let_through(self) -> None:
        """Count no more: TLS hands out 16 KiB at a time, and each call costs."""
        self.readinto = self._raw.readinto  # type: ignore[assignment,method-assign]

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer whose head arrives in bounded time and whose body has the length it states.

    http.client bounds every wait for a byte, but neither a head that trickles in, nor interim
    answers, nor trailers that never end; and it ignores what follows the stated length.
    """

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._socket = sock
        self._wire = _Wire(self.fp.detach(), None)
        self.fp = io.BufferedReader(self._wire)
        self._final: tuple[str, int, str] | None = None  # a status line that was read already

    def is_final(self) -> bool:
        """Read a status line; return whether it is that of an answer after which none comes."""
        self._limit()
        line = self._read_status()
        if line[1] == HTTPStatus.CONTINUE:
            while self.fp.readline(_LINE).strip():
                pass
            return False
        self._final = line
        return True

    def _read_status(self) -> tuple[str, int, str]:
        line, self._final = self._final, None
        read: tuple[str, int, str] = line or super()._read_status()  # type: ignore[misc]
        return read

    def _limit(self) -> None:
        seconds = self._socket.gettimeout()
        self._wire.deadline = None if seconds is None else time.monotonic() + seconds

    def begin(self) -> None:
        is_early = self._final is not None
        self._limit()
        super().begin()
        self._wire.deadline = None
        if is_early:  # the server may still wait for the body
            self.will_close = True
        if self.length is not None:
            self._wire.let_through()
        stated = set(self.headers.get_all("Content-Length", []))
        # urllib3 would find this out too late to close the connection.
        if len(stated) > 1 or any(not _LENGTH.fullmatch(text.strip()) for text in stated):
            raise http.client.HTTPException("Content-Length is not one number")

    def read(self, amt: int | None = None) -> bytes:
        # A chunk of one byte has five bytes of framing.
        self._wire.allowance = MIB + 16 * (self.length or MIB if amt is None else amt)
        if amt is None or self.chunked or not self.length or self.length > amt:
            return super().read(amt)
        start = super().read(self.length - 1)
        if self.length == 1 and self._goes_on():
            raise IntegrityError("the server sends more bytes than it stated")
        return start + super().read(1)

    def _goes_on(self) -> bool:
        """Tell whether bytes beyond the last one have arrived."""
        ahead = len(self.fp.peek(2)) if self.fp is not None else 0
        if ahead != 1 or type(self._socket) is not socket.socket:
            return ahead > 1
        waiting = poll()
        waiting.register(self._socket, POLLIN)
        with contextlib.suppress(OSError):  # reset after the last byte, which harms nobody
            return bool(waiting.poll(0)) and bool(self._socket.recv(1, socket.MSG_PEEK))
        return False


class _Connection(_ConnectionBase):
    """Mixed into urllib3's connections: connects to addresses that the guard has seen."""

    guard: ClassVar[AddressGuard]
    read_timeout: ClassVar[float]
    response_class = _Response
    _target: str | None = None
    _expects = False
    _early: _Response | None = None  # whose beginning was read before the body was sent

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
        self._early = _Response(self.sock, method=self._method)  # type: ignore[attr-defined]
        self.sock.settimeout(min(_PATIENCE, self.read_timeout))
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
        self.response_class = lambda *args, **kwargs: early  # type: ignore[assignment]
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

    def _new_conn(self) -> socket.socket:
        if self.proxy is not None:  # the operator named it
            return super()._new_conn()
        # requests leaves an IPv6 zone percent-encoded.
        addresses = self.guard.addresses(self._dns_host.replace("%25", "%"), self.port)
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

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = dict(self.pools)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager: Any = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = dict(self.pools)
        return manager

    def request_url(self, request: Any, proxies: Any) -> str:
        target: str = super().request_url(request, proxies)
        request.headers[_TARGET] = target
        return target.partition("?")[0]


def _adapter(guard: AddressGuard, read_timeout: float) -> HTTPAdapter:
    """Return an adapter of requests whose connections ask ``guard``."""
    adapters = _lazy.load("requests.adapters", install=INSTALL)
    connections = _lazy.load("urllib3.connection", install=INSTALL)
    pools = _lazy.load("urllib3.connectionpool", install=INSTALL)
    made = {}
    for scheme in ("http", "https"):
        bases = (_Connection, getattr(connections, f"{scheme.upper()}Connection"))
        connection = type("Connection", bases, {"guard": guard, "read_timeout": read_timeout})
        pool = getattr(pools, f"{scheme.upper()}ConnectionPool")
        made[scheme] = type(pool.__name__, (pool,), {"ConnectionCls": connection})
    adapter: HTTPAdapter = type("Adapter", (_Adapter, adapters.HTTPAdapter), {"pools": made})(
        pool_connections=_HOSTS, pool_maxsize=_CONNECTIONS
    )
    return adapter


def classify(
    exc: Exception, *, ca_option: str = "https_ca_certificates_file"
) -> ImgStoreError | None:
    """Map what requests and urllib3 raise to one of our errors; None for everything else."""
    urllib3 = _lazy.load("urllib3.exceptions", install=INSTALL)
    requests = _lazy.load("requests", install=INSTALL)
    if not isinstance(exc, requests.RequestException | urllib3.HTTPError):
        return None
    return explain(exc, ca_option=ca_option)


def explain(exc: Exception, *, ca_option: str) -> ImgStoreError:
    """Map what went wrong with a connection to one of our errors."""
    urllib3 = _lazy.load("urllib3.exceptions", install=INSTALL)
    requests = _lazy.load("requests", install=INSTALL)
    causes = list(_causes(exc))

    def cause(*kinds: Any) -> BaseException | None:
        return next((found for found in reversed(causes) if isinstance(found, kinds)), None)

    if untrusted := cause(ssl.SSLCertVerificationError):
        return PermissionDenied(
            f"the server's certificate is not trusted: {_certificate_fault(untrusted)}",
            remedy=f"name the bundle of its authority in {ca_option}",
        )
    failed = cause(OSError)
    text = getattr(failed, "strerror", None) or type(failed or exc).__name__
    broken = Unavailable(f"the connection failed: {text}")
    faults: list[tuple[tuple[Any, ...], ImgStoreError]] = [
        ((http.client.IncompleteRead,), IntegrityError("the data ended early", retryable=True)),
        ((urllib3.ProxyError,), Unavailable(f"the proxy cannot be reached or refuses: {text}")),
        ((socket.gaierror,), Unavailable("the host's name cannot be resolved")),
        ((ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError), broken),
        ((TimeoutError, urllib3.TimeoutError), TimedOut("the server does not answer in time")),
        ((http.client.HTTPException,), StoreError("the server's answer is not sound HTTP")),
        ((ssl.SSLError,), StoreError(f"TLS failed: {getattr(failed, 'reason', None) or text}")),
        ((urllib3.LocationValueError,), InvalidLocation("requests cannot use the URL")),
        ((requests.exceptions.InvalidURL,), InvalidLocation("requests cannot use the URL")),
    ]
    return next((error for kinds, error in faults if cause(*kinds)), broken)


def _certificate_fault(exc: BaseException) -> str:
    return str(getattr(exc, "verify_message", "") or type(exc).__name__)


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those inside it, outermost first, at most twenty."""
    todo, seen = [exc], 0
    while todo and seen < 20:
        current = todo.pop(0)
        seen += 1
        yield current
        inside = [*current.args, getattr(current, "reason", None), current.__cause__]
        todo += [cause for cause in inside if isinstance(cause, BaseException)]
