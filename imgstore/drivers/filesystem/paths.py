"""Confinement: from a location's path to a directory descriptor and a name below it.

Every step down is taken relative to a descriptor and follows no link (openat(2), O_NOFOLLOW), so
whoever can change the tree while a path is resolved gains nothing.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from imgstore.errors import InvalidLocation, NotFound
from imgstore.location import Location
from imgstore.process.interrupts import Descriptors

# Names of unfinished images begin with this; none of them is ever read, sized or deleted.
DRAFT_PREFIX: Final = ".imgstore-"

_DIRECTORY: Final = os.O_DIRECTORY | os.O_CLOEXEC
_NOT_REGULAR: Final = "the path does not lead to a regular file"
# A circle of links, or one that came or went while a path was resolved.
_LINKS: Final = frozenset({errno.ELOOP, errno.EINVAL})


@dataclass(frozen=True)
class Entry:
    """A name in an open directory."""

    directory: int
    name: str


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
        self.roots = tuple(roots)

    def holds(self, path: str) -> bool:
        """Tell without I/O whether ``path`` names something directly in one of the roots."""
        return os.path.dirname(path) in self.roots and os.path.basename(path) != ""

    @contextmanager
    def entry(self, path: str, *, follow: bool = False) -> Iterator[Entry]:
        """Open the directory that holds ``path``; raises InvalidLocation outside the roots.

        With ``follow``, links in ``path`` are resolved first; what they lead to must lie below
        a root as well.
        """
        held = Descriptors()
        try:
            with held, held:
                yield self._open(path, held, follow=follow)
        except OSError as exc:
            if exc.errno in _LINKS:
                raise InvalidLocation(_NOT_REGULAR) from exc
            raise

    def _open(self, path: str, held: Descriptors, *, follow: bool) -> Entry:
        root, below = self._locate(path, follow=follow)
        *parents, name = below.split("/")
        if any(part.startswith(DRAFT_PREFIX) for part in (*parents, name)):
            raise NotFound("this is the name of an unfinished image")
        directory = held.open(root, os.O_PATH | _DIRECTORY)
        for parent in parents:
            flags = os.O_PATH | _DIRECTORY | os.O_NOFOLLOW
            directory = held.open(parent, flags, dir_fd=directory)
        return Entry(directory, name)

    def _locate(self, path: str, *, follow: bool) -> tuple[str, str]:
        if not follow and self.holds(path):
            return os.path.dirname(path), os.path.basename(path)
        real = os.path.realpath(path)
        roots = sorted((os.path.realpath(root) for root in self.roots), key=len, reverse=True)
        for root in roots:
            below = real.removeprefix(root.rstrip("/") + "/")
            if below != real:
                return root, below
        raise InvalidLocation(
            "the path leads outside the store's directories",
            remedy="name its directory in the store's datadirs or in store_also_owns",
        )

    def open_image(self, held: Descriptors, path: str) -> None:
        """Open an image for reading; raises FileNotFoundError, InvalidLocation."""
        with self.entry(path) as entry:
            status = entry_status(entry)
            if not stat.S_ISLNK(status.st_mode):
                _open_regular(held, entry, status)
                return
        with self.entry(path, follow=True) as entry:
            _open_regular(held, entry, entry_status(entry))

    def image_status(self, path: str) -> os.stat_result:
        """Return the status of an image, links followed; raises as ``open_image``."""
        with self.entry(path) as entry:
            status = entry_status(entry)
        if stat.S_ISLNK(status.st_mode):
            with self.entry(path, follow=True) as entry:
                status = entry_status(entry)
        require_regular(status)
        return status

    def unlink_image(self, path: str) -> None:
        """Remove an image; where ``path`` is a link to it, remove both."""
        with self.entry(path) as entry:
            status = entry_status(entry)
            if not stat.S_ISLNK(status.st_mode):
                require_regular(status)
                os.unlink(entry.name, dir_fd=entry.directory)
                return
            with self.entry(path, follow=True) as real:
                require_regular(entry_status(real))
                os.unlink(real.name, dir_fd=real.directory)
            os.unlink(entry.name, dir_fd=entry.directory)


def _open_regular(held: Descriptors, entry: Entry, status: os.stat_result) -> None:
    require_regular(status)  # before opening: that alone makes some devices do things
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    fd = held.open(entry.name, flags, dir_fd=entry.directory)
    require_regular(os.fstat(fd))  # it may be another one by now


def entry_status(entry: Entry) -> os.stat_result:
    """Return the status of an entry itself, links not followed."""
    return os.stat(entry.name, dir_fd=entry.directory, follow_symlinks=False)


def require_regular(status: os.stat_result) -> None:
    """Raise InvalidLocation unless the status is that of a regular file."""
    if not stat.S_ISREG(status.st_mode):
        raise InvalidLocation(_NOT_REGULAR)
