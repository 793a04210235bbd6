"""The options of the filesystem store."""

from __future__ import annotations

from oslo_config import cfg

from imgstore.drivers.filesystem import settings

OPTIONS: dict[str, cfg.Opt] = {
    "datadir": cfg.StrOpt(
        "filesystem_store_datadir",
        default=settings.DEFAULT_DATADIR,
        help="Directory for images, an absolute path. It is created by the first add if it is "
        "missing.",
    ),
    "datadirs": cfg.MultiStrOpt(
        "filesystem_store_datadirs",
        default=[],
        help="Several directories for images, each as path or path:priority in a line of its own, "
        "instead of filesystem_store_datadir. The highest priority (default 0) is filled first, "
        "among equal ones that with the most free space.",
    ),
    "metadata_file": cfg.StrOpt(
        "filesystem_store_metadata_file",
        help="JSON file with the location metadata of new images: an object, or a list of them, "
        "with the strings id and mountpoint and whatever else other services look for. An entry "
        "applies to images below its mountpoint.",
    ),
    "file_perm": cfg.IntOpt(
        "filesystem_store_file_perm",
        default=0,
        help="Permissions of new image files, in octal digits such as 640. With 0 or less the "
        "umask decides.",
    ),
    "chunk_size": cfg.IntOpt(
        "filesystem_store_chunk_size",
        default=262144,
        min=1,
        help="Bytes per read of an image. Writes gather at least 1 MiB.",
    ),
    "thin_provisioning": cfg.BoolOpt(
        "filesystem_thin_provisioning",
        default=False,
        help="Leave holes where images hold zeros, in steps of 64 KiB. Holes of sources that are "
        "files stay holes without it.",
    ),
    "timeout": cfg.IntOpt(
        "filesystem_store_timeout",
        default=0,
        min=0,
        help="Seconds after which a call to the file system is given up, e.g. because its server "
        "is down. 0 waits for ever.",
    ),
    "thread_pool_size": cfg.IntOpt(
        "filesystem_store_thread_pool_size",
        default=10,
        min=1,
        help="Threads for calls with a time limit. Used only if filesystem_store_timeout is set.",
    ),
    "threadpool_threshold": cfg.IntOpt(
        "filesystem_store_threadpool_threshold",
        default=75,
        min=0,
        max=100,
        help="Percentage of busy threads from which on a warning is logged. Used only if "
        "filesystem_store_timeout is set.",
    ),
    "fsync": cfg.BoolOpt(
        "filesystem_store_fsync",
        default=True,
        help="Flush an image and its directory to the disk before an add succeeds. Without it a "
        "power failure may lose images that were reported as stored.",
    ),
    "require_mount": cfg.BoolOpt(
        "filesystem_store_require_mount",
        default=False,
        help="Refuse to write to a data directory that is not a mount point at that moment. This "
        "keeps images off the local disk while a share is not mounted.",
    ),
}
