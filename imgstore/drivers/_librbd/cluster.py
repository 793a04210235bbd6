"""The connection to a Ceph cluster: one for each store and process."""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Final

from imgstore.boundary.translation import describe, error_class
from imgstore.drivers._librbd.access import LAYERING, Access
from imgstore.drivers._librbd.requests import Requests
from imgstore.errors import (
    ConfigError,
    ImgStoreError,
    InUse,
    InvalidRange,
    NotFound,
    PermissionDenied,
    StoreError,
    Unavailable,
)
from imgstore.process import lazy

LOG = logging.getLogger(__name__)

INSTALL: Final = "the distribution's packages python3-rados and python3-rbd, for its own Python"
SETTLED: Final = 0.03  # seconds after which librbd is done with opening an image
_LINGER: Final = 0.5  # the same, where nobody waits for it
_UNSET_FSID: Final = "00000000-0000-0000-0000-000000000000"
# A client that was cut off by the cluster, or shut down, stays so. One whose requests were not
# answered may hold locks that it does not know of, and cannot break: they are its own.
# What its user may do OSDs ask once for each connection.
_BROKEN: Final = frozenset(
    {errno.ESHUTDOWN, errno.ENOTCONN, errno.ETIMEDOUT, errno.EACCES, errno.EPERM}
)
_LIMITS: Final = ("rados_osd_op_timeout", "rados_mon_op_timeout")
# When and how often requests that wait are looked at, as shares of their time limit.
_LOOKS_AROUND: Final = {"objecter_timeout": 0.25, "objecter_tick_interval": 0.125}


def hold(handle: Any) -> Any:
    """Keep one of the SDK's objects alive until ``let_go``, whatever becomes of its references.

    Their destructors talk to the cluster. In a forked child, where the threads for that do not
    exist, they would never return.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))
    return handle


def let_go(handle: Any) -> None:
    """Undo ``hold`` once the object was closed."""
    ctypes.pythonapi.Py_DecRef(ctypes.py_object(handle))


def is_thread_of_librbd() -> bool:
    """Return whether librbd, or something else that is not Python, began this thread.

    The garbage collector may run in it. What waits for librbd's threads there waits for itself.
    """
    return isinstance(threading.current_thread(), threading._DummyThread)


class Connection:
    """A connected client. Whoever takes one from ``Cluster.connection`` gives it back.

    ``requests`` counts the asynchronous ones, of all images. ``limit`` is how many seconds an OSD
    has to answer a request, 0 for ever.
    """

    def __init__(self, client: Any, settings: Access) -> None:
        self.rbd = lazy.load("rbd", install=INSTALL)
        self.verbs = self.rbd.RBD()
        self.fsid: str = client.get_fsid()
        self.users = 0
        self.retired = False
        self.requests = Requests()
        self.limit = float(client.conf_get("rados_osd_op_timeout") or 0)
        self._kept = 0
        self._ends_later = False
        self._lingering: deque[tuple[float, Callable[[], None]]] = deque()
        self._client = client
        self._settings = settings
        self._pools: dict[tuple[int, str], Any] = {}
        self._prepared: set[int] = set()
        self._lock = threading.Lock()

    def pool(self, name: str) -> Any:
        """Return the I/O context of a pool; in the store's own one, of its namespace.

        As far as this client has heard: pools are renamed, and made anew. Raises NotFound for a
        pool that does not exist.
        """
        number = self._client.pool_lookup(name)
        return self._context(name, self._number_now(name) if number is None else number)

    def _context(self, name: str, number: int | None) -> Any:
        namespace = self._settings.namespace_of(name)
        if number is None:
            raise _no_pool(name)
        with self._lock:
            found = self._pools.get((number, namespace))
            if found is None:
                found = self._open(name, number, namespace)
                self._pools[number, namespace] = found
        return found

    def _number_now(self, name: str) -> int | None:
        """Return the number that the monitors have for a pool now; None if there is none."""
        question = json.dumps({"prefix": "osd lspools", "format": "json"})
        status, answer, _ = self._client.mon_command(question, b"")
        if -status in (errno.EACCES, errno.EPERM):  # a user with rights of its own making
            number: int | None = self._client.pool_lookup(name)
            return number
        if status:
            raise RequestFailed(status)
        numbers = {each["poolname"]: int(each["poolnum"]) for each in json.loads(answer)}
        return numbers.get(name)

    def writable_pool(self, name: str) -> Any:
        """Return the pool that has this name now, so that what is written is found by its name.

        It is seen to that images can be removed when the pool is full. librbd removes them by way
        of the pool's trash, an object that it makes when first needed. A full pool takes no new
        objects, and librbd 16 then says that there is no image.
        """
        pool = self._context(name, self._number_now(name))
        if id(pool) not in self._prepared:
            try:
                pool.write("rbd_trash", b"")
            except Exception as exc:
                if isinstance(classify(exc), Unavailable):
                    raise
                LOG.debug("making the trash of a pool: %s", describe(exc))
            self._prepared.add(id(pool))
        return pool

    def _open(self, name: str, number: int, namespace: str) -> Any:
        rados = lazy.load("rados", install=INSTALL)
        try:
            pool = self._client.open_ioctx2(number)
        except rados.ObjectNotFound as exc:
            raise _no_pool(name) from exc
        if namespace:
            pool.set_namespace(namespace)
        # A full pool then answers that it is full; otherwise writes wait until it is not.
        pool.set_osdmap_full_try()
        return hold(pool)

    @property
    def features(self) -> int:
        """Return the features of new images; layering always, or nobody could clone them."""
        if self._settings.features is not None:
            return self._settings.features
        text: str = self._client.conf_get("rbd_default_features") or "0"
        try:
            default = int(text)
        except ValueError:
            default = self.verbs.features_from_string(text)
        return default | LAYERING

    def linger(self, opened: float, close: Callable[[], None]) -> None:
        """Call ``close`` of an image that was opened at ``opened`` once that is long enough ago."""
        self._lingering.append((opened, close))
        if not is_thread_of_librbd():
            self._sweep(_LINGER)

    def _sweep(self, age: float) -> None:
        while True:
            try:
                opened, close = self._lingering.popleft()
            except IndexError:
                return
            if opened + age > time.monotonic():
                self._lingering.appendleft((opened, close))
                return
            with quietly("closing an image that was read"):
                close()

    def keep(self) -> None:
        """Stay connected until ``release``: librbd did not return from a call."""
        with self._lock:
            self._kept += 1

    def release(self) -> None:
        """Undo ``keep``, and disconnect if that was put off."""
        with self._lock:
            self._kept -= 1
            is_last = self._ends_later and not self._kept
        if is_last:
            self.shutdown()

    def shutdown(self) -> None:
        """Disconnect, once librbd is in no call; nobody uses the connection any more."""
        with self._lock:
            self._ends_later = True
            if self._kept:
                return
        while self._lingering:
            opened, _ = self._lingering[0]
            time.sleep(max(0.0, opened + SETTLED - time.monotonic()))
            self._sweep(SETTLED)
        for pool in self._pools.values():
            pool.close()
            let_go(pool)
        self._client.shutdown()
        let_go(self._client)


def _no_pool(name: str) -> NotFound:
    return NotFound(f"the pool {name!r} does not exist", remedy="check the name of the pool")


class Cluster:
    """What one process has of a cluster: a connection, made when needed, and anew if it broke."""

    def __init__(self, settings: Access) -> None:
        self._settings = settings
        self._pid = os.getpid()
        # The garbage collector may close a reader, which gives back, inside any of the methods.
        self._lock = threading.RLock()
        self._current: Connection | None = None
        self._attempt: Future[None] | None = None
        self._closed = False
        self._told_fsid: str | None = None
        self._connections: set[Connection] = set()
        weakref.finalize(self, _end_all, self._pid, self._connections)
        self._turns = [threading.Lock() for _ in range(64)]

    @contextmanager
    def connection(self, *, is_nested: bool = False) -> Iterator[Connection]:
        """Lend the connection to a verb, or, nested, for a part of one.

        Raises what connecting raises.
        """
        connection = self.take()
        try:
            connection.requests.begin(is_nested=is_nested)
            try:
                yield connection
            except Exception as exc:
                self.judge(connection, exc)
                raise
            finally:
                connection.requests.done()
        finally:
            self.give_back(connection)

    def turn(self, name: str) -> threading.Lock:
        """Return the lock under which images of this name are deleted, one after the other.

        Each would see the other one using the image. Some names share a lock.
        """
        return self._turns[hash(name) % len(self._turns)]

    def take(self) -> Connection:
        """Return the connection, to be given back. Threads that wait for one share the attempt."""
        while True:
            own: Future[None] = Future()
            try:
                with self._lock:
                    if self._current is not None:
                        self._current.users += 1
                        return self._current
                    attempt = self._attempt = self._attempt or own
                if attempt is own:
                    return self._take_new(own)
            except BaseException as exc:
                self._give_up(own, exc)
                raise
            _await(attempt)

    def _give_up(self, attempt: Future[None], exc: BaseException) -> None:
        with self._lock:
            if self._attempt is attempt:
                self._attempt = None
            if attempt.done():
                return
            if isinstance(exc, Exception):
                attempt.set_exception(exc)
            else:
                attempt.set_result(None)  # those who wait try for themselves

    def _take_new(self, attempt: Future[None]) -> Connection:
        connection = self._connect()
        connection.users = 1
        self._connections.add(connection)
        with self._lock:
            self._attempt = None
            if self._closed:
                connection.retired = True
            else:
                self._current = connection
        attempt.set_result(None)
        return connection

    def give_back(self, connection: Connection) -> None:
        """Return a connection; one that is retired ends with its last user."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            connection.users -= 1
            is_last = connection.retired and not connection.users
        if is_last and not is_thread_of_librbd():
            self._end(connection)

    def _end(self, connection: Connection) -> None:
        self._connections.discard(connection)
        connection.shutdown()

    def judge(self, connection: Connection, exc: BaseException) -> None:
        """Let nobody else use a connection whose error says that it broke, or lacks rights."""
        if _errno(exc) in _BROKEN:
            LOG.debug("the connection to the cluster broke")
            with self._lock:
                connection.retired = True
                if self._current is connection:
                    self._current = None

    def close(self) -> None:
        """Disconnect, once nobody uses the connection any more."""
        with self._lock:
            self._closed = True
            connection, self._current = self._current, None
            if connection is None:
                return
            connection.retired = True
            is_last = not connection.users
        if is_last:
            self._end(connection)

    @property
    def fsid(self) -> str | None:
        """Return the cluster's identity as far as it is known without asking the cluster."""
        if self._told_fsid is None:
            try:
                client = self._configured()
                told = client.conf_get("fsid")
                _discard(client)
            except Exception as exc:
                LOG.debug("no Ceph configuration yet: %s", type(exc).__name__)
                return None
            with self._lock:
                if self._told_fsid is None:
                    self._told_fsid = "" if told == _UNSET_FSID else told
        return self._told_fsid or None

    def _connect(self) -> Connection:
        client = self._configured()
        try:
            self._limit(client)
            client.connect()
            connection = Connection(client, self._settings)
        except BaseException as exc:
            _discard(client)
            if _errno(exc) == errno.ENOENT:
                raise ConfigError(
                    "the Ceph configuration names no monitor, or no key for the user",
                    remedy=self._settings.remedy(
                        "check mon_host and keyring in rbd_store_ceph_conf, and rbd_store_user"
                    ),
                ) from exc
            raise
        self._told_fsid = connection.fsid
        return connection

    def _configured(self) -> Any:
        """Return a client that has read its configuration and is not connected."""
        rados = lazy.load("rados", install=INSTALL)
        settings = self._settings
        try:
            client = rados.Rados(
                conffile=settings.conf, rados_id=settings.user, conf={"rbd_cache": "false"}
            )
        except Exception as exc:
            if _errno(exc) not in (errno.ENOENT, errno.EINVAL, errno.EACCES):
                raise
            raise ConfigError(
                f"the Ceph configuration ({settings.source}) cannot be read: {describe(exc)}",
                remedy=settings.remedy("set rbd_store_ceph_conf to the path of a sound one"),
            ) from exc
        return hold(client)

    def _limit(self, client: Any) -> None:
        settings = self._settings
        if settings.connect_timeout >= 0:
            for name in (*_LIMITS, "client_mount_timeout"):
                client.conf_set(name, str(settings.connect_timeout))
        else:
            for name in _LIMITS:
                if float(client.conf_get(name) or 0) == 0:
                    client.conf_set(name, str(settings.op_timeout))
        # A client asks where an OSD is now once a request waits for this long: 10 s by default. A
        # shorter limit would end all requests before that, and the client never find it again.
        limit = float(client.conf_get("rados_osd_op_timeout") or 0)
        for name, share in _LOOKS_AROUND.items():
            if limit and limit * share < float(client.conf_get(name)):
                client.conf_set(name, f"{limit * share:.2f}")


def _await(attempt: Future[None]) -> None:
    """Wait for another thread's attempt; raises what that thread raises, not the same object."""
    try:
        attempt.result()
    except ImgStoreError as exc:
        raise type(exc)(exc.reason, remedy=exc.remedy) from exc


class RequestFailed(OSError):
    """A request that librbd carries out by itself ended with an error number."""

    def __init__(self, status: int) -> None:
        super().__init__(-status, os.strerror(-status))


def _end_all(pid: int, connections: set[Connection]) -> None:
    """Leave the cluster's connections at exit, or when nobody has the cluster any more."""
    if os.getpid() != pid or is_thread_of_librbd():
        return
    for connection in list(connections):
        connection.requests.end()
        if not connection.users:
            connection.shutdown()


def _discard(client: Any) -> None:
    client.shutdown()
    let_go(client)


def _errno(exc: BaseException) -> int:
    number: int = getattr(exc, "errno", None) or 0
    return abs(number)


def is_of_ceph(exc: BaseException) -> bool:
    """Return whether an exception is one of the modules rados and rbd."""
    return type(exc).__module__ in {"rados", "rbd"}


def classify(exc: Exception) -> ImgStoreError | None:
    """Map what rados and rbd raise, and their requests end with, to our errors; None for others."""
    if not (is_of_ceph(exc) or isinstance(exc, RequestFailed)):
        return None
    number = _errno(exc)
    reason = describe(exc)
    kinds: dict[int, StoreError | InvalidRange] = {
        errno.EACCES: PermissionDenied(reason, remedy=_KEY),
        errno.EPERM: PermissionDenied(reason, remedy=_KEY),
        errno.EROFS: PermissionDenied(reason, remedy=_KEY),
        errno.ENOTEMPTY: InUse(reason),
        errno.ESHUTDOWN: Unavailable("the cluster cut this client off"),
        # What librbd makes of answers that did not come in time.
        errno.EBADMSG: Unavailable(reason),
        errno.ECANCELED: Unavailable(reason),
        errno.EDOM: InvalidRange(reason),
    }
    if number in kinds:
        return kinds[number]
    return error_class(OSError(number, ""))(reason)


_KEY: Final = (
    "check the user's key and its capabilities: mon 'profile rbd', osd 'profile rbd pool=…'"
)


@contextmanager
def quietly(what: str) -> Iterator[None]:
    """Go on whatever the SDK raises: something else is already being raised, or all is done."""
    try:
        yield
    except Exception as exc:
        LOG.debug("%s: %s", what, describe(exc))
