"""Adding an image: under a name of its own until it is complete, and then exclusively named."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import time
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from imgstore.boundary.translation import describe
from imgstore.data.streams import Body
from imgstore.drivers._librbd.cluster import Cluster
from imgstore.drivers._librbd.connection import Connection
from imgstore.drivers._librbd.errors import classify, quietly
from imgstore.drivers._librbd.images import OpenImage
from imgstore.drivers.rbd import names
from imgstore.drivers.rbd.deleting import purge
from imgstore.drivers.rbd.images import MARK, State, is_watched, look_at, mark_of_deletion
from imgstore.drivers.rbd.settings import ADD, SNAPSHOT, Settings
from imgstore.drivers.rbd.writing import FIRST_OBJECTS, Writer
from imgstore.errors import AlreadyExists, ConfigError, NotFound, TimedOut, Unavailable
from imgstore.process.interrupts import uninterrupted

LOG = logging.getLogger(__name__)

# Seconds after which a name without an image is no longer one that is being created.
_PATIENCE: Final = 20.0
_PAUSE: Final = 0.1  # seconds between attempts to create an image
# Between creating and opening an image lies one request. A process that takes longer counts as
# dead, as does one whose watch is over: Ceph's osd_client_watch_timeout.
_UNOPENED: Final = timedelta(seconds=30)


class Adding:
    """One add of one image over ``connection``, which ``cluster`` has lent."""

    def __init__(
        self, cluster: Cluster, connection: Connection, settings: Settings, name: str
    ) -> None:
        self._connect = functools.partial(cluster.connection, is_nested=True)
        self._judge = cluster.judge
        self.connection = connection
        self.settings = settings
        self.name = name
        # From its first moment an image is known as unfinished by this name; it is the id's turn.
        self.private = ADD + name
        self.pool = own_pool(connection, settings)
        self._rbd = connection.rbd
        # Known wherever an interrupt comes.
        self._created = False
        self._opened: OpenImage | None = None

    def add(self, body: Body) -> None:
        """Store ``body`` as the image; undoes everything on any failure."""
        first_size = FIRST_OBJECTS << self.settings.order
        size = first_size if body.size is None else body.size
        try:
            opened = self._create(size)
            writer = Writer(
                opened,
                size=size,
                window=self.settings.window,
                thin=self.settings.thin,
                grows=body.size is None,
            )
            try:
                writer.write(body)
            finally:
                writer.close()
            self._finish(opened)
        except BaseException as exc:
            if self._created:
                self._undo(exc)
            raise
        with quietly("closing an image that was added"):
            opened.close()

    def _finish(self, opened: OpenImage) -> None:
        """Make the snapshot, and give the image its name; ask where that is in doubt."""
        image = opened.sdk
        image_id = str(image.id())
        image.create_snap(SNAPSHOT)
        image.protect_snap(SNAPSHOT)
        self.publish(image_id, self.private)
        self.journal(image)

    def journal(self, image: Any) -> None:
        """Let an image that has got its name have a journal, if new images are to have one.

        In a pool that is mirrored as a whole that is what begins its replication, by this name:
        rbd-mirror would not learn of another one.
        """
        feature = self._rbd.RBD_FEATURE_JOURNALING
        if not self.connection.features & feature:
            return
        try:
            image.update_features(feature, True)
        except Exception as exc:
            LOG.warning("image %s has no journal: %s", self.name, describe(exc))

    @property
    def features(self) -> int:
        """The features of an image that has not got its name yet."""
        return self.connection.features & ~int(self._rbd.RBD_FEATURE_JOURNALING)

    def publish(self, image_id: str, private: str) -> None:
        """Give a complete image its name, which commits it; asks after it where that is in doubt.

        Raises AlreadyExists, and Unavailable: as indeterminate where it cannot be told.
        """
        try:
            # An interrupt in the middle would leave the image with both names.
            uninterrupted(lambda: names.publish(self.pool, image_id, private, self.name))
        except NotFound as exc:
            raise Unavailable(
                "this process stood still for too long: the unfinished image was removed"
            ) from exc
        except Exception as exc:
            if isinstance(exc, AlreadyExists) or getattr(exc, "errno", None) in _REFUSED:
                raise
            self._judge(self.connection, exc)
            if not self._is_published(image_id, private, exc):
                raise

    def _is_published(self, image_id: str, private: str, exc: Exception) -> bool:
        """Return whether the image got its name although ``exc`` was raised on the way."""
        try:
            with self._connect() as connection:
                pool = own_pool(connection, self.settings)
                if names.id_of(pool, self.name) != image_id:
                    return False
                names.publish(pool, image_id, private, self.name)
                return True
        except NotFound:
            return False
        except Exception:
            raise Unavailable(
                "it cannot be told whether the image was completed",
                remedy="look for the image later",
                indeterminate=True,
            ) from exc

    def _create(self, size: int) -> OpenImage:
        """Create the image, over what a dead process left of it; return it open."""
        self.make_way()
        began = time.monotonic()
        while (waited := time.monotonic() - began) < 2 * _PATIENCE:
            try:
                opened = self._create_open(size)
            except self._rbd.ImageExists:
                self._make_private_way(is_patient=waited < _PATIENCE)
                continue
            if opened is not None:
                return opened
            time.sleep(_PAUSE)
        raise AlreadyExists(
            "other adds of this id come and go",
            remedy="try again when they have ended",
            retryable=True,
        )

    def create(self, name: str, size: int) -> None:
        """Create an empty image; raises librbd's ImageExists."""
        settings = self.settings
        try:
            self.connection.verbs.create(
                self.pool,
                name,
                size,
                order=settings.order,
                old_format=False,
                features=self.features,
                data_pool=settings.data_pool,
            )
        except self._rbd.ImageNotFound as exc:
            raise ConfigError(
                f"the namespace {settings.namespace or ''!r} or the data pool "
                f"{settings.data_pool or ''!r} does not exist",
                remedy="create it, or correct rbd_store_namespace or rbd_store_data_pool",
            ) from exc

    def _create_open(self, size: int) -> OpenImage | None:
        """Create and open; None if another add removed the image as abandoned."""

        def create() -> None:
            self.create(self.private, size)
            self._created = True

        uninterrupted(create)
        try:
            self._opened = opened = OpenImage(self.connection, self.pool, self.private)
        except self._rbd.ImageNotFound:
            self._created = False
            return None
        if is_watched(opened.sdk, own=1) or opened.sdk.size() != size:
            # It was removed as abandoned, and this is the image of the add that did so.
            self._created = False
            opened.close()
            raise _under_way()
        return opened

    def make_way(self) -> None:
        """Raise AlreadyExists if the name is taken; what dead processes left of it is removed."""
        connection, pool, name = self.connection, self.pool, self.name
        began = time.monotonic()
        while (image_id := names.id_of(pool, name)) is not None:
            try:
                state = look_at(connection, pool, name)
            except self._rbd.ImageNotFound as exc:
                # Others create it, or died while they did.
                time.sleep(_PAUSE)
                waited = time.monotonic() - began
                self._pass_over(exc, image_id, name, is_patient=waited < _PATIENCE)
                continue
            except Exception as exc:
                if isinstance(classify(exc), Unavailable):
                    raise
                raise _not_to_be_opened() from exc
            self._remove_abandoned(state)
        if names.has_first_format(pool, name):
            raise AlreadyExists("there is an image of this id, of RBD's first format")
        if (listed := names.listed_id(pool, name)) is not None:
            if not names.is_nameless(pool, listed):
                raise AlreadyExists(
                    f"the pool lists an image of this id, and has no object rbd_id.{name}",
                    remedy=f"write that object anew: the image's internal id is {listed}",
                )
            names.unlink(pool, listed, name)

    def _pass_over(self, exc: Exception, image_id: str, name: str, *, is_patient: bool) -> None:
        """Take a name from an image that is not there; raises AlreadyExists for one that is.

        librbd says of a clone, too, whose parent's pool is gone, that there is none.
        """
        if names.id_of(self.pool, name) == image_id and not names.is_nameless(self.pool, image_id):
            try:
                look_at(self.connection, self.pool, image_id=image_id)
            except self._rbd.ImageNotFound:
                if names.exists(self.pool, image_id):
                    raise _not_to_be_opened() from exc
        elif not is_patient:
            names.unlink(self.pool, image_id, name)

    def _remove_abandoned(self, state: State) -> None:
        """Remove what a former version's add left under the image's name, or say what it is."""
        if not state.is_abandoned:
            raise _under_way() if state.is_begun else AlreadyExists("there is an image of this id")
        LOG.info("image %s of a dead process is replaced", self.name)
        with contextlib.suppress(NotFound):
            remove_private(self.connection, self.pool, self.name, state)

    def _make_private_way(self, *, is_patient: bool) -> None:
        """Remove what a dead add of this id left; raises AlreadyExists for one under way."""
        connection, pool, private = self.connection, self.pool, self.private
        image_id = names.id_of(pool, private) or names.listed_id(pool, private)
        if image_id is None:
            return
        try:
            state = look_at(connection, pool, image_id=image_id)
        except self._rbd.ImageNotFound as exc:
            # It was removed meanwhile, or another add creates it, or died while it did.
            time.sleep(_PAUSE)
            self._pass_over(exc, image_id, private, is_patient=is_patient)
            return
        if names.id_of(pool, self.name) == image_id:
            try:
                names.publish(pool, image_id, private, self.name)  # its add died while it did that
            except NotFound:
                return
            raise AlreadyExists("there is an image of this id")
        if names.in_trash(pool, image_id):
            names.unlink(pool, image_id, private)
            return
        if state.in_use or datetime.now(timezone.utc) - state.created < _UNOPENED:
            raise _under_way()
        LOG.info("image %s of a dead process is replaced", self.name)
        with contextlib.suppress(NotFound):
            remove_private(connection, pool, private, state)

    def probe(self) -> None:
        """Create the image, empty, and remove it; raises what prevents that."""
        self.create(self.name, 1)
        try:
            with OpenImage(self.connection, self.pool, self.name) as image:
                image.write(b"\1", 0)
                image.create_snap(SNAPSHOT)
                image.protect_snap(SNAPSHOT)
        except BaseException:
            with quietly("removing a probe"):
                remove_private(self.connection, self.pool, self.name)
            raise
        remove_private(self.connection, self.pool, self.name)

    def remove(self, connection: Connection, state: State, private: str) -> None:
        """Remove an image of this add; an interrupt may have come after it had got its name."""
        pool = own_pool(connection, self.settings)
        if names.id_of(pool, self.name) == state.id:
            with OpenImage(connection, pool, image_id=state.id) as image:
                image.metadata_set(MARK, mark_of_deletion(image))
            try:
                remove_private(connection, pool, self.name, state)
                names.unlink(pool, state.id, private)
                return
            except NotFound:
                LOG.debug("image %s had not got its name yet", self.name)
        remove_private(connection, pool, private, state)

    def _undo(self, exc: BaseException) -> None:
        """Remove the image, unless it may be complete, without hiding what is being raised."""
        self._judge(self.connection, exc)
        image_id = None
        if self._opened is not None:
            with quietly("asking an image for its id"):
                image_id = self._opened.sdk.id()
            with quietly("closing an image of a failed add"):
                self._opened.close()
        if getattr(exc, "indeterminate", False):
            return
        if isinstance(exc, Exception) and isinstance(classify(exc), TimedOut):
            LOG.warning("image %s of a failed add stays for remove_leftovers()", self.name)
            return  # more requests would wait as long, one after the other
        try:
            with self._connect() as connection:
                pool = own_pool(connection, self.settings)
                image_id = image_id or names.id_of(pool, self.private)
                if image_id is None:
                    return
                state = look_at(connection, pool, image_id=image_id)
                if self._opened is None and state.in_use:
                    return  # it is another add's
                self.remove(connection, state, self.private)
        except (NotFound, self._rbd.ImageNotFound):
            return
        except Exception as failure:
            LOG.warning(
                "image %s of a failed add could not be removed (%s); remove_leftovers() will",
                self.name,
                type(failure).__name__,
            )


# What the cluster said no to was not done.
_REFUSED: Final = frozenset({errno.EDQUOT, errno.ENOSPC, errno.EPERM, errno.EACCES, errno.EROFS})


def own_pool(connection: Connection, settings: Settings, *, write: bool = True) -> Any:
    """Return the store's pool, to ``write`` or to look at; raises ConfigError if it is missing."""
    try:
        return (connection.writable_pool if write else connection.pool)(settings.pool)
    except NotFound as exc:
        raise ConfigError(
            f"the pool {settings.pool!r} does not exist",
            remedy="create it, or correct rbd_store_pool",
        ) from exc


def remove_private(
    connection: Connection, pool: Any, name: str, state: State | None = None
) -> None:
    """Remove an image that is none yet, snapshots and all; raises NotFound if it is gone, or named.

    By way of the trash: once it is there it cannot be given a name any more. It stays there for
    remove_leftovers() if it was opened meanwhile.
    """
    try:
        state = state or look_at(connection, pool, name)
        names.to_trash(pool, state.id, name)
        purge(connection, pool, state.id, snapshots=state.snapshots)
    except connection.rbd.ImageNotFound as exc:
        raise NotFound("the image is gone") from exc
    except connection.rbd.ImageBusy as exc:
        LOG.debug("image %s stays in the trash: %s", name, describe(exc))


def _not_to_be_opened() -> AlreadyExists:
    return AlreadyExists("there is an image of this id, which cannot be opened")


def _under_way() -> AlreadyExists:
    return AlreadyExists(
        "an add of this id is under way, or its process died less than half a minute ago",
        remedy="try again later, or use another id",
        retryable=True,
    )
