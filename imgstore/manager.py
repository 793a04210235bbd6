"""Many stores behind one object."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from itertools import chain
from os import PathLike
from types import MappingProxyType
from typing import NoReturn, TypeVar

from oslo_config import cfg

from imgstore.config.building import build
from imgstore.config.files import read_files
from imgstore.config.loading import load_driver
from imgstore.config.options import RESERVED_PREFIX
from imgstore.config.values import merged
from imgstore.data.reader import ImageReader
from imgstore.data.sources import Progress, Sink, Source
from imgstore.errors import ConfigError, ImgStoreError
from imgstore.location import Location, LocationLike, store_of
from imgstore.model import Capability, Leftover, Stat, StoredImage, StoreInfo
from imgstore.selection import Selection
from imgstore.store import ClosedError, Context, Store
from imgstore.verbs.upkeep import problems

LOG = logging.getLogger(__name__)

T = TypeVar("T")


class _Verb:
    """Names an operation in the errors of a block."""

    def __init__(self, operation: str, location: Location | None) -> None:
        self._operation = operation
        self._location = location

    def __enter__(self) -> None:
        """Do nothing before."""

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        """Add to an error what is known."""
        if isinstance(exc, ImgStoreError):
            exc.add_context(operation=self._operation, location=self._location)


class StoreManager(Mapping[str, Store]):
    """Named stores, one of which may be the default.

    As a mapping it goes from names to stores, in the order of the configuration, reserved stores
    last. The verbs are those of a Store with ``store=`` beside: a name, which selects a store but
    opens none of its borders. Without it, ``add`` uses the default store, and the others use the
    ``store`` that a StoredImage names, or the one store that a location lies in. Closing the
    manager closes its stores.
    """

    def __init__(self, stores: Iterable[Store], *, default: str | None = None) -> None:
        """Take over ``stores``; ``default`` is the name of one of them.

        Raises ConfigError on equal names, an unknown default, or one that cannot be written.
        """
        given = list(stores)
        self._stores = {store.name: store for store in given}
        self._default = default
        self._selection = Selection(self._stores, default=default)
        self._unread: Mapping[str, Sequence[ConfigError]] = {}
        self._closed = False
        faults = [
            ConfigError(f"two stores are named {name!r}", remedy="rename one")
            for name in self._stores
            if sum(store.name == name for store in given) > 1
        ]
        if default is not None:
            faults += self._faults_of_default(default)
        if faults:
            raise merged(faults)
        self._warn_of_shared_places()

    def _warn_of_shared_places(self) -> None:
        seen: dict[str, str] = {}
        for store in self._stores.values():
            prefix = store.url_prefix
            if prefix is not None and seen.setdefault(prefix, store.name) != store.name:
                LOG.warning(
                    "stores %r and %r write to the same place, %s: only store=… tells them apart",
                    seen[prefix],
                    store.name,
                    prefix,
                )

    def _faults_of_default(self, default: str) -> Iterator[ConfigError]:
        if default not in self._stores:
            yield ConfigError(
                f"the default store {default!r} is not one of them", remedy=self._selection.choose()
            )
        elif Capability.WRITE not in self._stores[default].capabilities:
            yield ConfigError(
                f"the default store {default!r} is read-only",
                remedy="choose a store that images can be added to",
            )

    @classmethod
    def from_file(
        cls,
        *paths: str | PathLike[str],
        reserved: Mapping[str, str] | None = None,
        strict: bool = True,
        strict_options: bool = False,
    ) -> StoreManager:
        """Build the stores of configuration files; later files win over earlier ones.

        A directory stands for its sorted ``*.conf``. The command line and default files are not
        read; oslo.config's environment variables count. For the rest see ``from_conf``.
        """
        conf = read_files(paths)
        return cls.from_conf(conf, reserved=reserved, strict=strict, strict_options=strict_options)

    @classmethod
    def from_conf(
        cls,
        conf: cfg.ConfigOpts,
        *,
        reserved: Mapping[str, str] | None = None,
        strict: bool = True,
        strict_options: bool = False,
    ) -> StoreManager:
        """Build the stores that an application's configuration asks for.

        ``reserved`` maps names of stores that the application needs for itself to their drivers,
        e.g. ``{"os_glance_staging_store": "file"}``. The names begin with ``os_glance_``; each
        such store has a directory of its own unless its group sets another.

        Raises ConfigError with every fault found, DriverUnavailable if all of them are missing
        drivers. With ``strict=False`` a store that cannot be built is put into ``failures``
        instead and the others work.

        What files say and nothing reads, such as a misspelt option of a store, is logged as a
        warning and told by ``check``; with ``strict_options`` it is a fault as well. Options and
        groups of others are left alone.
        """
        done = build(conf, reserved=reserved, load=load_driver)
        unread = list(chain(*done.unread.values()))
        with ExitStack() as unfinished:
            unfinished.callback(done.close)
            for line in () if strict_options else unread:
                LOG.warning("%s", line)
            if done.whole or (strict and done.failures) or (strict_options and unread):
                faults = [*done.whole, *chain(*done.failures.values())]
                raise merged([*faults, *(unread if strict_options else ())])
            manager = cls(done.stores.values(), default=done.default)
            unfinished.pop_all()
        failures = {name: done.failure(name) for name in done.failures}
        manager._selection = Selection(
            manager._stores, default=done.default, failures=MappingProxyType(failures)
        )
        manager._unread = done.unread
        return manager

    # What it holds.

    @property
    def default(self) -> Store | None:
        """Return the store for adds that name none, or None if there is no such store."""
        return None if self._default is None else self._stores[self._default]

    @property
    def failures(self) -> Mapping[str, ConfigError]:
        """Return the stores that could not be built (``strict=False``) and why."""
        return self._selection.failures

    def info(self, name: str) -> StoreInfo:
        """Return what a store is; raises UnknownStore."""
        with self._verb("info"):
            store = self[name]
        return StoreInfo(
            name=name,
            driver=store.driver,
            weight=store.weight,
            description=store.description,
            capabilities=store.capabilities,
            default=name == self._default,
            reserved=name.startswith(RESERVED_PREFIX),
            url_prefix=store.url_prefix,
            settings=store.settings,
        )

    def __getitem__(self, name: str) -> Store:
        """Return a store; raises UnknownStore, which is a KeyError too."""
        return self._selection.named(name)

    # Two managers are two, whatever they hold, and may be keys.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __contains__(self, name: object) -> bool:
        return name in self._stores

    def __iter__(self) -> Iterator[str]:
        return iter(self._stores)

    def __len__(self) -> int:
        return len(self._stores)

    # The verbs.

    def add(
        self,
        image_id: str,
        source: Source,
        *,
        store: str | None = None,
        size: int | None = None,
        max_size: int | None = None,
        algorithms: Iterable[str] = ("sha256",),
        sinks: Iterable[Sink] = (),
        progress: Progress | None = None,
        expected: Mapping[str, str] | None = None,
        context: Context = None,
    ) -> StoredImage:
        """Store an image, all or nothing; see ``Store.add``."""
        with self._verb("add"):
            target = self._selection.default() if store is None else self[store]
        return target.add(
            image_id,
            source,
            size=size,
            max_size=max_size,
            algorithms=algorithms,
            sinks=sinks,
            progress=progress,
            expected=expected,
            context=context,
        )

    def get(  # type: ignore[override]  # a verb: of Mapping, only stores[name] is wanted here
        self,
        location: LocationLike,
        *,
        store: str | None = None,
        offset: int = 0,
        length: int | None = None,
        expected: Mapping[str, str] | None = None,
        context: Context = None,
    ) -> ImageReader:
        """Open an image, or ``length`` bytes of it from ``offset``; see ``Store.get``."""
        origin = self._find("get", location, store)
        return origin.get(
            location, offset=offset, length=length, expected=expected, context=context
        )

    def size(
        self, location: LocationLike, *, store: str | None = None, context: Context = None
    ) -> int:
        """Return an image's size in bytes; see ``Store.size``."""
        return self._find("size", location, store).size(location, context=context)

    def stat(
        self, location: LocationLike, *, store: str | None = None, context: Context = None
    ) -> Stat:
        """Return an image's size, version and time; see ``Store.stat``."""
        return self._find("stat", location, store).stat(location, context=context)

    def verify(
        self,
        location: LocationLike,
        expected: Mapping[str, str] | None = None,
        *,
        algorithms: Iterable[str] = (),
        progress: Progress | None = None,
        store: str | None = None,
        context: Context = None,
    ) -> dict[str, str]:
        """Read an image to its end and return its digests; see ``Store.verify``."""
        origin = self._find("verify", location, store)
        return origin.verify(
            location, expected, algorithms=algorithms, progress=progress, context=context
        )

    def save(
        self,
        location: LocationLike,
        path: str | PathLike[str],
        *,
        expected: Mapping[str, str] | None = None,
        progress: Progress | None = None,
        store: str | None = None,
        context: Context = None,
    ) -> None:
        """Write an image to a file, whole or not at all; see ``Store.save``."""
        origin = self._find("save", location, store)
        origin.save(location, path, expected=expected, progress=progress, context=context)

    def delete(
        self, location: LocationLike, *, store: str | None = None, context: Context = None
    ) -> None:
        """Delete an image; see ``Store.delete``."""
        self._find("delete", location, store).delete(location, context=context)

    def copy(
        self,
        location: LocationLike,
        image_id: str,
        *,
        to: str,
        store: str | None = None,
        size: int | None = None,
        max_size: int | None = None,
        algorithms: Iterable[str] = ("sha256",),
        sinks: Iterable[Sink] = (),
        progress: Progress | None = None,
        expected: Mapping[str, str] | None = None,
        context: Context = None,
    ) -> StoredImage:
        """Copy an image into the store named ``to``; see ``Store.copy``."""
        with self._verb("copy"):
            target = self[to]
        return self._find("copy", location, store).copy(
            location,
            image_id,
            to=target,
            size=size,
            max_size=max_size,
            algorithms=algorithms,
            sinks=sinks,
            progress=progress,
            expected=expected,
            context=context,
        )

    def set_acls(
        self,
        location: LocationLike,
        *,
        public: bool = False,
        read: Sequence[str] = (),
        write: Sequence[str] = (),
        store: str | None = None,
        context: Context = None,
    ) -> None:
        """Set which projects may read and write an image; see ``Store.set_acls``."""
        origin = self._find("set_acls", location, store)
        origin.set_acls(location, public=public, read=read, write=write, context=context)

    def leftovers(
        self, *, older_than: timedelta | float, store: str | None = None
    ) -> list[Leftover]:
        """List what unfinished adds of dead processes left, in one store or in all."""
        listed = self._each("leftovers", store, lambda one: one.leftovers(older_than=older_than))
        return [leftover for found in listed for leftover in found]

    def remove_leftovers(
        self, *, older_than: timedelta | float, store: str | None = None
    ) -> list[Leftover]:
        """Remove what ``leftovers`` lists and return what was removed.

        A store that fails keeps none of the others from being cleaned; then its error is raised.
        """
        removed = self._each(
            "remove_leftovers", store, lambda one: one.remove_leftovers(older_than=older_than)
        )
        return [leftover for found in removed for leftover in found]

    def check(
        self, *, write: bool = True, timeout: float | None = None, store: str | None = None
    ) -> list[str]:
        """Talk to the backends side by side and return what is wrong.

        First what is wrong with the configuration: stores that failed, and what nothing reads;
        with ``store`` what its own group has of that. ``timeout`` is in seconds, for all of them;
        see ``Store.check``.
        """
        chosen = self._chosen("check", store)
        found = []
        if store is None:
            found = [f"store {name!r}: {error}" for name, error in self._selection.failures.items()]
        for group, unread in self._unread.items():
            found += [str(line) for line in unread if store in {None, group}]
        for one, texts in problems(chosen, write=write, timeout=timeout):
            subject = f"store {one.name!r}: "
            found += [subject + text.removeprefix(subject) for text in texts]
        return found

    def owner_of(self, location: LocationLike, *, context: Context = None) -> str:
        """Return the name of the store that an image lies in; its backend is asked where needed.

        For locations that may lie in several stores, such as ``cinder://<uuid>`` of a time when
        there was one: a service can then write ``cinder://<store>/<uuid>`` into its records.
        Raises NotFound where it lies in none, InvalidLocation in more than one, and what a backend
        that cannot be asked raises.
        """
        with self._verb("owner_of"):
            at = Location.parse(location)
        with self._verb("owner_of", at):
            return self._selection.holder(at, context).name

    def close(self) -> None:
        """Close all stores, each whatever becomes of the others; then raise the last error."""
        self._closed = True
        with ExitStack() as closing:
            for store in self._stores.values():
                closing.callback(store.close)

    def __enter__(self) -> StoreManager:
        self._check_open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {list(self._stores)}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a StoreManager cannot be pickled")

    # How they find their store.

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the store manager is closed")

    def _verb(self, operation: str, location: Location | None = None) -> _Verb:
        """Refuse once closed; name the operation in what is raised."""
        self._check_open()
        return _Verb(operation, location)

    def _chosen(self, operation: str, store: str | None) -> list[Store]:
        with self._verb(operation):
            return list(self._stores.values()) if store is None else [self[store]]

    def _each(self, operation: str, store: str | None, call: Callable[[Store], T]) -> list[T]:
        results, failed = [], []
        for one in self._chosen(operation, store):
            try:
                results.append(call(one))
            except Exception as exc:
                failed.append(exc)
        if failed:
            raise failed[0]
        return results

    def _find(self, operation: str, location: LocationLike, store: str | None) -> Store:
        with self._verb(operation):
            at = Location.parse(location)
            store = store_of(location) if store is None else store
        with self._verb(operation, at):
            return self._selection.owner(at) if store is None else self[store]
