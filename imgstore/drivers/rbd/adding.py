"""Adding an image: under a name of its own until it is complete, and then exclusively named."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
from typing import Any, Final

from imgstore.boundary.translation import describe
from imgstore.data.streams import Body
from imgstore.drivers._librbd.cluster import Cluster
from imgstore.drivers._librbd.connection import Connection
from imgstore.drivers._librbd.errors import classify, error_number
from imgstore.drivers._librbd.images import OpenImage
from imgstore.drivers.rbd import names, rivals
from imgstore.drivers.rbd.deleting import remove_draft
from imgstore.drivers.rbd.places import draft_of_add, own_pool
from imgstore.drivers.rbd.settings import SNAPSHOT, Settings
from imgstore.drivers.rbd.states import MARK, is_watched, look_at, mark_of_deletion
from imgstore.drivers.rbd.writing import FIRST_OBJECTS, Writer
from imgstore.errors import AlreadyExists, ConfigError, NotFound, TimedOut, Unavailable
from imgstore.process.committing import attempted, is_in_doubt, settled, undone
from imgstore.process.interrupts import uninterrupted
from imgstore.process.patience import Patience

LOG = logging.getLogger(__name__)

# How long other adds may come and go in which the draft's name is taken.
_CONTENTION: Final = Patience(0.1, longest=1.0, seconds=40.0, at_once=True, spread=True)
# What the cluster said no to was not done.
_REFUSED: Final = frozenset({errno.EDQUOT, errno.ENOSPC, errno.EPERM, errno.EACCES, errno.EROFS})


class Adding:
    """One add of one image over ``connection``, which ``cluster`` has lent."""

    def __init__(
        self, cluster: Cluster, connection: Connection, settings: Settings, name: str
    ) -> None:
        self._connect = functools.partial(cluster.connection, is_nested=True)
        self.connection = connection
        self.settings = settings
        self.name = name
        # From its first moment an image is known as unfinished by this name; it is the id's turn.
        self.draft = draft_of_add(name)
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
            with contextlib.closing(writer):
                writer.write(body)
            self._finish(opened)
        except BaseException as exc:
            if self._created:
                self._undo(exc)
            raise
        opened.close_quietly()

    def _create(self, size: int) -> OpenImage:
        """Create the draft, over what a dead process left of it; return it open."""
        rivals.make_way(self.connection, self.pool, self.name)
        for _ in _CONTENTION.attempts():
            try:
                opened = self._create_open(size)
            except self._rbd.ImageExists:
                rivals.make_way_for_draft(self.connection, self.pool, self.draft, self.name)
                continue
            if opened is not None:
                return opened
        raise AlreadyExists(
            "other adds of this id come and go",
            remedy="try again when they have ended",
            retryable=True,
        )

    def _create_open(self, size: int) -> OpenImage | None:
        """Create and open; None if another add removed the image as abandoned."""

        def create() -> None:
            self.create(self.draft, size)
            self._created = True

        uninterrupted(create)
        try:
            self._opened = opened = OpenImage(self.connection, self.pool, self.draft)
        except self._rbd.ImageNotFound:
            self._created = False
            return None
        if is_watched(opened.sdk, own=1) or opened.sdk.size() != size:
            # It was removed as abandoned, and this is the image of the add that did so.
            self._created = False
            opened.close()
            raise rivals.under_way()
        return opened

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

    @property
    def features(self) -> int:
        """The features of an image that has not got its name yet."""
        return self.connection.features & ~int(self._rbd.RBD_FEATURE_JOURNALING)

    def _finish(self, opened: OpenImage) -> None:
        """Make the snapshot, and give the image its name; ask where that is in doubt."""
        opened.sdk.create_snap(SNAPSHOT)
        opened.sdk.protect_snap(SNAPSHOT)
        self.publish(opened.id, self.draft)
        self.journal(opened.sdk)

    def publish(self, image_id: str, draft: str) -> None:
        """Give a complete image its name, which commits it; asks after it where that is in doubt.

        Raises AlreadyExists, and Unavailable: as indeterminate where it cannot be told.
        """

        def send() -> bool:
            # An interrupt in the middle would leave the image with both names.
            uninterrupted(lambda: names.publish(self.pool, image_id, draft, self.name))
            return True

        def ask(exc: Exception) -> bool | None:
            self.connection.judge(exc)
            with self._connect() as connection, contextlib.suppress(NotFound):
                pool = own_pool(connection, self.settings)
                if names.id_of(pool, self.name) == image_id:
                    names.publish(pool, image_id, draft, self.name)
                    return True
            return None

        try:
            settled(send, ask, is_refused=_is_refused)
        except NotFound as exc:
            raise Unavailable(
                "this process stood still for too long: the unfinished image was removed"
            ) from exc

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
            self.connection.judge(exc)
            LOG.warning("image %s has no journal: %s", self.name, describe(exc))

    def probe(self) -> None:
        """Create the image, empty, and remove it; raises what prevents that."""
        self.create(self.name, 1)
        remove = functools.partial(remove_draft, self.connection, self.pool, self.name)
        with (
            undone(remove, "removing a probe"),
            OpenImage(self.connection, self.pool, self.name) as image,
        ):
            image.write(b"\1", 0)
            image.create_snap(SNAPSHOT)
            image.protect_snap(SNAPSHOT)
        remove()

    def remove(self, connection: Connection, draft: str, image_id: str | None) -> None:
        """Remove an image of this add; an interrupt may have come after it had got its name.

        Where its id is not known yet, one that is in use may be another add's.
        """
        pool = own_pool(connection, self.settings)
        found = image_id or names.id_of(pool, draft)
        if found is None:
            return
        state = look_at(connection, pool, image_id=found)
        if image_id is None and draft == self.draft and state.in_use:
            return
        if names.id_of(pool, self.name) == state.id:
            with OpenImage(connection, pool, image_id=state.id) as image:
                image.metadata_set(MARK, mark_of_deletion(image))
            try:
                remove_draft(connection, pool, self.name, state)
                names.unlink(pool, state.id, draft)
                return
            except NotFound:
                LOG.debug("image %s had not got its name yet", self.name)
        remove_draft(connection, pool, draft, state)

    def _undo(self, exc: BaseException) -> None:
        """Remove the draft, unless it may be complete, without hiding what is being raised."""
        self.connection.judge(exc)
        if self._opened is not None:
            self._opened.close_quietly()
        if is_in_doubt(exc):
            return
        if isinstance(exc, Exception) and isinstance(classify(exc), TimedOut):
            LOG.warning("image %s of a failed add stays for remove_leftovers()", self.name)
            return  # more requests would wait as long, one after the other
        what = f"removing image {self.name} of a failed add (remove_leftovers() does it later)"
        attempted(self._remove_draft, what)

    def _remove_draft(self) -> None:
        with (
            contextlib.suppress(NotFound, self._rbd.ImageNotFound),
            self._connect() as connection,
        ):
            self.remove(connection, self.draft, self._opened.id if self._opened else None)


def _is_refused(exc: Exception) -> bool:
    return isinstance(exc, AlreadyExists | NotFound) or error_number(exc) in _REFUSED
