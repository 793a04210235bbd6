"""A pool for RBD images, and what tests do with it past the store under test."""

from __future__ import annotations

import contextlib
import importlib
import re
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from servers.ceph import Ceph, User
from servers.missing import Missing

# What a pool keeps whether it holds images or not.
_FIXTURES = re.compile(r"rbd_(directory|info|trash|children|namespace|mirroring|purge_schedule.*)")


def modules() -> tuple[Any, Any]:
    """Return the modules rados and rbd; raises Missing."""
    try:
        return importlib.import_module("rados"), importlib.import_module("rbd")
    except ImportError as exc:
        raise Missing("rbd", f"Ceph's Python modules cannot be imported: {exc}") from None


class RbdPool:
    """A pool, or a namespace of one, as the cluster's admin sees it.

    `user` may do with its images what a store needs. `sdk` is the module rbd and `context` an I/O
    context of the pool. `client` is the admin's connection.
    """

    def __init__(
        self, cluster: Ceph, client: Any, name: str, user: User, namespace: str = ""
    ) -> None:
        _, self.sdk = modules()
        self.cluster = cluster
        self.client = client
        self.name = name
        self.user = user
        self.namespace = namespace
        self.context = client.open_ioctx(name)
        self.context.set_namespace(namespace)
        self.context.set_osdmap_full_try()
        self.verbs = self.sdk.RBD()

    @property
    def key(self) -> str:
        """The secret key of `user`."""
        return self.user.keyring.read_text().partition("key = ")[2].split()[0]

    @property
    def options(self) -> dict[str, Any]:
        """What a store needs to use the pool."""
        return {"pool": self.name, "user": self.user.name, "ceph_conf": str(self.user.conf)}

    def store(self, name: str = "rbd", **options: Any) -> Any:
        """Make a store over the pool."""
        driver = importlib.import_module("imgstore.drivers.rbd")
        return driver.RbdStore(name, **(self.options | options))

    def within(self, namespace: str) -> RbdPool:
        """Return a namespace of the pool; it is made unless it is there."""
        with contextlib.suppress(self.sdk.ImageExists):
            self.verbs.namespace_create(self.context, namespace)
        return RbdPool(self.cluster, self.client, self.name, self.user, namespace)

    def image(self, name: str, snapshot: str | None = None, **more: Any) -> Any:
        """Open an image, for a with statement."""
        return self.sdk.Image(self.context, name, snapshot=snapshot, **more)

    def images(self) -> list[str]:
        """Return the names of the images, sorted."""
        return sorted(self.verbs.list(self.context))

    def trash(self) -> list[str]:
        """Return the names of the images in the trash, sorted."""
        return sorted(entry["name"] for entry in self.verbs.trash_list(self.context))

    def objects(self) -> list[str]:
        """Return the RADOS objects of images, sorted: all that anything in the pool consists of."""
        names = (found.key for found in self.context.list_objects())
        return sorted(name for name in names if not _FIXTURES.fullmatch(name))

    def make(self, name: str, data: bytes = b"", *, snapshots: tuple[str, ...] = ("snap",)) -> None:
        """Make an image as Nova and the incumbent make it: snapshots are protected."""
        self.verbs.create(self.context, name, len(data), old_format=False, order=23)
        with self.image(name) as image:
            if data:
                image.write(data, 0)
            for snapshot in snapshots:
                image.create_snap(snapshot)
                image.protect_snap(snapshot)

    def age(self, name: str, seconds: int) -> None:
        """Let an image have been created so many seconds ago, as its header says."""
        with self.image(name, read_only=True) as image:
            header = f"rbd_header.{image.id()}"
        rados, _ = modules()
        with rados.WriteOpCtx() as change:
            created = struct.pack("<II", int(time.time()) - seconds, 0)
            self.context.set_omap(change, ("create_timestamp",), (created,))
            self.context.operate_write_op(change, header)

    def content(self, name: str, snapshot: str | None = "snap") -> bytes:
        """Return what an image holds."""
        with self.image(name, snapshot, read_only=True) as image:
            data: bytes = image.read(0, image.size())
            return data

    def empty(self) -> None:
        """Remove every image; the watches of killed clients end within half a minute."""
        deadline = time.monotonic() + 60
        while self.images() or self.trash():
            for name in self.images():
                try:
                    self.verbs.trash_move(self.context, name, 0)
                except self.sdk.ImageNotFound:  # a name whose image was never made
                    with contextlib.suppress(self.sdk.ImageNotFound):
                        self.verbs.remove(self.context, name)
            for entry in list(self.verbs.trash_list(self.context)):
                with contextlib.suppress(self.sdk.ImageBusy, self.sdk.ImageHasSnapshots):
                    self._purge(entry["id"])
            if time.monotonic() > deadline:
                raise RuntimeError(f"left in {self.name}: {self.images()} {self.trash()}")

    def _purge(self, image_id: str) -> None:
        with self.sdk.Image(self.context, image_id=image_id) as image:
            for each in list(image.list_snaps()):
                if each.get("namespace"):
                    continue
                if image.is_protected_snap(each["name"]):
                    image.unprotect_snap(each["name"])
                image.remove_snap(each["name"])
        self.verbs.trash_remove(self.context, image_id, True)


@contextmanager
def admin(cluster: Ceph) -> Iterator[Any]:
    """Connect to a cluster as its admin; requests end after a minute."""
    rados, _ = modules()
    # objecter_timeout: a request that waits for so long asks where the OSD is now; 10 s by default.
    options = {"rados_osd_op_timeout": "60", "rbd_cache": "false", "objecter_timeout": "1"}
    client = rados.Rados(conffile=str(cluster.conf), conf=options)
    client.connect()
    try:
        yield client
    finally:
        client.shutdown()


def make_pool(cluster: Ceph, client: Any, name: str, *, data: str = "") -> RbdPool:
    """Create a pool, and a user of its name that may use it as a store.

    The user may do the same in the pools `name`-2 and `data`.
    """
    cluster.pool(name)
    client.wait_for_latest_osdmap()  # another one may have had that name
    pools = [name, f"{name}-2", *([data] if data else [])]
    rights = ", ".join(f"profile rbd pool={each}" for each in pools)
    return RbdPool(cluster, client, name, cluster.user(name, mon="profile rbd", osd=rights))
