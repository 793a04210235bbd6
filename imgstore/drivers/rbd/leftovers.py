"""What dead processes left in a pool, and what has been in its trash for long enough."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Final, TypeVar

from imgstore.drivers._librbd.cluster import Connection, classify
from imgstore.drivers._librbd.images import OpenImage
from imgstore.drivers.rbd.adding import discard, discard_private
from imgstore.drivers.rbd.deleting import purge
from imgstore.drivers.rbd.images import MARK, State, deleted_at, in_utc, look_at, renamed_to
from imgstore.drivers.rbd.settings import SNAPSHOT, is_private
from imgstore.errors import NotFound, Unavailable
from imgstore.model import Leftover
from imgstore.translation import describe

LOG = logging.getLogger(__name__)
T = TypeVar("T")

_SECOND: Final = timedelta(seconds=1)
_MOVED: Final = 600.0  # seconds from the mark of a deletion to the trash, at most


@dataclass(frozen=True)
class _Unfinished:
    """An image of which an add, a copy or a deletion did not end."""

    name: str
    id: str


@dataclass(frozen=True)
class _Trashed:
    """An image in the trash."""

    entry: Mapping[str, Any]


def find(
    connection: Connection, pool: Any, store: str, *, older_than: timedelta
) -> Iterator[Leftover]:
    """Yield what is abandoned for ``older_than``; every image of the pool is looked at."""
    now = datetime.now(timezone.utc)
    for name in connection.verbs.list(pool):
        state = _if_readable(name, functools.partial(_unfinished, connection, pool, name))
        if state is not None and now - state.modified >= older_than:
            key = _Unfinished(name, state.id)
            yield Leftover(store, f"image {name}", state.modified, state.size, key)
    for entry in connection.verbs.trash_list(pool):
        deleted, ends = in_utc(entry["deletion_time"]), in_utc(entry["deferment_end_time"])
        # Both are without fractions of a second.
        if (deleted < ends and ends + _SECOND > now) or now - deleted < older_than:
            continue
        size = _if_readable(entry["name"], functools.partial(_purgeable, connection, pool, entry))
        if size is not None:
            trashed = _Trashed(entry)
            yield Leftover(store, f"trash {entry['name']}", deleted, size, trashed)


def remove(connection: Connection, pool: Any, leftover: Leftover) -> None:
    """Remove one; raises NotFound for what is gone or turned out to be in use."""
    found = leftover.key
    if isinstance(found, _Trashed):
        _purge(connection, pool, found)
        return
    state = _unfinished(connection, pool, found.name)
    if state is None or state.id != found.id:
        raise NotFound("the image is gone, or another one")
    try:
        if is_private(found.name):
            discard_private(connection, pool, found.name)
        else:
            discard(connection, pool, found.name, state)
    except connection.rbd.ImageBusy as exc:
        raise NotFound("the image is in use") from exc


def _unfinished(connection: Connection, pool: Any, name: str) -> State | None:
    try:
        state = look_at(connection, pool, name)
    except connection.rbd.ImageNotFound:
        return None
    is_left = is_private(name) and not state.in_use and not _has_name(connection, pool, state)
    return state if state.is_abandoned or is_left else None


def _has_name(connection: Connection, pool: Any, copy: State) -> bool:
    """Return whether a copy got the name that it was to get, and this is what is left of the old.

    librbd writes the new name of an image before it gives up the old one.
    """
    name = renamed_to(copy.mark, copy.id)
    if name is None:
        return False
    try:
        with OpenImage(connection, pool, name, read_only=True) as image:
            return bool(image.id() == copy.id)
    except connection.rbd.ImageNotFound:
        return False


def _if_readable(name: str, look: Callable[[], T]) -> T | None:
    """Return what ``look`` returns, None for an image that this user cannot open."""
    try:
        return look()
    except Exception as exc:
        if isinstance(classify(exc), Unavailable):
            raise
        LOG.debug("image %s cannot be looked at: %s", name, describe(exc))
        return None


def _purgeable(connection: Connection, pool: Any, entry: Mapping[str, Any]) -> int | None:
    """Return the size of an image in the trash that this library put there and nothing needs."""
    rbd = connection.rbd
    is_copy = is_private(entry["name"])
    try:
        with OpenImage(connection, pool, image_id=entry["id"], read_only=True) as image:
            mark = deleted_at(dict(image.metadata_list()).get(MARK, ""), entry["id"])
            # One that was restored, and moved to the trash again by others, is theirs.
            is_own = mark is not None and in_utc(entry["deletion_time"]).timestamp() < mark + _MOVED
            names = [each["name"] for each in image.list_snaps()]
            is_own, is_alone = is_own or is_copy, is_copy or names in ([], [SNAPSHOT])
            if not is_own or not is_alone or _has_clones(image, names):
                return None
            return int(image.size())
    except rbd.ImageNotFound:
        return None


def _has_clones(image: Any, names: list[str]) -> bool:
    for name in names:
        image.set_snap(name)
        if any(True for _ in image.list_children2()):
            return True
    return False


def _purge(connection: Connection, pool: Any, found: _Trashed) -> None:
    rbd = connection.rbd
    image_id = found.entry["id"]
    if _purgeable(connection, pool, found.entry) is None:
        raise NotFound("the image is gone, or needed")
    try:
        with OpenImage(connection, pool, image_id=image_id, read_only=True) as image:
            snapshots = [each["name"] for each in image.list_snaps()]
        if not purge(connection, pool, image_id, snapshots=snapshots):
            raise NotFound("the image has snapshots that are needed")
    except (rbd.ImageNotFound, rbd.ImageBusy) as exc:
        raise NotFound("the image is gone, or in use") from exc
