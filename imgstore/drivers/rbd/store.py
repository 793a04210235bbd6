"""The RBD store: how the hooks use the other modules here."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from imgstore.boundary.arguments import check_storable, is_below
from imgstore.boundary.settings import read_options
from imgstore.context import RequestContext
from imgstore.data.opened import Opened
from imgstore.data.streams import Body
from imgstore.drivers._librbd.cluster import Cluster
from imgstore.drivers._librbd.connection import Connection
from imgstore.drivers._librbd.errors import INSTALL, classify
from imgstore.drivers._librbd.images import version_of
from imgstore.drivers.rbd import copying, deleting, leftovers, reading
from imgstore.drivers.rbd.adding import Adding
from imgstore.drivers.rbd.options import OPTIONS
from imgstore.drivers.rbd.places import SCHEME, Place, is_draft, new_draft, own_pool
from imgstore.drivers.rbd.settings import read
from imgstore.drivers.rbd.states import identity_of, open_at, time_of
from imgstore.errors import (
    ImgStoreError,
    InvalidLocation,
    NotFound,
    OutsideStore,
    PermissionDenied,
)
from imgstore.location import Location
from imgstore.model import Added, Capability, Leftover, Ownership, Stat
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
    schemes = (SCHEME,)
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
        values = read_options(OPTIONS, locals(), check=read)
        super().__init__(name, **common)
        lazy.require("rados", "rbd", install=INSTALL)
        self._settings = read(values)
        self._clusters = PerProcess(functools.partial(Cluster, self._settings), Cluster.close)

    @property
    def url_prefix(self) -> str | None:
        """Return ``rbd://<fsid>/<pool>/``, None before the fsid is known.

        It is in the Ceph configuration, or known once the cluster was connected to.
        """
        cluster, pool = self._clusters.get(), self._settings.pool
        fsid = cluster.fsid or cluster.configured_fsid
        return f"{SCHEME}://{quote(fsid, safe='')}/{quote(pool, safe='')}/" if fsid else None

    def _url_prefixes(self) -> Iterable[str]:
        """Yield the pool once it was connected to: the cluster may have another fsid than said."""
        return super()._url_prefixes() if self._clusters.get().fsid else ()

    def owns(self, location: Location) -> Ownership:
        """Own the pool of this cluster; other pools of it may be readable.

        Locations of one part, which name no cluster, may lie here. Until it was connected to, the
        cluster may have another fsid than is configured, and so may its pool.
        """
        place = _named(location)
        cluster = self._clusters.get()
        fsid = cluster.fsid or cluster.configured_fsid
        if place.fsid is None or fsid is None:
            return Ownership.MAYBE
        is_own = place.pool == self._settings.pool
        if place.fsid != fsid:
            return Ownership.MAYBE if is_own and not cluster.fsid else Ownership.NO
        return Ownership.YES if is_own else Ownership.MAYBE

    def _get(
        self,
        location: Location,
        offset: int,
        length: int | None,
        *,
        if_version: str | None,
        context: RequestContext | None,
    ) -> Opened:
        return reading.open_image(
            self._clusters.get(),
            self._settings,
            functools.partial(self._place, location),
            offset,
            length,
            if_version=if_version,
        )

    def _stat(self, location: Location, *, context: RequestContext | None) -> Stat:
        with self._clusters.get().connection() as connection:
            place = self._place(location, connection)
            pool = connection.pool(place.pool)
            with open_at(connection, pool, place.image, place.snapshot) as image:
                version = version_of(image, place.snapshot)
                return Stat(int(image.size()), version, time_of(image, place.snapshot))

    def _add(self, image_id: str, body: Body, *, context: RequestContext | None) -> Added:
        check_storable(image_id, "RBD")
        cluster = self._clusters.get()
        with cluster.connection() as connection:
            Adding(cluster, connection, self._settings, image_id).add(body)
            return Added(Place(connection.fsid, self._settings.pool, image_id).location)

    def _delete(self, location: Location, *, context: RequestContext | None) -> None:
        cluster, delay = self._clusters.get(), self._settings.trash_delay
        with cluster.connection() as connection:
            place = self._place(location, connection)
            pool = connection.writable_pool(place.pool)
            with cluster.deletion_lock(place.image):
                deleting.delete(connection, pool, place.image, place.snapshot, delay=delay)

    def _copy(
        self, location: Location, origin: Store, image_id: str, *, context: RequestContext | None
    ) -> Added | None:
        if not isinstance(origin, RbdStore):
            return None
        check_storable(image_id, "RBD")
        try:
            place, seen = self._seen(location, origin)
        except Exception as exc:
            if isinstance(exc, NotFound) or isinstance(classify(exc), (NotFound, PermissionDenied)):
                return None  # reading it will tell
            raise
        cluster = self._clusters.get()
        with cluster.connection() as connection:
            namespaces = {of.namespace_of(place.pool) for of in (self._settings, origin._settings)}
            if place.fsid != connection.fsid or len(namespaces) > 1:
                return None
            adding = Adding(cluster, connection, self._settings, image_id)
            size = copying.copy(adding, place, seen=seen)
            if size is None:
                return None
            copied = Place(connection.fsid, self._settings.pool, image_id)
            return Added(copied.location, size=size)

    def _seen(self, location: Location, origin: RbdStore) -> tuple[Place, str | None]:
        """Return what a location names, and what tells that image from all others.

        None where both stores read one configuration. Otherwise the same fsid is no proof that
        their clusters are one: some installers give all of theirs the same.
        """
        with origin._clusters.get().connection() as connection:
            place = origin._place(location, connection)
            if self._settings.conf == origin._settings.conf:
                return place, None
            pool = connection.pool(place.pool)
            with open_at(connection, pool, place.image, place.snapshot) as image:
                return place, identity_of(image, place.snapshot)

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
            if fault := cluster.wrong_fsid(connection):
                yield fault
            if write:
                Adding(cluster, connection, self._settings, new_draft("check")).probe()
                return
            pool = own_pool(connection, self._settings, write=False)
            with suppress(lazy.load("rados", install=INSTALL).ObjectNotFound):
                pool.stat("rbd_directory")  # which an empty pool has not

    def _close(self) -> None:
        self._clusters.close()

    def _place(self, location: Location, connection: Connection) -> Place:
        """Return what a location names in this cluster; raises OutsideStore for another's."""
        place = _named(location)
        if place.fsid not in (None, connection.fsid) and not any(
            is_below(location, prefix) for prefix in self.also_owns
        ):
            raise OutsideStore(
                f"{location} lies in another cluster than {connection.fsid}",
                remedy="if it is a former one of this store, name it in store_also_owns",
            )
        if is_draft(place.image):
            raise NotFound("the image is not complete")
        return Place(
            connection.fsid, place.pool or self._settings.pool, place.image, place.snapshot
        )


def _named(location: Location) -> Place:
    place = Place.of(location)
    if place is None:
        raise InvalidLocation(f"{location} has not one or four parts")
    return place
