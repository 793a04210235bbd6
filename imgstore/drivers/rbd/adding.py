"""Adding an image: created exclusively, filled, and finished by its protected snapshot."""

from __future__ import annotations

import errno
import functools
import logging
import time
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from imgstore._interrupts import uninterrupted
from imgstore.drivers._librbd.cluster import Cluster, Connection, classify, quietly
from imgstore.drivers._librbd.images import OpenImage
from imgstore.drivers.rbd.deleting import purge
from imgstore.drivers.rbd.images import MARK, State, is_untouched, look_at, mark_of_add
from imgstore.drivers.rbd.settings import SNAPSHOT, Settings
from imgstore.drivers.rbd.writing import FIRST_OBJECTS, Writer
from imgstore.errors import AlreadyExists, ConfigError, NotFound, TimedOut, Unavailable
from imgstore.streams import Body

LOG = logging.getLogger(__name__)

# Seconds after which a name without an image is no longer one that is being created.
_PATIENCE: Final = 20.0
_PAUSE: Final = 0.1  # seconds between attempts to create an image
# Between the creation of an image and its mark lies one request; a process that is older than
# this died there.
_UNMARKED: Final = timedelta(seconds=60)


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
        """Make the snapshot that says that the image is complete; ask where that is in doubt."""
        image = opened.sdk
        try:
            image.create_snap(SNAPSHOT)
            image.protect_snap(SNAPSHOT)
        except Exception as exc:
            if not self.is_there(self.name, image.id(), exc):
                raise
        with quietly("removing the mark of an image that was added"):
            image.metadata_remove(MARK)

    def is_there(self, name: str, image_id: str, exc: Exception) -> bool:
        """Return whether the image is complete although ``exc`` was raised on the way.

        Raises Unavailable, as indeterminate, where that cannot be told.
        """
        if getattr(exc, "errno", None) in _REFUSED:
            return False
        self._judge(self.connection, exc)
        try:
            with self._connect() as connection:
                pool = own_pool(connection, self.settings)
                state = look_at(connection, pool, name)
                if state.is_finished and state.id == image_id:
                    # Renaming an image writes its new name before it gives up the old one.
                    if name in connection.verbs.list(pool):
                        return True
                    raise Unavailable("the image has two names")
                return False
        except self._rbd.ImageNotFound:
            return False
        except Exception:
            raise Unavailable(
                "it cannot be told whether the image was completed",
                remedy="look for the image later",
                indeterminate=True,
            ) from exc

    def _create(self, size: int) -> OpenImage:
        """Create the image, over what a dead process left of it; return it open and marked."""
        began = time.monotonic()
        while (waited := time.monotonic() - began) < 2 * _PATIENCE:
            try:
                opened = self._create_open(size)
            except self._rbd.ImageExists:
                self.make_way(is_patient=waited < _PATIENCE)
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
                features=self.connection.features,
                data_pool=settings.data_pool,
            )
        except self._rbd.ImageNotFound as exc:
            raise ConfigError(
                f"the namespace {settings.namespace or ''!r} or the data pool "
                f"{settings.data_pool or ''!r} does not exist",
                remedy="create it, or correct rbd_store_namespace or rbd_store_data_pool",
            ) from exc

    def _create_open(self, size: int) -> OpenImage | None:
        """Create, open and mark; None if another add removed the image as abandoned."""

        def create() -> None:
            self.create(self.name, size)
            self._created = True

        uninterrupted(create)
        try:
            self._opened = OpenImage(self.connection, self.pool, self.name)
            self._opened.sdk.metadata_set(MARK, mark_of_add(self._opened.sdk))
        except self._rbd.ImageNotFound:
            self._created = False
            if self._opened is not None:
                self._opened.close()
            return None
        return self._opened

    def make_way(self, *, is_patient: bool = True) -> None:
        """Remove an image of this name that a dead process left; raises AlreadyExists."""
        connection, pool, name = self.connection, self.pool, self.name
        try:
            state = look_at(connection, pool, name)
        except self._rbd.ImageNotFound:
            # It was removed meanwhile, or another add creates it, or died while it did.
            time.sleep(_PAUSE)
            if not is_patient:
                with quietly("removing a name without an image"):
                    connection.verbs.remove(pool, name)
            return
        except Exception as exc:
            if isinstance(classify(exc), Unavailable):
                raise
            raise AlreadyExists("there is an image of this id, which cannot be opened") from exc
        if not state.is_abandoned and not self._is_stillborn(state):
            raise _exists(state)
        LOG.info("image %s of a dead process is replaced", name)
        try:
            discard(connection, pool, name, state)
        except NotFound:
            return
        except self._rbd.ImageBusy as exc:
            raise AlreadyExists(
                "an unfinished image of this id cannot be removed: it is in use, or its dead "
                "client cannot be cut off",
                remedy="try again later; give the user the capability mon 'profile rbd'",
                retryable=True,
            ) from exc

    def _is_stillborn(self, state: State) -> bool:
        """Return whether the process died before it could mark the image, or write to it."""
        is_old = datetime.now(timezone.utc) - state.created > _UNMARKED
        if not is_old or state.in_use or state.has_metadata or state.snapshots or state.others:
            return False
        return is_untouched(self.connection, self.pool, self.name, self.settings.order)

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
                discard_private(self.connection, self.pool, self.name)
            raise
        discard_private(self.connection, self.pool, self.name)

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
                if image_id is not None:
                    drop_snapshots(connection, pool, image_id, unprotect=True)
                connection.verbs.remove(pool, self.name)
        except self._rbd.ImageNotFound:
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


def discard(connection: Connection, pool: Any, name: str, state: State) -> None:
    """Remove an image that is abandoned; raises NotFound if it is gone, librbd's ImageBusy.

    librbd removes nothing that is open for writing, and nothing with a snapshot: neither an image
    of this name that was begun, nor one that was completed since ``state`` was looked at.
    """
    try:
        if state.snapshots:
            drop_snapshots(connection, pool, state.id)
        connection.verbs.remove(pool, name)
    except connection.rbd.ImageNotFound as exc:
        raise NotFound("the image is gone") from exc
    except connection.rbd.ImageHasSnapshots as exc:
        raise NotFound("the image is complete, or has clones") from exc


def discard_private(connection: Connection, pool: Any, name: str) -> None:
    """Remove a copy or a probe, snapshots and all; raises NotFound if it is gone, or renamed.

    By way of the trash: once it is there it cannot be renamed to an image any more.
    """
    try:
        with OpenImage(connection, pool, name, read_only=True) as image:
            image_id = image.id()
            snapshots = [each["name"] for each in image.list_snaps()]
        connection.verbs.trash_move(pool, name, 0)
        purge(connection, pool, image_id, snapshots=snapshots)
    except connection.rbd.ImageNotFound as exc:
        raise NotFound("the image is gone") from exc


def drop_snapshots(
    connection: Connection, pool: Any, image_id: str, *, unprotect: bool = False
) -> None:
    """Remove this library's snapshot of an image that is not complete."""
    with OpenImage(connection, pool, image_id=image_id) as image:
        if any(each["name"] == SNAPSHOT for each in image.list_snaps()):
            if unprotect and image.is_protected_snap(SNAPSHOT):
                image.unprotect_snap(SNAPSHOT)
            image.remove_snap(SNAPSHOT)


def _exists(state: State) -> AlreadyExists:
    if state.is_begun:
        return AlreadyExists(
            "an add of this id is under way, or its process died less than half a minute ago",
            remedy="try again later, or use another id",
            retryable=True,
        )
    return AlreadyExists("there is an image of this id")
