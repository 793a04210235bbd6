"""What changes for a service when imgstore takes glance_store's place: told without I/O."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from typing import Any, Final, NamedTuple

from oslo_config import cfg, types

import imgstore
import imgstore_glance
from imgstore import config, errors
from imgstore_glance import options

RESERVED: Final = {"os_glance_staging_store": "file", "os_glance_tasks_store": "file"}

Settings = Mapping[str, Any]


class Change(NamedTuple):
    """Something that is other than with glance_store, for stores of whose settings it is true."""

    drivers: tuple[str, ...]
    concerns: Callable[[Settings], object]
    text: str


def _always(settings: Settings) -> bool:
    return True


CHANGES: Final = (
    Change(
        ("file",),
        _always,
        "reads and deletes only in its directories; name former ones in store_also_owns",
    ),
    Change(
        ("file",),
        lambda given: given["filesystem_store_fsync"],
        "flushes images to the disk; filesystem_store_fsync = false leaves that out",
    ),
    Change(
        ("http",),
        lambda given: not given["https_insecure"],
        "verifies https servers, also where https_insecure is not set",
    ),
    Change(
        ("http",),
        lambda given: not given["http_proxy_information"],
        "takes proxies from http_proxy_information only, not from the environment",
    ),
    Change(
        ("http",),
        lambda given: given["http_denied_networks"],
        "does not connect to the networks in http_denied_networks, metadata services by default",
    ),
    Change(
        ("swift",),
        lambda given: given["swift_store_auth_version"] == "2",
        "uses Keystone's API v3: swift_store_auth_version = 2 means 3",
    ),
    Change(
        ("swift",),
        lambda given: given["swift_store_admin_tenants"],
        "writes swift_store_admin_tenants into ACLs as they are: project has to become project:*",
    ),
    Change(
        ("swift",),
        lambda given: given["swift_buffer_on_upload"] or given["swift_upload_buffer_dir"],
        "sends segments again from memory: its buffer on disk has no effect",
    ),
    Change(
        ("swift",),
        lambda given: given["swift_store_large_object_type"] == "slo",
        "writes large images as static large objects, and needs dlo in "
        "swift_store_large_object_type where Swift has none",
    ),
    Change(
        ("s3",),
        lambda given: "://" not in (given["s3_store_host"] or "://"),
        "uses https: s3_store_host has no scheme",
    ),
    Change(
        ("rbd",),
        _always,
        "refuses locations with the fsid of another cluster; name former ones in store_also_owns",
    ),
    Change(
        ("cinder",),
        _always,
        "needs a directory for locks: [oslo_concurrency] lock_path, or OSLO_LOCK_PATH",
    ),
    Change(
        ("cinder",),
        lambda given: given["rootwrap_config"] != "/etc/glance/rootwrap.conf",
        "takes privileged steps by oslo.privsep: rootwrap_config has no effect",
    ),
)


def libraries() -> Iterator[str]:
    """Yield which versions there are, and what would be imported as glance_store here and now."""
    yield f"imgstore {imgstore.__version__}, imgstore-glance {imgstore_glance.__version__}"
    for name in ("glance-store", "glance"):
        yield f"{name} {_version(name)}"
    spec = find_spec("glance_store")
    origin = (spec.origin or "") if spec else ""
    serves = "imgstore" if origin.startswith(imgstore_glance.path()) else origin or "nothing"
    yield f"import glance_store, by this Python and in this environment: {serves}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "is not installed"


class Looked(NamedTuple):
    """A store that a service would have: its effective settings, and what is wrong with it."""

    name: str
    driver: str
    settings: Settings
    fault: errors.ConfigError | None


def stores_of(conf: cfg.ConfigOpts) -> list[Looked]:
    """Return the stores that Glance would have, in the form that it would take."""
    enabled = _enabled(conf)
    if enabled is None:
        return []
    named = {**enabled, **RESERVED} if enabled else dict(_listed(conf))
    found, built = [], []
    with contextlib.ExitStack() as opened:
        for name, driver in named.items():
            try:
                store = config.build_store(conf, name, driver, single=not enabled)
            except errors.ConfigError as fault:
                found.append(Looked(name, fault.driver or driver, fault.settings, fault))
            else:
                built.append(opened.enter_context(store))
                found.append(Looked(name, store.driver, store.settings, None))
    together = dict(faults_together(built))
    return [Looked(*each[:-1], each.fault or together.get(each.name)) for each in found]


def _enabled(conf: cfg.ConfigOpts) -> dict[str, str] | None:
    """Return names and drivers, None if they cannot be read, as the problems tell."""
    conf.register_opt(cfg.Opt("enabled_backends", type=types.Dict(types.String())))
    try:
        return dict(conf.enabled_backends or {})
    except ValueError:
        return None


def _listed(conf: cfg.ConfigOpts) -> Iterator[tuple[str, str]]:
    conf.register_opts(options.library_options("stores"), group=options.GROUP)
    return ((name, name) for name in conf[options.GROUP].stores)


def faults_together(stores: Sequence[imgstore.Store]) -> Iterator[tuple[str, errors.ConfigError]]:
    """Yield names of stores that cannot be beside others of their driver, and why not."""
    kinds: dict[type[imgstore.Store], None] = dict.fromkeys(type(each) for each in stores)
    for kind in kinds:
        for store, fault in kind.faults_together([each for each in stores if type(each) is kind]):
            yield store.name, fault


def _read(paths: Sequence[str]) -> cfg.ConfigOpts | None:
    """Return the configuration; None if it cannot be read, which the problems tell."""
    conf = cfg.ConfigOpts()
    given = (f"--config-{'dir' if os.path.isdir(path) else 'file'}={path}" for path in paths)
    try:
        conf(list(given), project="glance", default_config_files=[], default_config_dirs=[])
    except cfg.Error:
        return None
    return conf


def faults(paths: Sequence[str], stores: Sequence[Looked]) -> list[str]:
    """Return what is wrong with configuration files, and with the stores that they ask for."""
    found = config.problems(*paths)
    for each in stores:
        for text in _lines(each.fault):
            found.append(text if text.startswith("[") else f"[{each.name}]: {text}")
    return [text for text in dict.fromkeys(found) if not _is_all_right(text)]


def _lines(fault: errors.ConfigError | None) -> list[str]:
    """Return the faults that one error lists, or the one that it is."""
    first, *others = str(fault or "").split("\n  ")
    return [" ".join(text.split()) for text in others or [first] if text]


# Problems of imgstore's own rules, which hold neither for Glance's defaults nor for its names.
_OWN_RULES: Final = re.compile(
    r"no store is configured"
    r"|\[DEFAULT\] enabled_backends: '.*' is (not a name made of|the name of a group or an option)"
)


def _is_all_right(text: str) -> bool:
    """Return whether a problem is none in Glance, or a driver is missed that others registered."""
    if _OWN_RULES.match(text):
        return True
    known = {each.name for each in entry_points(group="glance_store.drivers")}
    return any(f"no driver {name!r}" in text for name in known)


def changes(stores: Sequence[Looked]) -> Iterator[str]:
    """Yield what each store does in another way than with glance_store, also where it failed."""
    for store in stores:
        for change in CHANGES:
            if store.driver in change.drivers and _concerns(change, store.settings):
                yield f"store {store.name!r} {change.text}"


def _concerns(change: Change, settings: Settings) -> bool:
    with contextlib.suppress(KeyError):  # a setting that cannot be read
        return bool(change.concerns(settings))
    return False


def report(paths: Sequence[str]) -> int:
    """Print all of it; return 1 where something is wrong, else 0."""
    conf = _read(paths)
    stores = [] if conf is None else stores_of(conf)
    wrong = faults(paths, stores)
    for title, lines in (
        ("Libraries", libraries()),
        ("Wrong, or read by nothing", wrong),
        ("Other than with glance_store", changes(stores)),
    ):
        listed = "".join(f"  {line}\n" for line in lines) or "  (nothing)\n"
        sys.stdout.write(f"{title}:\n{listed}")
    return 1 if wrong else 0
