"""Images as files in directories, local or shared."""

from imgstore.drivers.filesystem.store import FilesystemStore

__all__ = ["FilesystemStore"]
