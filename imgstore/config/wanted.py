"""Which stores a configuration asks for, and which one is the default."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from oslo_config import cfg

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
from imgstore.config.values import NOT_READABLE, fault_of, is_set, one_of, unreadable
from imgstore.errors import ConfigError

_STORE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
_OLD_DRIVER_NAME: Final = re.compile(r"glance\.store\.(\w+)\.Store")
_OLD_DRIVERS: Final = {"filesystem": "file", "vmware_datastore": "vmware"}
_ENABLED: Final = "[DEFAULT] enabled_backends"
# Not "default_backend": operators' documents call a store so.
_LIBRARY_NAMES: Final = {"default", "description", LIBRARY_GROUP, DEFAULTS_GROUP} | {
    opt.dest for opt in (BACKENDS, STORES, DEFAULT_STORE, *COMMON.values())
}


@dataclass(frozen=True)
class Wanted:
    """A store that is asked for in ``origin``; of ``groups``, the first that sets it wins."""

    name: str
    driver: str
    groups: tuple[str, ...]
    origin: str
    single: bool = False


@dataclass(frozen=True)
class Default:
    """Which store is the default, by ``option``: the one of a name, or one that reads a scheme.

    ``is_set`` says that somebody chose the scheme.
    """

    option: cfg.Opt
    name: str | None = None
    scheme: str | None = None
    is_set: bool = False


@dataclass
class Wish:
    """What a configuration asks for, in order, and what is wrong with how it does so.

    ``single`` is the form without ``enabled_backends``; without ``is_readable`` that option may
    name more stores.
    """

    stores: list[Wanted]
    default: Default
    single: bool
    is_readable: bool
    faults: list[ConfigError] = field(default_factory=list)


def read_wish(conf: cfg.ConfigOpts, reserved: Mapping[str, str]) -> Wish:
    """Return what a configuration asks for, and what an application has reserved."""
    register(conf, (BACKENDS,), None)
    register(conf, GLANCE_STORE, LIBRARY_GROUP)
    faults: list[ConfigError] = []
    backends = _enabled_backends(conf, faults)
    single = backends is None
    stores = _single(conf, faults) if backends is None else _multi(conf, backends, faults)
    is_readable = single or not faults
    if backends is None:
        default = _default_by_scheme(conf, faults)
    else:
        default = _default_by_name(conf, backends, faults)
    return Wish([*stores, *_apart(reserved, faults)], default, single, is_readable, faults)


def _enabled_backends(conf: cfg.ConfigOpts, faults: list[ConfigError]) -> dict[str, str] | None:
    """Return names and drivers as far as they can be read; None if the option is not set."""
    try:
        conf.get_location(BACKENDS.dest)  # unlike [], it says which $name is unknown
        value = conf[BACKENDS.dest]
        if isinstance(value, list | tuple):  # an application may have registered it as a list
            value = ", ".join(map(str, value))
        return dict(Backends()(value or {})) or None
    except NOT_READABLE as exc:
        malformed = exc if isinstance(exc, MalformedError) else exc.__context__
        if isinstance(malformed, MalformedError):
            return _readable(malformed.text, faults)
        faults.append(unreadable("DEFAULT", BACKENDS, exc))
        return {}


def _readable(text: str, faults: list[ConfigError]) -> dict[str, str]:
    backends: dict[str, str] = {}
    for item in text.split(","):
        name, _, driver = (part.strip() for part in item.partition(":"))
        if not name or not driver:
            reason = f"{_ENABLED}: {item.strip()!r} is not name:driver"
            faults.append(fault_of(reason, "write name:driver, separated by commas"))
        elif name in backends:
            reason = f"{_ENABLED}: {name!r} is listed twice"
            faults.append(fault_of(reason, "rename the store"))
        else:
            backends[name] = driver
    return backends


def _multi(
    conf: cfg.ConfigOpts, backends: Mapping[str, str], faults: list[ConfigError]
) -> list[Wanted]:
    folded: dict[str, str] = {}
    wanted = []
    for name, driver in backends.items():
        fault = _refusal(conf, name)
        twin = folded.setdefault(name.lower(), name)
        if not fault and twin != name:
            fault = f"{name!r} and {twin!r} would share a group, whose case does not count"
        if fault:
            faults.append(fault_of(f"{_ENABLED}: {fault}", "rename the store"))
        else:
            wanted.append(Wanted(name, driver, (name, DEFAULTS_GROUP), _ENABLED))
    return wanted


def _refusal(conf: cfg.ConfigOpts, name: str) -> str | None:
    if not _STORE_NAME.fullmatch(name):
        return f"{name!r} is not a name made of letters, digits, '_', '-' and '.'"
    if name.lower().startswith(RESERVED_PREFIX):
        return f"{name!r}: names that begin with {RESERVED_PREFIX!r} are for reserved stores"
    if name.lower() in _LIBRARY_NAMES:
        return f"{name!r} is the name of a group or an option of this library"
    return _hidden(conf, name)


def _hidden(conf: cfg.ConfigOpts, name: str) -> str | None:
    """Return the fault of a name whose group would hide an option of the application's."""
    with suppress(*NOT_READABLE):  # an option with a bad value is an option too
        if name not in conf or isinstance(conf[name], cfg.ConfigOpts.GroupAttr):
            return None
    return f"{name!r} is the name of an option in [DEFAULT]"


def _single(conf: cfg.ConfigOpts, faults: list[ConfigError]) -> list[Wanted]:
    """Return the stores of the form without ``enabled_backends``."""
    origin = f"[{LIBRARY_GROUP}] {STORES.name}"
    wanted = []
    for name in _setting(conf, STORES, faults) or ():
        driver = current_name(name)
        wanted.append(Wanted(driver, driver, (LIBRARY_GROUP,), origin, single=True))
    return wanted


def current_name(driver: str) -> str:
    """Return the name of a driver, which old files have as ``glance.store.<module>.Store``."""
    old = _OLD_DRIVER_NAME.fullmatch(driver)
    return _OLD_DRIVERS.get(old[1], old[1]) if old else driver


def wanted_one(conf: cfg.ConfigOpts, name: str, driver: str, *, single: bool) -> Wanted:
    """Return the wish for one store, whose name is the caller's affair.

    Raises ConfigError for the one kind of name that would do harm to the application.
    """
    driver = current_name(driver)
    if single:
        origin = f"[{LIBRARY_GROUP}] {STORES.name}"
        return Wanted(name, driver, (LIBRARY_GROUP,), origin, single=True)
    fault = _hidden(conf, name)
    if fault:
        raise fault_of(f"{_ENABLED}: {fault}", "rename the store")
    origin = "reserved stores" if is_reserved(name) else _ENABLED
    return Wanted(name, driver, (name, DEFAULTS_GROUP), origin)


def _apart(reserved: Mapping[str, str], faults: list[ConfigError]) -> list[Wanted]:
    wanted = []
    for name, driver in reserved.items():
        if name.startswith(RESERVED_PREFIX) and _STORE_NAME.fullmatch(name):
            wanted.append(Wanted(name, driver, (name, DEFAULTS_GROUP), "reserved stores"))
        else:
            reason = f"{name!r} is not a name for a reserved store"
            faults.append(fault_of(reason, f"begin it with {RESERVED_PREFIX!r}"))
    return wanted


def _setting(conf: cfg.ConfigOpts, opt: cfg.Opt, faults: list[ConfigError]) -> Any:
    """Return the value of an option of ``[glance_store]``, None if it is unreadable."""
    try:
        return conf[LIBRARY_GROUP][opt.dest]
    except NOT_READABLE as exc:
        faults.append(unreadable(LIBRARY_GROUP, opt, exc))
        return None


def _default_by_name(
    conf: cfg.ConfigOpts, backends: Mapping[str, str], faults: list[ConfigError]
) -> Default:
    name: str | None = _setting(conf, DEFAULT_BACKEND, faults)
    if name and name not in backends:
        reason = f"[{LIBRARY_GROUP}] {DEFAULT_BACKEND.name}: no store is named {name!r}"
        none = f"name it in {_ENABLED}, or leave the default out"
        faults.append(fault_of(reason, one_of(backends, none)))
    return Default(DEFAULT_BACKEND, name=name)


def _default_by_scheme(conf: cfg.ConfigOpts, faults: list[ConfigError]) -> Default:
    scheme = _setting(conf, DEFAULT_STORE, faults)
    # The option's default, "file", is nobody's fault.
    is_own = bool(scheme) and is_set(conf, LIBRARY_GROUP, DEFAULT_STORE)
    return Default(DEFAULT_STORE, scheme=scheme, is_set=is_own)


def is_reserved(name: str) -> bool:
    """Return whether a store of this name is an application's own."""
    return name.startswith(RESERVED_PREFIX)
