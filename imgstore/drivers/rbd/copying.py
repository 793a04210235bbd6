"""Copying an image inside its cluster."""

from __future__ import annotations

import functools
import secrets
from contextlib import closing

from imgstore.drivers._librbd.errors import classify, quietly
from imgstore.drivers._librbd.images import OpenImage, confirm, version_of
from imgstore.drivers.rbd import names
from imgstore.drivers.rbd.adding import Adding
from imgstore.drivers.rbd.images import MARK, identity_of, look_at, mark_of_copy, open_at
from imgstore.drivers.rbd.settings import COPY, SNAPSHOT
from imgstore.errors import NotFound, PermissionDenied


def copy(
    adding: Adding, pool: str, name: str, snapshot: str | None, *, seen: str | None
) -> int | None:
    """Let librbd copy an image of another pool or name; return its size, None if it cannot.

    It cannot where ``seen``, the identity of the image that is meant, is another one's.

    librbd makes snapshots before it has copied what they show. So the copy has a name of its own
    until it is complete; renaming it is exclusive.
    """
    connection = adding.connection
    try:
        source_pool = connection.pool(pool)
        with closing(open_at(connection, source_pool, name, snapshot)) as opened:
            source = opened.sdk
            if seen not in (None, identity_of(source, snapshot)):
                return None
            if source.overlap():
                return None  # the copy would be a clone, too
            size, version = int(source.size()), version_of(source, snapshot)
            adding.make_way()
            private = COPY + secrets.token_hex(16)
            image_id = None
            try:
                _deep_copy(adding, opened, private)
                image_id = names.id_of(adding.pool, private)
                confirm(connection, source_pool, name, snapshot, version)
                _publish(adding, private, snapshot)
            except BaseException as exc:
                if not getattr(exc, "indeterminate", False):
                    with quietly("removing the remains of a copy"):
                        _remove(adding, image_id or names.id_of(adding.pool, private), private)
                raise
    except (NotFound, connection.rbd.ImageNotFound):
        return None  # not for this user, or not there: reading it will tell
    except Exception as exc:
        if isinstance(classify(exc), PermissionDenied):
            return None
        raise
    return size


def _remove(adding: Adding, image_id: str | None, private: str) -> None:
    if image_id is not None:
        state = look_at(adding.connection, adding.pool, image_id=image_id)
        adding.remove(adding.connection, state, private)


def _deep_copy(adding: Adding, opened: OpenImage, private: str) -> None:
    settings = adding.settings
    copy_deeply = functools.partial(
        opened.sdk.deep_copy,
        adding.pool,
        private,
        features=adding.features,
        order=settings.order,
        stripe_unit=1 << settings.order,
        stripe_count=1,
        data_pool=settings.data_pool,
    )
    opened.watchdog(copy_deeply)


def _publish(adding: Adding, private: str, snapshot: str | None) -> None:
    """Leave the copy one snapshot, the protected one, and give it its name.

    It is open meanwhile, so nobody takes it for one that a dead process left.
    """
    with OpenImage(adding.connection, adding.pool, private) as image:
        for each in list(image.list_snaps()):
            if each["name"] == snapshot:
                continue
            if image.is_protected_snap(each["name"]):
                image.unprotect_snap(each["name"])
            image.remove_snap(each["name"])
        if snapshot is None:
            image.create_snap(SNAPSHOT)
        elif snapshot != SNAPSHOT:
            image.rename_snap(snapshot, SNAPSHOT)
        if not image.is_protected_snap(SNAPSHOT):
            image.protect_snap(SNAPSHOT)
        mark = mark_of_copy(image, adding.name)
        image.metadata_set(MARK, mark)
        adding.publish(str(image.id()), private)
        adding.journal(image)
        with quietly("removing the mark of a copy"):
            names.remove_metadata(adding.pool, image.id(), MARK, mark)
