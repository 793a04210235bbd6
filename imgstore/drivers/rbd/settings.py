"""What the options of an RBD store mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from imgstore.boundary.settings import all_checked
from imgstore.data.units import MIB
from imgstore.drivers._librbd.access import FEATURES, LAYERING, Access
from imgstore.errors import ConfigError

# The name that Nova and Cinder clone from.
SNAPSHOT: Final = "snap"

_NEEDS: Final = {"object-map": "exclusive-lock", "fast-diff": "object-map"}
# librbd takes objects of up to 32 MiB (rbd_default_order's limits).
_LARGEST_ORDER: Final = 25


@dataclass(frozen=True, kw_only=True)
class Settings(Access):
    """Options in the units that the driver computes with; sizes are in bytes.

    ``window`` is how many bytes may be under way for one image.
    """

    order: int
    data_pool: str | None
    thin: bool
    window: int
    trash_delay: int


def read(values: Mapping[str, Any]) -> Settings:
    """Read the values of options; raises one ConfigError for all faults."""
    pool, data_pool, user, namespace, features = all_checked(
        lambda: _name("rbd_store_pool", values["pool"], wanted=True),
        lambda: _name("rbd_store_data_pool", values["data_pool"]),
        lambda: _user(values["user"]),
        lambda: _name("rbd_store_namespace", values["namespace"]),
        lambda: _features(values["features"]),
    )
    chunk = values["chunk_size"] * MIB
    conf = values["ceph_conf"].strip()
    return Settings(
        pool=pool,
        user=user,
        conf=conf,
        source=conf or "librados looks for it",
        if_unreadable="set rbd_store_ceph_conf to the path of a sound one",
        if_incomplete="check mon_host and keyring in rbd_store_ceph_conf, and rbd_store_user",
        order=min(chunk.bit_length() - 1, _LARGEST_ORDER),
        features=features,
        data_pool=data_pool or None,
        namespace=namespace,
        thin=values["thin_provisioning"],
        window=values["io_depth"] * min(chunk, 1 << _LARGEST_ORDER),
        connect_timeout=values["rados_connect_timeout"],
        op_timeout=values["op_timeout"],
        trash_delay=values["trash_delay"],
    )


def _name(option: str, value: str | None, *, wanted: bool = False) -> str:
    value = (value or "").strip()
    if (wanted and not value) or not value.isprintable() or set(value) & set("/@"):
        raise ConfigError(f"{option} is {value!a}", remedy="write a name without '/' and '@'")
    return value


def _user(value: str | None) -> str | None:
    value = (value or "").strip()
    if value.startswith("client."):
        raise ConfigError(
            f"rbd_store_user is {value!a}", remedy="leave out the prefix client., as librados does"
        )
    return value or None


def _features(names: Sequence[str]) -> int | None:
    names = [name.strip() for name in names if name.strip()]
    if not names:
        return None
    if unknown := sorted(set(names) - set(FEATURES)):
        raise ConfigError(
            f"rbd_store_features: unknown {', '.join(unknown)}",
            remedy=f"choose of {', '.join(FEATURES)}",
        )
    for name, needed in _NEEDS.items():
        if name in names and needed not in names:
            raise ConfigError(
                f"rbd_store_features: {name} needs {needed}", remedy=f"add {needed} to the list"
            )
    return LAYERING | sum(FEATURES[name] for name in set(names) - {"layering"})
