"""Reading an image: open until the reader is closed, and confirmed before its last bytes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack

from imgstore.data.opened import Opened
from imgstore.drivers._librbd.cluster import Cluster
from imgstore.drivers._librbd.connection import Connection
from imgstore.drivers._librbd.images import confirm, version_of
from imgstore.drivers._librbd.reading import Ahead
from imgstore.drivers.rbd.places import Place
from imgstore.drivers.rbd.settings import Settings
from imgstore.drivers.rbd.states import open_at
from imgstore.errors import IntegrityError


def open_image(
    cluster: Cluster,
    settings: Settings,
    locate: Callable[[Connection], Place],
    offset: int,
    length: int | None,
    *,
    if_version: str | None,
) -> Opened:
    """Open the image that ``locate`` names in the cluster; its bytes are read ahead.

    The connection is lent until the reader is closed.
    """
    with ExitStack() as closing:
        connection = closing.enter_context(cluster.lent())
        place = locate(connection)
        pool = connection.pool(place.pool)
        opened = open_at(connection, pool, place.image, place.snapshot)
        closing.callback(opened.close_quietly)
        version = version_of(opened.sdk, place.snapshot)
        if if_version not in (None, version):
            raise IntegrityError("the image changed while it was read")
        size = int(opened.sdk.size())
        stop = size if length is None else min(size, offset + length)
        ahead = Ahead(
            opened,
            offset,
            max(0, stop - offset),
            window=settings.window,
            confirm=functools.partial(
                confirm, connection, pool, place.image, place.snapshot, version
            ),
        )
        return Opened(iter(ahead), size, version, closing.pop_all().close)
