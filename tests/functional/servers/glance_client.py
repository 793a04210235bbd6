"""python-glanceclient, and a Glance's images as tests ask for them."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import uuid
import warnings
from collections.abc import Sequence
from typing import Any

from servers.glance import Glance
from servers.openstack import Answer, ask
from servers.process import until

_MANIFEST = {"disk_format": "raw", "container_format": "bare"}


class Images:
    """The images of `server`, or of its second API at `url`."""

    def __init__(self, server: Glance, *, url: str = "") -> None:
        self.server = server
        self.token = server.token()
        self.url = url or server.url
        with warnings.catch_warnings():  # of what others of OpenStack import
            warnings.simplefilter("ignore")
            library: Any = importlib.import_module("glanceclient.v2.client")
        self.client = library.Client(endpoint=self.url, token=self.token)

    def create(self, image_id: str = "", **about: Any) -> str:
        """Make an image without data, and return its id."""
        made = self.client.images.create(id=image_id or str(uuid.uuid4()), **_MANIFEST, **about)
        return str(made.id)

    def add(self, data: bytes, *, store: str | None = None, image_id: str = "") -> str:
        """Make an image and upload its data, of a size that is not told; return its id."""
        made = self.create(image_id)
        self.client.images.upload(made, io.BytesIO(data), backend=store)
        return made

    def stage(self, data: bytes) -> str:
        """Make an image and upload its data into the staging area; return its id."""
        made = self.create()
        self.client.images.stage(made, io.BytesIO(data))
        return made

    def read(self, image_id: str) -> bytes:
        """Download an image; the client compares its digest."""
        return b"".join(self.client.images.data(image_id))

    def get(self, image_id: str) -> dict[str, Any]:
        """Return what Glance knows of an image."""
        return dict(self.client.images.get(image_id))

    def delete(self, *image_ids: str) -> None:
        """Delete images."""
        for image_id in image_ids:
            self.client.images.delete(image_id)

    def ids(self) -> list[str]:
        """Return the ids of all images."""
        return sorted(str(image.id) for image in self.client.images.list())

    def locations(self, image_id: str) -> list[dict[str, Any]]:
        """Return where an image is, with what the store said of it."""
        found = self.get(image_id)["locations"]
        return [{"url": each["url"], "metadata": each["metadata"]} for each in found]

    def stores(self, image_id: str) -> list[str]:
        """Return the names of the stores that have an image, sorted."""
        return sorted(name for name in self.get(image_id).get("stores", "").split(",") if name)

    def bring(
        self, image_id: str, stores: Sequence[str], *, all_must: bool = True, **how: Any
    ) -> None:
        """Import an image into stores, and wait until that has succeeded or failed."""
        asked = {"stores": list(stores), "allow_failure": not all_must, **how}
        self.client.images.image_import(image_id, **asked)
        self.settled(image_id)

    def settled(self, image_id: str, *, seconds: float = 60.0) -> str:
        """Wait until no task of an image goes on, and return the image's status."""

        def has_ended() -> bool:
            tasks = self.client.images.get_associated_image_tasks(image_id)["tasks"]
            return all(task["status"] in ("success", "failure") for task in tasks)

        until(has_ended, seconds=seconds, what=f"all tasks of {image_id} have ended")
        return str(self.get(image_id)["status"])

    def ask(
        self,
        method: str,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        body: object = None,
    ) -> Answer:
        """Send one plain request; a `body` that is not bytes goes as JSON."""
        sent = {"X-Auth-Token": self.token}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if data is not body:
            sent["Content-Type"] = "application/json"
        return ask(method, f"{self.url}{path}", sent | (headers or {}), data)


def digests(data: bytes) -> dict[str, Any]:
    """Return what Glance should say of these bytes."""
    return {
        "size": len(data),
        "checksum": hashlib.md5(data, usedforsecurity=False).hexdigest(),
        "os_hash_algo": "sha512",
        "os_hash_value": hashlib.sha512(data).hexdigest(),
    }
