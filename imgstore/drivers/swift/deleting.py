"""How an image is deleted: all of its segments first, so that what is left has its manifest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final
from urllib.parse import quote, unquote

from imgstore.drivers._numbers import whole_number
from imgstore.drivers.swift.client import Caller
from imgstore.drivers.swift.errors import classify, status_of
from imgstore.drivers.swift.manifests import (
    MANIFEST,
    entries_of,
    is_static,
    path_in,
    segments,
    split,
)
from imgstore.drivers.swift.settings import TOKEN
from imgstore.errors import NotFound, Unavailable

_ROUNDS: Final = 3  # of listing and deleting
_FEW: Final = 3  # objects are not worth a question about what the cluster can
_WORTHWHILE: Final = 100  # objects are worth a request of their own
_AT_ONCE: Final = 4
# https://docs.openstack.org/swift/latest/middleware.html#bulk-operations-delete-and-archive-auto-extraction
_BULK: Final = "bulk_delete"
_DEFAULT: Final = 1000


def delete(
    caller: Caller, container: str, name: str, *, alone: Callable[[], object] = lambda: None
) -> None:
    """Delete an image; raises NotFound. What cannot be deleted keeps its manifest.

    ``alone`` is for `delete_seen`.
    """
    found = caller.head(container, name)
    if found is None:
        raise NotFound("there is no such image")
    is_same, is_whole = is_seen(found), False
    if is_static(found):
        _delete_listed(caller, container, name, is_same)
    elif found.get(MANIFEST):
        _delete_found(caller, found[MANIFEST])
    else:
        is_whole = True
    if delete_seen(caller, container, name, is_same, was_just_seen=is_whole, alone=alone):
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
    for entry in entries_of(caller, container, name, is_same):
        is_manifest = entry.get("sub_slo")
        where, _, what = path_in(entry).lstrip("/").partition("/")
        if is_manifest and (found := caller.head(where, what)) is not None:
            _delete_listed(caller, where, what, is_seen(found))
        (below if is_manifest else segments).setdefault(where, []).append(what)
    for group in (segments, below):
        for where, names in group.items():
            delete_many(caller, where, names)


def _delete_found(caller: Caller, at: str) -> None:
    """Delete the segments of a dynamic large object, however many pages they fill."""
    container, prefix = split(at)
    for _ in range(_ROUNDS):  # a listing may lack what was put a moment ago
        names = [entry["name"] for entry in segments(caller, container, prefix)]
        if not names:
            return
        delete_many(caller, container, names)


def delete_seen(
    caller: Caller,
    container: str,
    name: str,
    is_same: Callable[[Mapping[str, str]], bool],
    *,
    was_just_seen: bool = False,
    alone: Callable[[], object] = lambda: None,
) -> bool:
    """Delete an object, or an empty container, that is the same still; return whether it was there.

    It is looked at before each request, for one that is sent again because its answer was lost
    may meet what was put since. ``alone`` keeps others from putting between the look and the
    request; it is called before a request is sent again.
    """
    is_asked_for, is_sure = False, was_just_seen

    def look_and_delete() -> bool:
        nonlocal is_asked_for, is_sure
        if is_asked_for:
            alone()  # the first request may be carried out right after the look
        found = None if is_sure else caller.head(container, name, is_cancelled=lambda: True)
        if not is_sure and (found is None or not is_same(found)):
            return is_asked_for
        is_asked_for, is_sure = True, False
        return caller.delete(container, name, is_cancelled=lambda: True)

    return caller.client.repeated(look_and_delete)


def is_seen(seen: Mapping[str, str]) -> Callable[[Mapping[str, str]], bool]:
    """Return what tells whether another look finds the object that was seen."""

    def is_same(found: Mapping[str, str]) -> bool:
        if seen.get(TOKEN) or found.get(TOKEN):
            return seen.get(TOKEN) == found.get(TOKEN)
        # When it was put: of an object the ETag depends on how it is asked for.
        name = next((n for n in ("X-Timestamp", "Last-Modified") if n in seen and n in found), None)
        return name is None or seen[name] == found[name]

    return is_same


def delete_many(caller: Caller, container: str, names: Iterable[str]) -> None:
    """Delete objects; raises the first failure after it has tried all."""
    rest = list(names)
    if len(rest) > _FEW and _BULK in (about := caller.about()):
        most = whole_number(about[_BULK].get("max_deletes_per_request")) or _DEFAULT
        size = max(1, min(most, max(_WORTHWHILE, -(-len(rest) // _AT_ONCE))))
        pieces = [rest[start : start + size] for start in range(0, len(rest), size)]
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="imgstore-delete") as pool:
            left = list(pool.map(partial(_in_bulk, caller, container), pieces))
        rest = [name for names in left for name in names]
    _one_by_one(caller, container, rest)


def _in_bulk(caller: Caller, container: str, names: Sequence[str]) -> Sequence[str]:
    """Delete objects with one request; return those that may still be there."""
    body = "\n".join(quote(f"/{container}/{name}") for name in names).encode()
    headers = {"Content-Type": "text/plain", "Accept": "application/json"}
    try:
        answer = caller.ask("POST", headers=headers, body=lambda: body, query="bulk-delete")
    except Exception as exc:
        if not status_of(exc) or isinstance(classify(exc), Unavailable):
            raise
        return names  # by other requests it may be allowed
    try:
        report: dict[str, Any] = json.loads(answer.whole())
    except Exception:  # it broke off, or is none
        return names
    return _left(report, container, names)


def _left(report: Mapping[str, Any], container: str, names: Sequence[str]) -> Sequence[str]:
    """Return the objects that may still be there after Swift's report."""
    errors = report.get("Errors") or ()
    said = (report.get(f"Number {what}") for what in ("Deleted", "Not Found"))
    if sum(whole_number(count) or 0 for count in said) + len(errors) != len(names):
        return names  # Swift gave up in between
    if not errors and str(report.get("Response Status", "")).startswith("2"):
        return ()
    failed = {unquote(str(path)) for path, *_ in errors}
    return [name for name in names if f"/{container}/{name}" in failed] or names


def _one_by_one(caller: Caller, container: str, names: Sequence[str]) -> None:
    if not names:
        return
    failures: list[Exception] = []

    def delete(name: str, is_hopeless: Callable[[], bool]) -> None:
        try:
            caller.delete(container, name, is_cancelled=is_hopeless)
        except Exception as exc:
            failures.append(exc)

    def is_hopeless() -> bool:
        """Return whether a server is down, which was waited for once."""
        return any(isinstance(classify(exc), Unavailable) for exc in failures)

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="imgstore-delete") as pool:
        list(pool.map(partial(delete, is_hopeless=is_hopeless), names))
    if failures:
        raise failures[0]
