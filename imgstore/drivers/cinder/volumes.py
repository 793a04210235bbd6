"""What Cinder says of volumes: what they hold, their states, and who works at them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final

from imgstore.data.units import GIB
from imgstore.drivers._numbers import whole_number
from imgstore.drivers._told import not_told, told
from imgstore.errors import InUse, StorageFull, StoreError, Unavailable

SERVICE: Final = "Cinder"
# Keys of the metadata: those that Glance and Cinder know, and one that is there until an image is
# complete, with the life of the process that adds it.
IMAGE: Final = "glance_image_id"
SIZE: Final = "image_size"
OWNER: Final = "image_owner"
DRAFT: Final = "imgstore_unfinished"
# When such an add went on, now and then: Cinder does not see what is written to a volume.
ALIVE: Final = "imgstore_alive"

# States that Cinder soon leaves by itself.
TRANSIENT: Final = frozenset(
    {"creating", "extending", "attaching", "detaching", "reserved", "downloading"}
)
# States that readers and writers bring about, so that one who waits for them may have the volume.
# Others, such as maintenance, backing-up, uploading or retyping, may last for hours.
_IN_USE: Final = frozenset({"available", "in-use", "attaching", "detaching", "reserved"})
_ENDING: Final = {
    "maintenance": "try again once an administrator has ended that",
    "awaiting-transfer": "try again once the transfer is accepted or cancelled",
}


@dataclass(frozen=True)
class Volume:
    """A volume as Cinder describes it; ``size`` is in GiB.

    ``uses`` are the ids of its attachments, each with what its maker calls the place.
    """

    id: str
    size: int
    status: str
    volume_type: str | None
    metadata: Mapping[str, str]
    uses: Mapping[str, str]
    encrypted: bool
    created: datetime
    updated: datetime

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> Volume:
        """Return a volume as an answer describes it; raises Unsupported where that lacks much."""
        size = whole_number(told(about, "size", service=SERVICE))
        if size is None:
            raise not_told("size", service=SERVICE)
        created = told(about, "created_at", service=SERVICE)
        try:
            times = [_time(created), _time(about.get("updated_at") or created)]
        except ValueError:
            raise not_told("created_at or updated_at", service=SERVICE) from None
        return cls(
            id=str(told(about, "id", service=SERVICE)),
            size=size,
            status=str(told(about, "status", service=SERVICE)),
            volume_type=about.get("volume_type"),
            metadata=dict(about.get("metadata") or {}),
            uses={
                each.get("attachment_id") or "": each.get("device") or ""
                for each in about.get("attachments") or ()
            },
            encrypted=bool(about.get("encrypted")),
            created=times[0],
            updated=times[1],
        )

    @property
    def is_draft(self) -> bool:
        """Return whether the image is not complete."""
        return DRAFT in self.metadata

    @property
    def life(self) -> str:
        """Return the life of the process that adds a draft."""
        return self.metadata.get(DRAFT, "")

    @property
    def active(self) -> datetime:
        """Return when something was last heard of the volume."""
        try:
            return max(self.updated, _time(self.metadata[ALIVE]))
        except (KeyError, ValueError):
            return self.updated

    @property
    def image_size(self) -> int:
        """Return the bytes that the volume says the image has, else all: Cinder's own images."""
        said = whole_number(self.metadata.get(SIZE))
        return self.size * GIB if said is None else said


def whole_gib(size: int) -> int:
    """Return the GiB that hold ``size`` bytes; there is no volume without any."""
    return max(1, -(-size // GIB))


def check_free(volume: Volume, *, said: str = "") -> None:
    """Raise what the state of an image's volume means where nobody may attach or delete it.

    ``said`` is Cinder's refusal, where there was one.
    """
    if volume.status in _IN_USE:
        return
    said = f"the volume is in the state {volume.status!r}" + (f"; {said}" if said else "")
    if volume.status.startswith("error"):
        remedy = "look for the reason in Cinder; an administrator can reset the state"
        raise StoreError(said, remedy=remedy)
    remedy = _ENDING.get(volume.status, "try again once Cinder is done with it")
    raise InUse(said, remedy=remedy, retryable=True)


def failure_of(volume: Volume) -> StoreError:
    """Return what the state of a volume means that should be in another one."""
    if volume.status == "error_extending":
        return StorageFull("Cinder could not extend the volume")
    if volume.status.startswith("error"):
        return StorageFull(
            f"the volume is in the state {volume.status!r}",
            remedy="look at its messages in Cinder: most often no backend has room for its type",
        )
    return Unavailable(f"the volume is in the state {volume.status!r}")


def _time(said: object) -> datetime:
    """Read a time; Cinder's are in UTC and do not say so. Raises ValueError."""
    found = datetime.fromisoformat(str(said).removesuffix("Z"))
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)
