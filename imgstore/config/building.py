"""From oslo.config options to stores.

Every store has a group of its own, named like it; ``[backend_defaults]`` holds what all of them
fall back to. Only this package reads such groups. It changes nothing in a ``ConfigOpts`` but
registers the options that it reads, and reads each value once.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Final

from oslo_config import cfg

from imgstore.config.loading import built, faults_together
from imgstore.config.options import (
    BACKENDS,
    COMMON,
    DEFAULT_BACKEND,
    DEFAULT_STORE,
    DEFAULTS_GROUP,
    GLANCE_STORE,
    LIBRARY_GROUP,
    RESERVED_PREFIX,
    STORES,
    Backends,
    MalformedError,
    register,
)
from imgstore.config.values import (
    EMPTY,
    NOT_READABLE,
    fault_of,
    is_given,
    is_set,
    passed_on,
    unreadable,
    value_of,
)
from imgstore.errors import ConfigError, DriverUnavailable
from imgstore.model import Capability
from imgstore.secret import Secret
from imgstore.store import Store

_STORE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
_OLD_DRIVER_NAME: Final = re.compile(r"glance\.store\.(\w+)\.Store")
_OLD_DRIVERS: Final = {"filesystem": "file", "vmware_datastore": "vmware"}
_ENABLED: Final = "[DEFAULT] enabled_backends"
# Not "default_backend": operators' documents call a store so.
_LIBRARY_NAMES: Final = {"default", "description", LIBRARY_GROUP, DEFAULTS_GROUP} | {
    opt.dest for opt in (BACKENDS, STORES, DEFAULT_STORE, *COMMON.values())
}


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
        register(conf, (BACKENDS,), None)
        register(conf, GLANCE_STORE, LIBRARY_GROUP)
        backends = self._enabled_backends()
        wanted = self._single() if backends is None else self._multi(backends)
        with ExitStack() as unfinished:
            unfinished.callback(self.close)
            for each in [*wanted, *self._apart(reserved or {})]:
                self._build(each, load)
            for name, fault in list(faults_together(self.stores)):
                self.stores.pop(name).close()
                self.failures[name] = [passed_on(fault, f"[{name}]")]
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
            self._conf.get_location(BACKENDS.dest)  # unlike [], it says which $name is unknown
            value = self._conf[BACKENDS.dest]
            if isinstance(value, list | tuple):  # an application may have registered it as a list
                value = ", ".join(map(str, value))
            return dict(Backends()(value or {})) or None
        except NOT_READABLE as exc:
            malformed = exc if isinstance(exc, MalformedError) else exc.__context__
            if isinstance(malformed, MalformedError):
                return self._readable(malformed.text)
            self.whole.append(unreadable("DEFAULT", BACKENDS, exc))
            return {}

    def _readable(self, text: str) -> dict[str, str]:
        backends: dict[str, str] = {}
        for item in text.split(","):
            name, _, driver = (part.strip() for part in item.partition(":"))
            if not name or not driver:
                reason = f"{_ENABLED}: {item.strip()!r} is not name:driver"
                self.whole.append(fault_of(reason, "write name:driver, separated by commas"))
            elif name in backends:
                reason = f"{_ENABLED}: {name!r} is listed twice"
                self.whole.append(fault_of(reason, "rename the store"))
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
                self.whole.append(fault_of(f"{_ENABLED}: {fault}", "rename the store"))
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
        with suppress(*NOT_READABLE):  # an option with a bad value is an option too
            if name not in self._conf or isinstance(self._conf[name], cfg.ConfigOpts.GroupAttr):
                return None
        return f"{name!r} is the name of an option in [DEFAULT]"

    def _single(self) -> list[_Wanted]:
        """Return the stores of the form without ``enabled_backends``."""
        origin = f"[{LIBRARY_GROUP}] {STORES.name}"
        wanted = []
        for name in self._setting(STORES) or ():
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
                self.whole.append(fault_of(reason, f"begin it with {RESERVED_PREFIX!r}"))
        return wanted

    def _default_by_name(self, backends: Mapping[str, str]) -> str | None:
        name: str | None = self._setting(DEFAULT_BACKEND)
        if name and name not in backends:
            reason = f"[{LIBRARY_GROUP}] {DEFAULT_BACKEND.name}: no store is named {name!r}"
            self.whole.append(fault_of(reason, f"choose one of: {', '.join(backends)}"))
        return self._writable(name, DEFAULT_BACKEND)

    def _default_by_scheme(self) -> str | None:
        scheme = self._setting(DEFAULT_STORE)
        schemes: list[str] = []
        unknown = False
        for name, driver in self.drivers.items():
            if driver is None:
                unknown = True  # it might read the scheme
            elif not _reserved(name) and scheme in driver.schemes:
                return self._writable(name, DEFAULT_STORE)
            elif not _reserved(name):
                schemes += driver.schemes
        # The option's default, "file", is nobody's fault.
        if scheme and not unknown and is_set(self._conf, LIBRARY_GROUP, DEFAULT_STORE):
            reason = f"[{LIBRARY_GROUP}] {DEFAULT_STORE.name}: no store reads {scheme}:// URLs"
            self.whole.append(fault_of(reason, f"choose one of: {', '.join(schemes)}"))
        return None

    def _writable(self, name: str | None, opt: cfg.Opt) -> str | None:
        store = self.stores.get(name or "")
        if store is None:
            return None
        if Capability.WRITE not in store.capabilities:
            reason = f"[{LIBRARY_GROUP}] {opt.name}: the store {name!r} is read-only"
            self.whole.append(fault_of(reason, "choose a store that images can be added to"))
        return name

    def _setting(self, opt: cfg.Opt) -> Any:
        """Return the value of an option of ``[glance_store]``, None if it is unreadable."""
        try:
            return self._conf[LIBRARY_GROUP][opt.dest]
        except NOT_READABLE as exc:
            self.whole.append(unreadable(LIBRARY_GROUP, opt, exc))
            return None

    def _build(self, wanted: _Wanted, load: Callable[[str], type[Store]]) -> None:
        name = wanted.name
        try:
            driver = load(wanted.driver)
        except DriverUnavailable as exc:
            self.drivers[name] = None
            self.failures[name] = [passed_on(exc, f"{wanted.origin}: store {name!r}")]
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
            faults.append(passed_on(exc, f"[{wanted.groups[0]}] driver {wanted.driver!r}"))
        if faults:
            self.failures[name] = faults

    def _values(
        self, wanted: _Wanted, driver: type[Store], faults: list[ConfigError]
    ) -> dict[str, Any]:
        """Return keywords and values for the constructor; adds to ``faults`` what is wrong."""
        options = {**COMMON, **driver.OPTIONS}
        groups = dict.fromkeys(options, wanted.groups)
        own = driver.reserved_defaults(wanted.name) if _reserved(wanted.name) else {}
        for keyword, default in own.items():
            groups[keyword] = wanted.groups[:1]  # no fallback: it has to stay apart from others
            options[keyword] = copy.copy(options[keyword])
            options[keyword].default = default
        for keyword, opt in options.items():
            for group in groups[keyword]:
                register(self._conf, (opt,), group)
        replaced: set[str] = set()
        for alternatives in driver.alternatives:
            replaced |= self._replaced({each: options[each] for each in alternatives}, groups)
        required = _required(driver)
        values = {}
        for keyword, opt in options.items():
            if keyword in replaced:
                continue
            try:
                value = value_of(self._conf, groups[keyword], opt, own.get(keyword))
            except ConfigError as exc:
                faults.append(exc)
                continue
            if keyword in required and value in EMPTY:
                reason = f"[{wanted.groups[0]}] {opt.name}: the driver {wanted.driver!r} needs it"
                faults.append(fault_of(reason, f"set it there, or in [{wanted.groups[-1]}]"))
                continue
            values[keyword] = Secret(str(value)) if opt.secret and value is not None else value
        return values

    def _replaced(
        self, options: Mapping[str, cfg.Opt], groups: Mapping[str, Sequence[str]]
    ) -> set[str]:
        """Return the keywords that alternatives replace, in the first group that has any."""
        for group in dict.fromkeys(group for each in options for group in groups[each]):
            chosen = {each for each, opt in options.items() if is_given(self._conf, group, opt)}
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
