"""What has a name that an add wants: an image, another add, or what a dead process left."""

from __future__ import annotations

import contextlib
import logging
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from imgstore.drivers._librbd.connection import Connection
from imgstore.drivers._librbd.errors import classify
from imgstore.drivers.rbd import names
from imgstore.drivers.rbd.deleting import remove_draft
from imgstore.drivers.rbd.states import look_at
from imgstore.errors import AlreadyExists, NotFound, Unavailable
from imgstore.process.patience import Patience

LOG = logging.getLogger(__name__)

# A name that has no image by then is none of an image that is being created.
_CREATION: Final = Patience(0.1, longest=1.0, seconds=20.0)
# Longer than any one wait for an image: others may make and remove it all the time.
_WAY: Final = Patience(0.1, longest=1.0, seconds=60.0)
# Between creating and opening an image lies one request. A process that takes longer counts as
# dead, as does one whose watch is over: Ceph's osd_client_watch_timeout.
_UNOPENED: Final = timedelta(seconds=30)


def make_way(connection: Connection, pool: Any, name: str) -> None:
    """Raise AlreadyExists if an image has the name; what dead processes left of it is removed."""
    for _ in _WAY.attempts():
        image_id = names.id_of(pool, name)
        if image_id is None:
            break
        try:
            state = look_at(connection, pool, name)
        except connection.rbd.ImageNotFound as exc:
            _await_image(connection, pool, image_id, name, exc)
            continue
        except Exception as exc:
            if isinstance(classify(exc), Unavailable):
                raise
            connection.judge(exc)
            raise _not_to_be_opened() from exc
        if not state.is_abandoned:
            raise under_way() if state.is_draft else _exists()
        LOG.info("image %s of a dead process is replaced", name)
        with contextlib.suppress(NotFound):
            remove_draft(connection, pool, name, state)
    else:
        raise under_way()
    if names.has_first_format(pool, name):
        raise AlreadyExists("there is an image of this id, of RBD's first format")
    if (listed := names.listed_id(pool, name)) is not None:
        if not names.is_nameless(pool, listed):
            raise AlreadyExists(
                f"the pool lists an image of this id, and has no object rbd_id.{name}",
                remedy=f"write that object anew: the image's internal id is {listed}",
            )
        names.unlink(pool, listed, name)


def make_way_for_draft(connection: Connection, pool: Any, draft: str, name: str) -> None:
    """Remove the draft of a dead add of ``name``; raises AlreadyExists for one under way."""
    image_id = names.id_of(pool, draft) or names.listed_id(pool, draft)
    if image_id is None:
        return
    try:
        state = look_at(connection, pool, image_id=image_id)
    except connection.rbd.ImageNotFound as exc:
        # It was removed meanwhile, or another add creates it, or died while it did.
        _await_image(connection, pool, image_id, draft, exc)
        return
    if names.id_of(pool, name) == image_id:
        with contextlib.suppress(NotFound):
            names.publish(pool, image_id, draft, name)  # its add died while it did that
            raise _exists()
    elif names.in_trash(pool, image_id):
        names.unlink(pool, image_id, draft)
    elif state.in_use or datetime.now(timezone.utc) - state.created < _UNOPENED:
        raise under_way()
    else:
        LOG.info("image %s of a dead process is replaced", name)
        with contextlib.suppress(NotFound):
            remove_draft(connection, pool, draft, state)


def under_way() -> AlreadyExists:
    """Return the error for an id of which there is a draft that may be alive."""
    return AlreadyExists(
        "an add of this id is under way, or its process died less than half a minute ago",
        remedy="try again later, or use another id",
        retryable=True,
    )


def _await_image(
    connection: Connection, pool: Any, image_id: str, name: str, exc: Exception
) -> None:
    """Wait until a name without an image has one, or has gone; take it from a dead process's.

    Raises AlreadyExists for an image that cannot be opened, of which librbd says as well that
    there is none: a clone whose parent's pool is gone.
    """
    for _ in _CREATION.attempts():
        if image_id not in (names.id_of(pool, name), names.listed_id(pool, name)):
            return
        if not names.is_nameless(pool, image_id):
            break
    else:
        names.unlink(pool, image_id, name)
        return
    try:
        look_at(connection, pool, image_id=image_id)
    except connection.rbd.ImageNotFound:
        # Or it is being removed just now, which first takes its name from it.
        has_name = image_id in (names.id_of(pool, name), names.listed_id(pool, name))
        if has_name and names.exists(pool, image_id):
            raise _not_to_be_opened() from exc


def _exists() -> AlreadyExists:
    return AlreadyExists("there is an image of this id")


def _not_to_be_opened() -> AlreadyExists:
    return AlreadyExists("there is an image of this id, which cannot be opened")
