"""Image data on its way in (``Body``) and out (``Opened``, ``ImageReader``)."""

from imgstore.data.extents import ZEROS
from imgstore.data.opened import Opened, SourceFile
from imgstore.data.reader import ImageReader
from imgstore.data.sources import Progress, Sink, Source
from imgstore.data.streams import Body

__all__ = ["ZEROS", "Body", "ImageReader", "Opened", "Progress", "Sink", "Source", "SourceFile"]
