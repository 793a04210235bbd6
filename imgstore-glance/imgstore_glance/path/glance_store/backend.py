"""Stores without names, one for each scheme: the form without ``enabled_backends``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, KeysView, Sequence
from typing import Any

from imgstore_glance import options
from oslo_config import cfg

from glance_store import _serving, exceptions, location
from glance_store._loading import foreign_drivers, store_class
from glance_store._store import check_algorithm
from glance_store.driver import SINGLE_CONF_GROUP, register, register_options

CONF = cfg.CONF


class Indexable:
    """Chunks of an iterable by the position of a byte, asked for in order.

    A slice, or an index, gives what is left of the chunk that it lies in, or the next chunk.
    """

    def __init__(self, wrapped: Any, size: int | None) -> None:
        self.wrapped = wrapped
        self.size = int(size) if size else int(getattr(wrapped, "len", 0))
        self.cursor = 0
        self.chunk: Any = None

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self.wrapped:
            self.chunk = chunk
            yield chunk

    def __getitem__(self, index: slice | int) -> Any:
        """Return the bytes from a position to the end of their chunk."""
        start = (index.start or 0) if isinstance(index, slice) else index
        if start < self.cursor:
            return self.chunk[start - self.cursor :]
        self.chunk = self.another()
        self.cursor += len(self.chunk or b"")
        return self.chunk

    def __len__(self) -> int:
        return self.size

    def another(self) -> Any:
        """Return the next chunk; subclasses do."""
        raise NotImplementedError

    def getvalue(self) -> Any:
        """Return all that a wrapped file in memory holds."""
        return self.wrapped.getvalue()


# Options and stores


def register_opts(conf: Any) -> None:
    """Register the options of all drivers in ``[glance_store]``, and which of them are used."""
    register(conf, options.library_options("stores", "default_store"), SINGLE_CONF_GROUP)
    known = (store_class(name) for name in options.DRIVERS)
    for cls in (*known, *(cls for _, cls in foreign_drivers())):
        if cls is not None:
            register_options(cls, conf)


def _list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Return the options of all drivers, those of others behind imgstore's."""
    ((group, known),) = options.list_single()
    foreign = (opt for _, cls in foreign_drivers() for opt in getattr(cls, "OPTIONS", None) or ())
    found = {opt.name: opt for opt in [*foreign, *known]}
    return [(group, [*known, *(opt for opt in found.values() if opt not in known)])]


def _load_store(conf: Any, store_entry: str, invoke_load: bool = True) -> Any:
    """Return a store that is not configured yet, or its class; None if there is no such driver."""
    cls = store_class(store_entry)
    return cls(conf) if cls is not None and invoke_load else cls


def _load_stores(conf: Any) -> Iterator[tuple[str, Any]]:
    """Yield the stores that ``[glance_store] stores`` lists, each driver once."""
    seen = set()
    for entry in conf.glance_store.stores:
        cls = store_class(entry)
        if cls is None or cls in seen:
            continue
        seen.add(cls)
        with contextlib.suppress(exceptions.BadStoreConfiguration):
            yield entry, cls(conf)


def create_stores(conf: Any = CONF) -> int:
    """Build the stores that are configured; return their number, failed ones too."""
    _serving.announce()
    count = 0
    for entry, store in _load_stores(conf):
        store.configure()
        with contextlib.suppress(NotImplementedError):  # a driver that reads nothing
            _serving.enter_single(store, entry)
            count += 1
    return count


def verify_default_store() -> None:
    """Raise RuntimeError unless there is a store for the scheme of new images."""
    scheme = CONF.glance_store.default_store
    if scheme not in get_known_schemes():
        raise RuntimeError(f"There is no store for the default scheme {scheme!r}")


def get_known_schemes() -> KeysView[str]:
    """Return the schemes of all stores; it changes with them."""
    return location.SCHEME_TO_CLS_MAP.keys()


def get_store_from_scheme(scheme: str) -> Any:
    """Return the store that reads a scheme; raises UnknownScheme."""
    if scheme not in location.SCHEME_TO_CLS_MAP:
        raise exceptions.UnknownScheme(scheme=scheme)
    return _serving.usable(location.SCHEME_TO_CLS_MAP[scheme]["store"])


def get_store_from_uri(uri: str) -> Any:
    """Return the store that reads a URL; raises UnknownScheme."""
    return get_store_from_scheme(location.scheme_of(uri))


def get_store_from_location(uri: str) -> str:
    """Return the scheme of a URL; raises UnknownScheme."""
    return location.get_location_from_uri(uri).store_name


# Verbs


def add_to_backend(
    conf: Any,
    image_id: str,
    data: Any,
    size: int,
    scheme: str | None = None,
    context: Any = None,
    verifier: Any = None,
) -> tuple[Any, ...]:
    """Store an image; return URL, size, MD5 and metadata."""
    store = get_store_from_scheme(scheme or conf.glance_store.default_store)
    return store_add_to_backend(image_id, data, size, store, context, verifier)


def add_to_backend_with_multihash(
    conf: Any,
    image_id: str,
    data: Any,
    size: int,
    hashing_algo: str,
    scheme: str | None = None,
    context: Any = None,
    verifier: Any = None,
) -> tuple[Any, ...]:
    """Store an image; return URL, size, MD5, digest by the algorithm, and metadata."""
    store = get_store_from_scheme(scheme or conf.glance_store.default_store)
    return store_add_to_backend_with_multihash(
        image_id, data, size, hashing_algo, store, context, verifier
    )


def store_add_to_backend(
    image_id: str, data: Any, size: int, store: Any, context: Any = None, verifier: Any = None
) -> tuple[Any, ...]:
    """Let ``store`` add an image; return URL, size, MD5 and metadata."""
    result: tuple[Any, ...] = store.add(image_id, data, size, context=context, verifier=verifier)
    _check_metadata(store, result[-1])
    return result


def store_add_to_backend_with_multihash(
    image_id: str,
    data: Any,
    size: int,
    hashing_algo: str,
    store: Any,
    context: Any = None,
    verifier: Any = None,
) -> tuple[Any, ...]:
    """Let ``store`` add an image; return URL, size, MD5, digest by the algorithm, and metadata."""
    check_algorithm(hashing_algo)
    result: tuple[Any, ...] = store.add(
        image_id, data, size, hashing_algo, context=context, verifier=verifier
    )
    _check_metadata(store, result[-1])
    return result


def _check_metadata(store: Any, metadata: Any) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict):
        raise exceptions.BackendException(
            f"The metadata of the store {store} is {metadata!r}, and not a dictionary"
        )
    check_location_metadata(metadata)


def check_location_metadata(val: Any, key: str = "") -> None:
    """Raise BackendException unless metadata consists of dictionaries, lists and text."""
    if isinstance(val, dict):
        for name, each in val.items():
            check_location_metadata(each, key=name)
    elif isinstance(val, list):
        for index, each in enumerate(val):
            check_location_metadata(each, key=f"{key}[{index}]")
    elif not isinstance(val, str):
        raise exceptions.BackendException(
            f"The image metadata key {key} has an invalid type of {type(val)}. "
            "Only dict, list, and unicode are supported."
        )


def get_from_backend(
    uri: str, offset: int = 0, chunk_size: int | None = None, context: Any = None
) -> tuple[Any, int]:
    """Return an iterable of bytes and their number."""
    at = location.get_location_from_uri(uri, conf=CONF)
    found: tuple[Any, int] = get_store_from_uri(uri).get(
        at, offset=offset, chunk_size=chunk_size, context=context
    )
    return found


def get_size_from_backend(uri: str, context: Any = None) -> int:
    """Return the size of an image in bytes."""
    at = location.get_location_from_uri(uri, conf=CONF)
    size: int = get_store_from_uri(uri).get_size(at, context=context)
    return size


def delete_from_backend(uri: str, context: Any = None) -> Any:
    """Delete an image."""
    at = location.get_location_from_uri(uri, conf=CONF)
    return get_store_from_uri(uri).delete(at, context=context)


def set_acls(
    location_uri: str,
    public: bool = False,
    read_tenants: Sequence[str] = (),
    write_tenants: Sequence[str] | None = None,
    context: Any = None,
) -> None:
    """Set who may read and write an image, where its store has such a thing."""
    at = location.get_location_from_uri(location_uri, conf=CONF)
    with contextlib.suppress(NotImplementedError):
        get_store_from_uri(location_uri).set_acls(
            at,
            public=public,
            read_tenants=list(read_tenants or ()),
            write_tenants=list(write_tenants or ()),
            context=context,
        )
