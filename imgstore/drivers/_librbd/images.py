"""Images that are open."""

from __future__ import annotations

import os
import time
import weakref
from typing import Any

from imgstore._interrupts import uninterrupted
from imgstore.drivers._librbd.cluster import (
    SETTLED,
    Connection,
    hold,
    is_thread_of_librbd,
    let_go,
)
from imgstore.errors import NotFound, StoreError


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
