"""Uses of the public API that type checkers must accept, and some that they must refuse.

Checked by mypy --strict, never run.
"""

from __future__ import annotations

import array
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from imgstore import (
    Capability,
    ImageReader,
    Leftover,
    Location,
    Progress,
    RequestContext,
    Secret,
    Sink,
    Source,
    Stat,
    Store,
    StoredImage,
    StoreInfo,
    StoreManager,
    __version__,
    errors,
)
from imgstore.config import build_store, driver_options, problems, register_store_opts
from imgstore.data import ZEROS
from imgstore.data.opened import Opened
from imgstore.data.streams import Body
from imgstore.drivers.memory import MemoryStore
from imgstore.layers import Limited, ReadOnly
from imgstore.model import Added, Ownership
from imgstore.testing import StoreContract


def stores(conf: cfg.ConfigOpts) -> None:
    """A manager is a mapping of names to stores, and a context."""
    manager: StoreManager = StoreManager.from_file("images.conf")
    StoreManager.from_file("images.conf", Path("images.d"))
    StoreManager.from_conf(conf, reserved={"os_glance_staging_store": "file"}, strict=False)
    StoreManager.from_file("images.conf", strict_options=True)
    StoreManager.from_conf(conf, strict_options=True)
    found: list[str] = problems("images.conf", Path("images.d"))
    problems(5)  # type: ignore[arg-type]
    options: list[cfg.Opt] = driver_options("file")
    register_store_opts(conf, "fast", "file")
    single: Store = build_store(conf, "file", "file", single=True)
    build_store(conf, "fast")  # type: ignore[call-arg]
    failure: errors.ConfigError = errors.ConfigError("x")
    schemes: tuple[str, ...] = failure.schemes
    outside: errors.InvalidLocation = errors.OutsideStore("x")
    names: Mapping[str, Store] = StoreManager([MemoryStore("fast")], default="fast")
    first: list[str] = list(names)
    default: Store | None = manager.default
    failures: Mapping[str, Exception] = manager.failures
    with manager as same:
        fast: Store = same["fast"]
    context: AbstractContextManager[StoreManager] = manager
    manager.close()
    StoreManager(["fast"])  # type: ignore[list-item]
    StoreManager([], "fast")  # type: ignore[call-arg]
    manager["fast"] = fast  # type: ignore[index]


def adding(manager: StoreManager, store: Store) -> None:
    """Every kind of source, sink and progress."""
    image: StoredImage = manager.add("8c9f", b"data")
    image = manager.add("8c9f", b"data", store="fast", size=4, max_size=10, algorithms=("md5",))
    image = store.add("8c9f", b"data", algorithms=["md5"], sinks=[hashlib.md5()])
    image = store.add("8c9f", b"data", progress=lambda done, total: done == total)
    store.add("8c9f", bytearray(b"data"))
    store.add("8c9f", memoryview(b"data"))
    store.add("8c9f", array.array("B", b"data"))
    store.add("8c9f", Path("image"))
    store.add("8c9f", io.BytesIO(b"data"))
    with Path("image").open("rb") as file:
        store.add("8c9f", file)
    store.add("8c9f", [b"da", bytearray(b"ta")])
    store.add("8c9f", (b"x" for _ in range(3)))
    with store.get(image.location) as reader:
        store.add("8c9f", reader)
    location: Location = image.location
    size: int = image.size
    digests: dict[str, str] = image.digests
    name: str = image.store
    metadata: dict[str, Any] = image.metadata
    image.size = 5  # type: ignore[misc]
    store.add("8c9f", b"data", 4)  # type: ignore[call-arg]
    store.add("8c9f", b"data", store="fast")  # type: ignore[call-arg]
    store.add("8c9f", b"data", size="4")  # type: ignore[arg-type]
    store.add("8c9f", b"data", sinks=[object()])  # type: ignore[list-item]
    store.add(b"8c9f", b"data")  # type: ignore[arg-type]
    store.add("8c9f", "text")  # type: ignore[arg-type]
    store.add("8c9f", None)  # type: ignore[arg-type]
    store.add("8c9f", io.StringIO("text"))  # type: ignore[arg-type]
    manager.add("8c9f", 7)  # type: ignore[arg-type]
    store.add("8c9f", b"data", context="token")  # type: ignore[arg-type]


class Judge:
    """A sink that has the last word."""

    def update(self, data: bytes, /) -> None:
        """Take in more bytes."""

    def finish(self) -> None:
        """Raise to refuse the image."""


def judging(manager: StoreManager, store: Store, at: Location) -> None:
    """What an image is to be is said when it is added, copied, read, saved or looked at."""
    promised: Mapping[str, str] = {"sha256": "ab12"}
    image: StoredImage = manager.add("8c9f", b"data", expected=promised, sinks=[Judge()])
    image = store.add("8c9f", b"data", expected={"sha256": "ab12"}, sinks=(Judge(), hashlib.md5()))
    image = manager.copy(at, "8c9f", to="bulk", expected=promised)
    image = store.copy(at, "8c9f", expected=image.digests, sinks=[Judge()])
    sink: Sink = Judge()
    digests: dict[str, str] = manager.verify(image)
    digests = manager.verify(at, promised, algorithms=("md5",), store="fast", context=None)
    digests = store.verify("file:///image", expected=promised, progress=lambda done, total: None)
    with manager.get(at, expected=promised) as reader, store.get(at, expected=None) as other:
        version: str | None = reader.version or other.version
    nothing: None = manager.save(at, "image", expected=promised, store="fast")  # type: ignore[func-returns-value]
    store.save(image, Path("image"), progress=lambda done, total: None)
    stat: Stat = manager.stat(at, store="fast")
    stat = store.stat(image)
    size: int = stat.size
    version = stat.version
    modified: datetime | None = stat.modified
    stat.size = 5  # type: ignore[misc]
    try:
        store.verify(at, promised)
    except errors.DigestMismatch as exc:
        broken: errors.IntegrityError = exc
    store.add("8c9f", b"data", expected="sha256:ab12")  # type: ignore[arg-type]
    store.add("8c9f", b"data", expected={"sha256": b"ab12"})  # type: ignore[dict-item]
    store.copy(at, "8c9f", expected=["ab12"])  # type: ignore[arg-type]
    store.get(at, expected="ab12")  # type: ignore[arg-type]
    store.verify(at, ("sha256",))  # type: ignore[arg-type]
    store.verify(at, promised, ("md5",))  # type: ignore[call-arg]
    store.verify(at, store="fast")  # type: ignore[call-arg]
    store.save(at)  # type: ignore[call-arg]
    store.save(at, 5)  # type: ignore[arg-type]
    store.stat(at, None)  # type: ignore[call-arg]


def reading(manager: StoreManager, store: Store, at: Location) -> None:
    """Readers, whole and in ranges, by location and by text."""
    reader: ImageReader = manager.get(at, store="fast", offset=1, length=2)
    with store.get("file:///image", offset=1, length=None) as same:
        chunks: Iterator[bytes] = iter(same)
        for chunk in same:
            chunk.hex()
        data: bytes = same.read() + same.read(5) + next(chunks)
        filled: int = same.readinto(bytearray(5)) + same.readinto(memoryview(bytearray(5)))
        total: int = same.size + same.image_size + same.fileno()
    closed: bool = reader.closed
    reader.close()
    size: int = manager.size(at) + store.size("file:///image")
    image: StoredImage = store.add("8c9f", b"data")
    size = manager.size(image) + store.size(image)
    manager.get(image).close()
    store.delete(image)
    store.get(image.store.encode())  # type: ignore[arg-type]
    manager.delete(at, store="fast")
    store.delete(at)
    store.get(at, 5)  # type: ignore[call-arg]
    store.get(at, offset="5")  # type: ignore[arg-type]
    store.get(None)  # type: ignore[arg-type]
    reader.seek(0)  # type: ignore[attr-defined]
    answer = store.delete(at)  # type: ignore[func-returns-value]


def administering(manager: StoreManager, store: Store, at: Location) -> None:
    """Copies, access lists, leftovers and faults."""
    image: StoredImage = manager.copy(at, "8c9f", to="bulk", algorithms=())
    image = store.copy(at, "8c9f", to=MemoryStore("other"), max_size=10)
    image = store.copy(at, "8c9f")
    manager.set_acls(at, public=True, read=["one"], write=("two",))
    store.set_acls(at, read=("one",))
    left: list[Leftover] = store.leftovers(older_than=timedelta(days=1))
    left = store.remove_leftovers(older_than=3600)
    faults: list[str] = store.check()
    faults = store.check(write=False, timeout=5)
    faults = manager.check(write=False, timeout=2.5, store="fast")
    can: bool = Capability.RANGES in manager.info("fast").capabilities
    prefix: str | None = manager.info("fast").url_prefix
    prefixes: tuple[str, ...] = store.url_prefixes
    settings: dict[str, Any] = store.settings
    layered: Store = Limited(ReadOnly(store), 5, timeout=1.5)
    store.leftovers()  # type: ignore[call-arg]
    Limited(store)  # type: ignore[call-arg]


def named(source: Source, sink: Sink, progress: Progress, store: Store) -> None:
    """What verbs take can be named in annotations."""
    store.add("8c9f", source, sinks=[sink], progress=progress)
    version: str = __version__
    info: StoreInfo = StoreManager([store]).info("fast")
    store.add("8c9f", info)  # type: ignore[arg-type]


def values() -> None:
    """Locations, contexts and secrets do not change and do not show."""
    at: Location = Location.parse("file:///image")
    url: str = at.url + at.reveal_url() + at.scheme + at.rest
    credentials: Secret | None = at.credentials
    context = RequestContext("token", project_id="p", user_id="u", roles=("admin",))
    token: Secret | None = context.auth_token
    at.url = "http://host/image"  # type: ignore[misc]
    context.user_id = "v"  # type: ignore[misc]


def failing(store: Store) -> None:
    """What an error says about itself."""
    try:
        store.size("file:///image")
    except errors.StoreError as exc:
        retryable: bool = exc.retryable or exc.indeterminate
        where: tuple[str | None, str | None, Location | None] = (
            exc.store,
            exc.operation,
            exc.location,
        )
        remedy: str = exc.remedy


class Driver(Store):
    """A driver's hooks have the types that the library half expects."""

    driver = "mine"
    schemes = ("my",)
    capabilities = Capability.READ | Capability.WRITE

    def owns(self, location: Location) -> Ownership:
        return Ownership.MAYBE

    def _get(
        self,
        location: Location,
        offset: int,
        length: int | None,
        *,
        if_version: str | None,
        context: RequestContext | None,
    ) -> Opened:
        return Opened(iter([b"data"]), 4, version="v1", close=lambda: None)

    def _size(self, location: Location, *, context: RequestContext | None) -> int:
        return 4

    def _add(self, image_id: str, body: Body, *, context: RequestContext | None) -> Added:
        block: bytes = body.read(1024) or ZEROS
        size: int | None = body.size
        return Added(Location.parse("my://image"), {"key": "value"})

    def _classify(self, exc: Exception) -> type[errors.ImgStoreError] | None:
        return errors.NotFound if isinstance(exc, LookupError) else None

    def _leftovers(self, older_than: timedelta) -> Iterable[Leftover]:
        return []

    def _check(self, *, write: bool = True) -> Iterable[str]:
        return ["writes"] if write else ()


class Telling(Driver):
    """A driver that knows versions tells them."""

    def _stat(self, location: Location, *, context: RequestContext | None) -> Stat:
        return Stat(4, "v1", datetime.now().astimezone())


class WrongDriver(Driver):
    """A hook of another shape is found by the type checker."""

    def _size(self, location: Location) -> int:  # type: ignore[override]
        return 4


class Unfinished(Store):
    """A driver without its hooks cannot be made."""


Unfinished("name")  # type: ignore[abstract]


class TestDriver(StoreContract):
    """A contract class is typed like any other."""

    capabilities = Driver.capabilities
    memory_limit = 40 * 1024 * 1024

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        with Driver("mine") as store:
            yield store
