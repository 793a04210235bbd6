"""The library's own options, and how all options are listed and registered."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from oslo_config import cfg, types

from imgstore.config.loading import installed_drivers

RESERVED_PREFIX: Final = "os_glance_"
LIBRARY_GROUP: Final = "glance_store"
DEFAULTS_GROUP: Final = "backend_defaults"


class MalformedError(ValueError):
    """``text`` is not a list of ``name:driver``."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason)
        self.text = text


class Backends(types.Dict):  # type: ignore[misc,unused-ignore]  # untyped before oslo.config 10
    """``name:driver, …``; keeps a text that it refuses, so that all its faults can be told."""

    def __call__(self, value: Any) -> dict[str, str]:
        """Return names and drivers; raises MalformedError."""
        try:
            parsed: dict[str, str] = super().__call__(value)
        except ValueError as exc:
            raise MalformedError(str(exc), str(value)) from None
        return parsed


BACKENDS: Final = cfg.Opt(
    "enabled_backends",
    type=Backends(),
    help="The stores: a list of name:driver, separated by commas. The options of each store are "
    "those of [backend_defaults], in a group named like the store.",
)
DEFAULT_BACKEND: Final = cfg.StrOpt(
    "default_backend",
    help="The store for images that are added without naming one: a name of enabled_backends.",
)
STORES: Final = cfg.ListOpt(
    "stores",
    default=["file", "http"],
    help="The drivers in use, where enabled_backends is not set. Their options are then in this "
    "group.",
)
DEFAULT_STORE: Final = cfg.StrOpt(
    "default_store",
    default="file",
    help="The URL scheme of the store for images that are added without naming one, where "
    "enabled_backends is not set.",
)
GLANCE_STORE: Final = (DEFAULT_BACKEND, STORES, DEFAULT_STORE)
COMMON: Final[Mapping[str, cfg.Opt]] = {
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
_DEFAULTS_HELP: Final = (
    "Options of every driver. Each store of enabled_backends has a group of its own, named like "
    "the store, with these same options; what is not set there is taken from here."
)


def list_opts() -> list[tuple[cfg.OptGroup | None, list[cfg.Opt]]]:
    """Return all options, for oslo-config-generator."""
    opts = {opt.dest: opt for opt in COMMON.values()}
    for driver in installed_drivers():
        for opt in driver.OPTIONS.values():
            opts.setdefault(opt.dest, opt)
    glance_store = cfg.OptGroup(LIBRARY_GROUP, help="Which store is the default.")
    defaults = cfg.OptGroup(DEFAULTS_GROUP, help=_DEFAULTS_HELP)
    groups = [(None, (BACKENDS,)), (glance_store, GLANCE_STORE), (defaults, opts.values())]
    return [(group, copy.deepcopy(list(each))) for group, each in groups]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register what ``list_opts`` lists; what ``conf`` has already is left as it is.

    Call it before parsing to make the options known to ``conf``; ``StoreManager.from_conf`` does
    without. The groups of single stores are registered by ``from_conf``.
    """
    for group, opts in list_opts():
        register(conf, opts, group)


def register(
    conf: cfg.ConfigOpts, opts: Iterable[cfg.Opt], group: str | cfg.OptGroup | None
) -> None:
    """Register options where the application has not done so."""
    for opt in opts:
        if group is not None or opt.dest not in conf:
            with suppress(cfg.DuplicateOptError):  # the application's own is as good
                conf.register_opt(opt, group=group)
