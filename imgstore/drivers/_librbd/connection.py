"""A connected client: its pools, and when it may disconnect."""

from __future__ import annotations

import ctypes
import errno
import functools
import json
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from imgstore.boundary.translation import describe
from imgstore.drivers._librbd.access import LAYERING, Access
from imgstore.drivers._librbd.errors import (
    INSTALL,
    RequestFailed,
    classify,
    error_number,
    quietly,
)
from imgstore.errors import ConfigError, NotFound, TimedOut, Unavailable
from imgstore.process import lazy
from imgstore.process.interrupts import in_a_thread, uninterrupted

LOG = logging.getLogger(__name__)

_SETTLED: Final = 0.03  # seconds after which librbd is done with opening an image
_UNHURRIED: Final = 0.5  # the same, where nobody waits for it
_EXIT: Final = 10.0  # seconds that an exit waits for requests that are under way
_RETURN: Final = 0.05  # seconds for librbd's threads to return from Python
_UNSET_FSID: Final = "00000000-0000-0000-0000-000000000000"
_LIMITS: Final = ("rados_osd_op_timeout", "rados_mon_op_timeout")
# A client that was cut off by the cluster, or shut down, stays so. One whose requests were not
# answered may hold locks that it does not know of, and cannot break: they are its own.
_BROKEN: Final = frozenset({errno.ESHUTDOWN, errno.ENOTCONN, errno.ETIMEDOUT})
# What its user may do a client is told when it connects, and never again.
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM})
# When and how often requests that wait are looked at, as shares of their time limit.
_LOOKS_AROUND: Final = {"objecter_timeout": 0.25, "objecter_tick_interval": 0.125}


def pin(handle: Any) -> Any:
    """Keep one of the SDK's objects alive until ``unpin``, whatever becomes of its references.

    Their destructors talk to the cluster. In a forked child, where the threads for that do not
    exist, they would never return.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(handle))
    return handle


def unpin(handle: Any) -> None:
    """Undo ``pin`` once the object was closed."""
    ctypes.pythonapi.Py_DecRef(ctypes.py_object(handle))


def is_thread_of_librbd() -> bool:
    """Return whether librbd, or something else that is not Python, began this thread.

    The garbage collector may run in it. What waits for librbd's threads there waits for itself.
    """
    return isinstance(threading.current_thread(), threading._DummyThread)


def await_opening(opened: float) -> None:
    """Let librbd be done with an image that was opened then, by the monotonic clock."""
    time.sleep(max(0.0, opened + _SETTLED - time.monotonic()))


class Requests:
    """How many asynchronous requests, and verbs, of a connection are under way."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._count = 0
        self._ended = False

    def begin(self, *, is_nested: bool = False) -> None:
        """Count one, or raise Unavailable: the interpreter exits.

        What is nested in one that is counted may begin even so: it undoes that one.
        """
        with self._change:
            if self._ended and not is_nested:
                raise Unavailable("the interpreter exits")
            self._count += 1

    def done(self) -> None:
        """Count one less."""
        with self._change:
            self._count -= 1
            self._change.notify_all()

    def end(self) -> None:
        """Let no more begin, and wait for those under way.

        librbd's threads must not call back into an interpreter that is gone, nor a daemon thread
        be inside librbd while the process ends.
        """
        with self._change:
            self._ended = True
            self._change.wait_for(lambda: self._count <= 0, _EXIT)
        time.sleep(_RETURN)


class Connection:
    """A connected client, which ``Cluster`` lends. Nobody else gets one that is ``retired``.

    ``requests`` counts the asynchronous ones, of all images. ``limit`` is how many seconds an OSD
    has to answer a request, 0 for ever. ``is_denied`` says that rights were missing, which may have
    been given since; those who use it go on.
    """

    def __init__(self, client: Any, settings: Access) -> None:
        self.rbd = lazy.load("rbd", install=INSTALL)
        self.verbs = self.rbd.RBD()
        self.fsid: str = client.get_fsid()
        self.users = 0
        self.retired = False
        self.is_denied = False
        self.requests = Requests()
        self.limit = float(client.conf_get("rados_osd_op_timeout") or 0)
        self._kept = 0
        self._ends_later = False
        self._to_close: deque[tuple[float, Callable[[], None]]] = deque()
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
        return pin(pool)

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

    def judge(self, exc: BaseException) -> None:
        """Let nobody else use a connection whose error says that it broke; note missing rights."""
        if error_number(exc) in _BROKEN:
            LOG.debug("the connection to the cluster broke")
            self.retired = True
        elif error_number(exc) in _DENIED:
            self.is_denied = True

    def close_later(self, opened: float, close: Callable[[], None]) -> None:
        """Call ``close`` of an image that was opened at ``opened`` once that is long enough ago."""
        self._to_close.append((opened, close))
        if not is_thread_of_librbd():
            self._sweep(_UNHURRIED)

    def _sweep(self, age: float) -> None:
        while True:
            try:
                opened, close = self._to_close.popleft()
            except IndexError:
                return
            if opened + age > time.monotonic():
                self._to_close.appendleft((opened, close))
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
        while self._to_close:
            await_opening(self._to_close[0][0])
            self._sweep(_SETTLED)
        for pool in self._pools.values():
            pool.close()
            unpin(pool)
        self._client.shutdown()
        unpin(self._client)


def _no_pool(name: str) -> NotFound:
    return NotFound(f"the pool {name!r} does not exist", remedy="check the name of the pool")


def connect(settings: Access, connections: set[Connection]) -> Connection:
    """Return a new connection, put among ``connections``, which end with the process."""
    client = _configured(settings)
    try:
        _limit(client, settings)
        uninterrupted(functools.partial(_connect, client))
        connection = Connection(client, settings)
    except BaseException as exc:
        monitors = client.conf_get("mon_host") or "the addresses that are configured"
        _discard(client)
        if error_number(exc) == errno.ENOENT:
            raise ConfigError(
                "the Ceph configuration names no monitor, or no key for the user",
                remedy=settings.if_incomplete,
            ) from exc
        if error_number(exc) == errno.ETIMEDOUT:
            raise TimedOut(
                f"no monitor answers in time at {monitors}",
                remedy=f"let this host reach one; the addresses are told by the Ceph configuration "
                f"({settings.source})",
            ) from exc
        raise
    connections.add(connection)
    return connection


def _connect(client: Any) -> None:
    """Connect in a new thread, with an address of which nobody else has the number.

    librados keeps the state of its random numbers by thread. A forked process inherits it, and
    would connect with the address of its siblings: where one of them dies, and is cut off by who
    breaks its locks, they all are.
    """
    if sys.is_finalizing():  # a thread that starts now may never run
        client.connect()
        return
    ended, raised = threading.Lock(), deque[BaseException]()
    ended.acquire()

    def run() -> None:
        try:
            client.connect()
        except BaseException as exc:  # raised by the thread that waits
            raised.append(exc)
        finally:
            ended.release()

    in_a_thread(run)
    ended.acquire()
    if raised:
        raise raised.pop()


def configured_fsid(settings: Access) -> str:
    """Return the cluster's identity if its configuration tells it, or nothing."""
    client = _configured(settings)
    told: str = client.conf_get("fsid")
    _discard(client)
    return "" if told == _UNSET_FSID else told


def _configured(settings: Access) -> Any:
    """Return a client that has read its configuration and is not connected."""
    rados = lazy.load("rados", install=INSTALL)
    try:
        client = rados.Rados(
            conffile=settings.conf, rados_id=settings.user, conf={"rbd_cache": "false"}
        )
    except Exception as exc:
        if error_number(exc) not in (errno.ENOENT, errno.EINVAL, errno.EACCES):
            raise
        raise ConfigError(
            f"the Ceph configuration ({settings.source}) cannot be read: {describe(exc)}",
            remedy=settings.if_unreadable,
        ) from exc
    return pin(client)


def _limit(client: Any, settings: Access) -> None:
    """Set time limits, those of the options or of a configuration that has none."""
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


def _discard(client: Any) -> None:
    client.shutdown()
    unpin(client)
