"""What dead processes left in a pool, and what has been in its trash for long enough."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Final, TypeVar

from imgstore.boundary.translation import describe
from imgstore.drivers._librbd.connection import Connection
from imgstore.drivers._librbd.errors import classify
from imgstore.drivers._librbd.images import OpenImage
from imgstore.drivers.rbd import names
from imgstore.drivers.rbd.deleting import purge, remove_draft
from imgstore.drivers.rbd.places import added_as, is_draft
from imgstore.drivers.rbd.settings import SNAPSHOT
from imgstore.drivers.rbd.states import (
    MARK,
    deleted_at,
    has_clones,
    look_at,
    mark_of_add,
    renamed_to,
)
from imgstore.errors import NotFound, Unavailable
from imgstore.model import Leftover
from imgstore.process.committing import undone

LOG = logging.getLogger(__name__)
T = TypeVar("T")

_SECOND: Final = timedelta(seconds=1)
_MOVED: Final = 600.0  # seconds from the mark of a deletion to the trash, at most
# Others are of rbd-mirror and of live migrations.
_OWN_SOURCES: Final = (names.BY_USER, names.BY_REMOVAL, names.BY_USER_OF_PARENT)


@dataclass(frozen=True)
class _Left:
    """An image of which an add or a copy did not end, or only a name.

    That is one for an image that is gone, in the trash, or has got the name ``to``.
    """

    name: str
    id: str
    is_image: bool = False
    to: str | None = None


def find(
    connection: Connection, pool: Any, store: str, *, older_than: timedelta
) -> Iterator[Leftover]:
    """Yield what is abandoned for ``older_than``; every image of the pool is looked at."""
    now = datetime.now(timezone.utc)
    for name in connection.verbs.list(pool):
        look_left = functools.partial(_left, connection, pool, store, name)
        found = _if_readable(connection, name, look_left)
        if found is not None and now - found.modified >= older_than:
            yield found
    for entry in names.trash(pool):
        if entry.source not in _OWN_SOURCES:
            continue
        # All times are without fractions of a second.
        is_deferred = entry.deleted < entry.deferred and entry.deferred + _SECOND > now
        if is_deferred or now - entry.deleted < older_than:
            continue
        look = functools.partial(_purgeable, connection, pool, entry)
        size = _if_readable(connection, entry.name, look)
        if size is not None:
            yield Leftover(store, f"trash {entry.name}", entry.deleted, size, entry)


def remove(connection: Connection, pool: Any, leftover: Leftover) -> None:
    """Remove one; raises NotFound for what is gone or turned out to be in use."""
    found = leftover.key
    if isinstance(found, names.Trashed):
        _purge(connection, pool, found)
        return
    again = _left(connection, pool, leftover.store, found.name)
    if again is None or again.key != found:
        raise NotFound("it is gone, or another one, or in use")
    if found.is_image:
        remove_draft(connection, pool, found.name)
    elif found.to is not None:
        names.publish(pool, found.id, found.name, found.to)
    else:
        names.unlink(pool, found.id, found.name)


def _left(connection: Connection, pool: Any, store: str, name: str) -> Leftover | None:
    """Return what a dead process left under a name, None for an image, or what is in use."""
    try:
        state = look_at(connection, pool, name)
    except connection.rbd.ImageNotFound:
        return _without_image(pool, store, name)
    if state.in_use or not (state.is_abandoned or is_draft(name)):
        return None
    to = added_as(name) or renamed_to(state.mark, state.id)
    is_named = to is not None and names.id_of(pool, to) == state.id
    key = _Left(name, state.id, is_image=not is_named, to=to if is_named else None)
    kind = "name" if is_named else "image"
    return Leftover(store, f"{kind} {name}", state.modified, state.size, key)


def _without_image(pool: Any, store: str, name: str) -> Leftover | None:
    listed = names.listed_id(pool, name)
    if listed is None or not names.is_nameless(pool, listed):
        return None
    return Leftover(store, f"name {name}", names.made_at(pool, name), 0, _Left(name, listed))


def _if_readable(connection: Connection, name: str, look: Callable[[], T]) -> T | None:
    """Return what ``look`` returns, None for an image that this user cannot open."""
    try:
        return look()
    except Exception as exc:
        if isinstance(classify(exc), Unavailable):
            raise
        connection.judge(exc)
        LOG.debug("image %s cannot be looked at: %s", name, describe(exc))
        return None


def _purgeable(connection: Connection, pool: Any, entry: names.Trashed) -> int | None:
    """Return the size of an image in the trash that this library put there and nothing needs."""
    if entry.is_held:
        return None
    if _lives(pool, entry):
        return 0
    is_unfinished = is_draft(entry.name)
    try:
        with OpenImage(connection, pool, image_id=entry.id, read_only=True) as image:
            mark = dict(image.metadata_list()).get(MARK, "")
            marked = deleted_at(mark, entry.id)
            # One that was restored, and moved to the trash again by others, is theirs.
            is_own = marked is not None and entry.deleted.timestamp() < marked + _MOVED
            is_own = is_own or is_unfinished or mark == mark_of_add(image)
            snapshots = list(image.list_snaps())
            trashed = connection.rbd.RBD_SNAP_NAMESPACE_TYPE_TRASH
            kept = [each["name"] for each in snapshots if each.get("namespace") != trashed]
            is_alone = is_unfinished or kept in ([], [SNAPSHOT])
            if not is_own or not is_alone or any(has_clones(image, s["id"]) for s in snapshots):
                return None
            return int(image.size())
    except connection.rbd.ImageNotFound:
        # Its removal did not end: this entry is all that is left of it.
        return 0 if not names.exists(pool, entry.id) else None


def _lives(pool: Any, entry: names.Trashed) -> bool:
    """Return whether an image got its name although a clean-up was about to remove it."""
    listed = names.listed_name(pool, entry.id)
    return is_draft(entry.name) and listed not in (None, entry.name)


def _purge(connection: Connection, pool: Any, found: names.Trashed) -> None:
    entry = names.trashed(pool, found.id)
    if entry is None or _purgeable(connection, pool, entry) is None:
        raise NotFound("the image is gone, or needed")
    if _lives(pool, entry):
        names.remove_entry(pool, entry.id)
        return
    if not names.begin_removal(pool, entry):
        raise NotFound("the image is being restored, or was")
    undo = functools.partial(names.end_removal, pool, entry.id)
    with undone(undo, f"letting image {entry.name} be restored from the trash"):
        _purge_alone(connection, pool, entry)


def _purge_alone(connection: Connection, pool: Any, entry: names.Trashed) -> None:
    rbd = connection.rbd
    names.unlink(pool, entry.id, entry.name)  # which may have been all that was missing
    if names.listed_name(pool, entry.id) is not None:
        raise NotFound("the image got another name meanwhile")
    try:
        snapshots: tuple[str, ...] = ()
        with contextlib.suppress(rbd.ImageNotFound):
            snapshots = look_at(connection, pool, image_id=entry.id).snapshots
        if not purge(connection, pool, entry.id, snapshots=snapshots):
            raise NotFound("the image has snapshots that are needed")
    except (rbd.ImageNotFound, rbd.ImageBusy) as exc:
        raise NotFound("the image is gone, or in use") from exc
    except rbd.OSError as exc:
        if exc.errno != errno.EUCLEAN:
            raise
        raise NotFound("the image is being restored") from exc
