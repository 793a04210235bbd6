"""Store, serve and delete virtual machine images on many backends."""

from imgstore import errors
from imgstore.context import RequestContext
from imgstore.data.reader import ImageReader
from imgstore.data.sources import Progress, Sink, Source
from imgstore.location import Location
from imgstore.manager import StoreManager
from imgstore.model import Capability, Leftover, Stat, StoredImage, StoreInfo
from imgstore.secret import Secret
from imgstore.store import Store

__version__ = "0.1.0"

__all__ = [
    "Capability",
    "ImageReader",
    "Leftover",
    "Location",
    "Progress",
    "RequestContext",
    "Secret",
    "Sink",
    "Source",
    "Stat",
    "Store",
    "StoreInfo",
    "StoreManager",
    "StoredImage",
    "__version__",
    "errors",
]
