"""Configuration files: from oslo.config options to stores.

Every store has a group of its own, named like it; ``[backend_defaults]`` holds what all of them
fall back to. Only this module reads such groups. It changes nothing in a ``ConfigOpts`` but
registers the options that it reads, and reads each value once.
"""

from __future__ import annotations

import copy
import inspect
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final

from oslo_config import cfg, types

from imgstore.arguments import FileOpt
from imgstore.errors import ConfigError, DriverUnavailable, ImgStoreError
from imgstore.loading import built, faults_together, installed_drivers
from imgstore.model import Capability
from imgstore.secret import Secret
from imgstore.store import Store
from imgstore.translation import describe

LOG = logging.getLogger(__name__)
RESERVED_PREFIX: Final = "os_glance_"
LIBRARY_GROUP: Final = "glance_store"
DEFAULTS_GROUP: Final = "backend_defaults"

_STORE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
_OLD_DRIVER_NAME: Final = re.compile(r"glance\.store\.(\w+)\.Store")
_OLD_DRIVERS: Final = {"filesystem": "file", "vmware_datastore": "vmware"}
_NOT_READABLE: Final = (ValueError, TypeError, cfg.Error, RecursionError)
_EMPTY: Final[tuple[object, ...]] = (None, "", [], [""], {})
_ENABLED: Final = "[DEFAULT] enabled_backends"
_COMMENT: Final = "' #' and what follows is part of the value; a comment needs a line of its own"


class _MalformedError(ValueError):
    """``text`` is not a list of ``name:driver``."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason)
        self.text = text


class _Backends(types.Dict):  # type: ignore[misc,unused-ignore]  # untyped before oslo.config 10
    """``name:driver, …``; keeps a text that it refuses, so that all its faults can be told."""

    def __call__(self, value: Any) -> dict[str, str]:
        try:
            parsed: dict[str, str] = super().__call__(value)
        except ValueError as exc:
            raise _MalformedError(str(exc), str(value)) from None
        return parsed


_BACKENDS: Final = cfg.Opt(
    "enabled_backends",
    type=_Backends(),
    help="The stores: a list of name:driver, separated by commas. The options of each store are "
    "those of [backend_defaults], in a group named like the store.",
)
_DEFAULT_BACKEND: Final = cfg.StrOpt(
    "default_backend",
    help="The store for images that are added without naming one: a name of enabled_backends.",
)
_STORES: Final = cfg.ListOpt(
    "stores",
    default=["file", "http"],
    help="The drivers in use, where enabled_backends is not set. Their options are then in this "
    "group.",
)
_DEFAULT_STORE: Final = cfg.StrOpt(
    "default_store",
    default="file",
    help="The URL scheme of the store for images that are added without naming one, where "
    "enabled_backends is not set.",
)
_GLANCE_STORE: Final = (_DEFAULT_BACKEND, _STORES, _DEFAULT_STORE)
_COMMON: Final[Mapping[str, cfg.Opt]] = {
    "weight": cfg.IntOpt(
        "weight",
        default=0,
        help="Orders stores that hold the same image, the highest first, for services that choose.",
    ),
    "description": cfg.StrOpt(
        "store_description",
        default="",
        deprecated_name="description",
        help="What the store is, for people.",
    ),
    "also_owns": cfg.ListOpt(
        "store_also_owns",
        default=[],
        help="URL prefixes of former places (directories, hosts, clusters) whose images this "
        "store still reads and deletes.",
    ),
}
# Not "default_backend": operators' documents call a store so.
_LIBRARY_NAMES: Final = {"default", "description", LIBRARY_GROUP, DEFAULTS_GROUP} | {
    opt.dest for opt in (_BACKENDS, _STORES, _DEFAULT_STORE, *_COMMON.values())
}
_DEFAULTS_HELP: Final = (
    "Options of every driver. Each store of enabled_backends has a group of its own, named like "
    "the store, with these same options; what is not set there is taken from here."
)


def list_opts() -> list[tuple[cfg.OptGroup | None, list[cfg.Opt]]]:
    """Return all options, for oslo-config-generator."""
    opts = {opt.dest: opt for opt in _COMMON.values()}
    for driver in installed_drivers():
        for opt in driver.OPTIONS.values():
            opts.setdefault(opt.dest, opt)
    glance_store = cfg.OptGroup(LIBRARY_GROUP, help="Which store is the default.")
    defaults = cfg.OptGroup(DEFAULTS_GROUP, help=_DEFAULTS_HELP)
    groups = [(None, (_BACKENDS,)), (glance_store, _GLANCE_STORE), (defaults, opts.values())]
    return [(group, copy.deepcopy(list(each))) for group, each in groups]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register what ``list_opts`` lists; what ``conf`` has already is left as it is.

    Call it before parsing to make the options known to ``conf``; ``StoreManager.from_conf`` does
    without. The groups of single stores are registered by ``from_conf``.
    """
    for group, opts in list_opts():
        _register(conf, opts, group)


def _register(
    conf: cfg.ConfigOpts, opts: Iterable[cfg.Opt], group: str | cfg.OptGroup | None
) -> None:
    for opt in opts:
        if group is not None or opt.dest not in conf:
            with suppress(cfg.DuplicateOptError):  # the application's own is as good
                conf.register_opt(opt, group=group)


def read_files(paths: Iterable[str | PathLike[str]]) -> cfg.ConfigOpts:
    """Parse configuration files, later ones first; a directory stands for its sorted ``*.conf``.

    Nothing else is read: no command line, no default files or directories. Raises ConfigError.
    """
    files: list[str] = []
    for path in (Path(path).expanduser() for path in paths):
        files += map(str, sorted(path.glob("*.conf")) if path.is_dir() else [path])
    if not files:
        raise ConfigError("there is no configuration file", remedy="pass a file, or a directory")
    conf = cfg.ConfigOpts()
    try:
        conf([], prog="imgstore", default_config_files=files, default_config_dirs=[])
    except cfg.ConfigFileParseError as exc:
        # Only its position: the line itself may hold a password.
        at = exc.__context__
        line, said = getattr(at, "lineno", "?"), getattr(at, "msg", "not understood")
        raise ConfigError(f"{exc.config_file}, line {line}: {said}") from None
    except (cfg.Error, OSError, ValueError) as exc:
        reason = str(exc) if isinstance(exc, cfg.Error) else describe(exc)
        raise ConfigError(f"{', '.join(files)}: {reason}") from exc
    return conf


@dataclass(frozen=True)
class _Wanted:
    """A store that is asked for in ``origin``; of ``groups``, the first that sets it wins."""

    name: str
    driver: str
    groups: tuple[str, ...]
    origin: str
    single: bool = False


class Configuration:
    """The stores that an application's configuration asks for, and all that is wrong with it.

    ``drivers`` has the name of every store, failed ones too, and its class where that is known;
    ``default`` is the name of a store that was built. ``whole`` are faults that concern no single
    store. Building never raises for what is configured.
    """

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        *,
        reserved: Mapping[str, str] | None,
        load: Callable[[str], type[Store]],
    ) -> None:
        """Build the stores; ``load`` returns a driver's class by its name."""
        self._conf = conf
        self.stores: dict[str, Store] = {}
        self.drivers: dict[str, type[Store] | None] = {}
        self.default: str | None = None
        self.whole: list[ConfigError] = []
        self.failures: dict[str, list[ConfigError]] = {}
        _register(conf, (_BACKENDS,), None)
        _register(conf, _GLANCE_STORE, LIBRARY_GROUP)
        backends = self._enabled_backends()
        wanted = self._single() if backends is None else self._multi(backends)
        with ExitStack() as unfinished:
            unfinished.callback(self.close)
            for each in [*wanted, *self._apart(reserved or {})]:
                self._build(each, load)
            for name, fault in list(faults_together(self.stores)):
                self.stores.pop(name).close()
                self.failures[name] = [_passed_on(fault, f"[{name}]")]
            self.default = (
                self._default_by_scheme() if backends is None else self._default_by_name(backends)
            )
            unfinished.pop_all()

    def close(self) -> None:
        """Close the stores."""
        with ExitStack() as closing:
            for store in self.stores.values():
                closing.callback(store.close)

    def _enabled_backends(self) -> dict[str, str] | None:
        """Return names and drivers as far as they can be read; None if the option is not set."""
        try:
            self._conf.get_location(_BACKENDS.dest)  # unlike [], it says which $name is unknown
            value = self._conf[_BACKENDS.dest]
            if isinstance(value, list | tuple):  # an application may have registered it as a list
                value = ", ".join(map(str, value))
            return dict(_Backends()(value or {})) or None
        except _NOT_READABLE as exc:
            malformed = exc if isinstance(exc, _MalformedError) else exc.__context__
            if isinstance(malformed, _MalformedError):
                return self._readable(malformed.text)
            self.whole.append(_unreadable("DEFAULT", _BACKENDS, exc))
            return {}

    def _readable(self, text: str) -> dict[str, str]:
        backends: dict[str, str] = {}
        for item in text.split(","):
            name, _, driver = (part.strip() for part in item.partition(":"))
            if not name or not driver:
                reason = f"{_ENABLED}: {item.strip()!r} is not name:driver"
                self.whole.append(_fault(reason, "write name:driver, separated by commas"))
            elif name in backends:
                reason = f"{_ENABLED}: {name!r} is listed twice"
                self.whole.append(_fault(reason, "rename the store"))
            else:
                backends[name] = driver
        return backends

    def _multi(self, backends: Mapping[str, str]) -> list[_Wanted]:
        folded: dict[str, str] = {}
        wanted = []
        for name, driver in backends.items():
            fault = self._refusal(name)
            twin = folded.setdefault(name.lower(), name)
            if not fault and twin != name:
                fault = f"{name!r} and {twin!r} would share a group, whose case does not count"
            if fault:
                self.whole.append(_fault(f"{_ENABLED}: {fault}", "rename the store"))
            else:
                wanted.append(_Wanted(name, driver, (name, DEFAULTS_GROUP), _ENABLED))
        return wanted

    def _refusal(self, name: str) -> str | None:
        if not _STORE_NAME.fullmatch(name):
            return f"{name!r} is not a name made of letters, digits, '_', '-' and '.'"
        if name.lower().startswith(RESERVED_PREFIX):
            return f"{name!r}: names that begin with {RESERVED_PREFIX!r} are for reserved stores"
        if name.lower() in _LIBRARY_NAMES:
            return f"{name!r} is the name of a group or an option of this library"
        with suppress(*_NOT_READABLE):  # an option with a bad value is an option too
            if name not in self._conf or isinstance(self._conf[name], cfg.ConfigOpts.GroupAttr):
                return None
        return f"{name!r} is the name of an option in [DEFAULT]"

    def _single(self) -> list[_Wanted]:
        """Return the stores of the form without ``enabled_backends``."""
        origin = f"[{LIBRARY_GROUP}] {_STORES.name}"
        wanted = []
        for name in self._setting(_STORES) or ():
            old = _OLD_DRIVER_NAME.fullmatch(name)
            driver = _OLD_DRIVERS.get(old[1], old[1]) if old else name
            wanted.append(_Wanted(driver, driver, (LIBRARY_GROUP,), origin, single=True))
        return wanted

    def _apart(self, reserved: Mapping[str, str]) -> list[_Wanted]:
        wanted = []
        for name, driver in reserved.items():
            if name.startswith(RESERVED_PREFIX) and _STORE_NAME.fullmatch(name):
                wanted.append(_Wanted(name, driver, (name, DEFAULTS_GROUP), "reserved stores"))
            else:
                reason = f"{name!r} is not a name for a reserved store"
                self.whole.append(_fault(reason, f"begin it with {RESERVED_PREFIX!r}"))
        return wanted

    def _default_by_name(self, backends: Mapping[str, str]) -> str | None:
        name: str | None = self._setting(_DEFAULT_BACKEND)
        if name and name not in backends:
            reason = f"[{LIBRARY_GROUP}] {_DEFAULT_BACKEND.name}: no store is named {name!r}"
            self.whole.append(_fault(reason, f"choose one of: {', '.join(backends)}"))
        return self._writable(name, _DEFAULT_BACKEND)

    def _default_by_scheme(self) -> str | None:
        scheme = self._setting(_DEFAULT_STORE)
        schemes: list[str] = []
        unknown = False
        for name, driver in self.drivers.items():
            if driver is None:
                unknown = True  # it might read the scheme
            elif not _reserved(name) and scheme in driver.schemes:
                return self._writable(name, _DEFAULT_STORE)
            elif not _reserved(name):
                schemes += driver.schemes
        # The option's default, "file", is nobody's fault.
        if scheme and not unknown and _is_set(self._conf, LIBRARY_GROUP, _DEFAULT_STORE):
            reason = f"[{LIBRARY_GROUP}] {_DEFAULT_STORE.name}: no store reads {scheme}:// URLs"
            self.whole.append(_fault(reason, f"choose one of: {', '.join(schemes)}"))
        return None

    def _writable(self, name: str | None, opt: cfg.Opt) -> str | None:
        store = self.stores.get(name or "")
        if store is None:
            return None
        if Capability.WRITE not in store.capabilities:
            reason = f"[{LIBRARY_GROUP}] {opt.name}: the store {name!r} is read-only"
            self.whole.append(_fault(reason, "choose a store that images can be added to"))
        return name

    def _setting(self, opt: cfg.Opt) -> Any:
        """Return the value of an option of ``[glance_store]``, None if it is unreadable."""
        try:
            return self._conf[LIBRARY_GROUP][opt.dest]
        except _NOT_READABLE as exc:
            self.whole.append(_unreadable(LIBRARY_GROUP, opt, exc))
            return None

    def _build(self, wanted: _Wanted, load: Callable[[str], type[Store]]) -> None:
        name = wanted.name
        try:
            driver = load(wanted.driver)
        except DriverUnavailable as exc:
            self.drivers[name] = None
            self.failures[name] = [_passed_on(exc, f"{wanted.origin}: store {name!r}")]
            return
        if wanted.single:
            name = driver.driver or name
            if self.drivers.get(name) is driver:  # one driver under two of its names
                return
        self.drivers[name] = driver
        faults: list[ConfigError] = []
        try:
            values = self._values(wanted, driver, faults)
            if _required(driver) <= values.keys():  # it may find more faults
                values |= driver.settings_elsewhere(self._conf)
                store = built(driver, name, single=wanted.single, values=values)
                if faults:
                    store.close()
                else:
                    self.stores[name] = store
        except Exception as exc:
            faults.append(_passed_on(exc, f"[{wanted.groups[0]}] driver {wanted.driver!r}"))
        if faults:
            self.failures[name] = faults

    def _values(
        self, wanted: _Wanted, driver: type[Store], faults: list[ConfigError]
    ) -> dict[str, Any]:
        """Return keywords and values for the constructor; adds to ``faults`` what is wrong."""
        options = {**_COMMON, **driver.OPTIONS}
        groups = dict.fromkeys(options, wanted.groups)
        own = driver.reserved_defaults(wanted.name) if _reserved(wanted.name) else {}
        for keyword, default in own.items():
            groups[keyword] = wanted.groups[:1]  # no fallback: it has to stay apart from others
            options[keyword] = copy.copy(options[keyword])
            options[keyword].default = default
        for keyword, opt in options.items():
            for group in groups[keyword]:
                _register(self._conf, (opt,), group)
        replaced: set[str] = set()
        for alternatives in driver.alternatives:
            replaced |= self._replaced({each: options[each] for each in alternatives}, groups)
        required = _required(driver)
        values = {}
        for keyword, opt in options.items():
            if keyword in replaced:
                continue
            try:
                value = _value(self._conf, groups[keyword], opt, own.get(keyword))
            except ConfigError as exc:
                faults.append(exc)
                continue
            if keyword in required and value in _EMPTY:
                reason = f"[{wanted.groups[0]}] {opt.name}: the driver {wanted.driver!r} needs it"
                faults.append(_fault(reason, f"set it there, or in [{wanted.groups[-1]}]"))
                continue
            values[keyword] = Secret(str(value)) if opt.secret and value is not None else value
        return values

    def _replaced(
        self, options: Mapping[str, cfg.Opt], groups: Mapping[str, Sequence[str]]
    ) -> set[str]:
        """Return the keywords that alternatives replace, in the first group that has any."""
        for group in dict.fromkeys(group for each in options for group in groups[each]):
            chosen = {each for each, opt in options.items() if _is_given(self._conf, group, opt)}
            if chosen:
                return options.keys() - chosen
        return set()


def _reserved(name: str) -> bool:
    return name.startswith(RESERVED_PREFIX)


def _required(driver: type[Store]) -> set[str]:
    """Return the keywords of ``OPTIONS`` that have no default in the constructor."""
    required = set()
    for keyword in driver.OPTIONS:
        for cls in driver.__mro__:  # follows **keywords to the constructor that takes them
            taken = inspect.signature(vars(cls).get("__init__", object)).parameters
            if keyword in taken:
                if taken[keyword].default is inspect.Parameter.empty:
                    required.add(keyword)
                break
    return required


def _value(conf: cfg.ConfigOpts, groups: Sequence[str], opt: cfg.Opt, own: Any) -> Any:
    """Return the value from the first group that sets it, else ``own``, else the default."""
    group = groups[0]
    value = fault = None
    try:
        for group in groups:
            if _is_set(conf, group, opt):
                value = conf[group][opt.dest]
                break
        else:
            group = groups[0]
            value = conf[group][opt.dest] if own is None else own
    except _NOT_READABLE as exc:
        fault = _unreadable(group, opt, exc)
    if fault is not None:  # not from within the handler: oslo's own message may hold a secret
        raise fault
    if " #" in str(value):
        LOG.warning("[%s] %s: %s", group, opt.name, _COMMENT)
    if value in ("", [""]) and not opt.default:  # blanked; [""] if it may be repeated
        return opt.default
    if isinstance(opt, FileOpt) and value:
        return opt.find(conf, value)
    return opt.default if value is None else value


def _is_set(conf: cfg.ConfigOpts, group: str, opt: cfg.Opt) -> bool:
    location = conf.get_location(opt.dest, group)
    return location is not None and location.location is not cfg.Locations.opt_default


def _is_given(conf: cfg.ConfigOpts, group: str, opt: cfg.Opt) -> bool:
    with suppress(*_NOT_READABLE):
        return _is_set(conf, group, opt) and conf[group][opt.dest] not in _EMPTY
    return True


def _fault(
    reason: str, remedy: str, *, kind: type[ConfigError] = ConfigError, text: str = ""
) -> ConfigError:
    if " #" in (text or reason):
        remedy = f"{remedy}; {_COMMENT}" if remedy else _COMMENT
    return kind(reason, remedy=remedy)


def _passed_on(exc: Exception, subject: str) -> ConfigError:
    """Return the fault that another error stands for."""
    reason, remedy = describe(exc), ""
    if isinstance(exc, ImgStoreError):
        reason, remedy = exc.reason or reason, exc.remedy
    kind = DriverUnavailable if isinstance(exc, DriverUnavailable) else ConfigError
    fault = _fault(f"{subject}: {reason}", remedy, kind=kind)
    fault.__cause__ = exc
    return fault


def _unreadable(group: str, opt: cfg.Opt, exc: BaseException) -> ConfigError:
    """Return the fault for a value that oslo.config could not give; a secret is never shown."""
    text = str(exc)
    remedy = "write $$ where a dollar sign is meant"
    if isinstance(exc, cfg.NoSuchOptError):
        reason = f"its value refers to ${exc.opt_name}, which is no option"
    elif isinstance(exc, cfg.TemplateSubstitutionError | RecursionError):
        reason = "what its value refers to with $ cannot be put in"
    else:
        reason = text.partition(" is not valid: ")[2] or text
        remedy = f"write: {getattr(opt.type, 'type_name', 'another value')}"
    if opt.secret:
        reason = "its value cannot be used (it is a secret and not shown)"
    return _fault(f"[{group}] {opt.name}: {reason}", remedy, text=text)
