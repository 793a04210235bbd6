"""The RBD store: how the hooks use the other modules here."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote, unquote

from imgstore.boundary.arguments import check_storable, is_below
from imgstore.boundary.settings import read_options
from imgstore.context import RequestContext
from imgstore.data.reader import Opened
from imgstore.data.streams import Body
from imgstore.drivers._librbd.cluster import Cluster
from imgstore.drivers._librbd.connection import Connection
from imgstore.drivers._librbd.errors import INSTALL, classify, quietly
from imgstore.drivers._librbd.images import OpenImage, confirm, version_of
from imgstore.drivers._librbd.reading import Ahead
from imgstore.drivers.rbd import copying, deleting, leftovers
from imgstore.drivers.rbd.adding import Adding, own_pool
from imgstore.drivers.rbd.images import identity_of, open_at
from imgstore.drivers.rbd.options import OPTIONS
from imgstore.drivers.rbd.settings import PROBE, SNAPSHOT, is_private, read
from imgstore.errors import (
    ImgStoreError,
    IntegrityError,
    InvalidLocation,
    NotFound,
    PermissionDenied,
)
from imgstore.location import Location
from imgstore.model import Added, Capability, Leftover, Ownership
from imgstore.process import lazy
from imgstore.process.per_process import PerProcess
from imgstore.store import Store


class RbdStore(Store):
    """Images as RBD images of one pool, each with a protected snapshot that others clone from.

    Keywords are those of ``OPTIONS``; see there for meaning, units and defaults. Raises
    ConfigError for what cannot be used and DriverUnavailable without Ceph's Python modules.
    """

    driver = "rbd"
    OPTIONS = OPTIONS
    schemes = ("rbd",)
    read_retries = 1  # librados goes on by itself until a time limit ends that
    capabilities = (
        Capability.READ | Capability.WRITE | Capability.DELETE | Capability.RANGES | Capability.COPY
    )

    def __init__(
        self,
        name: str,
        *,
        pool: str = "images",
        user: str | None = None,
        ceph_conf: str = "",
        chunk_size: int = 8,
        thin_provisioning: bool = False,
        rados_connect_timeout: int = -1,
        op_timeout: int = 120,
        io_depth: int = 4,
        features: Iterable[str] = (),
        data_pool: str | None = None,
        namespace: str = "",
        trash_delay: int = 0,
        **common: Any,
    ) -> None:
        """Check the options; ``common`` are the keywords of Store."""
        values = read_options(OPTIONS, locals())
        super().__init__(name, **common)
        lazy.require("rados", "rbd", install=INSTALL)
        self._settings = read(values)
        self._clusters = PerProcess(functools.partial(Cluster, self._settings), Cluster.close)

    @property
    def url_prefix(self) -> str | None:
        """Return ``rbd://<fsid>/<pool>/``, None before the fsid is known.

        It is in the Ceph configuration, or known once the cluster was connected to.
        """
        fsid = self._clusters.get().fsid
        return (
            f"rbd://{quote(fsid, safe='')}/{quote(self._settings.pool, safe='')}/" if fsid else None
        )

    def owns(self, location: Location) -> Ownership:
        """Own the pool of this cluster; other pools of it may be readable.

        Locations of one part, which name no cluster, may lie here.
        """
        at = _parse(location)
        if at is None:
            return Ownership.NO
        fsid = self._clusters.get().fsid
        if at.fsid is None or fsid is None:
            return Ownership.MAYBE
        if at.fsid != fsid:
            return Ownership.NO
        return Ownership.YES if at.pool == self._settings.pool else Ownership.MAYBE

    def _get(
        self,
        location: Location,
        offset: int,
        length: int | None,
        *,
        if_version: str | None,
        context: RequestContext | None,
    ) -> Opened:
        cluster = self._clusters.get()
        with ExitStack() as closing:
            connection = cluster.take()
            closing.callback(cluster.give_back, connection)
            try:
                at = self._at(location, connection)
                pool = connection.pool(at.pool)
                opened = open_at(connection, pool, at.image, at.snapshot)
                closing.callback(_close, opened)
                version = version_of(opened.sdk, at.snapshot)
                if if_version not in (None, version):
                    raise IntegrityError("the image changed while it was read")
                size = opened.sdk.size()
                stop = size if length is None else min(size, offset + length)
                ahead = Ahead(
                    opened,
                    offset,
                    max(0, stop - offset),
                    window=self._settings.window,
                    confirm=lambda: confirm(connection, pool, at.image, at.snapshot, version),
                )
            except Exception as exc:
                cluster.judge(connection, exc)
                raise
            return Opened(
                _judged(cluster, connection, ahead), size, version, closing.pop_all().close
            )

    def _size(self, location: Location, *, context: RequestContext | None) -> int:
        with self._clusters.get().connection() as connection:
            at = self._at(location, connection)
            pool = connection.pool(at.pool)
            with open_at(connection, pool, at.image, at.snapshot) as image:
                return int(image.size())

    def _add(self, image_id: str, body: Body, *, context: RequestContext | None) -> Added:
        check_storable(image_id, "RBD")
        cluster = self._clusters.get()
        with cluster.connection() as connection:
            Adding(cluster, connection, self._settings, image_id).add(body)
            return Added(self._location(connection, image_id))

    def _location(self, connection: Connection, image_id: str) -> Location:
        parts = (connection.fsid, self._settings.pool, image_id, SNAPSHOT)
        return Location("rbd", "/".join(quote(part, safe="") for part in parts))

    def _delete(self, location: Location, *, context: RequestContext | None) -> None:
        cluster, delay = self._clusters.get(), self._settings.trash_delay
        with cluster.connection() as connection:
            at = self._at(location, connection)
            pool = connection.writable_pool(at.pool)
            with cluster.turn(at.image):
                deleting.delete(connection, pool, at.image, at.snapshot, delay=delay)

    def _copy(
        self, location: Location, origin: Store, image_id: str, *, context: RequestContext | None
    ) -> Added | None:
        if not isinstance(origin, RbdStore):
            return None
        check_storable(image_id, "RBD")
        try:
            at, seen = self._seen(location, origin)
        except Exception as exc:
            if isinstance(exc, NotFound) or isinstance(classify(exc), (NotFound, PermissionDenied)):
                return None  # reading it will tell
            raise
        cluster = self._clusters.get()
        with cluster.connection() as connection:
            if at.fsid != connection.fsid or not self._looks_where(origin, at.pool):
                return None
            adding = Adding(cluster, connection, self._settings, image_id)
            size = copying.copy(adding, at.pool, at.image, at.snapshot, seen=seen)
            if size is None:
                return None
            return Added(self._location(connection, image_id), size=size)

    def _seen(self, location: Location, origin: RbdStore) -> tuple[_At, str | None]:
        """Return what a location names, and what tells that image from all others.

        None where both stores read one configuration. Otherwise the same fsid is no proof that
        their clusters are one: some installers give all of theirs the same.
        """
        with origin._clusters.get().connection() as connection:
            at = origin._at(location, connection)
            if self._settings.conf == origin._settings.conf:
                return at, None
            pool = connection.pool(at.pool)
            with open_at(connection, pool, at.image, at.snapshot) as image:
                return at, identity_of(image, at.snapshot)

    def _looks_where(self, origin: RbdStore, pool: str) -> bool:
        """Return whether both stores take the same namespace for that of a pool."""
        return self._settings.namespace_of(pool) == origin._settings.namespace_of(pool)

    def _leftovers(self, older_than: timedelta) -> Iterator[Leftover]:
        with self._clusters.get().connection() as connection:
            pool = own_pool(connection, self._settings)
            yield from leftovers.find(connection, pool, self.name, older_than=older_than)

    def _remove_leftover(self, leftover: Leftover) -> None:
        with self._clusters.get().connection() as connection:
            leftovers.remove(connection, own_pool(connection, self._settings), leftover)

    def _classify(self, exc: Exception) -> ImgStoreError | None:
        return classify(exc)

    def _check(self, *, write: bool = True) -> Iterable[str]:
        """Connect and, to ``write``, create an image of no importance, and remove it."""
        cluster = self._clusters.get()
        with cluster.connection() as connection:
            if not write:
                pool = own_pool(connection, self._settings, write=False)
                with suppress(lazy.load("rados", install=INSTALL).ObjectNotFound):
                    pool.stat("rbd_directory")  # which an empty pool has not
                return ()
            name = PROBE + secrets.token_hex(8)
            adding = Adding(cluster, connection, self._settings, name)
            adding.probe()
        return ()

    def _close(self) -> None:
        self._clusters.close()

    def _at(self, location: Location, connection: Connection) -> _At:
        """Return what a location names in this cluster; raises InvalidLocation for another's."""
        at = _parse(location)
        if at is None:
            raise InvalidLocation(f"{location} has not one or four parts")
        if at.fsid not in (None, connection.fsid) and not any(
            is_below(location, prefix) for prefix in self.also_owns
        ):
            raise InvalidLocation(
                f"{location} lies in another cluster than {connection.fsid}",
                remedy="if it is a former one of this store, name it in store_also_owns",
            )
        if is_private(at.image):
            raise NotFound("the image is not complete")
        return _At(connection.fsid, at.pool or self._settings.pool, at.image, at.snapshot)


@dataclass(frozen=True)
class _At:
    """What a location names: an image, and in all but the oldest its cluster and snapshot."""

    fsid: str | None
    pool: str
    image: str
    snapshot: str | None


def _parse(location: Location) -> _At | None:
    """Read ``<fsid>/<pool>/<image>/<snapshot>``, each quoted, or ``<image>``, which is not."""
    parts = location.rest.split("/")
    if not all(parts):
        return None
    if len(parts) == 1 and parts[0].isprintable():
        return _At(None, "", parts[0], None)
    if len(parts) != 4:
        return None
    parts = [unquote(part) for part in parts]
    if not all(map(str.isprintable, parts)):
        return None
    fsid, pool, image, snapshot = parts
    return _At(fsid, pool, image, snapshot)


def _close(opened: OpenImage) -> None:
    with quietly("closing an image that was read"):
        opened.close()


def _judged(cluster: Cluster, connection: Connection, ahead: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from ahead
    except Exception as exc:
        cluster.judge(connection, exc)
        raise
