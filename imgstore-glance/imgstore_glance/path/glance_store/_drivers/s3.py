"""S3."""

from __future__ import annotations

from glance_store._store import MIB, ImgStore, StoreLocation, setting
from imgstore.drivers.s3 import S3Store

__all__ = ["Store", "StoreLocation"]


class Store(ImgStore):
    """A bucket."""

    KIND = S3Store
    s3_store_large_object_size = setting("s3_store_large_object_size", unit=MIB)
    s3_store_large_object_chunk_size = setting("s3_store_large_object_chunk_size", unit=MIB)
    s3_store_thread_pools = setting("s3_store_thread_pools")
