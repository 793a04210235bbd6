"""How an image becomes an object: in one request or in segments, and never over another one."""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from imgstore.drivers.swift.client import Caller, Sized, classify, status_of
from imgstore.drivers.swift.settings import SEGMENTS, Settings
from imgstore.errors import (
    AlreadyExists,
    ConfigError,
    IntegrityError,
    NotFound,
    Unavailable,
)
from imgstore.hashing import MIB
from imgstore.segments import Segment, upload_in_segments
from imgstore.streams import Body
from imgstore.transfer import Part, read_part

LOG = logging.getLogger(__name__)

TOKEN: Final = "X-Object-Meta-Imgstore-Add"  # noqa: S105  # a header
SIZE: Final = "X-Object-Meta-Imgstore-Size"
MANIFEST: Final = "X-Object-Manifest"
STATIC: Final = "X-Static-Large-Object"
MARK: Final = "imgstore-"  # what the second part of the names of segments begins with
_HEAD: Final = 8 * MIB  # an image of unknown size that ends within is no large object
_DELETES: Final = 4  # at once
# https://docs.openstack.org/swift/latest/api/large_objects.html
_ENTRIES: Final = 1000
_EXCLUSIVE: Final = {"If-None-Match": "*"}
_DATA: Final = {"Content-Type": "application/octet-stream"}


@dataclass(frozen=True)
class _Sent:
    """An object that is part of a manifest: its name in the container for segments."""

    name: str
    etag: str
    size: int


class Adding:
    """One add of one object.

    The object's metadata hold a token, which is in the names of its segments too: it tells what
    belongs together, and a success whose answer was lost from an object that somebody else put.
    """

    def __init__(
        self, caller: Caller, settings: Settings, container: str, name: str, *, live: set[str]
    ) -> None:
        self._caller = caller
        self._settings = settings
        self._container = container
        self._name = name
        self._live = live
        self.token = uuid.uuid4().hex
        self._is_cancelled = False

    def add(self, body: Body, *, is_exclusive: bool) -> None:
        """Store ``body``; ``is_exclusive`` says that the server honours If-None-Match."""
        settings, head = self._settings, None
        if body.size is None:
            first = min(_HEAD, settings.segment)
            head = read_part(body, first)
            size = len(head) if len(head) < first else None
        else:
            size = body.size
        if not is_exclusive or size is None or size >= settings.large:
            self._refuse_existing()
        self._live.add(self.token)
        try:
            if size is not None and size < settings.large:
                upload_in_segments(
                    body,
                    start=lambda: _Whole(self),
                    segment_size=max(1, size),
                    workers=1,
                    head=head,
                    budget=settings.memory,
                )
            else:
                self._add_large(body, head)
        finally:
            self._live.discard(self.token)

    def _add_large(self, body: Body, head: Part | None) -> None:
        self._make_containers()
        upload_in_segments(
            body,
            start=lambda: _Large(self),
            segment_size=self._settings.segment,
            workers=self._settings.workers,
            head=head,
            budget=self._settings.memory,
        )

    def _refuse_existing(self) -> None:
        if self._caller.head(self._container, self._name) is not None:
            raise AlreadyExists("there is an image of this id")

    # Containers.

    @property
    def segments(self) -> str:
        """Return the container for segments."""
        return f"{self._container}{SEGMENTS}"

    def _make_containers(self) -> None:
        found = self._caller.head(self._container)
        if found is None:
            self.make_container()
            found = self._caller.head(self._container) or {}
        policy = found.get("X-Storage-Policy")
        headers = {"X-Storage-Policy": policy} if policy else {}
        for acl in ("X-Container-Read", "X-Container-Write"):
            if found.get(acl) and self._settings.multi_tenant:
                headers[acl] = found[acl]
        self._caller.put(self.segments, headers=headers)

    def make_container(self) -> None:
        """Create the container for images, where the store may; raises ConfigError."""
        settings = self._settings
        # While the servers of accounts are down, Swift says of containers that there are none.
        self._caller.ask("HEAD").close()
        if not settings.creates_container and not settings.multi_tenant:
            raise ConfigError(
                f"the container {self._container!r} does not exist",
                remedy="create it, or set swift_store_create_container_on_put",
            )
        headers = {}
        if settings.multi_tenant and settings.admins:
            acl = ",".join(settings.admins)
            headers = {"X-Container-Read": acl, "X-Container-Write": acl}
        self._caller.put(self._container, headers=headers)

    # Requests.

    def cancel(self) -> None:
        """Send nothing again that fails from now on."""
        self._is_cancelled = True

    def put_data(
        self, container: str, name: str, data: Segment, headers: Mapping[str, str]
    ) -> _Sent:
        """Send a segment, again if need be, and see that it arrived as it was sent."""
        sending = _Sending(data)
        # The server refuses what does not fit, so that nobody ever sees it. It cannot be told
        # beforehand of what is sent while it is read.
        is_small = data.size is not None and data.size <= min(_HEAD, self._settings.memory)
        tag = {"Etag": sending.whole_md5()} if is_small else {}
        answer = self._caller.put(
            container,
            name,
            headers={**_DATA, **headers, **tag},
            body=sending.blocks,
            is_cancelled=lambda: self._is_cancelled,
        )
        etag = answer.get("Etag", "").strip('"')
        if etag and etag != sending.md5.hexdigest():
            raise IntegrityError("the server stored other bytes than it was sent", retryable=True)
        return _Sent(name, sending.md5.hexdigest(), sending.size)

    def commit(self, put: Callable[[], Any], *, total: int, is_large: bool) -> None:
        """Put the image's own object with ``put``; one's own success is success.

        Raises AlreadyExists; Unavailable, as indeterminate, where it cannot be told.
        """
        try:
            self._in_container(put)
        except Exception as exc:
            is_refused = status_of(exc) == HTTPStatus.PRECONDITION_FAILED
            if not is_refused and not isinstance(classify(exc), Unavailable):
                raise
            if not self._is_own(exc, is_refused=is_refused, is_large=is_large):
                raise
            return
        self._confirm(total if is_large else None)

    def _in_container(self, put: Callable[[], Any]) -> Any:
        try:
            return put()
        except Exception as exc:
            if status_of(exc) != HTTPStatus.NOT_FOUND:
                raise
        self.make_container()
        return put()

    def _is_own(self, exc: Exception, *, is_refused: bool, is_large: bool) -> bool:
        try:
            found = self._caller.head(self._container, self._name)
        except Exception:
            raise _in_doubt() from exc
        if found is not None and found.get(TOKEN) == self.token:
            return True
        if found is None and is_large:
            # A manifest goes out with its headers: a server that did not answer may have it still.
            raise _in_doubt() from exc
        if is_refused:
            raise AlreadyExists("there is an image of this id") from exc
        return False

    def _confirm(self, total: int | None) -> None:
        """Raise unless the image is this add's, and its manifest was taken for one.

        Swift looks for an object when a request begins: of two that overlap the later one wins.
        """
        try:
            found = self._caller.head(self._container, self._name)
        except Exception as exc:
            raise _in_doubt() from exc
        if found is None:
            raise _in_doubt()
        if found.get(TOKEN) != self.token:
            raise AlreadyExists("another add of this id won")
        size = int(found.get("Content-Length", -1))
        if total is not None and size != total and self._settings.static:
            raise ConfigError(
                f"the cluster made {size} bytes of segments with {total} bytes: it has no static "
                "large objects",
                remedy="set swift_store_large_object_type to dlo",
            )

    def metadata(self, total: int | None) -> dict[str, str]:
        """Return what the image's own object is marked with."""
        return {TOKEN: self.token, **({} if total is None else {SIZE: str(total)})}

    def remove(self, *names: str) -> None:
        """Remove segments; raises the first failure after it has tried all."""
        remove(self._caller, self.segments, names)

    def remove_own(self) -> None:
        """Remove the image's own object, if it is this add's."""
        found = self._caller.head(self._container, self._name)
        if found is not None and found.get(TOKEN) == self.token:
            self._caller.delete(self._container, self._name)

    @property
    def prefix(self) -> str:
        """Return what the names of this add's segments begin with."""
        return f"{self._name}/{MARK}{self.token}/"

    @property
    def place(self) -> tuple[str, str]:
        """Return container and name of the image."""
        return self._container, self._name

    @property
    def caller(self) -> Caller:
        """Return who sends the requests."""
        return self._caller

    @property
    def is_static(self) -> bool:
        """Return whether large objects are static."""
        return self._settings.static


def _in_doubt() -> Unavailable:
    return Unavailable(
        "it cannot be told whether the image was stored",
        remedy="look for the image later",
        indeterminate=True,
    )


class _Sending:
    """The bytes of a segment on their way, and their MD5."""

    def __init__(self, data: Segment) -> None:
        self._data = data
        self._attempts = 0
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.size = 0

    def whole_md5(self) -> str:
        """Return the MD5 of a small segment, which is waited for."""
        self._data.wait_whole()
        for block in self._data:
            self.md5.update(block)
        return self.md5.hexdigest()

    def blocks(self) -> object:
        """Return what to send, once more."""
        self._attempts += 1
        # Not again while it is read: a source that stalls would break this attempt, too.
        if self._attempts > 1 and not self._data.wait_whole():
            raise Unavailable(
                "the connection broke, and what was sent is not in memory any more",
                remedy="raise swift_store_upload_memory, or use smaller segments",
            )
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.size = 0
        size = self._data.size
        return self._hashed() if size is None else Sized(self._hashed(), size)

    def _hashed(self) -> Iterator[bytes]:
        for block in self._data:
            self.md5.update(block)
            self.size += len(block)
            yield block


class _Whole:
    """An image that is one object, as an upload of one segment."""

    def __init__(self, adding: Adding) -> None:
        self._adding = adding

    def put(self, number: int, data: Segment) -> None:
        """Send the image."""
        adding = self._adding

        def put() -> _Sent:
            headers = {**_EXCLUSIVE, **adding.metadata(None)}
            return adding.put_data(*adding.place, data, headers)

        adding.commit(put, total=0, is_large=False)

    def finish(self, parts: list[None]) -> None:
        """Do nothing: the image is stored."""

    def cancel(self) -> None:
        """Send nothing again."""
        self._adding.cancel()

    def abort(self) -> None:
        """Remove an image that arrived damaged."""
        self._adding.remove_own()


class _Large:
    """An image in segments."""

    def __init__(self, adding: Adding) -> None:
        self._adding = adding
        self._names: list[str] = []
        self._is_committing = False

    def put(self, number: int, data: Segment) -> _Sent:
        """Send a segment."""
        name = f"{self._adding.prefix}{number:08d}"
        self._names.append(name)
        try:
            return self._adding.put_data(self._adding.segments, name, data, {})
        except Exception as exc:
            if status_of(exc) != HTTPStatus.NOT_FOUND:
                raise
            raise NotFound(
                "the container for segments was deleted while they were sent",
                remedy="find out who deletes containers, and add the image again",
            ) from exc

    def finish(self, parts: list[_Sent]) -> None:
        """Make the segments an image."""
        adding = self._adding
        total = sum(part.size for part in parts)
        if adding.is_static:
            while len(parts) > _limit(adding.caller):
                parts = self._nested(parts)
            self._put(_manifest(adding.segments, parts), total, query="multipart-manifest=put")
        else:
            prefix = f"{quote(adding.segments)}/{quote(adding.prefix)}"
            self._put(b"", total, headers={MANIFEST: prefix})

    def _nested(self, parts: list[_Sent]) -> list[_Sent]:
        """Put manifests of as many parts as one may have; return them as parts."""
        adding, step = self._adding, _limit(self._adding.caller)
        nested = []
        for start in range(0, len(parts), step):
            chosen = parts[start : start + step]
            name = f"{adding.prefix}manifest-{len(self._names):08d}"
            self._names.append(name)
            nested.append(self._put_nested(name, chosen))
        return nested

    def _put_nested(self, name: str, parts: list[_Sent]) -> _Sent:
        container = self._adding.segments
        body = _manifest(container, parts)
        answer = self._adding.caller.put(
            container, name, body=lambda: body, query="multipart-manifest=put"
        )
        size = sum(part.size for part in parts)
        return _Sent(name, answer.get("Etag", "").strip('"'), size)

    def _put(
        self, body: bytes, total: int, *, headers: Mapping[str, str] | None = None, query: str = ""
    ) -> None:
        adding = self._adding
        self._is_committing = True
        sent = {**_EXCLUSIVE, **_DATA, **adding.metadata(total), **(headers or {})}
        adding.commit(
            lambda: adding.caller.put(*adding.place, headers=sent, body=lambda: body, query=query),
            total=total,
            is_large=True,
        )

    def cancel(self) -> None:
        """Send no segment again that fails from now on."""
        self._adding.cancel()

    def abort(self) -> None:
        """Remove the segments."""
        if self._is_committing:
            self._adding.remove_own()
        self._adding.remove(*reversed(self._names))


def _manifest(container: str, parts: list[_Sent]) -> bytes:
    entries = [
        {"path": f"/{container}/{part.name}", "etag": part.etag, "size_bytes": part.size}
        for part in parts
    ]
    for entry in entries:
        if not entry["etag"]:
            del entry["etag"]
    return json.dumps(entries).encode()


def _limit(caller: Caller) -> int:
    """Return how many segments a manifest may have; raises ConfigError without static ones."""
    about = caller.about()
    if about is None:
        return _ENTRIES
    if "slo" not in about:
        raise ConfigError(
            "the cluster has no static large objects",
            remedy="set swift_store_large_object_type to dlo",
        )
    return max(2, int(about["slo"].get("max_manifest_segments", _ENTRIES)))


def remove(caller: Caller, container: str, names: tuple[str, ...] | list[str]) -> None:
    """Delete objects, several at once; raises the first failure after it has tried all."""
    if not names:
        return
    with ThreadPoolExecutor(_DELETES, thread_name_prefix="imgstore-delete") as pool:
        futures = [pool.submit(caller.delete, container, name) for name in names]
    for future in futures:
        future.result()
