"""Deleting an image: by way of the trash, where it stays for a time, or while clones need it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from imgstore.boundary.translation import describe
from imgstore.drivers._librbd.connection import Connection
from imgstore.drivers._librbd.errors import quietly
from imgstore.drivers._librbd.images import OpenImage
from imgstore.drivers._librbd.waiting import Watchdog
from imgstore.drivers.rbd import names
from imgstore.drivers.rbd.places import is_draft
from imgstore.drivers.rbd.settings import SNAPSHOT
from imgstore.drivers.rbd.states import (
    MARK,
    State,
    has_clones,
    is_locked,
    is_watched,
    look_at,
    mark_of_deletion,
)
from imgstore.errors import InUse, NotFound
from imgstore.process.committing import undone
from imgstore.process.patience import Patience

LOG = logging.getLogger(__name__)

_OPEN: Final = "the image is open elsewhere, or locked"
_CLONED: Final = "the image has clones that depend on its snapshot"
_CLONES: Final = "flatten or delete the clones first"
_CLOSES: Final = Patience(0.1, longest=1.0, seconds=60.0)  # for a daemon to close an image


def delete(
    connection: Connection, pool: Any, name: str, snapshot: str | None, *, delay: int
) -> None:
    """Delete an image and its snapshot; with ``delay``, leave it in the trash for so many seconds.

    Moving it there is what deletes it. It stays there if other snapshots, or clones of format 2,
    need it, or somebody opened it meanwhile. Raises InUse, with nothing changed, where clones of
    format 1 exist or somebody has it open; librbd's ImageNotFound.
    """
    # Open until it is in the trash, so that another deletion of it knows of this one.
    with OpenImage(connection, pool, name) as image:
        mirroring = _Mirroring(connection, pool, image)
        doomed = _examine(connection.rbd, image, snapshot or SNAPSHOT, own=1 + mirroring.others)
        undo = functools.partial(_undo, pool, image, doomed, mirroring)
        with undone(undo, f"restoring image {name}, which was not deleted,"):
            image.metadata_set(MARK, doomed.mark)
            if doomed.protected:
                _unprotect(connection.rbd, image, doomed.protected)
                if delay:
                    image.protect_snap(doomed.protected)  # it may be restored, an image again
            if not mirroring.end():
                raise InUse(_OPEN, remedy="end that use first", retryable=True)
            _settle_name(pool, doomed.id, name)
            names.to_trash(pool, doomed.id, name, delay=delay)
    if not delay:
        _purge_doomed(connection, pool, name, doomed)


@dataclass(frozen=True)
class _Doomed:
    """An image that is to be deleted: its snapshots to remove, and the one that is protected.

    ``mark`` is the one that this deletion sets, and no other one.
    """

    id: str
    mark: str
    snapshots: Sequence[str]
    protected: str | None


def _examine(rbd: Any, image: Any, snapshot: str, *, own: int) -> _Doomed:
    """Return what an image has; raises InUse where it is open more often than ``own`` times."""
    if image.group()["name"]:
        raise InUse("the image belongs to a group", remedy="take it out of the group first")
    if _is_migrating(rbd, image):
        raise InUse("the image is being migrated", remedy="commit or abort that first")
    if is_watched(image, own=own) or is_locked(image):
        raise InUse(_OPEN, remedy="end that use first", retryable=True)
    found = [each["name"] for each in image.list_snaps() if not each.get("namespace")]
    snapshots = [snapshot] if snapshot in found else []
    protected = snapshot if snapshots and image.is_protected_snap(snapshot) else None
    return _Doomed(image.id(), mark_of_deletion(image), snapshots, protected)


def _is_migrating(rbd: Any, image: Any) -> bool:
    """Return whether an image is prepared for a live migration; librbd knows that once it is open.

    It hides the feature bit.
    """
    try:
        image.migration_source_spec()
    except rbd.Error:
        return False
    return True


def _purge_doomed(connection: Connection, pool: Any, name: str, doomed: _Doomed) -> None:
    """Remove an image from the trash, as far as that can be done now: it is deleted already.

    Somebody may have opened it at the last moment. It is never given its name back, which may have
    been another image's meanwhile.
    """
    try:
        purge(connection, pool, doomed.id, snapshots=doomed.snapshots)
    except connection.rbd.ImageNotFound:
        return  # a clean-up came first
    except Exception as exc:
        connection.judge(exc)
        LOG.warning("image %s was deleted and stays in the trash: %s", name, describe(exc))


def _settle_name(pool: Any, image_id: str, name: str) -> None:
    """End what a process did not that died while it gave the image its name."""
    listed = names.listed_name(pool, image_id)
    if listed is not None and listed != name and is_draft(listed):
        names.publish(pool, image_id, listed, name)


def remove_draft(connection: Connection, pool: Any, name: str, state: State | None = None) -> None:
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


def purge(connection: Connection, pool: Any, image_id: str, *, snapshots: Sequence[str]) -> bool:
    """Remove an image that is in the trash, with its snapshots; False if others remain.

    Raises librbd's ImageBusy where it is open, or has clones of format 1.
    """
    rbd = connection.rbd
    unneeded = _unneeded(connection, pool, image_id)
    if snapshots or unneeded:
        with OpenImage(connection, pool, image_id=image_id) as image:
            for each in unneeded:
                image.remove_snap_by_id(each)
            for snapshot in snapshots:
                if image.is_protected_snap(snapshot):
                    image.unprotect_snap(snapshot)
                image.remove_snap(snapshot)
    watchdog = Watchdog(connection, pool, f"rbd_header.{image_id}")
    try:
        # Forced: delays were looked at before.
        watchdog(functools.partial(connection.verbs.trash_remove, pool, image_id, True))
    except rbd.ImageHasSnapshots:
        return False
    finally:
        watchdog.end()
    return True


def _unneeded(connection: Connection, pool: Any, image_id: str) -> list[int]:
    """Return the ids of snapshots that a removal that died had only moved away, for their clones.

    librbd does so with any snapshot before it removes it.
    """
    try:
        with OpenImage(connection, pool, image_id=image_id, read_only=True) as image:
            trashed = connection.rbd.RBD_SNAP_NAMESPACE_TYPE_TRASH
            found = [each["id"] for each in image.list_snaps() if each.get("namespace") == trashed]
            return [each for each in found if not has_clones(image, each)]
    except connection.rbd.ImageNotFound:
        return []  # nothing but its entry is left


def _unprotect(rbd: Any, image: Any, snapshot: str) -> None:
    """Unprotect a snapshot; raises InUse where clones of format 1 prevent that."""
    try:
        image.unprotect_snap(snapshot)
    except rbd.InvalidArgument:
        return
    except rbd.ImageBusy as exc:
        raise InUse(_CLONED, remedy=_CLONES) from exc


def _undo(pool: Any, image: Any, doomed: _Doomed, mirroring: _Mirroring) -> None:
    """Let an image be as it was, its snapshot protected if it was that, unless it is deleted."""
    if names.in_trash(pool, doomed.id):
        return
    protected = doomed.protected
    with quietly("protecting the snapshot of an image that was not deleted"):
        if protected is not None:
            if protected not in [each["name"] for each in image.list_snaps()]:
                image.create_snap(protected)
            if not image.is_protected_snap(protected):
                image.protect_snap(protected)
    with quietly("removing the mark of an image that was not deleted"):
        names.remove_metadata(pool, doomed.id, MARK, doomed.mark)
    mirroring.resume(image)


class _Mirroring:
    """The mirroring of one image, which is open; raises InUse for one that is not primary.

    It ends before the image is deleted, as for ``rbd rm``. The daemon of the other cluster has
    such an image open like a user. Who has an image open is told by numbers that say nothing of
    what they are; but the daemon closes it once it is not mirrored.
    """

    def __init__(self, connection: Connection, pool: Any, image: Any) -> None:
        self._image = image
        self._rbd = connection.rbd
        info = image.mirror_image_get_info()
        self._is_on = info["state"] == self._rbd.RBD_MIRROR_IMAGE_ENABLED
        self._resume: Callable[[Any], object] | None = None
        self.others = 0  # who may have the image open beside this process without using it
        if not self._is_on:
            return
        if not info["primary"]:
            raise InUse(
                "the image is mirrored from another cluster",
                remedy="delete it there, or promote it here first",
            )
        self.others = sum(1 for _ in connection.verbs.mirror_peer_list(pool))

    def end(self) -> bool:
        """End it; False if somebody has the image open even so."""
        if not self._is_on:
            return True
        mode = self._image.mirror_image_get_mode()
        try:
            self._image.mirror_image_disable(False)
            self._resume = lambda image: image.mirror_image_enable(mode)
        except self._rbd.InvalidArgument:
            # The pool's mode is to mirror all images with a journal, and only those.
            journaling = self._rbd.RBD_FEATURE_JOURNALING
            self._image.update_features(journaling, False)
            self._resume = lambda image: image.update_features(journaling, True)
        except self._rbd.ImageBusy as exc:
            raise InUse(
                "clones of the image are mirrored",
                remedy="end the mirroring of the clones, flatten or delete them first",
            ) from exc
        return any(not is_watched(self._image, own=1) for _ in _CLOSES.attempts())

    def resume(self, image: Any) -> None:
        """Mirror the image again, which is open as ``image``, if ``end`` has ended that."""
        if self._resume is not None:
            with quietly("mirroring an image again that was not deleted"):
                self._resume(image)
