"""Stores of imgstore in the shape of glance_store's; ``_drivers`` has one class for each driver."""

from __future__ import annotations

import functools
import hashlib
import logging
import operator
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final

from imgstore_glance.checking import faults_together

import imgstore
from glance_store import capabilities, driver, exceptions, location
from glance_store._translation import Verb, refusal, translated, translating
from glance_store.capabilities import BitMasks
from glance_store.driver import MIB, BackendGroupConfiguration
from imgstore import Capability, config, errors

LOG = logging.getLogger(__name__)

_BITS: Final = {
    Capability.READ: BitMasks.READ_ACCESS,
    Capability.RANGES: BitMasks.READ_RANDOM,
    Capability.WRITE: BitMasks.WRITE_ACCESS,
}


def bits_of(able: Capability) -> int:
    """Return glance_store's bits for what an imgstore store can do."""
    bits = (bits for each, bits in _BITS.items() if each in able)
    return functools.reduce(operator.or_, bits, BitMasks.DRIVER_REUSABLE)


def setting(name: str, *, unit: int = 1) -> Any:
    """Return a property with the effective value of an option, in units of ``unit``."""
    return property(lambda store: store.settings[name] * unit if unit > 1 else store.settings[name])


def check_algorithm(name: str | None) -> None:
    """Raise UnknownHashingAlgo for a name that this Python has no digest for."""
    if name not in hashlib.algorithms_available:
        raise exceptions.UnknownHashingAlgo(algo=name)


class StoreLocation(location.StoreLocation):
    """The text of a URL, which imgstore's driver will read."""

    _uri = ""

    def process_specs(self) -> None:
        """Leave what callers say beside the URL alone."""

    def parse_uri(self, uri: str) -> None:
        """Take over a URL; raises BadStoreUri unless it is one."""
        with translating("get"):
            imgstore.Location.parse(uri)
        self._uri = uri

    def get_uri(self) -> str:
        """Return the URL with its credentials, which rows of old have."""
        return self._uri


class Sink:
    """A verifier without its verdict, which Glance itself asks for."""

    def __init__(self, verifier: Any) -> None:
        self.update = verifier.update


class ImageData:
    """The bytes of an image on their way out; errors on that way are glance_store's."""

    def __init__(self, reader: imgstore.ImageReader) -> None:
        self._reader = reader

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._reader)
        except errors.ImgStoreError as error:
            raise translated(error, "get") from error

    def read(self, n: int | None = -1) -> bytes:
        """Return ``n`` bytes, fewer only at the end; all that is left without ``n``."""
        with translating("get"):
            return self._reader.read(n)

    def close(self) -> None:
        """Release what the reader holds."""
        self._reader.close()


class ImgStore(driver.Store):
    """A store of imgstore; each call of ``configure`` builds it from the values of then."""

    KIND: ClassVar[type[imgstore.Store]]
    _DEFAULTS: ClassVar[dict[str, Any]] = {}

    def __init__(self, conf: Any, backend: str | None = None) -> None:
        self._store: imgstore.Store | None = None
        self._failure = errors.ConfigError("the store is not configured yet")
        # The effective values by option name, of a store that failed too.
        self.settings: dict[str, Any] = dict(self._DEFAULTS)
        super().__init__(conf, backend)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Take over what imgstore's class declares."""
        super().__init_subclass__(**kwargs)
        if "KIND" in vars(cls):
            options = config.driver_options(cls.KIND.driver)
            common = {opt.dest for opt in cls.MULTI_BACKEND_OPTIONS}
            cls.OPTIONS = [opt for opt in options if opt.dest not in common]
            cls._DEFAULTS = {opt.name: opt.default for opt in options}
            cls._CAPABILITIES = bits_of(cls.KIND.capabilities)

    # Configuration

    @classmethod
    def _register_options(cls, conf: Any, backend: str | None = None) -> None:
        """Register the options of a store of this name, or of the single form."""
        name, single = backend or cls.KIND.driver, backend is None
        with suppress(errors.ConfigError):  # an option has the name, as configure() tells
            config.register_store_opts(conf, name, cls.KIND.driver, single=single)

    def _configure_by(self, conf: Any, backend: str | None) -> None:
        """Leave it to ``configure``."""

    def configure(self, re_raise_bsc: bool = False) -> None:
        """Build the store anew; one that cannot be built is there, and refuses to work."""
        self._capabilities = int(self._CAPABILITIES)
        super().configure(re_raise_bsc=re_raise_bsc)

    def configure_add(self) -> None:
        """Build the store; raises BadStoreConfiguration."""
        name, single = self.backend_group or self.KIND.driver, self.backend_group is None
        try:
            store = config.build_store(self.conf, name, self.KIND.driver, single=single)
        except errors.ConfigError as error:
            self._store, self._failure = None, error
            refused = exceptions.BadStoreConfiguration(str(error))  # for the log: nobody asks yet
            error.add_context(store=name)
            raise refused from error
        self._store = store
        self._prepare(store)

    def _prepare(self, store: imgstore.Store) -> None:
        """Do what has to be done at the start, if anything; faults of the backend are logged."""

    def update_capabilities(self) -> None:
        """Take over what the store can do, and its settings."""
        found = self._store.settings if self._store else self._failure.settings
        self.settings = {**self._DEFAULTS, **found}
        if self._store is not None:
            self._capabilities = bits_of(self._store.capabilities)

    @property
    def built(self) -> imgstore.Store | None:
        """Return the store, None where it failed."""
        return self._store

    def _use(self, verb: Verb) -> imgstore.Store:
        """Return the store; raises what a verb of one that failed raises."""
        if self._store is None:
            raise refusal(self._failure, verb) from self._failure
        return self._store

    @property
    def weight(self) -> int:
        """Return the store's weight as it is now, for those that hold one image; more is better."""
        if self.backend_group is None:
            return 0
        with suppress(AttributeError, ValueError):  # it cannot be read, so the store failed
            return int(BackendGroupConfiguration((), self.backend_group, self.conf).weight)
        return int(self.settings["weight"])

    @property
    def url_prefix(self) -> Any:
        """Return what URLs of the store's images begin with, for ``startswith``."""
        if self._store is None or self.backend_group is None:
            return None
        return self._prefixes(self._store)

    def _prefixes(self, store: imgstore.Store) -> Any:
        """Return one text or a tuple of them; None if nothing tells."""
        return store.url_prefixes or store.url_prefix

    def get_schemes(self) -> tuple[str, ...]:
        """Return the schemes of the URLs that the store reads, also if it failed."""
        return self.KIND.schemes

    # Verbs

    @driver.back_compat_add
    def add(
        self,
        image_id: str,
        image_file: Any,
        image_size: int | None,
        hashing_algo: str | None = None,
        context: Any = None,
        verifier: Any = None,
    ) -> tuple[Any, ...]:
        """Store an image; ``image_size`` is unknown if it is 0 or None."""
        store = self._writable()
        check_algorithm(hashing_algo)
        with translating("add"):
            image = store.add(
                str(image_id),
                image_file,
                size=image_size or None,
                algorithms=("md5", str(hashing_algo)),
                sinks=() if verifier is None else (Sink(verifier),),
                context=context,
            )
        md5, multihash = image.digests["md5"], image.digests[str(hashing_algo)]
        return self._written(image.location), image.size, md5, multihash, dict(image.metadata)

    def _writable(self) -> imgstore.Store:
        store = self._use("add")
        if not self.is_capable(capabilities.BitMasks.WRITE_ACCESS):
            raise exceptions.StoreAddDisabled
        return store

    def _written(self, at: imgstore.Location) -> str:
        """Return the URL of a new image as Glance is to keep it."""
        return at.url

    def get(
        self, location: Any, offset: int = 0, chunk_size: int | None = None, context: Any = None
    ) -> tuple[ImageData, int]:
        """Open an image, or ``chunk_size`` bytes of it, and tell how many bytes there are."""
        length = chunk_size or None
        verb: Verb = "get_range" if offset or length else "get"
        store = self._use(verb)
        with translating(verb):
            reader = store.get(
                location.get_store_uri(), offset=offset, length=length, context=context
            )
        return ImageData(reader), reader.size

    def get_size(self, location: Any, context: Any = None) -> int:
        """Return the size of an image in bytes."""
        store = self._use("get_size")
        with translating("get_size"):
            return store.size(location.get_store_uri(), context=context)

    def delete(self, location: Any, context: Any = None) -> None:
        """Delete an image."""
        store = self._use("delete")
        with translating("delete"):
            store.delete(location.get_store_uri(), context=context)

    def set_acls(
        self,
        location: Any,
        public: bool = False,
        read_tenants: Sequence[str] | None = None,
        write_tenants: Sequence[str] | None = None,
        context: Any = None,
    ) -> None:
        """Set who may read and write an image; NotImplementedError where nobody can."""
        if not self._has_acls():
            raise NotImplementedError
        store = self._use("delete")
        with translating("delete"):
            store.set_acls(
                location.get_store_uri(),
                public=public,
                read=read_tenants or (),
                write=write_tenants or (),
                context=context,
            )

    def _has_acls(self) -> bool:
        return self._store is not None and Capability.ACLS in self._store.capabilities


def log_faults_together(stores: Iterable[Any]) -> None:
    """Log which stores should not be beside each other; they serve as well as they can."""
    own = (each.built for each in stores if isinstance(each, ImgStore))
    for name, fault in faults_together([each for each in own if each is not None]):
        LOG.warning("store %r: %s", name, fault)


__all__ = ["MIB", "ImgStore", "StoreLocation", "setting"]
