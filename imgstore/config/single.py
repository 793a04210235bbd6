"""One store of a configuration, for applications that keep their stores themselves."""

from __future__ import annotations

import copy

from oslo_config import cfg

from imgstore.config.building import build_one, own_options
from imgstore.config.loading import load_driver
from imgstore.config.options import register
from imgstore.config.wanted import current_name, wanted_one
from imgstore.store import Store


def driver_options(driver: str) -> list[cfg.Opt]:
    """Return the options of a store of this driver, those of every store first.

    They are copies. Raises DriverUnavailable.
    """
    options, _ = own_options("", load_driver(current_name(driver)))
    return copy.deepcopy(list(options.values()))


def register_store_opts(
    conf: cfg.ConfigOpts, name: str, driver: str, *, single: bool = False
) -> None:
    """Register the options of one store; what ``conf`` has already is left as it is.

    They are registered in the group ``name`` and in ``[backend_defaults]``, with defaults of their
    own where the name is that of a reserved store, or, for a ``single`` one, in ``[glance_store]``.
    ``build_store`` does without. Any name will do but that of an option in ``[DEFAULT]``, which the
    group would hide: ConfigError. Raises DriverUnavailable.
    """
    wanted = wanted_one(conf, name, driver, single=single)
    kind = load_driver(wanted.driver)
    options, own = own_options(name, kind)
    group, *shared = wanted.groups
    register(conf, options.values(), group)
    for each in shared:
        register(conf, (opt for keyword, opt in options.items() if keyword not in own), each)


def build_store(conf: cfg.ConfigOpts, name: str, driver: str, *, single: bool = False) -> Store:
    """Build one store of an application's configuration; the caller closes it.

    Its options are those of the group ``name`` and ``[backend_defaults]``, as in
    ``StoreManager.from_conf``; those of a ``single`` store are in ``[glance_store]``, and it has
    the name of its driver. A name that begins with ``os_glance_`` is that of a reserved store. The
    name may be one that files cannot list, such as ``glance_store`` or one with spaces, as long as
    no option in ``[DEFAULT]`` has it and a Store takes it. Values are read now. Stores that cannot
    be beside each other are not found out, nor what nothing reads. Raises ConfigError with every
    fault of the store, DriverUnavailable.
    """
    wanted = wanted_one(conf, name, driver, single=single)
    return build_one(conf, wanted, load_driver)
