"""Deleting one object, and never the next one of its key, though answers are lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from imgstore.drivers.s3.client import Client, head
from imgstore.drivers.s3.errors import is_conflict, status_of
from imgstore.process.patience import Patience

# From servers that do not know the condition.
_NOT_TAKEN: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_IMPLEMENTED})


def delete(
    client: Client,
    at: Mapping[str, str],
    etag: str,
    is_same: Callable[[Mapping[str, Any]], bool],
    *,
    attempts: int | None = None,
    alone: Callable[[], object] = lambda: None,
) -> bool:
    """Delete an object; return whether it was there still.

    DELETE names a key: sent again after its answer was lost, it may meet the object of the next
    add. So it is sent again only if ``is_same`` says that ``head`` finds that object still, and
    only ``attempts`` times. ``alone`` keeps others from putting between the look and the request;
    it is called before a request is sent again, and if it fails none is. The ``etag`` goes with
    the request as a condition: AWS heeds that, Ceph 16 takes no notice.
    """
    is_strong = etag.startswith('"')
    takes_condition = is_strong and client.takes("DeleteObject", "IfMatch")
    condition = {"IfMatch": etag} if takes_condition else {}
    was_lost = False
    times = (attempts or client.settings.max_attempts) - 1
    # At once first: a connection that was idle may just be closed.
    pauses = Patience(1.0, 8.0, times=times, at_once=True).pauses()
    while True:
        failure, is_lost = _sent(client, at, condition)
        if failure is None:
            return True
        pause = None
        if is_lost:
            pause = next(pauses, None)
            if pause is not None:
                time.sleep(pause)
                try:
                    alone()  # the first request may be carried out right after the look
                except Exception as exc:
                    raise failure from exc
            was_lost = True
        else:
            if status_of(failure) == HTTPStatus.NOT_FOUND:
                return was_lost
            if not condition or not (is_conflict(failure) or status_of(failure) in _NOT_TAKEN):
                raise failure
            condition = {}  # not the same, which is seen now, or a server that cannot compare
        found = head(client.s3, at)
        if found is None or not is_same(found):
            return was_lost
        if is_lost and pause is None:
            raise failure


def _sent(
    client: Client, at: Mapping[str, str], condition: Mapping[str, str]
) -> tuple[Exception | None, bool]:
    """Ask for it; return what went wrong, and whether it may have been done all the same."""
    with client.watched(may_repeat=False) as watched:
        try:
            client.s3.delete_object(**at, **condition)
        except Exception as exc:
            return exc, watched.unknown
    return None, False


def is_seen(seen: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], bool]:
    """Return what tells whether another look finds the object that ``head`` has seen."""
    return lambda found: _identity(found) == _identity(seen)


def _identity(found: Mapping[str, Any]) -> tuple[object, ...]:
    # The ETag of equal bytes is equal; the token of an add is in the metadata.
    names = ("ETag", "LastModified", "VersionId", "Metadata")
    return tuple(found.get(name) for name in names)
