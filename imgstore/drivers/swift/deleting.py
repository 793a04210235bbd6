"""How an image is deleted: all of its segments first, so that what is left has its manifest."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote

from imgstore.drivers.swift.adding import MANIFEST, STATIC
from imgstore.drivers.swift.client import Caller, all_of
from imgstore.drivers.swift.removing import delete_seen, is_seen, remove
from imgstore.drivers.swift.settings import TOKEN
from imgstore.errors import NotFound, Unavailable

# glance_store's segments: <image id>-00001.
_NUMBER: Final = re.compile(r"\d{5,}")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ROUNDS: Final = 3


def is_like_segment(image_id: str) -> bool:
    """Return whether an id is what glance_store calls a segment of another image."""
    base, _, number = image_id.rpartition("-")
    return _UUID.fullmatch(base) is not None and _NUMBER.fullmatch(number) is not None


def delete(caller: Caller, container: str, name: str) -> None:
    """Delete an image; raises NotFound. What cannot be deleted keeps its manifest."""
    found = caller.head(container, name)
    if found is None:
        raise NotFound("there is no such image")
    is_same = is_seen(found)
    is_static = found.get(STATIC, "").lower() == "true"
    was_just_seen = not (is_static or found.get(MANIFEST))
    if is_static:
        _delete_listed(caller, container, name, is_same)
    elif found.get(MANIFEST):
        _delete_found(caller, found[MANIFEST])
    if delete_seen(caller, container, name, is_same, was_just_seen=was_just_seen):
        return
    found = caller.head(container, name)
    if found is not None and is_same(found):
        # While the servers of accounts are down, Swift says of what there is that there is none.
        raise Unavailable("Swift finds the image, and does not delete it")


def _delete_listed(
    caller: Caller, container: str, name: str, is_same: Callable[[Mapping[str, str]], bool]
) -> None:
    """Delete the segments of a static large object.

    Swift would do that itself when it is asked to delete the object with them; but it deletes the
    manifest also when it fails to delete segments, which then nothing names.
    """
    below: dict[str, list[str]] = {}
    segments: dict[str, list[str]] = {}
    for entry in manifest(caller, container, name, is_same):
        is_manifest = entry.get("sub_slo")
        where, _, what = (entry.get("name") or entry["path"]).lstrip("/").partition("/")
        if is_manifest and (found := caller.head(where, what)) is not None:
            _delete_listed(caller, where, what, is_seen(found))
        (below if is_manifest else segments).setdefault(where, []).append(what)
    for group in (segments, below):
        for where, names in group.items():
            remove(caller, where, names)


def manifest(
    caller: Caller,
    container: str,
    name: str,
    is_same: Callable[[Mapping[str, str]], bool] = lambda _: True,
) -> list[dict[str, Any]]:
    """Return the entries of a static large object; raises NotFound if it is another by now."""
    answer = caller.ask("GET", container, name, query="multipart-manifest=get")
    if not is_same(answer.headers):
        answer.close()
        raise NotFound("the image was deleted meanwhile")
    found: list[dict[str, Any]] = json.loads(all_of(answer) or b"[]")
    return [entry for entry in found if "name" in entry or "path" in entry]


def _delete_found(caller: Caller, at: str) -> None:
    """Delete the segments of a dynamic large object, however many pages they fill."""
    container, prefix = split(at)
    for _ in range(_ROUNDS):  # a listing may lack what was put a moment ago
        names = [entry["name"] for entry in segments(caller, container, prefix)]
        if not names:
            return
        remove(caller, container, names)


def split(manifest: str) -> tuple[str, str]:
    """Return container and prefix of a dynamic large object's segments."""
    container, _, prefix = unquote(manifest).partition("/")
    return container, prefix


def segments(caller: Caller, container: str, prefix: str) -> Iterator[dict[str, Any]]:
    """Yield the segments of a dynamic large object, without images whose ids begin like them."""
    image_id = prefix.removesuffix("-")
    for entry in caller.entries(container, prefix):
        name = entry.get("name")
        if name is None:
            continue
        if prefix.endswith("/"):
            yield entry
        elif _NUMBER.fullmatch(name.removeprefix(prefix)):
            # UUIDs of this form are not added; other images have this library's mark.
            found = None if _UUID.fullmatch(image_id) else caller.head(container, name)
            if found is None or TOKEN not in found:
                yield entry
