"""From imgstore's errors to glance_store's, which decide what HTTP status Glance answers with."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Literal, NamedTuple, TypeAlias

from glance_store import exceptions
from imgstore import errors

LOG = logging.getLogger(__name__)

Verb: TypeAlias = Literal["add", "get", "get_range", "get_size", "delete"]
Kind: TypeAlias = "type[Exception] | None"


class Row(NamedTuple):
    """What one error becomes, by verb; where nothing stands, its base's row tells."""

    add: Kind = None
    get: Kind = None
    get_size: Kind = None
    delete: Kind = None
    get_range: Kind = None


TABLE: Final[Mapping[type[errors.ImgStoreError], Row]] = {
    errors.ImgStoreError: Row(*[exceptions.BackendException] * 5),
    errors.ConfigError: Row(exceptions.StoreAddDisabled, *[exceptions.BadStoreConfiguration] * 4),
    errors.InvalidArgument: Row(*[exceptions.Invalid] * 5),
    errors.InvalidLocation: Row(exceptions.Invalid, *[exceptions.BadStoreUri] * 4),
    errors.OutsideStore: Row(
        get=exceptions.NotFound,
        get_size=exceptions.NotFound,
        delete=exceptions.Forbidden,
        get_range=exceptions.NotFound,
    ),
    errors.NotFound: Row(None, *[exceptions.NotFound] * 4),
    errors.AlreadyExists: Row(add=exceptions.Duplicate),
    errors.StorageFull: Row(add=exceptions.StorageFull),
    errors.TooLarge: Row(add=exceptions.StorageFull),
    errors.SizeMismatch: Row(add=exceptions.Invalid),
    errors.PermissionDenied: Row(exceptions.StorageWriteDenied, *[exceptions.Forbidden] * 4),
    errors.InUse: Row(add=exceptions.Duplicate, delete=exceptions.InUseByStore),
    errors.Unavailable: Row(
        add=exceptions.TimeoutError,
        get=exceptions.RemoteServiceUnavailable,
        get_size=exceptions.RemoteServiceUnavailable,
        delete=exceptions.TimeoutError,
        get_range=exceptions.RemoteServiceUnavailable,
    ),
    errors.TimedOut: Row(*[exceptions.TimeoutError] * 5),
    errors.Unsupported: Row(
        add=exceptions.StoreAddDisabled,
        get=exceptions.StoreGetNotSupported,
        get_size=exceptions.BadStoreUri,  # Glance takes it for a location that is no good
        delete=exceptions.StoreDeleteNotSupported,
        get_range=exceptions.StoreRandomGetNotSupported,
    ),
}


# What is said of an error in place of its own text, which tells where images lie and what serves
# them: that is for the log, and answers go to users.
_TEXTS: Final[Mapping[type[errors.ImgStoreError], str]] = {
    errors.ImgStoreError: "the operation failed",
    errors.StoreError: "the backend failed",
    errors.ConfigError: "the store is not configured so that it can be used",
    errors.InvalidArgument: "the request is not valid",
    errors.InvalidLocation: "the location is not one that this store can read",
    errors.OutsideStore: (
        "the location lies outside this store; if it is one of its former places, name it in "
        "store_also_owns"
    ),
    errors.NotFound: "the image was not found",
    errors.AlreadyExists: "the image already exists",
    errors.PermissionDenied: "the backend refuses the operation",
    errors.InUse: "the image is in use at the backend",
    errors.StorageFull: "the backend has no room",
    errors.Unsupported: "the store cannot do that",
    errors.TooLarge: "the image is larger than permitted",
    errors.IntegrityError: "the data are not those that were promised",
    errors.Unavailable: "the backend is not available; try again later",
    errors.Throttled: "the backend asks for fewer requests; try again later",
    errors.TimedOut: "the backend did not answer in time; try again later",
}
# The library finds these in the request itself, and its reason tells users what to change.
_OF_USERS: Final = (errors.InvalidArgument, errors.SizeMismatch)
# What no path, URL, host or address does without.
_PLACE: Final = re.compile(r"[/\\@%\[]|\w[.:]+\w|::")


def text_for_users(error: errors.ImgStoreError) -> str:
    """Return what may be said of an error to users: it has no path, no URL and no host in it."""
    subject = [f"store {error.store!r}"] if error.store is not None else []
    if error.image_id is not None and _is_plain(error.image_id):
        subject.append(f"image {error.image_id}")
    return ": ".join([*subject, _explanation(error)])


def _explanation(error: errors.ImgStoreError) -> str:
    is_of_users = isinstance(error, _OF_USERS) and not isinstance(error, errors.InvalidLocation)
    if is_of_users and error.reason and _is_plain(error.reason):
        parts = (error.reason, error.remedy if _is_plain(error.remedy) else "")
        return "; ".join(part for part in parts if part)
    return next(_TEXTS[cls] for cls in type(error).__mro__ if cls in _TEXTS)


def _is_plain(text: object) -> bool:
    return not _PLACE.search(str(text))


def translated(error: errors.ImgStoreError, verb: Verb) -> Exception:
    """Return what callers of glance_store expect for an error; the log has its whole text."""
    LOG.warning("%s", error)
    return refusal(error, verb)


def refusal(error: errors.ImgStoreError, verb: Verb) -> Exception:
    """Return the same for an error that the log has already."""
    rows = (TABLE[cls] for cls in type(error).__mro__ if cls in TABLE)
    kind = next(kind for row in rows if (kind := getattr(row, verb)) is not None)
    made: Exception = kind(text_for_users(error))
    return made


@contextmanager
def translating(verb: Verb) -> Iterator[None]:
    """Raise glance_store's exceptions for imgstore's; what callers' objects raise is theirs."""
    try:
        yield
    except errors.ImgStoreError as error:
        raise translated(error, verb) from error
