"""The library half of a store: the verbs, written once."""

from __future__ import annotations

import functools
import os
import weakref
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import timedelta
from typing import NoReturn

from imgstore import errors
from imgstore.boundary.arguments import (
    age_limit,
    check_image_id,
    check_range,
)
from imgstore.boundary.translation import ClosedError
from imgstore.data.hashing import Expected
from imgstore.data.reader import ImageReader
from imgstore.data.sources import Progress, Sink, Source
from imgstore.data.streams import Body
from imgstore.driver import Driver
from imgstore.location import Location, LocationLike
from imgstore.model import Added, Capability, Leftover, Ownership, Stat, StoredImage
from imgstore.process.committing import mark_in_doubt
from imgstore.verbs.base import Context, Verbs
from imgstore.verbs.saving import FileOfCallers
from imgstore.verbs.upkeep import old_leftovers, problems, remove_leftovers
from imgstore.verbs.verifying import verify

__all__ = [
    "Added",
    "Capability",
    "ClosedError",
    "Context",
    "Driver",
    "Leftover",
    "Ownership",
    "Stat",
    "Store",
    "StoredImage",
]


class Store(Verbs):
    """One configured place for images.

    The verbs are written here once: they check capabilities, containment and sizes, compute
    digests, resume reads and translate errors. What differs between backends is in the hooks, see
    Driver. Stores may be used from many threads at once.
    """

    def add(
        self,
        image_id: str,
        source: Source,
        *,
        size: int | None = None,
        max_size: int | None = None,
        algorithms: Iterable[str] = ("sha256",),
        sinks: Iterable[Sink] = (),
        progress: Progress | None = None,
        expected: Mapping[str, str] | None = None,
        context: Context = None,
    ) -> StoredImage:
        """Store an image, all or nothing.

        ``source`` is bytes-like, a path object, an object with ``read(n)`` (short reads allowed,
        never asked for more than 64 MiB) or an iterable of bytes-like objects; it is read once,
        never rewound, and closed only if it was opened here. ``size`` in bytes is checked; None
        is unknown, 0 an empty image. ``max_size`` bounds either. ``algorithms`` are lower-case
        names of hashlib. ``sinks`` get every byte once, in order, through ``update``, and are asked
        by ``finish``, where they have it, before the image is committed. ``expected`` maps names
        of hashlib to hexadecimal digests; they are computed, and compared before the commit.
        ``progress(done, total_or_none)`` is called as bytes arrive, at most every 0.1 s, and once
        at the end. What source, sinks and progress raise comes through unchanged, and nothing is
        stored.

        Raises AlreadyExists, SizeMismatch, DigestMismatch, TooLarge, StorageFull, PermissionDenied,
        InvalidArgument, Unsupported, Unavailable and their kin. A KeyboardInterrupt that comes
        once the image is there has ``indeterminate = True`` as well.
        """
        body: Body | None = None
        done: dict[None, Added] = {}
        try:
            self._require(Capability.WRITE)
            check_image_id(image_id)
            asker = self._asker(context)
            body = Body(
                source,
                size=size,
                max_size=max_size,
                algorithms=algorithms,
                sinks=sinks,
                progress=progress,
                expected=expected,
            )
            with closing(body), body:  # twice: an interrupt may come when the first begins
                # Remembers that it was done in one step with that, before an interrupt can come.
                done = defaultdict(functools.partial(self._add, image_id, body, context=asker))
                added = done[None]
                body.finish()
                return self._stored(added, body.total, body.digests())
        except Exception as exc:
            self._raise(exc, "add", image_id=image_id, body=body)
        except BaseException as exc:  # interrupted
            if done:
                mark_in_doubt(exc)
            raise

    def get(
        self,
        location: LocationLike,
        *,
        offset: int = 0,
        length: int | None = None,
        expected: Mapping[str, str] | None = None,
        context: Context = None,
    ) -> ImageReader:
        """Open an image, or ``length`` bytes of it from ``offset``; close the reader after use.

        ``offset`` may equal the image's size and ``length`` may be 0 or go beyond the end: the
        reader's ``size`` tells how much there is. The first chunk is fetched here, so a missing
        image is found out before a response begins. ``expected`` digests of a whole image hold its
        last chunk back until they fit: DigestMismatch comes from the reader, and of an image of
        one chunk from here. Raises NotFound, InvalidRange, InvalidLocation, Unsupported (ranges),
        PermissionDenied, Unavailable.
        """
        at: Location | None = None
        try:
            self._require(Capability.READ)
            at = self._contained(location)
            asker = self._asker(context)
            check_range(offset, length)
            is_range = offset or length is not None
            if expected is not None and is_range:
                raise errors.InvalidArgument(
                    "expected digests are those of a whole image", remedy="ask for no range"
                )
            if is_range and Capability.RANGES not in self.capabilities:
                raise errors.Unsupported("this store reads whole images only")
            judge = None if expected is None else Expected(expected)
            return self._open(at, offset, length, asker, expected=judge)
        except Exception as exc:
            self._raise(exc, "get", location=at)

    def size(self, location: LocationLike, *, context: Context = None) -> int:
        """Return an image's size in bytes; raises NotFound, InvalidLocation, Unavailable."""
        at: Location | None = None
        try:
            self._require(Capability.READ)
            at = self._contained(location)
            return self._size(at, context=self._asker(context))
        except Exception as exc:
            self._raise(exc, "size", location=at)

    def stat(self, location: LocationLike, *, context: Context = None) -> Stat:
        """Return an image's size, version and time; raises NotFound, InvalidLocation, Unavailable.

        It asks the backend as often as ``size`` does.
        """
        at: Location | None = None
        try:
            self._require(Capability.READ)
            at = self._contained(location)
            return self._stat(at, context=self._asker(context))
        except Exception as exc:
            self._raise(exc, "stat", location=at)

    def verify(
        self,
        location: LocationLike,
        expected: Mapping[str, str] | None = None,
        *,
        algorithms: Iterable[str] = (),
        progress: Progress | None = None,
        context: Context = None,
    ) -> dict[str, str]:
        """Read one version of an image to its end, and return its digests.

        They are those of ``expected`` and ``algorithms``, SHA-256 if both are missing. Raises
        DigestMismatch where one is not the expected one, IntegrityError if the image was replaced
        meanwhile, NotFound if it was deleted, and what ``get`` raises. What ``progress`` raises
        ends it, and comes through unchanged.
        """
        at: Location | None = None
        body: Body | None = None
        try:
            self._require(Capability.READ)
            at = self._contained(location)
            asker = self._asker(context)
            body = Body(None, algorithms=algorithms, progress=progress, expected=expected)
            if not body.observed:
                body = Body(None, algorithms=("sha256",), progress=progress)
            verify(self, at, body, asker)
            return body.digests()
        except Exception as exc:
            self._raise(exc, "verify", location=at, body=body)

    def save(
        self,
        location: LocationLike,
        path: str | os.PathLike[str],
        *,
        expected: Mapping[str, str] | None = None,
        progress: Progress | None = None,
        context: Context = None,
    ) -> None:
        """Write an image to a file: a draft beside it is flushed, and then takes its place.

        Zeros become holes. A file that is there is replaced, with its mode, or stays as it was;
        a draft that a dead process left is removed by the next call for that path. Raises what
        ``get`` raises, DigestMismatch, and the file's own OSError.
        """
        at: Location | None = None
        body: Body | None = None
        try:
            self._require(Capability.READ)
            at = self._contained(location)
            asker = self._asker(context)
            body = Body(None, progress=progress, expected=expected)
            file = FileOfCallers(path, body)
            with self._open(at, 0, None, asker, operation="save") as reader:
                body.source = reader
                file.fill()
        except Exception as exc:
            self._raise(exc, "save", location=at, body=body)

    def holds(self, location: LocationLike, *, context: Context = None) -> bool:
        """Ask the backend whether an image lies in this store, where its URL does not tell."""
        at: Location | None = None
        try:
            self._require(Capability.READ)
            at = self._contained(location)
            return self._holds(at, context=self._asker(context))
        except Exception as exc:
            error = self._translate(exc, "holds", location=at)
            if isinstance(error, errors.NotFound | errors.InvalidLocation):
                return False
            self._raise(exc, "holds", location=at)

    def delete(self, location: LocationLike, *, context: Context = None) -> None:
        """Delete an image; raises NotFound, InUse, InvalidLocation, PermissionDenied."""
        at: Location | None = None
        try:
            self._require(Capability.DELETE)
            at = self._contained(location)
            self._delete(at, context=self._asker(context))
        except Exception as exc:
            self._raise(exc, "delete", location=at)

    def copy(
        self,
        location: LocationLike,
        image_id: str,
        *,
        to: Store | None = None,
        size: int | None = None,
        max_size: int | None = None,
        algorithms: Iterable[str] = ("sha256",),
        sinks: Iterable[Sink] = (),
        progress: Progress | None = None,
        expected: Mapping[str, str] | None = None,
        context: Context = None,
    ) -> StoredImage:
        """Copy an image of this store to another store, or under another id to this one.

        The backend copies where it can and nobody asked for the bytes (sinks, progress, sizes,
        expected digests); ``digests`` is then empty. Otherwise the image is streamed, as ``add``
        does it.
        """
        target = self if to is None else to
        given = target._checked_for_copy(
            image_id,
            size=size,
            max_size=max_size,
            algorithms=algorithms,
            sinks=sinks,
            progress=progress,
            expected=expected,
        )
        wanted = given["sinks"] or any(
            each is not None for each in (progress, size, max_size, expected)
        )
        if Capability.COPY in target.capabilities and not wanted:
            copied = target._copy_from(self, location, image_id, context)
            if copied is not None:
                return copied
        with self.get(location, context=context) as reader:
            given["size"] = reader.image_size if size is None else size
            return target.add(image_id, reader, **given, context=context)

    def set_acls(
        self,
        location: LocationLike,
        *,
        public: bool = False,
        read: Sequence[str] = (),
        write: Sequence[str] = (),
        context: Context = None,
    ) -> None:
        """Set which projects may read and write an image; raises Unsupported where none can be."""
        at: Location | None = None
        try:
            self._require(Capability.ACLS)
            at = self._contained(location)
            asker = self._asker(context)
            self._set_acls(at, public=public, read=tuple(read), write=tuple(write), context=asker)
        except Exception as exc:
            self._raise(exc, "set_acls", location=at)

    def leftovers(self, *, older_than: timedelta | float) -> list[Leftover]:
        """List what unfinished adds of dead processes left, ``older_than`` seconds ago or more.

        Adds of this process that are under way are not listed, nor those of others as far as a
        backend tells; where it does not, ``older_than`` has to be longer than they pause.
        """
        try:
            self._check_open()
            return list(old_leftovers(self, age_limit(older_than)))
        except Exception as exc:
            self._raise(exc, "leftovers")

    def remove_leftovers(self, *, older_than: timedelta | float) -> list[Leftover]:
        """Remove what ``leftovers`` lists, and return it.

        One that cannot be removed keeps none of the others; its error is raised at the end.
        """
        try:
            self._check_open()
            return remove_leftovers(self, age_limit(older_than))
        except Exception as exc:
            self._raise(exc, "remove_leftovers")

    def check(self, *, write: bool = True, timeout: float | None = None) -> list[str]:
        """Talk to the backend and return what is wrong, one text each; nothing is raised for it.

        With ``write`` something small is stored and removed, and what an add would make is made;
        without it nothing is changed. A backend that does not answer within ``timeout`` seconds
        is a problem too; nobody waits for it any more.
        """
        self._check_open()
        ((_, found),) = problems([self], write=write, timeout=timeout)
        return found

    @property
    def unwrapped(self) -> Store:
        """Return the driver under any layers."""
        return self

    def close(self) -> None:
        """Close the store and its readers; afterwards every verb raises ValueError."""
        try:
            self._unclosed.pop()
        except IndexError:
            return
        self._closed = True
        with ExitStack() as closing:  # each of them, whatever becomes of the others
            closing.callback(self._close)
            closing.callback(self._janitor.close)
            for reader in _snapshot(self._readers):
                closing.callback(reader.close)

    def __enter__(self) -> Store:
        """Return self."""
        self._check_open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close."""
        self.close()

    def __repr__(self) -> str:
        """Return the class and the store's name."""
        return f"<{type(self).__name__} {self.name!r}>"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled."""
        raise TypeError("a Store cannot be pickled")


def _snapshot(readers: weakref.WeakSet[ImageReader]) -> list[ImageReader]:
    while True:
        try:
            return list(readers)
        except RuntimeError:  # another thread opened one meanwhile
            continue
