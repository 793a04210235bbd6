"""What images tell about themselves."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final

from imgstore.drivers._librbd.connection import Connection
from imgstore.drivers._librbd.images import OpenImage, version_of
from imgstore.drivers.rbd.settings import SNAPSHOT
from imgstore.errors import NotFound

# Key of the metadata that marks an image: as deleted, in the trash, from where an operator may have
# restored it; as a copy, until it has its name; as begun, by former versions of this library.
# librbd hands metadata on to clones and copies, so marks hold the id of the image that is meant.
MARK: Final = "imgstore.unfinished"
# With this metadata an image is one without a protected snapshot, too; its maker sets it.
COMPLETE: Final = "imgstore.complete"
# No image that was created before is an unfinished one of this library.
_BEGAN: Final = datetime(2026, 11, 1, tzinfo=timezone.utc)


def mark_of_add(image: Any) -> str:
    """Return the mark of an image that a former version of this library began."""
    return f"add {image.id()}"


def mark_of_deletion(image: Any) -> str:
    """Return the mark of an image that is being moved to the trash, another one each time."""
    return f"delete {image.id()} {int(time.time())} {secrets.token_hex(8)}"


def mark_of_copy(image: Any, name: str) -> str:
    """Return the mark of a copy that is to get ``name``."""
    return f"copy {image.id()} {name}"


def renamed_to(mark: str, image_id: str) -> str | None:
    """Return the name that a copy is to get, None if the mark does not say so."""
    return _rest_of(mark, f"copy {image_id} ")


def deleted_at(mark: str, image_id: str) -> float | None:
    """Return when the image was marked as deleted, None if it was not, or is another one."""
    seconds, _, _ = (_rest_of(mark, f"delete {image_id} ") or "").partition(" ")
    return float(seconds) if seconds.isdigit() else None


def _rest_of(mark: str, start: str) -> str | None:
    return mark[len(start) :] if mark.startswith(start) else None


@dataclass(frozen=True)
class State:
    """What an image is, as far as it tells.

    ``is_draft``: an add by a former version, which gave names at once, has not ended. ``in_use``:
    someone has the image open for writing, or locked it by hand; librbd's own locks outlive their
    owners and tell nothing.
    """

    id: str
    size: int
    mark: str
    is_draft: bool
    snapshots: tuple[str, ...]
    in_use: bool
    modified: datetime
    created: datetime

    @property
    def is_abandoned(self) -> bool:
        """Return whether the image is what a dead process left."""
        return self.is_draft and not self.in_use


def look_at(
    connection: Connection, pool: Any, name: str | None = None, *, image_id: str | None = None
) -> State:
    """Return the state of an image; raises librbd's ImageNotFound."""
    with OpenImage(connection, pool, name, image_id=image_id, read_only=True) as image:
        metadata = dict(image.metadata_list())
        snapshots = list(image.list_snaps())
        own = tuple(each["name"] for each in snapshots if not each.get("namespace"))
        return State(
            id=image.id(),
            size=image.size(),
            mark=metadata.get(MARK, ""),
            is_draft=metadata.get(MARK) == mark_of_add(image) and not _is_finished(image),
            snapshots=own,
            in_use=is_watched(image) or is_locked(image),
            modified=_in_utc(image.modify_timestamp()),
            created=_in_utc(image.create_timestamp()),
        )


def is_watched(image: Any, *, own: int = 0) -> bool:
    """Return whether an image is open for writing, more often than ``own`` times."""
    return sum(1 for _ in image.watchers_list()) > own


def is_locked(image: Any) -> bool:
    """Return whether somebody locked an image by hand."""
    found = image.list_lockers()
    return bool(found) and found["tag"] != "internal" and bool(found["lockers"])


def has_clones(image: Any, snapshot_id: int) -> bool:
    """Return whether anything was cloned from a snapshot, be it one that was removed before."""
    image.set_snap_by_id(snapshot_id)
    return any(True for _ in image.list_children2())


def open_at(connection: Connection, pool: Any, name: str, snapshot: str | None) -> OpenImage:
    """Open an image for reading; raises NotFound for one that is not complete."""
    opened = OpenImage(connection, pool, name, snapshot=snapshot, read_only=True)
    try:
        if not _is_complete(opened.sdk, snapshot or SNAPSHOT):
            raise NotFound(
                f"the image is not complete: it has no protected snapshot {snapshot or SNAPSHOT!r}",
                remedy=f"if it is, protect one, or set the image-meta {COMPLETE}",
            )
    except BaseException:
        opened.close()
        raise
    return opened


def time_of(image: Any, snapshot: str | None) -> datetime:
    """Return when an image was committed: when its snapshot was taken, or else it was made."""
    if snapshot is None:
        return _in_utc(image.create_timestamp())
    return _in_utc(image.get_snap_timestamp(image.snap_get_id(snapshot)))


def identity_of(image: Any, snapshot: str | None) -> str:
    """Return what tells an image from those of other clusters: ids are partly random."""
    return f"{version_of(image, snapshot)} {image.create_timestamp()} {image.size()}"


def _is_complete(image: Any, snapshot: str) -> bool:
    """Return whether an image is one: by its snapshot, its age, or because somebody says so."""
    if _is_finished(image, snapshot):
        return True
    metadata = dict(image.metadata_list())
    if metadata.get(MARK) == mark_of_add(image):
        return False
    return (
        COMPLETE in metadata
        or deleted_at(metadata.get(MARK, ""), image.id()) is not None
        or _in_utc(image.create_timestamp()) < _BEGAN
    )


def _is_finished(image: Any, snapshot: str = SNAPSHOT) -> bool:
    names = [each["name"] for each in image.list_snaps()]
    return snapshot in names and bool(image.is_protected_snap(snapshot))


def _in_utc(time: datetime) -> datetime:
    """Return a time of librbd, which are in UTC and do not say so."""
    return time.replace(tzinfo=timezone.utc)
