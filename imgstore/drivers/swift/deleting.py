"""How an image is deleted, with all of its segments."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

from imgstore.drivers.swift.adding import MANIFEST, STATIC, remove
from imgstore.drivers.swift.client import Caller, status_of
from imgstore.drivers.swift.settings import SEGMENTS
from imgstore.errors import InUse, NotFound, PermissionDenied, StoreError, Unavailable
from imgstore.translation import describe

LOG = logging.getLogger(__name__)

# glance_store's: <image id>-00001.
_NUMBER: Final = re.compile(r"\d{5,}")
_PAGE: Final = 1000
_TOO_MANY: Final = "Too many buffered slo segments"
_ROUNDS: Final = 3


def delete(caller: Caller, container: str, name: str) -> None:
    """Delete an image; raises NotFound. What cannot be deleted keeps its manifest."""
    found = caller.head(container, name)
    if found is None:
        raise NotFound("there is no such image")
    if found.get(STATIC, "").lower() == "true":
        _delete_static(caller, container, name)
        return
    if found.get(MANIFEST):
        _delete_segments(caller, found[MANIFEST])
    if not caller.delete(container, name) and caller.head(container, name) is not None:
        # While the servers of accounts are down, Swift says so of what there is.
        raise Unavailable("Swift finds the image, and does not delete it")


def _delete_static(caller: Caller, container: str, name: str) -> None:
    """Let the cluster delete manifest and segments; nested manifests, if too many, one by one."""
    try:
        _delete_at_once(caller, container, name)
    except _TooManyError:
        for entry in _manifest(caller, container, name):
            if entry.get("sub_slo"):
                _delete_at_once(caller, *_split(entry["name"]))
        caller.delete(container, name)


class _TooManyError(StoreError):
    """More segments than a cluster deletes in one request."""


def _delete_at_once(caller: Caller, container: str, name: str) -> None:
    answer = caller.ask(
        "DELETE",
        container,
        name,
        headers={"Accept": "application/json"},
        query="multipart-manifest=delete",
    )
    try:
        report: dict[str, Any] = json.loads(answer.read())
    except ValueError:
        if caller.head(container, name) is None:
            return
        raise Unavailable("Swift does not say whether the image was deleted") from None
    status = str(report.get("Response Status", "200 OK"))
    failed = [str(each[1]) for each in report.get("Errors") or ()]
    if not failed and status.startswith("2"):
        return
    if _TOO_MANY in str(report.get("Response Body")):
        raise _TooManyError(status)
    first = failed[0] if failed else status
    if caller.head(container, name) is None:
        LOG.warning("the manifest %s/%s is gone, some segments are not", container, name)
    kinds = {"401": PermissionDenied, "403": PermissionDenied, "409": InUse}
    raise kinds.get(first[:3], Unavailable)(
        f"{max(1, len(failed))} objects of the image were not deleted: {first}"
    )


def _manifest(caller: Caller, container: str, name: str) -> list[dict[str, Any]]:
    answer = caller.ask("GET", container, name, query="multipart-manifest=get")
    found: list[dict[str, Any]] = json.loads(answer.read() or b"[]")
    return found


def _split(path: str) -> tuple[str, str]:
    container, _, name = path.lstrip("/").partition("/")
    return container, name


def _delete_segments(caller: Caller, manifest: str) -> None:
    """Delete the segments of a dynamic large object, however many pages they fill."""
    container, _, prefix = unquote(manifest).partition("/")
    for _ in range(_ROUNDS):  # a listing may lack what was put a moment ago
        names = [
            entry["name"]
            for entry in caller.entries(container, prefix)
            if "name" in entry and _is_segment(entry["name"], prefix)
        ]
        if not names:
            return
        for start in range(0, len(names), _PAGE):
            remove(caller, container, names[start : start + _PAGE])


def _is_segment(name: str, prefix: str) -> bool:
    """Return whether an object is a segment, and not one whose name begins so by chance."""
    return prefix.endswith("/") or _NUMBER.fullmatch(name[len(prefix) :]) is not None


def delete_containers(caller: Caller, container: str) -> None:
    """Delete the containers of one image, if nothing else is in them."""
    for name in (f"{container}{SEGMENTS}", container):
        for pause in (0.0, 0.2, 1.0):  # a container counts its objects with a delay
            time.sleep(pause)
            try:
                caller.delete(name)
            except Exception as exc:
                if status_of(exc) != 409:
                    LOG.warning("container %s could not be deleted: %s", name, describe(exc))
                    break
            else:
                break


def acl_headers(
    *, public: bool, read: list[str], write: list[str], admins: tuple[str, ...]
) -> Mapping[str, str]:
    """Return the headers for who may read and write a container."""
    readers = ["*:*"] if public else [f"{project}:*" for project in read]
    return {
        "X-Container-Read": ",".join([*readers, *admins]),
        "X-Container-Write": ",".join([*(f"{project}:*" for project in write), *admins]),
    }
