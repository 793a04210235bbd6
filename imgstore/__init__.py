"""Store, serve and delete virtual machine images on many backends."""

from imgstore import errors
from imgstore.context import RequestContext
from imgstore.data.reader import ImageReader
from imgstore.location import Location
from imgstore.manager import StoreManager
from imgstore.model import Capability, Stat, StoredImage
from imgstore.store import Store

__all__ = [
    "Capability",
    "ImageReader",
    "Location",
    "RequestContext",
    "Stat",
    "Store",
    "StoreManager",
    "StoredImage",
    "errors",
]
