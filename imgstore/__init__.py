"""Store, serve and delete virtual machine images on many backends."""

from imgstore import errors
from imgstore.context import RequestContext
from imgstore.location import Location
from imgstore.manager import StoreManager
from imgstore.store import Capability, Store, StoredImage
from imgstore.streams import ImageReader

__all__ = [
    "Capability",
    "ImageReader",
    "Location",
    "RequestContext",
    "Store",
    "StoreManager",
    "StoredImage",
    "errors",
]
