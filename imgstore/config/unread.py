"""What configuration files say and nothing reads: misspelt names, and names in another group.

Files of services hold much that is for others. Judged are therefore groups of stores,
``[backend_defaults]`` and ``[glance_store]``; elsewhere only names that must be meant for this
library. Names are told, and never a value.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from oslo_config import cfg

from imgstore.config.files import names_in_files
from imgstore.config.loading import driver_names, installed_drivers
from imgstore.config.options import (
    BACKENDS,
    COMMON,
    DEFAULT_BACKEND,
    DEFAULT_STORE,
    DEFAULTS_GROUP,
    GLANCE_STORE,
    LIBRARY_GROUP,
)
from imgstore.config.values import NOT_READABLE, is_set
from imgstore.config.wanted import Wish, is_reserved
from imgstore.errors import ConfigError
from imgstore.model import Capability
from imgstore.store import Store

Unread = dict[str, list[ConfigError]]

_HOMES: Final = {BACKENDS.dest: "DEFAULT"} | {opt.dest: LIBRARY_GROUP for opt in GLANCE_STORE}
_SHARED: Final = (LIBRARY_GROUP, DEFAULTS_GROUP)
# An option of glance_store that never did anything.
_WITHOUT_EFFECT: Final = frozenset({"store_capabilities_update_min_interval"})
# In [DEFAULT] a name like `http_read_timeout` may be anybody's.
_UNMISTAKABLE: Final = re.compile(r"[a-z0-9]+_store_\w+")
# Names of options have several words. Another text may be a line of a secret that has several.
_SHOWN: Final = re.compile(r"(?=.{1,64}$)[a-z][a-z0-9]*(?:_[a-z0-9]+)+")
_NO_DRIVER: Final = "no driver has such an option"


def unread(conf: cfg.ConfigOpts, wish: Wish, drivers: Mapping[str, type[Store] | None]) -> Unread:
    """Return what nothing reads, by group; ``drivers`` are those of the stores, None if missing.

    The options of the stores are registered with ``conf``. Without a file it is empty.
    """
    names = names_in_files(conf)
    if names is None:
        return {}
    survey = _Survey(conf, wish, drivers, names)
    survey.default_group()
    survey.own_groups()
    survey.other_groups()
    survey.shared_groups()
    return survey.found


@dataclass
class _Survey:
    """One look at the ``names`` in files, by groups, which are in lower case except DEFAULT."""

    conf: cfg.ConfigOpts
    wish: Wish
    drivers: Mapping[str, type[Store] | None]
    names: Mapping[str, Mapping[str, str]]
    found: Unread = field(default_factory=dict)

    @cached_property
    def _own(self) -> dict[str, str]:
        """Return the names of the stores that have a group each, by these groups."""
        return {each.name.lower(): each.name for each in self.wish.stores if not each.single}

    @cached_property
    def _in_use(self) -> list[cfg.Opt]:
        drivers = dict.fromkeys(filter(None, self.drivers.values()))
        return [*COMMON.values(), *(opt for each in drivers for opt in each.OPTIONS.values())]

    @cached_property
    def _all(self) -> list[cfg.Opt]:
        """Return the options of all drivers; imports them, so it is for names that need it."""
        others = (opt for each in installed_drivers() for opt in each.OPTIONS.values())
        return [*self._in_use, *others]

    @cached_property
    def _prefixes(self) -> tuple[str, ...]:
        """Return what options of drivers begin with that are not in use; imports none of them."""
        in_use = {driver.driver for driver in self.drivers.values() if driver}
        return tuple(f"{name}_" for name in driver_names() if name not in in_use)

    def default_group(self) -> None:
        """Note what stands in [DEFAULT] and belongs elsewhere."""
        home = f"[{LIBRARY_GROUP}]" if self.wish.single else "the store's group"
        defaults = {opt.dest: opt for opt in (DEFAULT_BACKEND, DEFAULT_STORE)}
        known = {name for name in _names(self._in_use, "DEFAULT") if _UNMISTAKABLE.fullmatch(name)}
        for name in self.names.get("DEFAULT", ()):
            if name in self.conf:  # the application's own
                continue
            if name in defaults:
                if not self._is_set(LIBRARY_GROUP, defaults[name]):
                    self._misplaced("DEFAULT", name, f"[{LIBRARY_GROUP}]")
            elif name in known:
                self._misplaced("DEFAULT", name, home)
            elif self.wish.single and _is_meant_for_stores(name):
                reason = f"[DEFAULT] {name}: there is no such option"
                self._note("DEFAULT", reason, f"did you mean {BACKENDS.dest}?")
        if BACKENDS.dest in self.names.get("default", ()):
            self._note("default", "[default]: nothing reads it", "did you mean [DEFAULT]?")

    def own_groups(self) -> None:
        """Note each option in a store's group that its driver does not have."""
        for group, name in self._own.items():
            driver = self.drivers.get(name)
            if driver is not None:
                known = _names((*COMMON.values(), *driver.OPTIONS.values()), group)
                what = f"the driver {driver.driver!r} has no such option"
                for each in self._unknown(group, known):
                    self._judge(name, each, known, what)

    def shared_groups(self) -> None:
        """Note each shared option that no driver has, or that nothing reads in this form."""
        for group in _SHARED:
            its_own = set(_HOMES) - {BACKENDS.dest} if group == LIBRARY_GROUP else set()
            if not self._unknown(group, its_own | _names(self._in_use, group)):
                continue
            known = its_own | _names(self._all, group)
            for each in self._unknown(group, known | _WITHOUT_EFFECT):
                self._judge(group, each, known, _NO_DRIVER)
        self._note_default()
        if self.wish.single:
            self._note_single()

    def _note_default(self) -> None:
        """Note the option that names the default store in the other form of configuration."""
        meant, written = DEFAULT_BACKEND, DEFAULT_STORE
        if self.wish.single:
            meant, written = written, meant
        if self._is_set(LIBRARY_GROUP, written) and not self._is_set(LIBRARY_GROUP, meant):
            form = "not set" if self.wish.single else "set"
            reason = f"[{LIBRARY_GROUP}] {written.dest}: nothing reads it where {BACKENDS.dest} is"
            self._note(LIBRARY_GROUP, f"{reason} {form}", f"did you mean {meant.dest}?")

    def _note_single(self) -> None:
        """Note files that configure no store, or in a group that is for several stores."""
        if self.names.get(DEFAULTS_GROUP) and not self._own:
            self._note(
                DEFAULTS_GROUP,
                f"[{DEFAULTS_GROUP}]: nothing reads it where {BACKENDS.dest} is not set",
                f"set [DEFAULT] {BACKENDS.dest}, or write its options in [{LIBRARY_GROUP}]",
            )
        counted = (*GLANCE_STORE, *self._in_use)
        if not self.found and not any(self._is_set(LIBRARY_GROUP, opt) for opt in counted):
            self._note(
                LIBRARY_GROUP,
                f"no store is configured: neither [DEFAULT] {BACKENDS.dest} nor an option in "
                f"[{LIBRARY_GROUP}] is set, and the stores file and http have their defaults",
                f"set [DEFAULT] {BACKENDS.dest}, or [{LIBRARY_GROUP}] stores",
            )

    def other_groups(self) -> None:
        """Note groups of stores that there are not, and stores without a group."""
        places = ("DEFAULT", "default", *_SHARED)
        written = (name for group in places for name in self.names.get(group, ()))
        if not self.wish.is_readable or (
            self.wish.single and any(map(_is_meant_for_stores, written))
        ):
            return  # which stores are wanted cannot be told
        missing = {
            group: name
            for group, name in self._own.items()
            if not (group in self.names or is_reserved(group) or self._is_configured(name))
        }
        for group, names in self.names.items():
            if group not in {*_SHARED, *self._own, "DEFAULT"} and self._may_be_ours(group, names):
                near = _alike(group, missing, 0.65) or _alike(group, _SHARED, 0.85)
                if near and self._is_ours(group, names):
                    meant = missing.pop(near, near)
                    reason = f"[{group}]: no store is named so, and nothing reads it"
                    self._note(group, reason, f"did you mean [{meant}]?")
                elif self._is_a_stores(group, names):
                    reason = (
                        f"[{group}]: its options are those of a store, and no store is named so"
                    )
                    remedy = f"name it in [DEFAULT] {BACKENDS.dest}, or remove the group"
                    self._note(group, reason, remedy)
        for name in missing.values():
            self._note_missing(name)

    def _note_missing(self, name: str) -> None:
        driver = self.drivers.get(name)
        if driver is not None and driver.OPTIONS and Capability.WRITE in driver.capabilities:
            reason = f"[{name}]: there is no such group, although a store is named so, and only "
            reason += f"[{DEFAULTS_GROUP}] and defaults count"
            self._note(name, reason, "write the group; it may be empty")

    def _may_be_ours(self, group: str, names: Collection[str]) -> bool:
        """Return whether a group may be meant for a store; says so without the other drivers."""
        if is_reserved(group) or group in self.conf:  # an application's own
            return False
        known = {*_HOMES, *_names(self._in_use, group)}
        return any(
            name in known or _UNMISTAKABLE.fullmatch(name) or name.startswith(self._prefixes)
            for name in names
        )

    def _is_ours(self, group: str, names: Collection[str]) -> bool:
        """Return whether a group whose name is like ours has an option of ours, maybe misspelt."""
        known = {*_HOMES, *_names(self._all, group)}
        return any(
            name in known or (_UNMISTAKABLE.fullmatch(name) and _alike(name, known))
            for name in names
        )

    def _is_a_stores(self, group: str, names: Collection[str]) -> bool:
        """Return whether a group has nothing but options of stores."""
        common, known = _names(COMMON.values(), group), _names(self._all, group)
        return known.issuperset(names) and not common.issuperset(names)

    def _unknown(self, group: str, known: set[str]) -> list[str]:
        """Return the names in a group that are not ``known``, and not the application's own."""
        registered: Collection[str] = ()
        with suppress(*NOT_READABLE):
            registered = self.conf[self._own.get(group, group)]
        return [each for each in self.names.get(group, ()) if each not in known | set(registered)]

    def _judge(self, group: str, name: str, known: Iterable[str], what: str) -> None:
        """Note a name that is not ``known`` in a group."""
        home, near = _HOMES.get(name), _alike(name, known)
        if home is not None:
            self._misplaced(group, name, f"[{home}]")
            return
        shown = name if near or _SHOWN.fullmatch(name) else "an option"
        variable = self.names[group.lower()][name]
        shown += f" ({variable})" if variable else ""
        reason = f"[{group}] {shown}: {what}"
        if near:
            self._note(group, reason, f"did you mean {near}?")
        elif what != _NO_DRIVER or None not in self.drivers.values():  # a missing one may have it
            self._note(group, reason, "remove it")

    def _misplaced(self, group: str, name: str, home: str) -> None:
        self._note(group, f"[{group}] {name}: nothing reads it there", f"write it in {home}")

    def _note(self, group: str, reason: str, remedy: str) -> None:
        self.found.setdefault(group, []).append(ConfigError(reason, remedy=remedy))

    def _is_configured(self, name: str) -> bool:
        """Return whether an application or the environment sets an option of a store."""
        driver = self.drivers.get(name)
        options = (*COMMON.values(), *(driver.OPTIONS.values() if driver else ()))
        return any(self._is_set(name, opt) for opt in options)

    def _is_set(self, group: str, opt: cfg.Opt) -> bool:
        if not _names([opt], group).isdisjoint(self.names.get(group.lower(), ())):
            return True
        with suppress(*NOT_READABLE):  # not registered
            return is_set(self.conf, group, opt)
        return False


def _names(options: Iterable[cfg.Opt], group: str) -> set[str]:
    """Return what options are called in a group, former names included."""
    names = set()
    for opt in options:
        names.add(opt.dest)
        former = (each for each in opt.deprecated_opts if each.group in {None, group})
        names.update(each.name or opt.dest for each in former)
    return names


def _is_meant_for_stores(name: str) -> bool:
    return bool(_alike(name, [BACKENDS.dest], 0.9))


def _alike(name: str, known: Iterable[str], least: float = 0.75) -> str:
    """Return the name that is most like another one, "" if none is."""
    return next(iter(difflib.get_close_matches(name.lower(), sorted(known), 1, least)), "")
