"""Checks of what callers pass to verbs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from imgstore import errors
from imgstore.location import Location

_ENDING: Final = frozenset("/?#")  # what ends a segment of a URL's path
OWN: Final = "imgstore-"  # what begins names of objects that are no images, in every backend


def check_image_id(image_id: object) -> None:
    """Raise InvalidArgument unless ``image_id`` is one printable, safe path segment.

    At most 255 bytes in UTF-8; no ``/``, ``?`` or ``#``, which would end the path of a URL.
    """
    remedy = "use a UUID, or text of at most 255 bytes without '/', '?', '#' and control characters"
    if not isinstance(image_id, str):
        raise errors.InvalidArgument(
            f"an image id is text, not {type(image_id).__name__}", remedy=remedy
        )
    if not is_safe_image_id(image_id):
        shown = ascii(image_id if len(image_id) <= 80 else f"{image_id[:77]}...")
        raise errors.InvalidArgument(
            f"the image id {shown} is not one safe path segment", remedy=remedy
        )


def is_safe_image_id(image_id: object) -> bool:
    """Return whether ``image_id`` would pass ``check_image_id``."""
    if not isinstance(image_id, str) or image_id in {"", ".", ".."}:
        return False
    if not image_id.isprintable() or not _ENDING.isdisjoint(image_id):
        return False
    return len(image_id.encode()) <= 255


def check_storable(image_id: str, backend: str, *, without: str = "", own: str = OWN) -> None:
    """Raise InvalidArgument for an id that cannot be a name in ``backend``, a store's own for one.

    ``without`` are characters that it may not have, ``own`` is what a store's own names begin with.
    """
    found = [char for char in without if char in image_id]
    if found or image_id.startswith(own):
        avoid = "".join(f"without {char!r}, " for char in without)
        raise errors.InvalidArgument(
            f"the image id {image_id!a} cannot be stored in {backend}",
            remedy=f"use a UUID, or an id {avoid}that does not begin with {own!r}",
        )


def check_range(offset: int, length: int | None) -> None:
    """Raise InvalidRange unless both are numbers of bytes that are not negative."""
    for name, value in (("offset", offset), ("length", 0 if length is None else length)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise errors.InvalidRange(f"{name} is {value!r}", remedy="pass a number of bytes >= 0")


def age_limit(older_than: timedelta | float) -> timedelta:
    """Return an age given in seconds or as a timedelta; raises InvalidArgument."""
    try:
        age = older_than if isinstance(older_than, timedelta) else timedelta(seconds=older_than)
    except (TypeError, OverflowError, ValueError):
        age = timedelta(-1)
    if age < timedelta(0):
        raise errors.InvalidArgument(f"older_than is {older_than!r}", remedy="pass seconds >= 0")
    return age


def is_below(location: Location, prefix: Location) -> bool:
    """Return whether ``location`` is ``prefix`` or lies below it, by whole path segments."""
    if location.scheme != prefix.scheme:
        return False
    root = prefix.rest.rstrip("/")
    return location.rest == root or location.rest.startswith(f"{root}/")


def checked_name(name: object) -> str:
    """Return the name of a store; raises InvalidArgument."""
    if isinstance(name, str) and name.isprintable() and name and not set(name) & set("/?#@:"):
        return name
    raise errors.InvalidArgument(
        f"{name!a} cannot be the name of a store",
        remedy="use printable text without '/', '?', '#', '@' and ':'",
    )


def checked_prefixes(also_owns: Iterable[str]) -> tuple[Location, ...]:
    """Return prefixes of former places; raises InvalidArgument."""
    prefixes = []
    given = [also_owns] if isinstance(also_owns, str) else also_owns
    for number, prefix in enumerate(given, start=1):
        try:
            prefixes.append(Location.parse(prefix))
        except errors.InvalidLocation as exc:
            # It is not quoted, for it may hold a password or a signature.
            raise errors.InvalidArgument(
                f"store_also_owns: number {number}: {exc.reason}",
                remedy="list URL prefixes such as file:///former/directory",
            ) from None
    return tuple(prefixes)
