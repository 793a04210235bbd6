"""Volumes as this host sees them once it is connected: an RBD image, a device, or a file."""

from __future__ import annotations

import functools
import os
import stat
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Final, Protocol

from imgstore.data.units import MIB
from imgstore.drivers._librbd.access import Access
from imgstore.drivers._librbd.cluster import Cluster
from imgstore.drivers._librbd.images import OpenImage, confirm, version_of
from imgstore.drivers._librbd.reading import Ahead
from imgstore.drivers._librbd.writing import Window
from imgstore.drivers._linux import start_writeback
from imgstore.drivers._told import told
from imgstore.drivers.cinder.volumes import SERVICE
from imgstore.errors import IntegrityError, StoreError

_WINDOW: Final = 32 * MIB  # bytes under way to and from an RBD image
_PIECE: Final = 2 * MIB  # bytes of one write to a device or a file
_WRITEBACK: Final = 16 * MIB  # bytes after which the kernel is told to write them out
_BLOCK: Final = MIB  # bytes of one read of them
_TOLD_BY: Final = "the volume's connection at Cinder"
_REMEDY: Final = f"check the monitors, the user and the key that {_TOLD_BY} names"
_TIME_LIMIT: Final = 120  # seconds for a request to Ceph, where its configuration has none


class Opener(Protocol):
    """What opens a volume's device or file."""

    def __call__(self, *, writable: bool) -> int:
        """Return a descriptor; raises OSError."""


class FileDevice:
    """A block device, or a file on a mounted export; ``let_go`` ends the connection.

    ``can_grow`` says that Cinder can extend it while it is attached.
    """

    def __init__(
        self, opener: Opener, let_go: Callable[[], None], grow: Callable[[], object] | None = None
    ) -> None:
        self._opener = opener
        self._let_go = let_go
        self._grow = grow
        self.can_grow = grow is not None
        self._open: weakref.WeakSet[_Descriptor] = weakref.WeakSet()

    def writing(self) -> _FileWriting:
        """Open the volume for writing."""
        opened = _FileWriting(self._opener(writable=True))
        self._open.add(opened)
        return opened

    def reading(self, offset: int, length: int, closing: ExitStack) -> Iterator[bytes]:
        """Return a part of the volume, which is open until ``closing`` is closed."""
        opened = _Descriptor(self._opener(writable=False))
        self._open.add(opened)
        closing.callback(opened.close)
        os.posix_fadvise(opened.fd, offset, length, os.POSIX_FADV_SEQUENTIAL)
        return opened.blocks(offset, length)

    def size(self) -> int:
        """Return how many bytes the volume has now."""
        opened = _Descriptor(self._opener(writable=False))
        try:
            return opened.size()
        finally:
            opened.close()

    def grow(self) -> None:
        """See the new size of the volume."""
        if self._grow is not None:
            self._grow()

    def disconnect(self) -> None:
        """Let go of the volume, which at exit somebody may still have open."""
        for opened in list(self._open):
            opened.close()
        self._let_go()


class _Descriptor:
    """An open file, which a forked child has of its own."""

    def __init__(self, fd: int) -> None:
        self._fds = [fd]

    @property
    def fd(self) -> int:
        """Return the descriptor; raises ValueError after ``close``."""
        try:
            return self._fds[0]
        except IndexError:
            raise ValueError("the volume is closed") from None

    def size(self) -> int:
        """Return how many bytes there are: where seeking to the end leads."""
        return os.lseek(self.fd, 0, os.SEEK_END)

    def blocks(self, offset: int, length: int) -> Iterator[bytes]:
        """Yield a part; raises OSError, and IntegrityError for what lies beyond the end."""
        at, end = offset, offset + length
        while at < end:
            block = os.pread(self.fd, min(_BLOCK, end - at), at)
            if not block:
                raise IntegrityError(f"the volume ends after {at} of {end} bytes", retryable=True)
            yield block
            at += len(block)

    def close(self) -> None:
        """Close it, once."""
        try:
            fd = self._fds.pop()
        except IndexError:
            return
        os.close(fd)


class _FileWriting(_Descriptor):
    """A device or file that is written in order, from the caller's thread.

    ``reads_zero`` says that what was never written holds zeros.
    """

    piece = _PIECE

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._begun = 0  # what is before is being written out
        # A device may hold what another volume left on it.
        self.reads_zero = stat.S_ISREG(os.fstat(fd).st_mode)

    def write(self, data: bytes | memoryview, position: int) -> None:
        """Write all of ``data``."""
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self.fd, rest, position)
            rest, position = rest[written:], position + written
        if position - self._begun >= _WRITEBACK:
            start_writeback(self.fd, self._begun, position - self._begun)
            self._begun = position

    def finish(self) -> None:
        """Return once everything is on the storage."""
        os.fsync(self.fd)


class Clusters:
    """The Ceph clusters that volumes of one store lie in, each connected to once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], tuple[Cluster, int]] = {}
        self._lock = threading.Lock()

    def device(self, data: Mapping[str, Any]) -> RbdDevice:
        """Return the image that a connection's data name."""
        pool, _, name = str(told(data, "name", service=SERVICE)).partition("/")
        key = (pool, str(data.get("auth_username") or ""), _configuration(data))
        with self._lock:
            if key not in self._known:
                self._known[key] = _cluster(*key)
            return RbdDevice(self._known[key][0], pool, name)

    def close(self) -> None:
        """Disconnect."""
        while self._known:
            _, (cluster, fd) = self._known.popitem()
            cluster.close()
            os.close(fd)


def _cluster(pool: str, user: str, text: str) -> tuple[Cluster, int]:
    """Return a cluster, and the file of its configuration: in memory, for a secret is in it."""
    fd = os.memfd_create("imgstore-ceph-conf", os.MFD_CLOEXEC)
    os.write(fd, text.encode())
    access = Access(
        pool=pool,
        user=user or None,
        conf=f"/proc/{os.getpid()}/fd/{fd}",
        connect_timeout=-1,
        op_timeout=_TIME_LIMIT,
        source=_TOLD_BY,
        if_unreadable=_REMEDY,
        if_incomplete=_REMEDY,
    )
    return Cluster(access), fd


def _configuration(data: Mapping[str, Any]) -> str:
    """Return a ceph.conf as os-brick makes it; raises StoreError without a key."""
    hosts = [
        f"[{host.strip('[]')}]" if ":" in host else host
        for host in told(data, "hosts", service=SERVICE)
    ]
    ports = told(data, "ports", service=SERVICE)
    monitors = ",".join(f"{host}:{port}" for host, port in zip(hosts, ports, strict=False))
    user, keyring = data.get("auth_username"), data.get("keyring")
    if keyring is None and user:
        path = f"/etc/ceph/{data.get('cluster_name') or 'ceph'}.client.{user}.keyring"
        try:
            with open(path, encoding="utf-8") as file:
                keyring = file.read()
        except OSError as exc:
            raise StoreError(
                f"the key of Ceph's user {user}, {path}, cannot be read: {exc.strerror}",
                remedy="copy it there from Cinder's host, readable for the service",
            ) from exc
    return f"[global]\nmon_host = {monitors}\n{keyring or ''}\n"


class RbdDevice:
    """An RBD image, by librbd; no kernel device.

    ``can_grow`` says that Cinder can extend it while it is attached.
    """

    can_grow = True

    def __init__(self, cluster: Cluster, pool: str, name: str) -> None:
        self._cluster, self._pool, self._name = cluster, pool, name

    def writing(self) -> _RbdWriting:
        """Open the image for writing."""
        with ExitStack() as closing:
            opened = self._open(closing, read_only=False)
            return _RbdWriting(opened, closing.pop_all())

    def reading(self, offset: int, length: int, closing: ExitStack) -> Iterator[bytes]:
        """Return a part of the image, which is open until ``closing`` is closed."""
        opened = self._open(closing, read_only=True)
        if opened.sdk.size() < offset + length:
            raise IntegrityError(f"the volume has {opened.sdk.size()} bytes, too few")
        connection, version = opened.connection, version_of(opened.sdk, None)
        pool = connection.pool(self._pool)
        check = functools.partial(confirm, connection, pool, self._name, None, version)
        return iter(Ahead(opened, offset, length, window=_WINDOW, confirm=check))

    def _open(self, closing: ExitStack, *, read_only: bool) -> OpenImage:
        connection = closing.enter_context(self._cluster.lent())
        pool = connection.pool(self._pool)
        opened = OpenImage(connection, pool, self._name, read_only=read_only)
        closing.callback(opened.close_quietly)
        return opened

    def grow(self) -> None:
        """Do nothing: librbd hears of it."""

    def disconnect(self) -> None:
        """Do nothing: the connection is to the cluster, and stays."""


class _RbdWriting:
    """An RBD image that is written by many requests at once: earlier ones may fail later calls."""

    reads_zero = True

    def __init__(self, opened: OpenImage, closing: ExitStack) -> None:
        self._connection, self._image = opened.connection, opened.sdk
        self._window = Window(opened, _WINDOW)
        self._closing = closing
        self._closing.callback(self._window.close)
        self.piece = self._window.piece

    def size(self) -> int:
        """Return the size of the image, as librbd knows it."""
        return int(self._image.size())

    def write(self, data: bytes | memoryview, position: int) -> None:
        """Begin to write."""
        self._judged(self._window.send, data, position)

    def finish(self) -> None:
        """Return once everything is on the storage."""
        self._judged(self._window.drain)
        self._judged(self._image.flush)

    def _judged(self, call: Callable[..., object], *arguments: object) -> None:
        try:
            call(*arguments)
        except Exception as exc:
            self._connection.judge(exc)
            raise

    def close(self) -> None:
        """End what is under way."""
        self._closing.close()


Device = FileDevice | RbdDevice
Writing = _FileWriting | _RbdWriting
