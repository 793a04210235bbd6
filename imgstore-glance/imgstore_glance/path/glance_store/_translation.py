"""From imgstore's errors to glance_store's, which decide what HTTP status Glance answers with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Literal, NamedTuple, TypeAlias

from glance_store import exceptions
from imgstore import errors

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
        get_size=exceptions.StoreGetNotSupported,
        delete=exceptions.StoreDeleteNotSupported,
        get_range=exceptions.StoreRandomGetNotSupported,
    ),
}


def translated(error: errors.ImgStoreError, verb: Verb) -> Exception:
    """Return what callers of glance_store expect for an error; its text is the same."""
    rows = (TABLE[cls] for cls in type(error).__mro__ if cls in TABLE)
    kind = next(kind for row in rows if (kind := getattr(row, verb)) is not None)
    made: Exception = kind(str(error))
    return made


@contextmanager
def translating(verb: Verb) -> Iterator[None]:
    """Raise glance_store's exceptions for imgstore's; what callers' objects raise is theirs."""
    try:
        yield
    except errors.ImgStoreError as error:
        raise translated(error, verb) from error
