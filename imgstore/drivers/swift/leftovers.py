"""Segments that belong to no image: of adds whose processes died."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Final
from urllib.parse import unquote

from imgstore.boundary.arguments import OWN
from imgstore.drivers._numbers import whole_number
from imgstore.drivers._told import told
from imgstore.drivers.swift.claims import lease_of, modified
from imgstore.drivers.swift.client import Caller, date_of
from imgstore.drivers.swift.deleting import delete_many
from imgstore.drivers.swift.errors import missing_ok
from imgstore.drivers.swift.manifests import MANIFEST, entries_of, is_static, path_in
from imgstore.drivers.swift.settings import CHECK, CLAIM, SEGMENTS, SERVICE, TOKEN, Settings
from imgstore.errors import NotFound
from imgstore.model import Leftover

_OWN: Final = re.compile(rf"(?P<id>[^/]+)/{OWN}(?P<token>[0-9a-f]{{32}})/[^/]+")
# glance_store's, beside the image and for the UUIDs that are usual there.
_OLD: Final = re.compile(
    r"(?P<id>[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})-\d{5}(?P<token>)"
)
_NEVER: Final = datetime.min.replace(tzinfo=timezone.utc)


@dataclass
class _Group:
    """Segments of one add."""

    container: str
    image_id: str
    token: str
    segments: str
    names: list[str] = field(default_factory=list)
    size: int = 0
    modified: datetime = _NEVER
    claimed: str = ""  # the id that a claim is for, which is no image's

    def take(self, entry: dict[str, Any]) -> None:
        self.names.append(str(told(entry, "name", service=SERVICE)))
        self.size += whole_number(entry.get("bytes")) or 0
        self.modified = max(self.modified, modified(entry))


def find(
    caller: Caller, settings: Settings, store: str, *, live: set[str], older_than: timedelta
) -> Iterator[Leftover]:
    """Yield segments that no manifest claims, the youngest of which is older than that.

    And claims whose lease is over, and what a check left.
    """
    for container in _containers(caller, settings):
        now = date_of(caller.head(container) or {})
        for group in (
            *_marked(caller, container, settings, now),
            *_groups(caller, container, f"{container}{SEGMENTS}", _OWN),
            *_groups(caller, container, container, _OLD),
        ):
            image_id = group.image_id or group.claimed
            if settings.container_of(image_id) != container:  # it is another store's
                continue
            age = max(now - group.modified, timedelta(0))  # Date has no fractions of a second
            is_live = group.token in live or age < older_than
            if not is_live and not _is_claimed(caller, group):
                more = f" and {len(group.names) - 1} more" if group.image_id else ""
                name = f"{group.segments}/{group.names[0]}{more}"
                yield Leftover(store, name, group.modified, group.size, key=group)


def _containers(caller: Caller, settings: Settings) -> list[str]:
    if not settings.seed:
        return [settings.container]
    start = f"{settings.container}_"
    found = [told(entry, "name", service=SERVICE) for entry in caller.entries(prefix=start)]
    names = {str(name).removesuffix(SEGMENTS) for name in found}
    # Ids may be shorter; a UUID has four dashes, which are not counted.
    lengths = range(len(start) + 1, len(start) + settings.seed + 5)
    return sorted(name for name in names if len(name) in lengths)


def _marked(caller: Caller, container: str, settings: Settings, now: datetime) -> Iterator[_Group]:
    """Yield claims whose lease is over, and what checks left that are as old."""
    for entry in _entries(caller, container, OWN):
        name = str(entry.get("name"))
        lease = lease_of(name) if name.startswith(CLAIM) else None
        life = timedelta(seconds=settings.lease if lease is None else lease)
        if name.startswith((CLAIM, CHECK)) and modified(entry) <= now - life:
            group = _Group(container, "", "", container)
            group.claimed = name.removeprefix(CLAIM).rpartition("/")[0]
            group.take(entry)
            yield group


def _groups(
    caller: Caller, container: str, segments: str, names: re.Pattern[str]
) -> Iterable[_Group]:
    """Return what lies in ``segments`` by these names, of one image and add together."""
    groups: dict[tuple[str, str], _Group] = {}
    for entry in _entries(caller, segments):
        match = names.fullmatch(str(entry.get("name")))
        if match:
            whose = match["id"], match["token"]
            groups.setdefault(whose, _Group(container, *whose, segments)).take(entry)
    return groups.values()


def _entries(caller: Caller, container: str, prefix: str = "") -> Iterator[dict[str, Any]]:
    with missing_ok():
        yield from caller.entries(container, prefix)


def _is_claimed(caller: Caller, group: _Group) -> bool:
    found = caller.head(group.container, group.image_id) if group.image_id else None
    if found is None:
        return False
    is_large = is_static(found)
    if not group.token:
        return is_large or bool(found.get(MANIFEST))
    if found.get(TOKEN) == group.token:
        return True
    # A user who changes an object's metadata may have removed the token from there.
    part = f"/{OWN}{group.token}/"
    if not is_large:
        return part in unquote(found.get(MANIFEST, ""))
    entries = entries_of(caller, group.container, group.image_id)
    return any(part in path_in(entry) for entry in entries)


def remove(caller: Caller, leftover: Leftover) -> None:
    """Remove it; raises NotFound if an image claims the segments by now."""
    group: _Group = leftover.key
    if _is_claimed(caller, group):
        raise NotFound("an image consists of these segments")
    delete_many(caller, group.segments, group.names)
