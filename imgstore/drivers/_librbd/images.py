"""Images that are open."""

from __future__ import annotations

import functools
import logging
import os
import time
import weakref
from dataclasses import dataclass, field
from typing import Any

from imgstore.boundary.translation import describe
from imgstore.drivers._librbd.connection import (
    Connection,
    await_opening,
    is_thread_of_librbd,
    pin,
    unpin,
)
from imgstore.drivers._librbd.waiting import Guarded, Watchdog
from imgstore.errors import NotFound, StoreError
from imgstore.process.interrupts import uninterrupted

LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class _Handle:
    """One of librbd's images, open.

    Where librbd 16 opens an image it touches it once more after it has said that it is open, and
    crashes if it was closed by then. So no image is closed at once: those that are only read, which
    nobody sees, are left to the connection.
    """

    sdk: Any
    connection: Connection
    watchdog: Watchdog
    is_only_read: bool
    opened: float = field(default_factory=time.monotonic)
    pid: int = field(default_factory=os.getpid)

    def end(self) -> None:
        """Close after what is under way; raises what librbd raises."""
        if os.getpid() != self.pid:
            return
        close = functools.partial(self.watchdog.end, self._close)
        if self.watchdog.is_over:
            close()
        elif self.is_only_read or is_thread_of_librbd():
            self.connection.close_later(self.opened, self._close if self.is_only_read else close)
        else:
            await_opening(self.opened)
            close()

    def _close(self) -> None:
        try:
            self.sdk.close()
        finally:
            unpin(self.sdk)


class OpenImage:
    """An image that is open until ``close``, which does nothing in a forked child.

    ``watchdog`` makes calls that may never return. Unless the image is only read, all methods of
    ``sdk`` are such calls. ``id`` is the image's internal one.
    """

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
        known = f"rbd_header.{image_id}" if image_id else f"rbd_id.{name}"
        self.watchdog = watchdog = Watchdog(connection, pool, known)

        def open_image() -> None:
            given = {"snapshot": snapshot, "read_only": read_only, "image_id": image_id}
            opening = functools.partial(connection.rbd.Image, pool, name, **given)
            image = opening() if read_only else watchdog(opening)
            made.append(_Handle(pin(image), connection, watchdog, read_only))
            self.id = str(image.id())
            watchdog.object_name = f"rbd_header.{self.id}"

        self.id = ""
        self._pid = os.getpid()
        self.connection = connection
        try:
            uninterrupted(open_image)
            # Nobody may ever get to see this object: an interrupt is raised at any moment.
            self._end = weakref.finalize(self, made[0].end)
        except BaseException:
            if not made and watchdog.is_over:
                watchdog.end()
            for each in made:
                each.end()
            raise
        self._end.atexit = False  # the connection ends what is open then
        image = made[0].sdk
        self.sdk: Any = image if read_only else Guarded(image, watchdog)

    def close(self) -> None:
        """Close once, after what is under way; raises what librbd raises."""
        if os.getpid() == self._pid:
            uninterrupted(self._end)

    def close_quietly(self) -> None:
        """Close, and let no failure hide what an image was open for."""
        try:
            self.close()
        except Exception as exc:
            self.connection.judge(exc)
            LOG.debug("closing an image: %s", describe(exc))

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
        """Close, which says nothing of what was done: each of librbd's calls has an answer."""
        self.close_quietly()


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
