"""Open images, and what they tell about themselves."""

from __future__ import annotations

import os
import time
import weakref
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final

from imgstore._interrupts import uninterrupted
from imgstore.drivers.rbd.cluster import (
    SETTLED,
    Connection,
    hold,
    is_thread_of_librbd,
    let_go,
)
from imgstore.drivers.rbd.settings import SNAPSHOT
from imgstore.errors import NotFound, StoreError

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


class _Handle:
    """One of librbd's images, open.

    Where librbd 16 opens an image it touches it once more after it has said that it is open, and
    crashes if it was closed by then. So no image is closed at once: those that are only read, which
    nobody sees, are left to the connection.
    """

    def __init__(self, sdk: Any, connection: Connection, *, is_only_read: bool) -> None:
        self.sdk = sdk
        self._opened = time.monotonic()
        self._pid = os.getpid()
        self._connection = connection
        self._is_only_read = is_only_read

    def end(self) -> None:
        """Close after what is under way; raises what librbd raises."""
        if os.getpid() != self._pid:
            return
        if self._is_only_read or is_thread_of_librbd():
            self._connection.linger(self._opened, self._close)
        else:
            time.sleep(max(0.0, self._opened + SETTLED - time.monotonic()))
            self._close()

    def _close(self) -> None:
        try:
            self.sdk.close()
        finally:
            let_go(self.sdk)


class OpenImage:
    """An image that is open until ``close``, which does nothing in a forked child."""

    def __init__(
        self,
        connection: Connection,
        pool: Any,
        name: str | None = None,
        *,
        image_id: str | None = None,
        snapshot: str | None = None,
        read_only: bool = False,
    ) -> None:
        """Open by name or id; raises what librbd raises. Unless read-only, it counts as in use."""
        made: list[Any] = []

        def open_image() -> None:
            image = connection.rbd.Image(
                pool, name, snapshot=snapshot, read_only=read_only, image_id=image_id
            )
            made.append(_Handle(hold(image), connection, is_only_read=read_only))

        self._pid = os.getpid()
        self.requests = connection.requests
        try:
            uninterrupted(open_image)
            # Nobody may ever get to see this object: an interrupt is raised at any moment.
            self._end = weakref.finalize(self, made[0].end)
        except BaseException:
            for each in made:
                each.end()
            raise
        self._end.atexit = False  # the connection ends what is open then
        self.sdk: Any = made[0].sdk

    def close(self) -> None:
        """Close once, after what is under way; raises what librbd raises."""
        if os.getpid() == self._pid:
            uninterrupted(self._end)

    def check_process(self) -> None:
        """Raise StoreError in a forked child, where nothing would ever arrive."""
        if os.getpid() != self._pid:
            raise StoreError(
                "an image that was opened before a fork cannot be read in the child",
                remedy="open it in the child",
            )

    def __enter__(self) -> Any:
        """Return the SDK's image."""
        return self.sdk

    def __exit__(self, *exc_info: object) -> None:
        """Close."""
        self.close()


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


def version_of(image: Any, snapshot: str | None) -> str:
    """Return what tells an image from a later one of the same name."""
    return f"{image.id()}@{image.snap_get_id(snapshot)}" if snapshot else str(image.id())


def confirm(
    connection: Connection, pool: Any, name: str, snapshot: str | None, version: str
) -> None:
    """Raise NotFound if an image was deleted since: then objects may have been read as zeros."""
    try:
        with OpenImage(connection, pool, name, snapshot=snapshot, read_only=True) as image:
            is_same = version_of(image, snapshot) == version
    except connection.rbd.ImageNotFound:
        is_same = False
    if not is_same:
        raise NotFound("the image was deleted while it was read")


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
