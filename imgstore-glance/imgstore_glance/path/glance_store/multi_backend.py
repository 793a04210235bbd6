"""Stores with names, which ``enabled_backends`` lists."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, KeysView, Mapping, Sequence
from typing import Any, Final, TypeVar

from imgstore_glance import options
from oslo_config import cfg

from glance_store import _serving, exceptions, location
from glance_store._loading import foreign_drivers, store_class
from glance_store._store import log_faults_together
from glance_store.backend import (
    check_location_metadata,
    store_add_to_backend,
    store_add_to_backend_with_multihash,
)
from glance_store.driver import SINGLE_CONF_GROUP, register, register_options
from imgstore import errors

__all__ = [
    "add",
    "add_with_multihash",
    "check_location_metadata",
    "create_multi_stores",
    "delete",
    "get",
    "get_known_schemes_for_multi_store",
    "get_size_from_uri_and_backend",
    "get_store_from_store_identifier",
    "get_store_weight",
    "register_store_opts",
    "set_acls_for_multi_store",
    "store_add_to_backend",
    "store_add_to_backend_with_multihash",
    "verify_store",
]

CONF = cfg.CONF

T = TypeVar("T")

# A reserved store has a directory of its own, whatever it is called.
_DATADIR: Final = "filesystem_store_datadir"

# Names and drivers of the stores that a service keeps for itself.
_RESERVED_STORES: dict[str, str] = {}


# Options and stores


def register_store_opts(conf: Any, reserved_stores: Mapping[str, str] | None = None) -> None:
    """Register the options of all stores, each in the group of its name."""
    register(conf, options.library_options("default_backend"), SINGLE_CONF_GROUP)
    for name, _, cls in _classes(conf, reserved_stores or {}):
        register_options(cls, conf, name)


def _list_config_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Return the options of each driver, those of others behind imgstore's."""
    foreign = ((name, list(getattr(cls, "OPTIONS", None) or ())) for name, cls in foreign_drivers())
    return [*options.list_multi(), *(each for each in foreign if each[1])]


def create_multi_stores(conf: Any = CONF, reserved_stores: Mapping[str, str] | None = None) -> int:
    """Build the stores that are configured; return for how many schemes, all added up."""
    _serving.announce()
    _RESERVED_STORES.update(reserved_stores or {})
    count, made = 0, []
    for name, entry, cls in _classes(conf, reserved_stores or {}):
        with contextlib.suppress(exceptions.BadStoreConfiguration, NotImplementedError):
            store = cls(conf, name)
            store.configure()
            count += _serving.enter(store, name, entry)
            made.append(store)
    log_faults_together(made)
    return count


def _enabled(conf: Any) -> dict[str, str]:
    return dict(getattr(conf, "enabled_backends", None) or {})


def _classes(conf: Any, reserved: Mapping[str, str]) -> Iterator[tuple[str, str, Any]]:
    """Yield names, drivers and their classes; those that cannot be loaded are left out."""
    for name in reserved:
        register(conf, [cfg.StrOpt(_DATADIR, default=f"/var/lib/glance/{name}")], name)
    for name, entry in {**_enabled(conf), **reserved}.items():
        cls = store_class(entry)
        if cls is not None:
            yield name, entry, cls


def verify_store() -> None:
    """Raise RuntimeError unless there is a store for new images."""
    name = CONF.glance_store.default_backend
    try:
        get_store_from_store_identifier(name)
    except exceptions.UnknownScheme as exc:
        raise RuntimeError(f"The default store {name!r} is not there: {exc.msg}") from exc


def get_store_from_store_identifier(store_identifier: str) -> Any:
    """Return the store of a name; raises UnknownScheme."""
    if store_identifier in {**_enabled(CONF), **_RESERVED_STORES}:
        for stores in location.SCHEME_TO_CLS_BACKEND_MAP.values():
            if store_identifier in stores:
                return _serving.usable(stores[store_identifier]["store"], store_identifier)
    raise exceptions.UnknownScheme(f"There is no store {store_identifier!r}")


def get_store_weight(store_identifier: str) -> int:
    """Return the weight of a store; raises UnknownScheme."""
    return int(get_store_from_store_identifier(store_identifier).weight)


def get_known_schemes_for_multi_store() -> KeysView[str]:
    """Return the schemes of all stores; it changes with them."""
    return location.SCHEME_TO_CLS_BACKEND_MAP.keys()


# Verbs


def add(
    conf: Any,
    image_id: str,
    data: Any,
    size: int,
    backend: str | None,
    context: Any = None,
    verifier: Any = None,
) -> tuple[Any, ...]:
    """Store an image; return URL, size, MD5 and metadata."""
    store = get_store_from_store_identifier(backend or conf.glance_store.default_backend)
    return store_add_to_backend(image_id, data, size, store, context, verifier)


def add_with_multihash(
    conf: Any,
    image_id: str,
    data: Any,
    size: int,
    backend: str | None,
    hashing_algo: str,
    scheme: str | None = None,
    context: Any = None,
    verifier: Any = None,
) -> tuple[Any, ...]:
    """Store an image; return URL, size, MD5, digest by the algorithm, and metadata."""
    store = get_store_from_store_identifier(backend or conf.glance_store.default_backend)
    return store_add_to_backend_with_multihash(
        image_id, data, size, hashing_algo, store, context, verifier
    )


def get(
    uri: str,
    backend: str | None,
    offset: int = 0,
    chunk_size: int | None = None,
    context: Any = None,
) -> tuple[Any, int]:
    """Return an iterable of bytes and their number; without ``backend`` all stores are searched."""

    def call(store: Any, at: location.Location) -> tuple[Any, int]:
        found: tuple[Any, int] = store.get(
            at, offset=offset, chunk_size=chunk_size, context=context
        )
        return found

    return _at(uri, backend, call)


def delete(uri: str, backend: str | None, context: Any = None) -> Any:
    """Delete an image; without ``backend`` all stores are searched."""
    return _at(uri, backend, lambda store, at: store.delete(at, context=context))


def get_size_from_uri_and_backend(uri: str, backend: str | None, context: Any = None) -> int:
    """Return the size of an image in bytes."""
    if not backend:
        raise exceptions.UnknownScheme("No store is named")
    return _at(uri, backend, lambda store, at: int(store.get_size(at, context=context)))


def set_acls_for_multi_store(
    location_uri: str,
    backend: str,
    public: bool = False,
    read_tenants: Sequence[str] = (),
    write_tenants: Sequence[str] | None = None,
    context: Any = None,
) -> None:
    """Set who may read and write an image, where its store has such a thing."""
    at = location.get_location_from_uri_and_backend(location_uri, backend, conf=CONF)
    with contextlib.suppress(NotImplementedError):
        get_store_from_store_identifier(backend).set_acls(
            at,
            public=public,
            read_tenants=list(read_tenants or ()),
            write_tenants=list(write_tenants or ()),
            context=context,
        )


def _at(uri: str, backend: str | None, call: Callable[[Any, location.Location], T]) -> T:
    if not backend:
        return _searched(uri, call)
    at = location.get_location_from_uri_and_backend(uri, backend, conf=CONF)
    return call(get_store_from_store_identifier(backend), at)


def _searched(uri: str, call: Callable[[Any, location.Location], T]) -> T:
    """Try the stores that may hold an image, the surest first.

    If none has it, the one whose prefix it has knows best. Then a refusal counts more than that
    others miss it, but for one that only says that its place is elsewhere.
    """
    scheme = location.scheme_of(uri)
    if not scheme:
        raise exceptions.UnknownScheme(scheme=scheme)
    gone = missing = refusal = outside = None
    for name, store in _candidates(uri, scheme):
        try:
            at = location.get_location_from_uri_and_backend(uri, name, conf=CONF)
            return call(_serving.usable(store, name), at)
        except (exceptions.UnknownScheme, exceptions.BadStoreUri):
            continue
        except (
            exceptions.NotFound,
            exceptions.Forbidden,
            exceptions.BadStoreConfiguration,
        ) as exc:
            if _is_outside(exc):
                outside = exc
            elif not isinstance(exc, exceptions.NotFound):
                refusal = exc
            elif _surely_holds(store, uri):
                gone = exc
            else:
                missing = exc
    known = gone or refusal or missing or outside
    raise known or exceptions.NotFound(image=f"at a {scheme}:// location")


def _is_outside(exc: Exception) -> bool:
    return isinstance(exc.__cause__, errors.OutsideStore)


def _candidates(uri: str, scheme: str) -> list[tuple[str, Any]]:
    stores = location.SCHEME_TO_CLS_BACKEND_MAP.get(scheme, {})
    found = [(name, entry["store"]) for name, entry in list(stores.items())]
    return sorted(found, key=lambda each: not _surely_holds(each[1], uri))


def _surely_holds(store: Any, uri: str) -> bool:
    prefix: Any = getattr(store, "url_prefix", None)
    return bool(prefix) and uri.startswith(prefix)
