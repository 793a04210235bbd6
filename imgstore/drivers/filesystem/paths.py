"""Confinement: from a location's path to a directory descriptor and a name below it.

Every step down from a root is taken relative to a descriptor and follows no link (openat(2),
O_NOFOLLOW), so an attacker who changes the tree meanwhile gains nothing. For what lies
directly in a root, that is one step.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from imgstore.errors import InvalidLocation, NotFound, OutsideStore
from imgstore.location import Location
from imgstore.process.interrupts import Descriptors

# Names of unfinished images begin with this; none of them is ever read, sized or deleted.
DRAFT_PREFIX: Final = ".imgstore-"

_DIRECTORY: Final = os.O_DIRECTORY | os.O_CLOEXEC
NOT_REGULAR: Final = "the path does not lead to a regular file"


def path_of(location: Location) -> str:
    """Return the normalized absolute path that a file URL stands for; nothing is unquoted.

    Raises InvalidLocation where the URL has a host, e.g. ``file://host/path``.
    """
    path = location.rest.partition("?")[0].partition("#")[0]
    if not path.startswith("/"):
        raise InvalidLocation(
            "the path is not absolute", remedy="file locations look like file:///directory/name"
        )
    return "/" + os.path.normpath(path).lstrip("/")


def open_directory(held: Descriptors, path: str) -> int:
    """Open a directory for reading and for calls relative to it; automounts are triggered."""
    return held.open(path, os.O_RDONLY | _DIRECTORY)


def made_directory(root: str) -> os.stat_result:
    """Return the status of a directory that is made if it is missing."""
    with suppress(FileNotFoundError):
        return directory_status(root)
    with suppress(FileExistsError):  # made by another
        os.makedirs(root)
    try:
        return directory_status(root)
    except FileNotFoundError:  # a link to nowhere
        raise NotADirectoryError(errno.ENOTDIR, f"{root} is not a directory") from None


def directory_status(root: str) -> os.stat_result:
    """Return the status of a directory; raises NotADirectoryError for anything else."""
    status = os.stat(root)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, f"{root} is not a directory")
    return status


class Tree:
    """The directories that images may lie in."""

    def __init__(self, roots: Sequence[str]) -> None:
        """``roots`` are normalized absolute paths; links in them are followed."""
        self._roots = frozenset(roots)

    def open_image(self, held: Descriptors, path: str) -> os.stat_result:
        """Open an image for reading and return its status.

        It is looked at before, for opening alone makes some devices do things. Raises
        InvalidLocation for what is no regular file or outside the roots, and FileNotFoundError.
        """
        if self._entry(path):
            return _open_regular(held, path, None)
        with self._real(path) as (directory, name):
            _status(name, directory)
            return _open_regular(held, name, directory)

    def image_status(self, path: str) -> os.stat_result:
        """Return the status of an image, links followed; raises as ``open_image``."""
        status = self._entry(path)
        if status is not None:
            return status
        with self._real(path) as (directory, name):
            return _status(name, directory)

    def unlink_image(self, path: str) -> None:
        """Remove an image; where ``path`` is a link to it in a root, remove both."""
        if not self._entry(path):
            with self._real(path) as (directory, name):
                _status(name, directory)
                os.unlink(name, dir_fd=directory)
        if os.path.dirname(path) in self._roots:
            os.unlink(path)

    def _entry(self, path: str) -> os.stat_result | None:
        """Return the status of an image directly in a root; None for a link and all other paths."""
        directory, name = os.path.split(path)
        if directory not in self._roots or not name:
            return None
        _refuse_draft(name)
        status = os.stat(path, follow_symlinks=False)
        return None if stat.S_ISLNK(status.st_mode) else _regular(status)

    @contextmanager
    def _real(self, path: str) -> Iterator[tuple[int, str]]:
        """Give where a path leads once its links are resolved: a name in an open directory."""
        root, below = self._locate(os.path.realpath(path))
        *parents, name = below.split("/")
        for part in (*parents, name):
            _refuse_draft(part)
        held = Descriptors()
        with held, held:
            directory = held.open(root, os.O_PATH | _DIRECTORY)
            for parent in parents:
                flags = os.O_PATH | _DIRECTORY | os.O_NOFOLLOW
                directory = held.open(parent, flags, dir_fd=directory)
            yield directory, name

    def _locate(self, real: str) -> tuple[str, str]:
        """Divide a path without links into a root and what is below it."""
        for root in sorted(map(os.path.realpath, self._roots), key=len, reverse=True):
            below = real.removeprefix(root.rstrip("/") + "/")
            if below != real:
                return root, below
        raise OutsideStore(
            "the path leads outside the store's directories",
            remedy="name its directory in the store's datadirs or in store_also_owns",
        )


def _refuse_draft(name: str) -> None:
    if name.startswith(DRAFT_PREFIX):
        raise NotFound("this is the name of an unfinished image")


def _open_regular(held: Descriptors, name: str, directory: int | None) -> os.stat_result:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    fd = held.open(name, flags, dir_fd=directory)
    return _regular(os.fstat(fd))  # it may be another one by now


def _status(name: str, directory: int) -> os.stat_result:
    return _regular(os.stat(name, dir_fd=directory, follow_symlinks=False))


def _regular(status: os.stat_result) -> os.stat_result:
    if not stat.S_ISREG(status.st_mode):
        raise InvalidLocation(NOT_REGULAR)
    return status
