"""What images tell about themselves."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final

from imgstore.drivers._librbd.cluster import Connection
from imgstore.drivers._librbd.images import OpenImage
from imgstore.drivers.rbd.settings import SNAPSHOT
from imgstore.errors import NotFound

# Key of the metadata that marks an image: as begun, until its snapshot is protected; as deleted,
# in the trash, from where an operator may have restored it; as a copy, until it has its name.
# librbd hands metadata on to clones and copies, so marks hold the id of the image that is meant.
MARK: Final = "imgstore.unfinished"


def mark_of_add(image: Any) -> str:
    """Return the mark of an image that is being added."""
    return f"add {image.id()}"


def mark_of_deletion(image: Any) -> str:
    """Return the mark of an image that is being moved to the trash."""
    return f"delete {image.id()} {int(time.time())}"


def mark_of_copy(image: Any, name: str) -> str:
    """Return the mark of a copy that is to get ``name``."""
    return f"copy {image.id()} {name}"


def renamed_to(mark: str, image_id: str) -> str | None:
    """Return the name that a copy is to get, None if the mark does not say so."""
    kind, _, rest = mark.partition(" ")
    found, _, name = rest.partition(" ")
    return name if (kind, found) == ("copy", image_id) else None


def deleted_at(mark: str, image_id: str) -> float | None:
    """Return when the image was marked as deleted, None if it was not, or is another one."""
    kind, _, rest = mark.partition(" ")
    found, _, time_of = rest.partition(" ")
    return float(time_of) if (kind, found) == ("delete", image_id) and time_of.isdigit() else None


@dataclass(frozen=True)
class State:
    """What an image is, as far as it tells.

    ``is_begun``: an add of it has not ended. ``in_use``: someone has the image
    open for writing, or locked it by hand; librbd's own locks outlive their owners and tell
    nothing.
    """

    id: str
    size: int
    mark: str
    is_begun: bool
    has_metadata: bool
    snapshots: tuple[str, ...]
    others: int
    is_finished: bool
    in_use: bool
    modified: datetime
    created: datetime

    @property
    def is_abandoned(self) -> bool:
        """Return whether the image is what a dead process left."""
        return self.is_begun and not self.in_use


def look_at(
    connection: Connection, pool: Any, name: str | None = None, *, image_id: str | None = None
) -> State:
    """Return the state of an image; raises librbd's ImageNotFound."""
    opened = OpenImage(connection, pool, name, image_id=image_id, read_only=True)
    with opened as image:
        metadata = dict(image.metadata_list())
        snapshots = list(image.list_snaps())
        own = tuple(each["name"] for each in snapshots if not each.get("namespace"))
        return State(
            id=image.id(),
            size=image.size(),
            mark=metadata.get(MARK, ""),
            is_begun=metadata.get(MARK) == mark_of_add(image) and not _is_finished(image),
            has_metadata=bool(metadata),
            snapshots=own,
            others=len(snapshots) - len(own),
            is_finished=_is_finished(image),
            in_use=is_watched(image) or is_locked(image),
            modified=in_utc(image.modify_timestamp()),
            created=in_utc(image.create_timestamp()),
        )


def is_watched(image: Any, *, own: int = 0) -> bool:
    """Return whether an image is open for writing, more often than ``own`` times."""
    return sum(1 for _ in image.watchers_list()) > own


def is_locked(image: Any) -> bool:
    """Return whether somebody locked an image by hand."""
    found = image.list_lockers()
    return bool(found) and found["tag"] != "internal" and bool(found["lockers"])


def is_untouched(connection: Connection, pool: Any, name: str, order: int) -> bool:
    """Return whether an image is as this store creates them, and nothing was written to it."""
    found: list[int] = []
    with OpenImage(connection, pool, name, read_only=True) as image:
        is_alike = image.features() & connection.features == connection.features
        if not is_alike or image.stat()["order"] != order:
            return False
        image.diff_iterate(0, image.size(), None, lambda at, *_: found.append(at), True, True)
    return not found


def open_at(connection: Connection, pool: Any, name: str, snapshot: str | None) -> OpenImage:
    """Open an image for reading; raises NotFound for one that is being added."""
    opened = OpenImage(connection, pool, name, snapshot=snapshot, read_only=True)
    try:
        if snapshot is None and _is_begun(opened.sdk):
            raise NotFound("the image is not complete")
    except BaseException:
        opened.close()
        raise
    return opened


def _is_finished(image: Any) -> bool:
    names = [each["name"] for each in image.list_snaps()]
    return SNAPSHOT in names and bool(image.is_protected_snap(SNAPSHOT))


def _is_begun(image: Any) -> bool:
    try:
        mark = image.metadata_get(MARK)
    except KeyError:
        return False
    return bool(mark == mark_of_add(image)) and not _is_finished(image)


def in_utc(time: datetime) -> datetime:
    """Return a time of librbd, which are in UTC and do not say so."""
    return time.replace(tzinfo=timezone.utc)
