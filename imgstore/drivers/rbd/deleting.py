"""Deleting an image: by way of the trash, where it stays for a time, or while clones need it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from imgstore.drivers._librbd.cluster import Connection, quietly
from imgstore.drivers._librbd.images import OpenImage
from imgstore.drivers.rbd.images import MARK, is_locked, is_watched, mark_of_deletion
from imgstore.drivers.rbd.settings import SNAPSHOT
from imgstore.errors import InUse, NotFound
from imgstore.translation import describe

LOG = logging.getLogger(__name__)

_OPEN: Final = "the image is open elsewhere, or locked"
_CLONED: Final = "the image has clones that depend on its snapshot"
_CLONES: Final = "flatten or delete the clones first"


def delete(
    connection: Connection, pool: Any, name: str, snapshot: str | None, *, delay: int
) -> None:
    """Delete an image and its snapshot; with ``delay``, leave it in the trash for so many seconds.

    Moving it there is what deletes it. It stays there if other snapshots, or clones of format 2,
    need it. Raises InUse, with nothing changed, where clones of format 1 exist or somebody has it
    open; librbd's ImageNotFound.
    """
    doomed = None
    try:
        with OpenImage(connection, pool, name) as image:
            doomed = _examine(image, snapshot or SNAPSHOT)
            _doom(connection.rbd, image, doomed, delay=delay)
        _check_name(connection, pool, name, doomed.id)
        connection.verbs.trash_move(pool, name, delay)
    except BaseException:
        if doomed is not None:
            _spare(connection, pool, name, doomed)
        raise
    if delay:
        return
    try:
        purge(connection, pool, doomed.id, snapshots=doomed.snapshots)
    except connection.rbd.ImageBusy as exc:
        _restore(connection, pool, name, doomed)
        raise InUse(_OPEN, remedy="end that use first", retryable=True) from exc
    except connection.rbd.ImageNotFound:
        return  # a clean-up came first
    except Exception as exc:
        LOG.warning("image %s was deleted and stays in the trash: %s", name, describe(exc))


@dataclass(frozen=True)
class _Doomed:
    """An image that is to be deleted: its snapshots to remove, and the one that is protected."""

    id: str
    snapshots: Sequence[str]
    protected: str | None


def _examine(image: Any, snapshot: str) -> _Doomed:
    """Return what an image has; raises InUse where somebody else has it open."""
    if is_watched(image, own=1) or is_locked(image):
        raise InUse(_OPEN, remedy="end that use first", retryable=True)
    names = [each["name"] for each in image.list_snaps() if not each.get("namespace")]
    snapshots = [each for each in names if each == snapshot]
    is_protected = snapshots and image.is_protected_snap(snapshot)
    return _Doomed(image.id(), snapshots, snapshot if is_protected else None)


def _doom(rbd: Any, image: Any, doomed: _Doomed, *, delay: int) -> None:
    """Unprotect an image and mark it as deleted; raises InUse where that cannot be."""
    if doomed.protected:
        _unprotect(rbd, image, doomed.protected)
    if doomed.protected and delay:
        image.protect_snap(doomed.protected)  # it may be restored, and be an image again
    image.metadata_set(MARK, mark_of_deletion(image))


def _spare(connection: Connection, pool: Any, name: str, doomed: _Doomed) -> None:
    """Undo what was done to an image so far, if the name is still its own."""
    with quietly("undoing a deletion"), OpenImage(connection, pool, name) as image:
        if image.id() == doomed.id:
            _give_back(image, doomed.protected)


def _check_name(connection: Connection, pool: Any, name: str, image_id: str) -> None:
    """Raise NotFound if the name is another image's by now: what is moved has a name, no id."""
    with OpenImage(connection, pool, name, read_only=True) as image:
        if image.id() != image_id:
            raise NotFound("the image was deleted meanwhile")


def purge(connection: Connection, pool: Any, image_id: str, *, snapshots: Sequence[str]) -> bool:
    """Remove an image that is in the trash, with its snapshots; False if others remain.

    Raises librbd's ImageBusy where it is open, or has clones of format 1.
    """
    rbd = connection.rbd
    if snapshots:
        with OpenImage(connection, pool, image_id=image_id) as image:
            for snapshot in snapshots:
                if image.is_protected_snap(snapshot):
                    image.unprotect_snap(snapshot)
                image.remove_snap(snapshot)
    try:
        connection.verbs.trash_remove(pool, image_id, True)  # delays were looked at before
    except rbd.ImageHasSnapshots:
        return False
    return True


def _unprotect(rbd: Any, image: Any, snapshot: str) -> None:
    """Unprotect a snapshot; raises InUse where clones of format 1 prevent that."""
    try:
        image.unprotect_snap(snapshot)
    except rbd.InvalidArgument:
        return
    except rbd.ImageBusy as exc:
        raise InUse(_CLONED, remedy=_CLONES) from exc


def _give_back(image: Any, protected: str | None) -> None:
    """Let an image be as it was, its snapshot protected if it was that."""
    with quietly("protecting the snapshot of an image that was not deleted"):
        if protected is not None:
            if protected not in [each["name"] for each in image.list_snaps()]:
                image.create_snap(protected)
            if not image.is_protected_snap(protected):
                image.protect_snap(protected)
    with quietly("removing the mark of an image that was not deleted"):
        if MARK in dict(image.metadata_list()):
            image.metadata_remove(MARK)


def _restore(connection: Connection, pool: Any, name: str, doomed: _Doomed) -> None:
    """Give an image its name and its protected snapshot back: somebody opened it meanwhile."""
    try:
        connection.verbs.trash_restore(pool, doomed.id, name)
        with OpenImage(connection, pool, image_id=doomed.id) as image:
            _give_back(image, doomed.protected)
    except Exception as exc:
        LOG.warning("image %s is in use and stays in the trash: %s", name, describe(exc))
