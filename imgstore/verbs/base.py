"""How the verbs of a store work: from arguments to a hook, from exceptions to errors."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from imgstore import errors
from imgstore.boundary.arguments import (
    check_image_id,
    checked_name,
    checked_prefixes,
    is_below,
    is_safe_image_id,
)
from imgstore.boundary.redaction import without_userinfo_in
from imgstore.boundary.translation import ClosedError, describe, error_class, raise_for
from imgstore.context import ContextLike, RequestContext
from imgstore.data.hashing import Expected
from imgstore.data.opened import Opened
from imgstore.data.reader import ImageReader
from imgstore.data.streams import Body
from imgstore.driver import Driver
from imgstore.location import Location, LocationLike
from imgstore.model import Added, Capability, Ownership, StoredImage
from imgstore.process.janitor import Janitor
from imgstore.process.per_process import PerProcess

if TYPE_CHECKING:
    from imgstore.store import Store

Context = RequestContext | ContextLike | None


class Verbs(Driver):
    """What the verbs of a store have in common; Store has the verbs themselves."""

    def __init__(
        self,
        name: str,
        *,
        weight: int = 0,
        description: str = "",
        also_owns: Iterable[str] = (),
        single: bool = False,
    ) -> None:
        """Name the store.

        ``weight`` orders stores that hold the same image, higher first. ``also_owns`` are
        URL prefixes of former places whose images this store still serves. ``single`` says that
        the store comes from the old single form of configuration, where locations and metadata
        do not name their store.
        """
        self.name = checked_name(name)
        self.weight = weight
        self.description = description
        self.single = single
        self.also_owns = checked_prefixes(also_owns)
        self._closed = False
        self._readers: weakref.WeakSet[ImageReader] = weakref.WeakSet()
        self._janitor = PerProcess(Janitor, Janitor.end)
        # Popped by the closing thread: once, and without a lock that a fork could find held.
        self._unclosed = [True]

    @property
    def settings(self) -> dict[str, Any]:
        """Return the effective values of the store's options, by their names in configurations.

        Secret options are left out, and credentials in URLs, proxies and hosts.
        """
        return {
            **copy.deepcopy(dict(self._shown)),
            "weight": self.weight,
            "store_description": without_userinfo_in(self.description),
            "store_also_owns": [prefix.url for prefix in self.also_owns],
        }

    @property
    def url_prefixes(self) -> tuple[str, ...]:
        """Return what URLs begin with of images directly below the places of this store.

        Each ends with a slash, and is told without I/O. Places may lie in those of other stores:
        the longest prefix counts. Users of one account service are not told apart by them. A place
        that no text tells has none, nor one that is not known yet, such as the cluster of an RBD
        store before its first connection.
        """
        former = (f"{prefix.url.rstrip('/')}/" for prefix in self.also_owns)
        return tuple(dict.fromkeys([*self._url_prefixes(), *former]))

    def ownership(self, location: Location) -> Ownership:
        """Tell without I/O whether a location lies in this store, former places included."""
        try:
            return self._ownership(location)
        except errors.InvalidLocation:
            return Ownership.NO

    def _ownership(self, location: Location) -> Ownership:
        """Tell it of a location, or raise InvalidLocation for one that is malformed here."""
        if location.scheme not in self.schemes:
            return Ownership.NO
        if any(is_below(location, prefix) for prefix in self.also_owns):
            return Ownership.YES
        return self.owns(location)

    def _open(
        self,
        at: Location,
        offset: int,
        length: int | None,
        context: RequestContext | None,
        *,
        operation: str = "get",
        expected: Expected | None = None,
    ) -> ImageReader:
        opened = self._open_range(at, offset, length, context, operation)
        size = max(0, opened.image_size - offset)
        size = size if length is None else min(size, length)

        def reopen(offset: int, length: int, version: str) -> Opened:
            self._check_open()
            return self._get(at, offset, length, if_version=version, context=context)

        reader = ImageReader(
            opened,
            offset=offset,
            size=size,
            reopen=reopen,
            translate=lambda exc: self._translate(exc, operation, location=at),
            retries=self.read_retries if Capability.RANGES in self.capabilities else 0,
            janitor=self._janitor.get() if opened.close_waits else None,
            expected=expected,
        )
        try:
            if offset > opened.image_size:
                raise errors.InvalidRange(
                    f"offset {offset} is beyond the image's {opened.image_size} bytes"
                )
            # In this order, so that close() sees the reader or this sees that it was called.
            self._readers.add(reader)
            self._check_open()
            reader.prime()
        except BaseException:
            reader.close()
            raise
        return reader

    def _open_range(
        self,
        at: Location,
        offset: int,
        length: int | None,
        context: RequestContext | None,
        operation: str,
    ) -> Opened:
        """Open through the driver; an empty range only needs the image to exist."""
        if length != 0:
            try:
                return self._get(at, offset, length, if_version=None, context=context)
            except Exception as exc:
                if not isinstance(self._translate(exc, operation), errors.InvalidRange):
                    raise
                found = self._stat(at, context=context)
                if offset < found.size:
                    raise errors.IntegrityError(
                        "a range within the image is refused", retryable=True
                    ) from exc
                if offset > found.size:
                    raise
        else:
            found = self._stat(at, context=context)
        return Opened(iter(()), found.size, found.version)

    def _checked_for_copy(self, image_id: str, **given: Any) -> dict[str, Any]:
        """Return what an add will be given; raises, before an image is opened, what it would."""
        try:
            check_image_id(image_id)
            for name in ("algorithms", "sinks"):
                if isinstance(given[name], Iterable) and not isinstance(given[name], str | bytes):
                    given[name] = tuple(given[name])
            Body(None, **given)
        except Exception as exc:
            self._raise(exc, "copy", image_id=image_id)
        return given

    def _copy_from(
        self,
        origin: Store,
        location: LocationLike,
        image_id: str,
        context: Context,
    ) -> StoredImage | None:
        try:
            origin._require(Capability.READ)
            at = origin._contained(location)
        except Exception as exc:
            origin._raise(exc, "copy", image_id=image_id)
        try:
            self._require(Capability.WRITE)
            asker = self._asker(context)
            added = self._copy(at, origin.unwrapped, image_id, context=asker)
            if added is None:
                return None
            size = self._size(added.location, context=asker) if added.size is None else added.size
            return self._stored(added, size, {})
        except Exception as exc:
            self._raise(exc, "copy", image_id=image_id, location=at)

    def _asker(self, context: Context) -> RequestContext | None:
        asker = RequestContext.of(context)
        if asker is not None:
            self._redaction.note(asker.auth_token)
        return asker

    def _stored(self, added: Added, size: int, digests: dict[str, str]) -> StoredImage:
        metadata = dict(added.metadata)
        if not self.single:
            metadata["store"] = self.name
        return StoredImage(added.location, size, digests, self.name, metadata)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"store {self.name!r} is closed")

    def _require(self, capability: Capability) -> None:
        self._check_open()
        if capability not in self.capabilities:
            raise errors.Unsupported(f"this store has not the capability {capability.name}")

    def _contained(self, location: LocationLike) -> Location:
        at = Location.parse(location)
        if at.scheme not in self.schemes:
            raise errors.InvalidLocation(
                f"{at} is not of a scheme that this store reads: {', '.join(self.schemes)}"
            )
        if self._ownership(at) is Ownership.NO:
            raise errors.OutsideStore(f"{at} lies outside this store")
        self._redaction.note(at)
        return at

    def _translate(
        self,
        exc: BaseException,
        operation: str,
        *,
        location: Location | None = None,
        image_id: str | None = None,
    ) -> BaseException:
        """Return the error of our tree for any exception, its cause set; the one translator."""
        if isinstance(exc, ClosedError | MemoryError) or not isinstance(exc, Exception):
            return exc
        error = exc if isinstance(exc, errors.ImgStoreError) else self._classified(exc)
        if image_id is not None and not is_safe_image_id(image_id):
            image_id = None
        error.add_context(
            store=self.name, operation=operation, location=location, image_id=image_id
        )
        self._redaction.note(location)  # again: many may have come since the verb began
        self._redaction.error(error, exc)
        return error

    def _classified(self, exc: Exception) -> errors.ImgStoreError:
        found = self._classify(exc)
        if isinstance(found, errors.ImgStoreError):
            return found
        found = found or error_class(exc)
        return found(describe(exc))

    def _raise(
        self,
        exc: Exception,
        operation: str,
        *,
        location: Location | None = None,
        image_id: str | None = None,
        body: Body | None = None,
    ) -> NoReturn:
        """Raise the translated error; a failure of the caller's own objects stays as it is."""
        if body is not None and body.error is not None:
            if body.error_is_callers:
                self._redaction.reraise(body.error)
            exc = body.error if isinstance(body.error, Exception) else exc
        raise_for(self._translate(exc, operation, location=location, image_id=image_id), exc)
