"""Copying an image inside its cluster."""

from __future__ import annotations

import secrets
from typing import Any

from imgstore.drivers._librbd.cluster import classify, quietly
from imgstore.drivers._librbd.images import OpenImage, confirm, version_of
from imgstore.drivers.rbd.adding import Adding, discard_private
from imgstore.drivers.rbd.images import MARK, look_at, mark_of_copy, open_at
from imgstore.drivers.rbd.settings import COPY, SNAPSHOT
from imgstore.errors import AlreadyExists, NotFound, PermissionDenied


def copy(adding: Adding, pool: str, name: str, snapshot: str | None) -> int | None:
    """Let librbd copy an image of another pool or name; return its size, None if it cannot.

    librbd makes snapshots before it has copied what they show. So the copy has a name of its own
    until it is complete; renaming it is exclusive.
    """
    connection = adding.connection
    try:
        source_pool = connection.pool(pool)
        with open_at(connection, source_pool, name, snapshot) as source:
            if source.overlap():
                return None  # the copy would be a clone, too
            size, version = int(source.size()), version_of(source, snapshot)
            _check_free(adding)
            private = COPY + secrets.token_hex(16)
            try:
                _deep_copy(adding, source, private)
                confirm(connection, source_pool, name, snapshot, version)
                _rename(adding, private, _finish(adding, private, snapshot))
                _unmark(adding)
            except BaseException as exc:
                if not getattr(exc, "indeterminate", False):
                    with quietly("removing the remains of a copy"):
                        discard_private(connection, adding.pool, private)
                raise
    except (NotFound, connection.rbd.ImageNotFound):
        return None  # not for this user, or not there: reading it will tell
    except Exception as exc:
        if isinstance(classify(exc), PermissionDenied):
            return None
        raise
    return size


def _check_free(adding: Adding) -> None:
    """Raise AlreadyExists for an image of this name, unless a dead process left it."""
    try:
        look_at(adding.connection, adding.pool, adding.name)
    except adding.connection.rbd.ImageNotFound:
        return
    adding.make_way()


def _deep_copy(adding: Adding, source: Any, private: str) -> None:
    settings = adding.settings
    source.deep_copy(
        adding.pool,
        private,
        features=adding.connection.features,
        order=settings.order,
        stripe_unit=1 << settings.order,
        stripe_count=1,
        data_pool=settings.data_pool,
    )


def _finish(adding: Adding, private: str, snapshot: str | None) -> str:
    """Leave the copy one snapshot, the protected one; return the copy's id."""
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
        image.metadata_set(MARK, mark_of_copy(image, adding.name))
        return str(image.id())


def _unmark(adding: Adding) -> None:
    with (
        quietly("removing the mark of a copy"),
        OpenImage(adding.connection, adding.pool, adding.name) as image,
    ):
        image.metadata_remove(MARK)


def _rename(adding: Adding, private: str, image_id: str) -> None:
    """Give the copy its name, which commits it; asks after it where the answer was lost."""
    connection, pool, name = adding.connection, adding.pool, adding.name
    try:
        connection.verbs.rename(pool, private, name)
    except connection.rbd.ImageExists as exc:
        raise AlreadyExists("there is an image of this id") from exc
    except Exception as exc:
        if not adding.is_there(name, image_id, exc):
            raise
