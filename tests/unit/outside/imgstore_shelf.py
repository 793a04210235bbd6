"""A driver that lives outside imgstore: images are files on one shelf, a directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, unquote

from oslo_config import cfg

from imgstore import Capability, Location, RequestContext, Stat, Store
from imgstore.data.opened import Opened
from imgstore.data.streams import Body
from imgstore.errors import IntegrityError
from imgstore.model import Added, Ownership

MIB = 1024 * 1024


class ShelfStore(Store):
    """Images on a shelf: ``shelf://<store>/<image id>``."""

    driver = "shelf"
    OPTIONS: ClassVar[dict[str, cfg.Opt]] = {
        "directory": cfg.StrOpt("shelf_store_directory", help="Directory for images."),
        "password": cfg.StrOpt("shelf_store_password", secret=True, help="Opens the shelf."),
    }
    schemes = ("shelf",)
    capabilities = Capability.READ | Capability.WRITE | Capability.DELETE | Capability.RANGES

    def __init__(
        self, name: str, *, directory: str, password: object = None, **common: Any
    ) -> None:
        super().__init__(name, **common)
        self._directory = Path(directory)
        self._password = password

    @property
    def url_prefix(self) -> str:
        return f"shelf://{self.name}/"

    def owns(self, location: Location) -> Ownership:
        head, _, last = location.rest.partition("/")
        mine = head == self.name and last and "/" not in last
        return Ownership.YES if mine else Ownership.NO

    def _path(self, location: Location) -> Path:
        return self._directory / f"image-{unquote(location.rest.partition('/')[2])}"

    def _get(
        self,
        location: Location,
        offset: int,
        length: int | None,
        *,
        if_version: str | None,
        context: RequestContext | None,
    ) -> Opened:
        file = self._path(location).open("rb")
        status = os.fstat(file.fileno())
        version = _version(status)
        if if_version not in {None, version}:
            file.close()
            raise IntegrityError("the image was replaced")
        file.seek(min(offset, status.st_size))
        chunks = iter(lambda: file.read(MIB), b"")
        return Opened(chunks, status.st_size, version, file.close)

    def _stat(self, location: Location, *, context: RequestContext | None) -> Stat:
        status = self._path(location).stat()
        return Stat(status.st_size, _version(status))

    def _add(self, image_id: str, body: Body, *, context: RequestContext | None) -> Added:
        location = Location.parse(f"{self.url_prefix}{quote(image_id, safe='')}")
        # It has no name, so that a process which dies leaves nothing.
        with open(self._directory, "wb", opener=_unnamed) as file:
            while block := body.read(MIB):
                file.write(block)
            file.flush()
            fd = file.fileno()
            # With src_dir_fd, which an absolute path does not need, the link in /proc is followed.
            os.link(f"/proc/self/fd/{fd}", self._path(location), src_dir_fd=fd)
        return Added(location)

    def _delete(self, location: Location, *, context: RequestContext | None) -> None:
        self._path(location).unlink()


def _unnamed(directory: str, _: int) -> int:
    return os.open(directory, os.O_WRONLY | os.O_TMPFILE, 0o600)


def _version(status: os.stat_result) -> str:
    return f"{status.st_ino}-{status.st_mtime_ns}"
