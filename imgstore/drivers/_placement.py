"""Choosing a place for an image among weighted candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from imgstore.errors import InvalidArgument, StorageFull

T = TypeVar("T")


@dataclass(frozen=True)
class Candidate(Generic[T]):
    """A place that may take an image: ``free`` is a call because asking may cost I/O.

    ``free()`` returns bytes, or None where the backend does not tell (taken as room enough, but
    after every place that does tell).
    """

    place: T
    weight: int
    free: Callable[[], int | None]


def pick(candidates: Iterable[Candidate[T]], size: int | None) -> list[T]:
    """Return the places that can take ``size`` bytes, best first; never an empty list.

    Highest weight first, then most free space, ties in the order given. ``size=None`` is
    unknown: a place with any free space will do. Only as many places are asked for their free
    space as there are. Raises StorageFull if none has room.
    """
    need = 1 if size is None else size
    fitting = []
    for candidate in candidates:
        free = candidate.free()
        if free is None or free >= need:
            fitting.append((-candidate.weight, -(free or 0), candidate.place))
    if not fitting:
        wanted = "an image of unknown size" if size is None else f"{size} bytes"
        raise StorageFull(f"no place has room for {wanted}", remedy="free or add space")
    fitting.sort(key=lambda entry: entry[:2])
    return [place for _, _, place in fitting]


@dataclass(frozen=True)
class Weighted:
    """One configured ``name[:weight]``; ``parts`` are the name's fields, unescaped."""

    parts: tuple[str, ...]
    weight: int


def parse_weighted(text: str, *, fields: int) -> Weighted:
    r"""Parse ``field[:field…][:weight]``, e.g. ``dc:datastore:7``.

    ``fields`` is how many fields precede the weight; ``\:`` is a colon inside a field. A missing
    weight is 0. Raises InvalidArgument.
    """
    parts = _split(text)
    weight = 0
    if len(parts) == fields + 1:
        digits = parts.pop().strip()
        try:
            weight = int(digits or "0")
        except ValueError:
            raise InvalidArgument(f"weight {digits!r} in {text!r} is not a whole number") from None
    parts = [part.strip() for part in parts]
    if len(parts) != fields or not all(parts):
        raise InvalidArgument(f"{text!r} has not the form {':'.join(['name'] * fields)}[:weight]")
    return Weighted(tuple(parts), weight)


def _split(text: str) -> list[str]:
    parts = [""]
    escaped = False
    for char in text:
        if escaped:
            parts[-1] += char if char == ":" else "\\" + char
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == ":":
            parts.append("")
        else:
            parts[-1] += char
    if escaped:
        parts[-1] += "\\"
    return parts
