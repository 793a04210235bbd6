"""Deleting many objects, in as few requests as the cluster allows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final
from urllib.parse import quote, unquote

from imgstore.drivers._numbers import whole_number
from imgstore.drivers.swift.client import Caller, all_of
from imgstore.drivers.swift.errors import classify, status_of
from imgstore.errors import Unavailable

_FEW: Final = 3  # are not worth a question about what the cluster can
_WORTHWHILE: Final = 100  # are worth a request of their own
_AT_ONCE: Final = 4
# https://docs.openstack.org/swift/latest/middleware.html#bulk-operations-delete-and-archive-auto-extraction
_BULK: Final = "bulk_delete"
_DEFAULT: Final = 1000


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
        report: dict[str, Any] = json.loads(all_of(answer))
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
