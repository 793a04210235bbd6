"""Checks of what callers pass to verbs and constructors."""

from __future__ import annotations

import math
import os
import re
import ssl
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from oslo_config import cfg

from imgstore import errors
from imgstore.location import Location
from imgstore.secret import Secret

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BINARY: Final = re.compile(r"[^\t\n\r\x20-\x7e\xa0-\U0010ffff]")


class FileOpt(cfg.StrOpt):
    """The path of a file, which may be relative to the directories of configuration files."""

    @staticmethod
    def find(conf: cfg.ConfigOpts, path: str) -> str:
        """Return where the file is; ``path`` itself if it is in none of them."""
        try:
            return str(conf.find_file(path) or path)
        except cfg.NotInitializedError:  # no files were read
            return path


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
    if not image_id.isprintable() or any(char in image_id for char in "/?#"):
        return False
    return len(image_id.encode()) <= 255


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


def check_ca_file(option: str, path: str) -> None:
    """Raise ConfigError unless a file has certificates to verify servers by."""
    try:
        ssl.create_default_context(cafile=path)
    except OSError as exc:
        raise errors.ConfigError(
            f"{option} {path} cannot be used: {exc.strerror or exc}",
            remedy="give the path of a PEM file with certificates",
        ) from exc


def all_checked(*checks: Callable[[], Any]) -> list[Any]:
    """Return what each check returns; raises one ConfigError for all that fail."""
    results, faults = [], []
    for check in checks:
        try:
            results.append(check())
        except errors.ConfigError as exc:
            faults.append(exc)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise errors.ConfigError(" / ".join(map(str, faults)))
    return results


def typed(opt: cfg.Opt, value: object, *, needed: bool = False) -> Any:
    """Return a value as its option's type has it, as if it stood in a configuration file.

    None stays None where that is the default, unless ``needed``. Secrets become a Secret. Raises
    ConfigError.
    """
    if isinstance(value, Secret) or (value is None and opt.default is None and not needed):
        return value
    try:
        read = opt.type(os.fspath(value) if isinstance(value, os.PathLike) else value)
    except (AttributeError, TypeError, ValueError, OverflowError) as exc:
        reason = "it is a secret, and not text" if opt.secret else str(exc)
        raise errors.ConfigError(f"{opt.name}: {reason}") from None
    if value is None or (isinstance(read, float) and not math.isfinite(read)):
        raise errors.ConfigError(f"{opt.name} is {value}", remedy="set it, or leave it out")
    return Secret(read) if opt.secret else read


def texts_in(value: object) -> Iterator[str]:
    """Yield the texts of an option's value, which may be a list or a mapping."""
    if isinstance(value, Secret):
        yield from texts_in(value.reveal())
    elif isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for each in value.values() for text in texts_in(each))
    elif isinstance(value, list | tuple | set | frozenset):
        yield from (text for each in value for text in texts_in(each))


def check_texts(
    options: Mapping[str, cfg.Opt], given: Mapping[str, Any], *, multiline: Container[str] = ()
) -> None:
    """Raise ConfigError for keywords of a constructor that hold control characters.

    Headers, URLs and messages are made of them; a line end would begin another header. Those in
    ``multiline`` may have lines and tabs.
    """
    found = [
        options[keyword].name
        for keyword, value in given.items()
        if keyword in options
        and any(map((_BINARY if keyword in multiline else _CONTROL).search, texts_in(value)))
    ]
    if found:
        raise errors.ConfigError(
            f"{', '.join(found)}: there is a control character in it (the value is not shown)",
            remedy="remove it; it may be the line end of a file that the value came from",
        )


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


def is_web_url(text: str) -> bool:
    """Return whether text is a URL of http or https with a host, and without credentials."""
    try:
        parts = urlsplit(text)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    is_plain = "@" not in parts.netloc and not _CONTROL.search(text)
    return is_whole and is_plain and parts.scheme in {"http", "https"}
