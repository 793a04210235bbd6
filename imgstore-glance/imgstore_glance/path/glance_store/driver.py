"""What stores derive from, and the kit for drivers that others wrote for glance_store."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final

from oslo_config import cfg

from glance_store import capabilities, exceptions

CONF = cfg.CONF
LOG = logging.getLogger(__name__)

SHARED_CONF_GROUP: Final = "backend_defaults"
SINGLE_CONF_GROUP: Final = "glance_store"
MIB: Final = 1024 * 1024

_MULTI_BACKEND_OPTIONS: Final = (
    cfg.StrOpt("store_description", default="", help="What the store is, for people."),
    cfg.IntOpt("weight", default=0, help="Orders stores that hold the same image."),
)


def register(conf: Any, options: Iterable[cfg.Opt], group: str) -> None:
    """Register options; where ``conf`` has one of that name, it is as good."""
    for option in options:
        with suppress(cfg.DuplicateOptError):
            conf.register_opt(option, group=group)


def register_options(cls: Any, conf: Any, backend: str | None = None) -> None:
    """Register the options of a store of this name, or of the single form, by its class."""
    own = getattr(cls, "_register_options", None)
    if own is not None:
        own(conf, backend)
        return
    found = list(getattr(cls, "OPTIONS", None) or ())
    register(conf, found, SHARED_CONF_GROUP)
    if backend is not None:
        found += getattr(cls, "MULTI_BACKEND_OPTIONS", None) or _MULTI_BACKEND_OPTIONS
        register(conf, found, SHARED_CONF_GROUP)
    register(conf, found, backend or SINGLE_CONF_GROUP)


class BackendGroupConfiguration:
    """The options of one store: its group's values, else those of ``[backend_defaults]``."""

    def __init__(
        self, store_opts: Sequence[cfg.Opt], config_group: str | None = None, conf: Any = None
    ) -> None:
        self.conf = CONF if conf is None else conf
        self.config_group = config_group or SINGLE_CONF_GROUP
        self._groups = [self.config_group]
        if config_group:
            self._groups.append(SHARED_CONF_GROUP)
        self.append_config_values(store_opts)

    @property
    def backend_conf(self) -> Any:
        """Return the store's group."""
        return self.conf[self._groups[0]]

    @property
    def shared_backend_conf(self) -> Any:
        """Return the group whose values count where the store's has none."""
        return self.conf[self._groups[-1]]

    def append_config_values(self, store_opts: Sequence[cfg.Opt]) -> None:
        """Register more options, in both groups."""
        for group in self._groups:
            register(self.conf, store_opts, group)

    def set_default(self, opt_name: str, default: Any) -> None:
        """Set the default that an option has in ``[backend_defaults]``."""
        self.conf.set_default(opt_name, default, group=self._groups[-1])

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of an option, ``default`` if there is none of that name."""
        return getattr(self, key, default)

    def __getattr__(self, name: str) -> Any:
        """Return the value of an option."""
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            set_in = (group for group in self._groups if is_set(self.conf, name, group))
            return getattr(self.conf[next(set_in, self.config_group)], name)
        except cfg.NoSuchOptError as exc:
            raise AttributeError(name) from exc


def is_set(conf: Any, name: str, group: str) -> bool:
    """Return whether anybody sets an option; one that cannot be read is set."""
    try:
        location = conf.get_location(name, group)
    except ValueError:
        return True
    return location is not None and location.location is not cfg.Locations.opt_default


class Store(capabilities.StoreCapability):
    """A store: of this package, or one that others derive.

    Those of others fill in ``configure_add``, ``get_schemes`` and the verbs; there is a class
    ``StoreLocation`` in their module.
    """

    OPTIONS: ClassVar[Sequence[cfg.Opt]] = ()
    MULTI_BACKEND_OPTIONS: ClassVar[Sequence[cfg.Opt]] = _MULTI_BACKEND_OPTIONS
    READ_CHUNKSIZE: ClassVar[int] = 4 * MIB
    WRITE_CHUNKSIZE: ClassVar[int] = 4 * MIB

    def __init__(self, conf: Any, backend: str | None = None) -> None:
        super().__init__()
        self.conf = conf
        self.backend_group = backend
        self.store_location_class: Any = None
        self._url_prefix: str | None = None
        self.store_conf: Any
        register_options(type(self), conf, backend)
        self._configure_by(conf, backend)

    def _configure_by(self, conf: Any, backend: str | None) -> None:
        if backend is not None:
            self.store_conf = BackendGroupConfiguration((), backend, conf)

    @property
    def url_prefix(self) -> Any:
        """Return what URLs that the store writes begin with, as text or several; None: unknown."""
        return self._url_prefix

    @property
    def weight(self) -> int:
        """Return the store's weight among those that hold one image; more is better."""
        return int(self.conf[self.backend_group].weight) if self.backend_group else 0

    def configure(self, re_raise_bsc: bool = False) -> None:
        """Prepare for use; a store whose configuration is faulty takes no images."""
        try:
            self.configure_add()
        except exceptions.BadStoreConfiguration as exc:
            self.unset_capabilities(capabilities.BitMasks.WRITE_ACCESS)
            LOG.warning("%s; it takes no images", exc)
            if re_raise_bsc:
                raise
        finally:
            self.update_capabilities()

    def configure_add(self) -> None:
        """Prepare for adding images; raises BadStoreConfiguration."""

    def get_schemes(self) -> tuple[str, ...]:
        """Return the schemes of the URLs that the store reads."""
        raise NotImplementedError

    def get_store_location_class(self) -> Any:
        """Return the class that reads URLs: by itself, that of the module of the store."""
        if self.store_location_class is None:
            self.store_location_class = sys.modules[type(self).__module__].StoreLocation
        return self.store_location_class

    def get(
        self, location: Any, offset: int = 0, chunk_size: int | None = None, context: Any = None
    ) -> tuple[Any, int]:
        """Return an iterable of bytes and their number: ``chunk_size`` of them, or all."""
        raise NotImplementedError

    def get_size(self, location: Any, context: Any = None) -> int:
        """Return the size of an image in bytes."""
        raise NotImplementedError

    def add(
        self,
        image_id: str,
        image_file: Any,
        image_size: int,
        hashing_algo: str | None = None,
        context: Any = None,
        verifier: Any = None,
    ) -> tuple[Any, ...]:
        """Store an image; return its URL, size, MD5, digest by the algorithm, and metadata."""
        raise NotImplementedError

    def delete(self, location: Any, context: Any = None) -> None:
        """Delete an image."""
        raise NotImplementedError

    def set_acls(
        self,
        location: Any,
        public: bool = False,
        read_tenants: Sequence[str] | None = None,
        write_tenants: Sequence[str] | None = None,
        context: Any = None,
    ) -> None:
        """Set who may read and write an image; NotImplementedError where nobody can."""
        raise NotImplementedError


_WITHOUT_ALGORITHM: Final = "md5"


def back_compat_add(store_add_fun: Callable[..., Any]) -> Callable[..., Any]:
    """Let ``add`` be called without an algorithm: the result has no digest by one then."""

    @functools.wraps(store_add_fun)
    def add(*args: Any, **kwargs: Any) -> Any:
        # self, id, file and size come first; then the algorithm, or in older calls a context.
        fourth, is_whole = args[4:5], len(args) + len(kwargs) >= 7
        if kwargs.get("hashing_algo") is not None:
            return store_add_fun(*args, **kwargs)
        if fourth and (isinstance(fourth[0], str) or is_whole):
            return store_add_fun(*args, **kwargs)
        kwargs.pop("hashing_algo", None)
        known, others = args[:4], dict(zip(("context", "verifier"), args[4:], strict=False))
        url, size, md5, _, metadata = store_add_fun(
            *known, hashing_algo=_WITHOUT_ALGORITHM, **others, **kwargs
        )
        return url, size, md5, metadata

    return add
