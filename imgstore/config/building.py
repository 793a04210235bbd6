"""From oslo.config options to stores.

Every store has a group of its own, named like it; ``[backend_defaults]`` holds what all of them
fall back to. Only this package reads such groups. It changes nothing in a ``ConfigOpts`` but
registers the options that it reads, and reads each value once.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from oslo_config import cfg

from imgstore.boundary.settings import BESIDE, faults_without
from imgstore.boundary.showing import shown_of_refused
from imgstore.config.loading import built, faults_together
from imgstore.config.options import COMMON, LIBRARY_GROUP, register
from imgstore.config.unread import Unread, unread
from imgstore.config.values import EMPTY, fault_of, is_given, merged, one_of, passed_on, value_of
from imgstore.config.wanted import Default, Wanted, Wish, is_reserved, read_wish
from imgstore.errors import ConfigError, DriverUnavailable
from imgstore.model import Capability
from imgstore.secret import Secret
from imgstore.store import Store

_EARLY: Final = "also_owns"


@dataclass
class Built:
    """The stores that an application's configuration asks for, and all that is wrong with it.

    ``drivers`` has the name of every store, failed ones too, and its class where that is known;
    ``default`` is the name of a store that was built. ``whole`` are faults that concern no single
    store. ``unread`` is what nothing reads, by group. ``settings`` are what the stores, failed ones
    too, were to be built with, as it may be shown.
    """

    stores: dict[str, Store] = field(default_factory=dict)
    drivers: dict[str, type[Store] | None] = field(default_factory=dict)
    default: str | None = None
    whole: list[ConfigError] = field(default_factory=list)
    failures: dict[str, list[ConfigError]] = field(default_factory=dict)
    unread: Unread = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    def failure(self, name: str) -> ConfigError:
        """Return one error for a store that failed, which tells what it would have been."""
        error, driver = merged(self.failures[name]), self.drivers.get(name)
        if driver is not None:
            error.driver, error.schemes = driver.driver, driver.schemes
        error.settings = self.settings.get(name, {})
        return error

    def close(self) -> None:
        """Close the stores."""
        with ExitStack() as closing:
            for store in self.stores.values():
                closing.callback(store.close)


def build(
    conf: cfg.ConfigOpts,
    *,
    reserved: Mapping[str, str] | None,
    load: Callable[[str], type[Store]],
) -> Built:
    """Build the stores; ``load`` returns a driver's class by its name.

    Never raises for what is configured.
    """
    wish = read_wish(conf, reserved or {})
    done = Built(whole=wish.faults)
    with ExitStack() as unfinished:
        unfinished.callback(done.close)
        for wanted in wish.stores:
            _build(conf, wanted, load, done)
        for name, fault in list(faults_together(done.stores)):
            done.stores.pop(name).close()
            done.failures[name] = [passed_on(fault, f"[{name}]")]
        done.default = _default(wish.default, done, done.stores)
        _note_unread(conf, wish, done)
        unfinished.pop_all()
    return done


def examine(conf: cfg.ConfigOpts, *, load: Callable[[str], type[Store]]) -> Built:
    """Return what is wrong as far as it can be told without building a store."""
    wish = read_wish(conf, {})
    done = Built(whole=wish.faults)
    for wanted in wish.stores:
        driver = _driver(wanted, load, done)
        faults: dict[str, ConfigError] = {}
        if driver is not None:
            _note_files(wanted, driver, _values(conf, wanted, driver, faults), done)
        if faults:
            done.failures.setdefault(wanted.name, []).extend(faults.values())
    _default(wish.default, done, done.drivers)
    _note_unread(conf, wish, done)
    return done


def _note_files(
    wanted: Wanted, driver: type[Store], values: Mapping[str, Any], done: Built
) -> None:
    """Note what nothing reads of the files that a store's options name."""
    group = wanted.groups[0]
    for each in driver.unread_in_files(values):
        fault = fault_of(f"[{group}] {each.reason}", each.remedy)
        done.unread.setdefault(group, []).append(fault)


def _note_unread(conf: cfg.ConfigOpts, wish: Wish, done: Built) -> None:
    """Note what nothing reads of the configuration, before what files that it names have so."""
    found = unread(conf, wish, done.drivers)
    for group, lines in done.unread.items():
        found.setdefault(group, []).extend(lines)
    done.unread = found


def build_one(conf: cfg.ConfigOpts, wanted: Wanted, load: Callable[[str], type[Store]]) -> Store:
    """Build a store; raises ConfigError with every fault found."""
    done = Built()
    _build(conf, wanted, load, done)
    for store in done.stores.values():
        return store
    (name,) = done.failures
    raise done.failure(name)


def _default(
    default: Default, done: Built, among: Mapping[str, Store | type[Store] | None]
) -> str | None:
    """Return the name of the default, if it is one of those; adds a fault if it is read-only."""
    name = default.name if default.scheme is None else _name_by_scheme(default, done)
    chosen = among.get(name or "")
    if chosen is None:
        return None
    if Capability.WRITE not in chosen.capabilities:
        reason = f"[{LIBRARY_GROUP}] {default.option.name}: the store {name!r} is read-only"
        done.whole.append(fault_of(reason, "choose a store that images can be added to"))
    return name


def _name_by_scheme(default: Default, done: Built) -> str | None:
    stores = {name: driver for name, driver in done.drivers.items() if not is_reserved(name)}
    known = {name: driver.schemes for name, driver in stores.items() if driver is not None}
    for name, schemes in known.items():
        if default.scheme in schemes:
            return name
    # A driver that is missing might read the scheme.
    if default.is_set and None not in done.drivers.values():
        reason = f"[{LIBRARY_GROUP}] {default.option.name}: no store reads {default.scheme}:// URLs"
        choices = [scheme for schemes in known.values() for scheme in schemes]
        none = f"name a driver that does in [{LIBRARY_GROUP}] stores"
        done.whole.append(fault_of(reason, one_of(choices, none)))
    return None


def _build(
    conf: cfg.ConfigOpts, wanted: Wanted, load: Callable[[str], type[Store]], done: Built
) -> None:
    driver = _driver(wanted, load, done)
    if driver is None:
        return
    name = _name(wanted, driver)
    faults: dict[str, ConfigError] = {}
    refusal: list[ConfigError] = []
    values: dict[str, Any] = {}
    make = functools.partial(built, driver, name, single=wanted.single)
    try:
        values = _values(conf, wanted, driver, faults)
        _note_files(wanted, driver, values, done)
        done.settings[name] = shown_of_refused(
            _options(driver), values, driver.alternatives, unread=faults.keys()
        )
        if _required(driver) <= values.keys():  # it may find more faults
            values |= driver.settings_elsewhere(conf)
            store = make(values=values)
            if faults:
                store.close()
            else:
                done.stores[name] = store
    except Exception as exc:
        names = {opt.name for keyword, opt in _options(driver).items() if keyword in faults}
        subject = f"[{wanted.groups[0]}] driver {wanted.driver!r}"
        refusal = _refusals(exc, make, values, subject, names | faults.keys())
    if faults or refusal:
        done.failures[name] = [*faults.values(), *refusal]


def _refusal(exc: Exception, subject: str, *, without: AbstractSet[str]) -> list[ConfigError]:
    """Return the fault that a constructor found; not what it says of options that it did not get.

    It was called ``without`` those that could not be read, by name or keyword, and takes them for
    unset.
    """
    fault = passed_on(exc, subject)
    text = str(fault).removeprefix(f"{subject}: ")
    others = faults_without(text, without)
    if others == text.split(BESIDE):
        return [fault]
    return [ConfigError(f"{subject}: {BESIDE.join(others)}")] if others else []


def _refusals(
    exc: Exception,
    make: Callable[..., Store],
    values: Mapping[str, Any],
    subject: str,
    without: AbstractSet[str],
) -> list[ConfigError]:
    """Return the faults that a constructor found, also those behind the option of all stores.

    Store refuses that one before a driver looks at its own.
    """
    found = _refusal(exc, subject, without=without)
    early = COMMON[_EARLY].name
    if _EARLY in values and f"{early}:" in str(exc):
        try:
            make(values={**values, _EARLY: ()}).close()
        except Exception as refused:
            found += _refusal(refused, subject, without=without | {early})
    return found


def _driver(wanted: Wanted, load: Callable[[str], type[Store]], done: Built) -> type[Store] | None:
    """Return a store's driver; None if it is missing, or the same store was asked for before."""
    try:
        driver = load(wanted.driver)
    except DriverUnavailable as exc:
        done.drivers[wanted.name] = None
        done.failures[wanted.name] = [passed_on(exc, f"{wanted.origin}: store {wanted.name!r}")]
        return None
    name = _name(wanted, driver)
    if wanted.single and done.drivers.get(name) is driver:  # one driver under two of its names
        return None
    done.drivers[name] = driver
    return driver


def _name(wanted: Wanted, driver: type[Store]) -> str:
    return (driver.driver or wanted.name) if wanted.single else wanted.name


def _options(driver: type[Store]) -> dict[str, cfg.Opt]:
    return {**COMMON, **driver.OPTIONS}


def own_options(name: str, driver: type[Store]) -> tuple[dict[str, cfg.Opt], Mapping[str, Any]]:
    """Return the options of a store by keyword, and the defaults that only a reserved one has."""
    options = _options(driver)
    own = driver.reserved_defaults(name) if is_reserved(name) else {}
    for keyword, default in own.items():
        options[keyword] = copy.copy(options[keyword])
        options[keyword].default = default
    return options, own


def _values(
    conf: cfg.ConfigOpts, wanted: Wanted, driver: type[Store], faults: dict[str, ConfigError]
) -> dict[str, Any]:
    """Return keywords and values for the constructor; ``faults`` gets what is wrong, by keyword."""
    options, own = own_options(wanted.name, driver)
    groups = dict.fromkeys(options, wanted.groups)
    groups |= dict.fromkeys(own, wanted.groups[:1])  # no fallback: it has to stay apart from others
    for keyword, opt in options.items():
        for group in groups[keyword]:
            register(conf, (opt,), group)
    replaced: set[str] = set()
    for alternatives in driver.alternatives:
        replaced |= _replaced(conf, {each: options[each] for each in alternatives}, groups)
    required = _required(driver)
    values = {}
    for keyword, opt in options.items():
        if keyword in replaced:
            continue
        try:
            value = value_of(conf, groups[keyword], opt, own.get(keyword))
        except ConfigError as exc:
            faults[keyword] = exc
            continue
        if keyword in required and value in EMPTY:
            reason = f"[{wanted.groups[0]}] {opt.name}: the driver {wanted.driver!r} needs it"
            faults[keyword] = fault_of(reason, f"set it there, or in [{wanted.groups[-1]}]")
            continue
        values[keyword] = Secret(str(value)) if opt.secret and value is not None else value
    return values


def _replaced(
    conf: cfg.ConfigOpts, options: Mapping[str, cfg.Opt], groups: Mapping[str, Sequence[str]]
) -> set[str]:
    """Return the keywords that alternatives replace, in the first group that has any."""
    for group in dict.fromkeys(group for each in options for group in groups[each]):
        chosen = {each for each, opt in options.items() if is_given(conf, group, opt)}
        if chosen:
            return options.keys() - chosen
    return set()


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
