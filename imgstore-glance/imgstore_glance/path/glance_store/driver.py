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


class BackendGroupConfiguration:
    """The options of one store: its group's values, else those of ``[backend_defaults]``."""

    def __init__(
        self, store_opts: Sequence[cfg.Opt], config_group: str | None = None, conf: Any = None
    ) -> None:
        self.global_config = CONF if conf is None else conf
        self.config_group = config_group or SINGLE_CONF_GROUP
        self._groups = [self.config_group]
        if config_group:
            self._groups.append(SHARED_CONF_GROUP)
        self.append_config_values(store_opts)

    def append_config_values(self, store_opts: Sequence[cfg.Opt]) -> None:
        """Register more options, in both groups."""
        for group in self._groups:
            register(self.global_config, store_opts, group)

    def set_default(self, name: str, value: Any) -> None:
        """Set the default that an option has in the store's group."""
        self.global_config.set_default(name, value, group=self.config_group)

    def get(self, value: str) -> Any:
        """Return the value of an option, None if there is none of that name."""
        return getattr(self, value, None)

    def __getattr__(self, name: str) -> Any:
        """Return the value of an option."""
        if name.startswith("_"):
            raise AttributeError(name)
        conf = self.global_config
        try:
            set_in = (group for group in self._groups if is_set(conf, name, group))
            return getattr(conf[next(set_in, self.config_group)], name)
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
        self._url_prefix: str | None = None
        self.store_conf: Any
        self.register_options(conf, backend)
        self._configure_by(conf, backend)

    @classmethod
    def register_options(cls, conf: Any, backend: str | None = None) -> None:
        """Register the options of a store of this name, or of the single form."""
        if backend is None:
            register(conf, cls.OPTIONS or (), SINGLE_CONF_GROUP)
            return
        for group in (backend, SHARED_CONF_GROUP):
            register(conf, [*(cls.OPTIONS or ()), *cls.MULTI_BACKEND_OPTIONS], group)

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
        return int(self.store_conf.weight) if self.backend_group else 0

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
        """Return the class of the module of the store that reads URLs."""
        return sys.modules[type(self).__module__].StoreLocation

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
        is_given = kwargs.get("hashing_algo") is not None or len(args) >= 7
        if is_given or (len(args) > 4 and isinstance(args[4], str)):
            return store_add_fun(*args, **kwargs)
        kwargs.pop("hashing_algo", None)
        known, others = args[:4], dict(zip(("context", "verifier"), args[4:], strict=False))
        url, size, md5, _, metadata = store_add_fun(
            *known, hashing_algo=_WITHOUT_ALGORITHM, **others, **kwargs
        )
        return url, size, md5, metadata

    return add
