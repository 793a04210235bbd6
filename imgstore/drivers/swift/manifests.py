"""Large objects: the segments they consist of, and the manifests that name those."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from imgstore.drivers._numbers import whole_number
from imgstore.drivers._told import told
from imgstore.drivers.swift.client import Caller
from imgstore.drivers.swift.settings import SERVICE, TOKEN
from imgstore.errors import ConfigError, NotFound

SIZE: Final = "X-Object-Meta-Imgstore-Size"
MANIFEST: Final = "X-Object-Manifest"
STATIC: Final = "X-Static-Large-Object"
# https://docs.openstack.org/swift/latest/api/large_objects.html
_ENTRIES: Final = 1000
# glance_store's segments: <image id>-00001.
_NUMBER: Final = re.compile(r"\d{5,}")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(frozen=True)
class Sent:
    """An object that is part of a manifest: its name in the container for segments."""

    name: str
    etag: str
    size: int


def is_like_segment(image_id: str) -> bool:
    """Return whether an id is what glance_store calls a segment of another image."""
    base, _, number = image_id.rpartition("-")
    return _UUID.fullmatch(base) is not None and _NUMBER.fullmatch(number) is not None


def is_static(headers: Mapping[str, str]) -> bool:
    """Return whether an object is a static large object."""
    return headers.get(STATIC, "").lower() == "true"


def written(container: str, parts: list[Sent]) -> bytes:
    """Return what a static large object of these segments is made with."""
    entries = [
        {"path": f"/{container}/{part.name}", "size_bytes": part.size}
        | ({"etag": part.etag} if part.etag else {})
        for part in parts
    ]
    return json.dumps(entries).encode()


def most_segments(caller: Caller) -> int:
    """Return how many segments a manifest may have; raises ConfigError without static ones."""
    about = caller.about()
    if not about:
        return _ENTRIES
    if "slo" not in about:
        raise ConfigError(
            "the cluster has no static large objects",
            remedy="set swift_store_large_object_type to dlo",
        )
    limits = about["slo"]
    said = limits.get("max_manifest_segments") if isinstance(limits, Mapping) else None
    return max(2, whole_number(said) or _ENTRIES)


def entries_of(
    caller: Caller,
    container: str,
    name: str,
    is_same: Callable[[Mapping[str, str]], bool] = lambda _: True,
) -> list[dict[str, Any]]:
    """Return the entries of a static large object; raises NotFound if it is another by now."""
    found, headers = caller.ask_json(container, name, query="multipart-manifest=get")
    if not is_same(headers):
        raise NotFound("the image was deleted meanwhile")
    return [entry for entry in found if "name" in entry or "path" in entry]


def path_in(entry: Mapping[str, Any]) -> str:
    """Return ``/<container>/<name>`` of a segment; raises Unsupported where it is not told."""
    return str(entry.get("name") or told(entry, "path", service=SERVICE))


def split(manifest: str) -> tuple[str, str]:
    """Return container and prefix of a dynamic large object's segments."""
    container, _, prefix = unquote(manifest).partition("/")
    return container, prefix


def segments(caller: Caller, container: str, prefix: str) -> Iterator[dict[str, Any]]:
    """Yield the segments of a dynamic large object, without images whose ids begin like them."""
    image_id = prefix.removesuffix("-")
    for entry in caller.entries(container, prefix):
        name = entry.get("name")
        if name is None:
            continue
        if prefix.endswith("/"):
            yield entry
        elif _NUMBER.fullmatch(name.removeprefix(prefix)):
            # UUIDs of this form are not added; other images of this library have a token.
            found = None if _UUID.fullmatch(image_id) else caller.head(container, name)
            if found is None or TOKEN not in found:
                yield entry
