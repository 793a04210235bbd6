"""Copying an image inside its cluster."""

from __future__ import annotations

import functools
from contextlib import closing

from imgstore.drivers._librbd.errors import classify, quietly
from imgstore.drivers._librbd.images import OpenImage, confirm, version_of
from imgstore.drivers.rbd import names, rivals
from imgstore.drivers.rbd.adding import Adding
from imgstore.drivers.rbd.places import Place, new_draft
from imgstore.drivers.rbd.settings import SNAPSHOT
from imgstore.drivers.rbd.states import MARK, identity_of, mark_of_copy, open_at
from imgstore.errors import NotFound, PermissionDenied
from imgstore.process.committing import undone


def copy(adding: Adding, place: Place, *, seen: str | None) -> int | None:
    """Let librbd copy an image of the same cluster; return its size, None if it cannot.

    It cannot where ``seen``, the identity of the image that is meant, is another one's.

    librbd makes snapshots before it has copied what they show. So the copy has a name of its own
    until it is complete; renaming it is exclusive.
    """
    connection, name, snapshot = adding.connection, place.image, place.snapshot
    try:
        source_pool = connection.pool(place.pool)
        with closing(open_at(connection, source_pool, name, snapshot)) as opened:
            source = opened.sdk
            if seen not in (None, identity_of(source, snapshot)):
                return None
            if source.overlap():
                return None  # the copy would be a clone, too
            size, version = int(source.size()), version_of(source, snapshot)
            rivals.make_way(connection, adding.pool, adding.name)
            draft = new_draft("copy")
            image_id: str | None = None
            with undone(
                lambda: adding.remove(connection, draft, image_id), "removing what was copied"
            ):
                _deep_copy(adding, opened, draft)
                image_id = names.id_of(adding.pool, draft)
                confirm(connection, source_pool, name, snapshot, version)
                _publish(adding, draft, snapshot)
    except (NotFound, connection.rbd.ImageNotFound):
        return None  # not for this user, or not there: reading it will tell
    except Exception as exc:
        if isinstance(classify(exc), PermissionDenied):
            connection.judge(exc)
            return None
        raise
    return size


def _deep_copy(adding: Adding, opened: OpenImage, draft: str) -> None:
    settings = adding.settings
    copy_deeply = functools.partial(
        opened.sdk.deep_copy,
        adding.pool,
        draft,
        features=adding.features,
        order=settings.order,
        stripe_unit=1 << settings.order,
        stripe_count=1,
        data_pool=settings.data_pool,
    )
    opened.watchdog(copy_deeply)


def _publish(adding: Adding, draft: str, snapshot: str | None) -> None:
    """Leave the copy one snapshot, the protected one, and give it its name.

    It is open meanwhile, so nobody takes it for one that a dead process left.
    """
    with OpenImage(adding.connection, adding.pool, draft) as image:
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
        adding.publish(str(image.id()), draft)
        adding.journal(image)
        with quietly("removing the mark of a copy"):
            names.remove_metadata(adding.pool, image.id(), MARK, mark)
