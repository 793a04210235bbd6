"""python-glanceclient, and a Glance's images as tests ask for them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import importlib
import io
import json
import sys
import termios
import uuid
import warnings
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

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

    @contextlib.contextmanager
    def begun(
        self, image_id: str, size: int, *, store: str
    ) -> Iterator[http.client.HTTPConnection]:
        """Begin an upload of so many bytes, which are still to be sent."""
        where = urlsplit(self.url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port)
        with contextlib.closing(connection):
            connection.putrequest("PUT", f"/v2/images/{image_id}/file")
            for name, value in {
                "Content-Type": "application/octet-stream",
                "Content-Length": str(size),
                "X-Auth-Token": self.token,
                "X-Image-Meta-Store": store,
            }.items():
                connection.putheader(name, value)
            connection.endheaders()
            yield connection

    def is_saving(self, image_id: str) -> bool:
        """Return whether Glance takes an upload, of which its store may not know yet."""
        return bool(self.get(image_id)["status"] == "saving")

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


def unsent(connection: http.client.HTTPConnection) -> int:
    """Return how many bytes wait to be taken by the other side: SIOCOUTQ of tcp(7)."""
    answer = fcntl.ioctl(connection.sock, termios.TIOCOUTQ, b"\0" * 4)
    return int.from_bytes(answer, sys.byteorder)


def interrupted(images: Images, image_id: str, data: bytes, *, sent: int, store: str) -> None:
    """Kill the service when it has taken `sent` bytes of an upload, and start it again."""
    process = images.server.process
    with images.begun(image_id, len(data), store=store) as connection:
        connection.send(data[:sent])
        until(lambda: images.is_saving(image_id), seconds=60, what="the upload has begun")
        until(lambda: unsent(connection) == 0, seconds=60, what="Glance has taken all")
        process.kill()
    process.start()


def written(images: Images, data: bytes, *, store: str) -> str:
    """Add an image, and return its location with the metadata, without what names the image."""
    image_id = images.add(data, store=store)
    (place,) = images.locations(image_id)
    is_volume = place["url"].startswith("cinder:")
    own = place["url"].rpartition("/")[2] if is_volume else image_id
    return json.dumps(place).replace(own, "the image")


def handed_on(one: Images, other: Images, data: bytes, *, store: str, copied: str) -> str:
    """Let `one` add an image and `other` read it, copy it and delete the first; return its id.

    Both have to find the copy then, where it is and what is in it.
    """
    image_id = one.add(data, store=store)
    assert other.read(image_id) == data
    other.bring(image_id, [copied], method="copy-image")
    other.client.images.delete_from_store(store, image_id)
    assert one.stores(image_id) == [copied]
    assert one.locations(image_id) == other.locations(image_id)
    assert one.read(image_id) == data
    return image_id


def digests(data: bytes) -> dict[str, Any]:
    """Return what Glance should say of these bytes."""
    return {
        "size": len(data),
        "checksum": hashlib.md5(data, usedforsecurity=False).hexdigest(),
        "os_hash_algo": "sha512",
        "os_hash_value": hashlib.sha512(data).hexdigest(),
    }
