"""A volume of Cinder that os-brick alone attaches, as plain as it gets."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Mapping
from contextlib import contextmanager
from io import FileIO
from typing import Any

_BLOCK = 1 << 20
_GIB = 1 << 30


class Volume:
    """A volume that was there, or a new one of `size` bytes, which `close` deletes."""

    def __init__(self, options: Mapping[str, str], size: int, known: str = "") -> None:
        v3 = importlib.import_module("keystoneauth1.identity.v3")
        sessions = importlib.import_module("keystoneauth1.session")
        client = importlib.import_module("cinderclient.client")
        self._options, self._size, self._known = options, size, known
        user = v3.Password(
            options["cinder_store_auth_address"],
            username=options["cinder_store_user_name"],
            password=options["cinder_store_password"],
            project_name=options["cinder_store_project_name"],
            user_domain_name="Default",
            project_domain_name="Default",
        )
        self._cinder: Any = client.Client("3.54", session=sessions.Session(auth=user))
        self._cinder.volumes.list()  # logs in
        self._id = known
        self._brick: Any = importlib.import_module("os_brick.initiator.connector")
        privileged = importlib.import_module("os_brick.privileged")
        privileged.default.set_client_mode(False)  # as root
        self._host = self._brick.get_connector_properties("sudo", "127.0.0.1", False, False)

    def write(self, file: FileIO) -> None:
        """Make the volume, if there is none, and fill it."""
        if not self._id:
            kind = self._options["cinder_volume_type"]
            size = -(-self._size // _GIB)
            self._id = self._cinder.volumes.create(size, volume_type=kind).id
            while self._cinder.volumes.get(self._id).status != "available":
                time.sleep(0.05)
        with self._attached("rw") as target:
            while block := file.read(_BLOCK):
                target.write(block)
            target.flush()
            if hasattr(target, "raw") or isinstance(target, FileIO):
                os.fsync(target.fileno())

    def read(self) -> int:
        """Read it, and return how many bytes there were."""
        left = self._size
        with self._attached("ro") as source:
            while left:
                left -= len(source.read(min(_BLOCK, left)))
        return self._size

    @contextmanager
    def _attached(self, mode: str) -> Any:
        made = self._cinder.attachments.create(self._id, None, mode=mode)
        found = self._cinder.attachments.update(made["id"], self._host)
        info = found if isinstance(found, dict) else found.to_dict()
        data = info["connection_info"]
        connector = self._brick.InitiatorConnector.factory(
            data["driver_volume_type"],
            "sudo",
            conn=data,
            nfs_mount_point_base=self._options["cinder_mount_point_base"] + "/raw",
        )
        device = connector.connect_volume(data)
        self._cinder.attachments.complete(made["id"])
        path = device["path"]
        opened = FileIO(path, "r+" if mode == "rw" else "r") if isinstance(path, str) else path
        yield opened
        opened.close()
        connector.disconnect_volume(data, device)
        self._cinder.attachments.delete(made["id"])

    def close(self) -> None:
        """Delete the volume, if it was made here."""
        if self._id and not self._known:
            while self._cinder.volumes.get(self._id).status != "available":
                time.sleep(0.05)
            self._cinder.volumes.delete(self._id)
