"""Why the bytes of a large object break off: Swift tells that of the first segment alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from imgstore.data.ranges import RANGE, Arriving
from imgstore.drivers._numbers import whole_number
from imgstore.drivers.swift.client import Caller
from imgstore.drivers.swift.manifests import MANIFEST, entries_of, is_static, path_in, split
from imgstore.errors import IntegrityError


class Explained:
    """The body of a large object, of ``size`` bytes from ``offset`` on.

    Swift holds back the end of a segment until it knows the next one, and breaks off where it has
    none, or where a segment's MD5 is another one: that segment is gone then, set aside by its
    server. ``lost`` tells the first such segment in a stretch. Raises IntegrityError of it, which
    no repetition mends.
    """

    def __init__(
        self,
        body: Arriving,
        offset: int,
        size: int | None,
        lost: Callable[[int, int], str | None],
    ) -> None:
        self._body = body
        self._position = offset
        self._end = None if size is None else offset + size
        self._lost = lost
        self._is_closed = False

    def read(self, n: int | None = None, /) -> bytes:
        """Return at most ``n`` bytes, all that follow without it, none at the end."""
        try:
            data = self._body.read() if n is None else self._body.read(n)
        except Exception as exc:
            self._explain(exc)
            raise
        self._position += len(data)
        is_over = n is None or (n and not data)
        if is_over and self._end is not None and self._position < self._end:
            self._explain(None)  # not all versions of urllib3 look at it
        return data

    def _explain(self, exc: Exception | None) -> None:
        if self._is_closed:
            return
        end = self._position + RANGE
        name = self._lost(self._position, end if self._end is None else min(end, self._end))
        if name is not None:
            raise IntegrityError(
                f"the segment {name} of the image is missing, or was changed",
                remedy="delete the image, and add it again: Swift sets aside what has rotted",
            ) from exc

    def close(self) -> None:
        """Give up the rest."""
        self._is_closed = True
        self._body.close()


def lost_segment(caller: Caller, container: str, name: str, start: int, end: int) -> str | None:
    """Return a segment of these bytes that Swift has not, as its manifest names it.

    None too where that cannot be told now.
    """
    try:
        return _lost(caller, container, name, start, end)
    except Exception:  # the failure that is to be explained is raised
        return None


def _lost(caller: Caller, container: str, name: str, start: int, end: int) -> str | None:
    headers = caller.head(container, name, is_cancelled=lambda: True) or {}
    entries: Iterable[dict[str, Any]] = ()
    inside = ""
    if is_static(headers):
        entries = entries_of(caller, container, name)
    elif MANIFEST in headers:
        inside, prefix = split(headers[MANIFEST])
        entries = caller.entries(inside, prefix)
    at = 0
    for entry in entries:
        size = whole_number(entry.get("bytes"))
        if size is None or "range" in entry or at >= end:
            break
        if at + size > start:
            path = f"{inside}/{entry['name']}" if inside else path_in(entry)
            where, _, what = path.lstrip("/").partition("/")
            found = caller.head(where, what, is_cancelled=lambda: True)
            if found is None:
                return f"{where}/{what}"
            if entry.get("sub_slo"):
                nested = _lost(caller, where, what, start - at, end - at)
                if nested is not None:
                    return nested
        at += size
    return None
