"""What a filesystem store's options mean."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from imgstore.drivers.filesystem.paths import path_of
from imgstore.errors import ConfigError, InvalidArgument
from imgstore.location import Location

DEFAULT_DATADIR: Final = "/var/lib/glance/images"
# A separator before another path or at the end, or a comment, which oslo.config takes for a part
# of the value.
_SEVERAL: Final = re.compile(r"[,;\s]\s*(/|\Z)|\s[;#]")
_PRIORITY: Final = re.compile(r":[0-9]+\Z")
_DEPTH: Final = 32  # so that no recursion over location metadata runs out of stack


@dataclass(frozen=True)
class DataDir:
    """A directory for images; higher priorities are filled first."""

    path: str
    priority: int


def data_dirs(datadir: str, datadirs: Sequence[str]) -> list[DataDir]:
    """Return the configured directories, highest priority first; raises ConfigError.

    Among equal priorities they are in the order given.
    """
    if datadirs and datadir != DEFAULT_DATADIR:
        raise ConfigError(
            "filesystem_store_datadir and filesystem_store_datadirs are both set",
            remedy="keep one of them",
        )
    if not datadirs:
        if _PRIORITY.search(datadir):
            raise ConfigError(
                f"filesystem_store_datadir: {datadir!a} ends like a priority",
                remedy="leave the priority out; if the directory is named so, write "
                f"filesystem_store_datadirs = {datadir}:0",
            )
        return [DataDir(_normal("filesystem_store_datadir", datadir), 0)]
    found = [_data_dir(text) for text in datadirs]
    paths = [entry.path for entry in found]
    for path in paths:
        if paths.count(path) > 1:
            raise ConfigError(
                f"filesystem_store_datadirs has {path!a} more than once", remedy="list it once"
            )
    return sorted(found, key=lambda entry: -entry.priority)


def _data_dir(text: str) -> DataDir:
    path, colon, priority = text.rpartition(":")
    if not colon:
        path, priority = text, ""
    try:
        weight = int(priority.strip() or "0")
    except ValueError:
        raise ConfigError(
            f"filesystem_store_datadirs: {priority!a} in {text!a} is no priority, a whole number",
            remedy="write path or path:priority, and nothing else in the line",
        ) from None
    return DataDir(_normal("filesystem_store_datadirs", path.strip()), weight)


def _normal(option: str, path: str) -> str:
    """Return an absolute path without superfluous slashes; refuses what was meant otherwise."""
    if _SEVERAL.search(path):
        raise ConfigError(
            f"{option}: {path!a} is a path with a separator or a comment in it",
            remedy="write one path, alone in its line; for more of them repeat the line "
            "filesystem_store_datadirs = path:priority",
        )
    normal = "/" + os.path.normpath(path).lstrip("/")
    if not os.path.isabs(path):
        raise ConfigError(
            f"{option}: {path!a} is not absolute, so it depends on where the process starts",
            remedy="write the whole path, from '/' on",
        )
    try:
        readable = path_of(Location.parse(f"file://{normal}")) == normal
    except InvalidArgument:
        readable = False
    if not readable:
        raise ConfigError(
            f"{option}: the path {path!a} cannot stand in a file URL",
            remedy="use a data directory without '?', '#' and control characters",
        )
    return normal


def file_mode(decimal: int) -> int:
    """Return the mode for which an option's decimal digits stand (640 is 0640), 0 for unchanged.

    Raises ConfigError for digits that are not octal and for modes that the owner cannot read.
    """
    if decimal <= 0:
        return 0
    try:
        mode = int(str(decimal), 8)
    except ValueError:
        mode = 0o10000
    owner = mode >> 6
    # More for others than for the owner is what 0o640, which is 416, would come to.
    if mode > 0o777 or not owner & 4 or (mode >> 3 | mode) & 7 & ~owner:
        raise ConfigError(
            f"filesystem_store_file_perm is {decimal}",
            remedy="write three octal digits, the owner's first and not exceeded, e.g. 640",
        )
    return mode


def directory_bits(mode: int) -> int:
    """Return the search permissions that a directory needs for files of ``mode`` to be reached."""
    return (0o010 if mode & 0o070 else 0) | (0o001 if mode & 0o007 else 0)


class MetadataFile:
    """The location metadata that an operator attached to mount points."""

    def __init__(self, path: str | None) -> None:
        """Read and check the file; raises ConfigError naming what is wrong in it."""
        entries = _read(path) if path else []
        # Reversed, so that of two with one mount point the first counts.
        self._entries = {entry["mountpoint"].rstrip("/") + "/": entry for entry in entries[::-1]}

    def __call__(self, path: str) -> dict[str, Any]:
        """Return a copy of the metadata of the longest mount point that ``path`` lies below."""
        fitting = [point for point in self._entries if path.startswith(point)]
        return copy.deepcopy(self._entries[max(fitting, key=len)]) if fitting else {}


def _read(path: str) -> list[dict[str, Any]]:
    name = f"filesystem_store_metadata_file {path!r}"
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise ConfigError(
            f"{name} cannot be read: {reason}", remedy="give the path of a JSON file"
        ) from exc
    entries = content if isinstance(content, list) else [content]
    for entry in entries:
        if not isinstance(entry, dict):
            raise ConfigError(f"{name} holds neither an object nor a list of objects")
        for key in ("id", "mountpoint"):
            if not isinstance(entry.get(key), str):
                raise ConfigError(f"{name} has an entry without a string {key!r}")
        if not _is_plain(entry):
            raise ConfigError(
                f"{name} holds values that are not strings, lists or objects, or more than "
                f"{_DEPTH} of them inside each other"
            )
    return entries


def _is_plain(value: object, depth: int = 0) -> bool:
    if depth > _DEPTH:
        return False
    if isinstance(value, Mapping):
        return all(_is_plain(item, depth + 1) for item in value.values())
    if isinstance(value, Iterable) and not isinstance(value, str):
        return all(_is_plain(item, depth + 1) for item in value)
    return isinstance(value, str)
