"""Everything that imgstore raises.

    ImgStoreError
    ├── ConfigError                   the configuration cannot be used
    │   └── DriverUnavailable         a driver or its SDK is not installed
    ├── InvalidArgument (ValueError)  the caller's mistake
    │   ├── InvalidLocation           not a location of this store
    │   │   ├── OutsideStore          a location of another store
    │   │   └── UnknownScheme         no configured store reads such locations
    │   ├── InvalidRange              outside the image
    │   └── UnknownStore              no store of that name
    └── StoreError                    the backend's answer
        ├── NotFound
        ├── AlreadyExists
        ├── PermissionDenied
        ├── InUse
        ├── StorageFull               out of space, quota or file size limit: another store may do
        ├── Unsupported               this store or server cannot do that
        ├── TooLarge                  beyond the caller's ``max_size``
        ├── IntegrityError            the bytes are not what was promised
        │   ├── DigestMismatch        a digest is not the expected one
        │   └── SizeMismatch
        └── Unavailable               retryable
            ├── Throttled
            └── TimedOut

Exceptions of the caller's own objects (source, sinks, progress) are never wrapped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from imgstore.location import Location

__all__ = [
    "AlreadyExists",
    "ConfigError",
    "DigestMismatch",
    "DriverUnavailable",
    "ImgStoreError",
    "InUse",
    "IntegrityError",
    "InvalidArgument",
    "InvalidLocation",
    "InvalidRange",
    "NotFound",
    "OutsideStore",
    "PermissionDenied",
    "SizeMismatch",
    "StorageFull",
    "StoreError",
    "Throttled",
    "TimedOut",
    "TooLarge",
    "Unavailable",
    "UnknownScheme",
    "UnknownStore",
    "Unsupported",
]


class ImgStoreError(Exception):
    """Base of every error raised by imgstore.

    ``reason`` says what is wrong and ``remedy`` what to do about it. The library fills in
    ``store``, ``operation``, ``image_id`` and ``location`` on the way out, once. No message
    contains a credential.
    """

    usual_remedy: ClassVar[str] = ""

    def __init__(self, reason: str = "", *, remedy: str = "") -> None:
        """Describe the fault and its remedy, which is the class's usual one by default."""
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy or self.usual_remedy
        self.store: str | None = None
        self.operation: str | None = None
        self.image_id: str | None = None
        self.location: Location | None = None

    def add_context(
        self,
        *,
        store: str | None = None,
        operation: str | None = None,
        image_id: str | None = None,
        location: Location | None = None,
    ) -> None:
        """Fill in what is not known yet; what is known stays."""
        self.store = self.store or store
        self.operation = self.operation or operation
        self.image_id = self.image_id or image_id
        self.location = self.location or location

    def __str__(self) -> str:
        """Return ``store 'fast': get file:///…: what is wrong; what to do``."""
        subject = " ".join(
            str(word) for word in (self.operation, self.image_id, self.location) if word is not None
        )
        store = f"store {self.store!r}" if self.store is not None else ""
        reason = self.reason or type(self).__name__
        text = ": ".join(part for part in (store, subject, reason) if part)
        return f"{text}; {self.remedy}" if self.remedy else text


class ConfigError(ImgStoreError):
    """A configuration cannot be used; the message lists every fault found, one per line.

    Of a store that could not be built, ``driver`` is the name of its driver, ``schemes`` are those
    of the locations that it would read, and ``settings`` its effective values by option name:
    without secrets, values that cannot be read, and hosts and URLs with an "@" in them, whose
    credentials may have any form.
    """

    def __init__(self, reason: str = "", *, remedy: str = "") -> None:
        """Describe the fault; what store it is of is filled in by the library."""
        super().__init__(reason, remedy=remedy)
        self.driver: str | None = None
        self.schemes: tuple[str, ...] = ()
        self.settings: dict[str, Any] = {}


class DriverUnavailable(ConfigError):
    """A driver is not registered, cannot be loaded, or lacks its SDK."""


class InvalidArgument(ImgStoreError, ValueError):
    """An argument that no store could accept."""


class InvalidLocation(InvalidArgument):
    """Not a well-formed location URL, or one that lies outside the store."""

    usual_remedy = "pass the URL of a stored image; locations look like scheme://rest"


class OutsideStore(InvalidLocation):
    """A well-formed location that lies in no place of the store."""

    usual_remedy = "if it is one of its former places, name it in store_also_owns"


class UnknownScheme(InvalidLocation):
    """No configured store reads locations of this scheme."""


class InvalidRange(InvalidArgument):
    """A negative offset or length, or an offset beyond the end of the image."""

    usual_remedy = "stay within the image; size() tells how large it is"


class UnknownStore(InvalidArgument, KeyError):
    """No store of this name is configured."""

    __str__ = ImgStoreError.__str__


class StoreError(ImgStoreError):
    """An operation failed at the backend.

    ``retryable``: the same call may succeed later. ``indeterminate``: a commit was sent and its
    outcome could not be learnt, so the image may or may not exist.
    """

    retryable = False

    def __init__(
        self,
        reason: str = "",
        *,
        remedy: str = "",
        retryable: bool | None = None,
        indeterminate: bool = False,
    ) -> None:
        """Describe the fault; ``retryable`` defaults to what the class says."""
        super().__init__(reason, remedy=remedy)
        if retryable is not None:
            self.retryable = retryable
        self.indeterminate = indeterminate


class NotFound(StoreError):
    """The image does not exist."""

    usual_remedy = "check the location; the image may have been deleted"


class AlreadyExists(StoreError):
    """An image of this id exists; it was not touched."""

    usual_remedy = "use another id, or delete that image first"


class PermissionDenied(StoreError):
    """The backend refused the credentials or the operation."""

    usual_remedy = "check the store's credentials and permissions at the backend"


class InUse(StoreError):
    """Something else uses the image: a clone, a snapshot, an attachment."""

    usual_remedy = "end that use first"


class StorageFull(StoreError):
    """The backend has no room: space, a quota, or a limit on the size of one file."""

    usual_remedy = "free or add space, raise the limit, or use another store"


class Unsupported(StoreError):
    """This store, or the server behind it, cannot do what was asked."""

    usual_remedy = "look at the store's capabilities, or use another store"


class TooLarge(StoreError):
    """The source holds more than ``max_size`` bytes."""

    usual_remedy = "raise max_size, or refuse the image"


class IntegrityError(StoreError):
    """The bytes are not those that were promised."""

    usual_remedy = "do it again from the start"


class DigestMismatch(IntegrityError):
    """A digest of the image is not the one that was expected."""

    usual_remedy = "find out whether the bytes or the expected digest are wrong"


class SizeMismatch(IntegrityError):
    """The source holds more or fewer bytes than declared."""

    usual_remedy = "declare the true size, or None if it is unknown"


class Unavailable(StoreError):
    """The backend cannot be reached or did not finish; trying again may help."""

    usual_remedy = "try again later"
    retryable = True


class Throttled(Unavailable):
    """The backend, or a limit set on it, asks for fewer requests."""


class TimedOut(Unavailable):
    """No answer within the configured time."""
