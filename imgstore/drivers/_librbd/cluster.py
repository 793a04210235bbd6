"""The connection to a Ceph cluster: one for each store and process."""

from __future__ import annotations

import functools
import logging
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from imgstore.drivers._librbd.access import Access
from imgstore.drivers._librbd.connection import (
    Connection,
    configured_fsid,
    connect,
    is_thread_of_librbd,
)
from imgstore.process.shared import Shared

LOG = logging.getLogger(__name__)


class Cluster:
    """What one process has of a cluster: a connection, made when needed, and anew if it broke."""

    def __init__(self, settings: Access) -> None:
        self._settings = settings
        self._pid = os.getpid()
        # The garbage collector may close a reader, which gives back, inside any of the methods.
        self._lock = threading.RLock()
        self._closed = False
        self._told_fsid: str | None = None
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
            self._told_fsid = connection.fsid
            with self._lock:
                connection.users += 1
                if not connection.retired:
                    return connection
            self._give_back(connection)

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
    def fsid(self) -> str | None:
        """Return the cluster's identity as far as it is known without asking the cluster."""
        if self._told_fsid is None:
            try:
                told = configured_fsid(self._settings)
            except Exception as exc:
                LOG.debug("no Ceph configuration yet: %s", type(exc).__name__)
                return None
            with self._lock:
                if self._told_fsid is None:
                    self._told_fsid = told
        return self._told_fsid or None


def _end_all(pid: int, connections: set[Connection]) -> None:
    """Leave the cluster's connections at exit, or when nobody has the cluster any more."""
    if os.getpid() != pid or is_thread_of_librbd():
        return
    for connection in list(connections):
        connection.requests.end()
        if not connection.users:
            connection.shutdown()
