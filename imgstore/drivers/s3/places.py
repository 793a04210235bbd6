"""Which object of which bucket a location names, and which names are a store's own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from imgstore.boundary.arguments import OWN, check_storable
from imgstore.errors import InvalidArgument
from imgstore.location import Location

# What the names of objects beside the images begin with, after the key prefix.
CLAIM: Final = f"{OWN}claim-"
PROBE: Final = f"{OWN}check-"
# Metadata that tells whose an object is: that of one add from that of another.
TOKEN: Final = f"{OWN}add"

# The names of S3 and the more liberal ones of other servers; not ARNs, which lead elsewhere.
_BUCKET: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,255}(?<!--x-s3)(?<!--op-s3)")
_NO_KEYS: Final = frozenset({"", ".", ".."})


@dataclass(frozen=True)
class Place:
    """An object; ``service`` is ``host[:port][/path]`` of an endpoint."""

    service: str
    bucket: str
    key: str

    @classmethod
    def of(cls, location: Location) -> Place | None:
        """Return what a location names: its last two segments are bucket and key.

        Nothing is decoded, as glance_store does not either.
        """
        service, bucket, key = ("", "", *location.rest.strip("/").rsplit("/", 2))[-3:]
        is_sound = service and is_bucket(bucket) and key not in _NO_KEYS
        return cls(service, bucket, key) if is_sound else None


def is_bucket(name: str) -> bool:
    """Return whether a bucket can be called so: what else S3 takes for one leads elsewhere."""
    return _BUCKET.fullmatch(name) is not None


def is_own(key: str) -> bool:
    """Return whether a key begins like those of objects beside the images."""
    return key.startswith((CLAIM, PROBE))


def key_of(image_id: str, prefix: str) -> str:
    """Return the key of an image; raises InvalidArgument for an id that cannot be stored."""
    check_storable(image_id, "S3", without="@")
    key = prefix + image_id
    if is_own(key):
        raise InvalidArgument(
            f"the image id {image_id!a} cannot be stored in S3: its key would be {key!a}",
            remedy="use a UUID",
        )
    return key
