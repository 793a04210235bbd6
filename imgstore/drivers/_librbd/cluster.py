"""The connection to a Ceph cluster: one for each store and process."""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from imgstore.drivers._librbd.access import Access
from imgstore.drivers._librbd.connection import (
    Connection,
    configured_fsid,
    connect,
    is_thread_of_librbd,
)
from imgstore.process.shared import Shared

LOG = logging.getLogger(__name__)

# For rights that may have been given connections are made anew: so many at once, and so many
# seconds apart on average, as long as no more than so many are open because of their users.
_RENEWALS: Final = 5
_RENEWAL: Final = 1.0
_OPEN: Final = 8


class Cluster:
    """What one process has of a cluster: a connection, made when needed, and anew if it broke."""

    def __init__(self, settings: Access) -> None:
        self._settings = settings
        self._pid = os.getpid()
        # The garbage collector may close a reader, which gives back, inside any of the methods.
        self._lock = threading.RLock()
        self._closed = False
        self.fsid: str | None = None  # once it was connected to
        self._configured_fsid: str | None = None
        self._renewed: deque[float] = deque(maxlen=_RENEWALS)
        self._connections: set[Connection] = set()
        # It does not refer to this object, which would otherwise outlive its last user.
        make = functools.partial(connect, settings, self._connections)
        self._shared = Shared(make, lambda connection: not connection.retired)
        weakref.finalize(self, _end_all, self._pid, self._connections)
        self._deletion_locks = [threading.Lock() for _ in range(64)]

    @contextmanager
    def connection(self, *, is_nested: bool = False) -> Iterator[Connection]:
        """Lend the connection to a verb, or, nested, for a part of one, and judge it by errors.

        An exit waits for the end of that. Raises what connecting raises.
        """
        with self.lent() as connection:
            connection.requests.begin(is_nested=is_nested)
            try:
                yield connection
            finally:
                connection.requests.done()

    @contextmanager
    def lent(self) -> Iterator[Connection]:
        """Lend the connection for as long as a caller likes, and judge it by errors.

        Threads that wait for one share the attempt. Raises what connecting raises.
        """
        connection = self._take()
        try:
            yield connection
        except Exception as exc:
            connection.judge(exc)
            raise
        finally:
            self._give_back(connection)

    def deletion_lock(self, name: str) -> threading.Lock:
        """Return the lock under which images of this name are deleted, one after the other.

        Each would see the other one using the image. Some names share a lock.
        """
        return self._deletion_locks[hash(name) % len(self._deletion_locks)]

    def _take(self) -> Connection:
        while True:
            connection = self._shared.get()
            if self.fsid is None and (fault := self.wrong_fsid(connection)):
                LOG.warning("%s", fault)
            self.fsid = connection.fsid
            with self._lock:
                connection.users += 1
                if connection.is_denied and not connection.retired and self._may_renew():
                    connection.retired = True
                if not connection.retired:
                    return connection
            self._give_back(connection)

    def _may_renew(self) -> bool:
        """Return whether to connect anew because rights may have been given since."""
        now = time.monotonic()
        is_storm = len(self._renewed) == _RENEWALS and now - self._renewed[0] < _RENEWALS * _RENEWAL
        if is_storm or len(self._connections) >= _OPEN:
            return False
        self._renewed.append(now)
        return True

    def _give_back(self, connection: Connection) -> None:
        if os.getpid() != self._pid:
            return
        with self._lock:
            connection.users -= 1
        if not is_thread_of_librbd():
            self._end_unused(connection)

    def close(self) -> None:
        """Disconnect, once nobody uses the connection any more."""
        self._closed = True
        connection = self._shared.drop()
        if connection is not None:
            self._end_unused(connection)

    def _end_unused(self, connection: Connection) -> None:
        """End a connection that nobody uses or will use; once."""
        with self._lock:
            is_needed = connection.users or not (connection.retired or self._closed)
            if is_needed or connection not in self._connections:
                return
            connection.retired = True
            self._connections.discard(connection)
        connection.shutdown()

    @property
    def configured_fsid(self) -> str | None:
        """Return the fsid that the Ceph configuration tells; the cluster's may be another one."""
        if self._configured_fsid is None:
            try:
                self._configured_fsid = configured_fsid(self._settings)
            except Exception as exc:
                LOG.debug("no Ceph configuration yet: %s", type(exc).__name__)
        return self._configured_fsid or None

    def wrong_fsid(self, connection: Connection) -> str:
        """Return what is wrong with the fsid that is configured; nothing if it is right."""
        if self.configured_fsid in (None, connection.fsid):
            return ""
        return (
            f"the Ceph configuration ({self._settings.source}) has the fsid "
            f"{self.configured_fsid}, and the cluster has {connection.fsid}; correct it there"
        )


def _end_all(pid: int, connections: set[Connection]) -> None:
    """Leave the cluster's connections at exit, or when nobody has the cluster any more."""
    if os.getpid() != pid or is_thread_of_librbd():
        return
    for connection in list(connections):
        connection.requests.end()
        if not connection.users:
            connection.shutdown()
