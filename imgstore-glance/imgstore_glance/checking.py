"""What changes for a service when imgstore takes glance_store's place: told without I/O."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from typing import Any, Final, NamedTuple

import imgstore
import imgstore_glance
from imgstore import StoreManager, errors
from imgstore.config import problems

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


def faults(paths: Sequence[str]) -> list[str]:
    """Return what is wrong with configuration files, and the stores that cannot be built."""
    found = problems(*paths)
    try:
        with StoreManager.from_file(*paths, reserved=RESERVED, strict=False) as stores:
            found += [" ".join(str(each).split()) for each in stores.failures.values()]
    except errors.ConfigError:  # which the problems tell
        pass
    return [text for text in dict.fromkeys(found) if not _is_of_others(text)]


def _is_of_others(text: str) -> bool:
    """Return whether a driver is missed that others have registered for glance_store."""
    names = {each.name for each in entry_points(group="glance_store.drivers")}
    return any(f"no driver {name!r}" in text for name in names)


def changes(paths: Sequence[str]) -> Iterator[str]:
    """Yield what each store does in another way than with glance_store."""
    try:
        stores = StoreManager.from_file(*paths, reserved=RESERVED, strict=False)
    except errors.ConfigError:
        return
    with stores:
        for name in stores:
            info = stores.info(name)
            for change in CHANGES:
                if info.driver in change.drivers and change.concerns(info.settings):
                    yield f"store {name!r} {change.text}"


def report(paths: Sequence[str]) -> int:
    """Print all of it; return 1 where something is wrong, else 0."""
    wrong = faults(paths)
    for title, lines in (
        ("Libraries", libraries()),
        ("Wrong, or read by nothing", wrong),
        ("Other than with glance_store", changes(paths)),
    ):
        listed = "".join(f"  {line}\n" for line in lines) or "  (nothing)\n"
        sys.stdout.write(f"{title}:\n{listed}")
    return 1 if wrong else 0
