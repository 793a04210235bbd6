"""The options of an RBD store: names, defaults, units."""

from __future__ import annotations

from typing import Final

from oslo_config import cfg

OPTIONS: Final[dict[str, cfg.Opt]] = {
    "pool": cfg.StrOpt(
        "rbd_store_pool",
        default="images",
        help="Pool for images.",
    ),
    "user": cfg.StrOpt(
        "rbd_store_user",
        help="Ceph user without the prefix client. Unset, it is librados' own default, admin.",
    ),
    "ceph_conf": cfg.StrOpt(
        "rbd_store_ceph_conf",
        default="",
        help="Path of the Ceph configuration file, which also tells where the user's key is. "
        "Empty, librados looks in its usual places.",
    ),
    "chunk_size": cfg.IntOpt(
        "rbd_store_chunk_size",
        default=8,
        min=1,
        help="Size in MiB of the RADOS objects that a new image consists of, rounded down to a "
        "power of two and to at most 32 MiB.",
    ),
    "thin_provisioning": cfg.BoolOpt(
        "rbd_thin_provisioning",
        default=False,
        help="Do not write zeros: stretches of 64 KiB take no space. Holes of source files never "
        "do.",
    ),
    "rados_connect_timeout": cfg.IntOpt(
        "rados_connect_timeout",
        default=-1,
        help="Seconds to wait for the cluster: for a connection, and for every request to a "
        "monitor or OSD. 0 waits for ever; a negative value leaves that to the Ceph "
        "configuration and to rbd_store_op_timeout.",
    ),
    "op_timeout": cfg.IntOpt(
        "rbd_store_op_timeout",
        default=120,
        min=0,
        help="Seconds to wait for an answer of a monitor or OSD where neither the Ceph "
        "configuration nor rados_connect_timeout sets a limit. 0 waits for ever.",
    ),
    "io_depth": cfg.IntOpt(
        "rbd_store_io_depth",
        default=4,
        min=1,
        max=256,
        help="How many chunks are under way to or from the cluster at once, for each image that "
        "is transferred. So many times the chunk's size of memory is used.",
    ),
    "features": cfg.ListOpt(
        "rbd_store_features",
        default=[],
        help="Features of new images: layering, exclusive-lock, object-map, fast-diff, "
        "deep-flatten. Layering is always on. Empty, they are those of the Ceph configuration's "
        "rbd_default_features.",
    ),
    "data_pool": cfg.StrOpt(
        "rbd_store_data_pool",
        help="Pool for the data of new images, which may be erasure-coded; rbd_store_pool then "
        "holds only their metadata.",
    ),
    "namespace": cfg.StrOpt(
        "rbd_store_namespace",
        default="",
        help="RBD namespace inside the pool, which must exist. Locations do not name it, so other "
        "services cannot clone from there.",
    ),
    "trash_delay": cfg.IntOpt(
        "rbd_store_trash_delay",
        default=0,
        min=0,
        help="Seconds for which a deleted image stays in the pool's trash and can be restored; "
        "clearing leftovers purges it afterwards; 'rbd trash purge' does not. 0 deletes at once.",
    ),
}
