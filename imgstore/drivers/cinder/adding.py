"""Adding an image: a volume that is made, filled, and then said to be complete."""

from __future__ import annotations

from typing import Final

from imgstore.boundary.translation import describe
from imgstore.data.streams import Body
from imgstore.drivers.cinder.attaching import Attachments
from imgstore.drivers.cinder.client import Api
from imgstore.drivers.cinder.deleting import delete_committed, delete_draft
from imgstore.drivers.cinder.errors import is_refusal, status_of
from imgstore.drivers.cinder.lives import Fate
from imgstore.drivers.cinder.settings import Settings
from imgstore.drivers.cinder.target import Target
from imgstore.drivers.cinder.volumes import (
    ALIVE,
    DRAFT,
    IMAGE,
    OWNER,
    SIZE,
    TRANSIENT,
    Volume,
    whole_gib,
)
from imgstore.errors import AlreadyExists, ConfigError, NotFound
from imgstore.process.committing import in_doubt, is_in_doubt, settled, undone
from imgstore.process.interrupts import uninterrupted

# Characters of a name that Cinder takes.
_NAME: Final = 255
_UNDO: Final = 60.0  # seconds that a failed add waits until its volume may be deleted
_BRIEFLY: Final = 10.0  # seconds for which what a dead add left is waited for


class Adding:
    """One add of one image, as ``api``'s asker."""

    def __init__(
        self, api: Api, settings: Settings, attachments: Attachments, image_id: str, owner: str
    ) -> None:
        self._api = api
        self._settings = settings
        self._attachments = attachments
        self._remains = attachments.remains
        self._image_id = image_id
        self._life = attachments.lives.begin()
        self._metadata = {IMAGE: image_id, OWNER: owner, DRAFT: self._life.name}
        # Known wherever an interrupt comes.
        self._made: list[Volume] = []
        self._may_be_left = False  # whether there may be a volume that is no image
        self._committing: str | None = None  # the id of a volume that may be an image by now

    def add(self, body: Body) -> str:
        """Store ``body`` and return the volume's id; undoes everything on any failure."""
        try:
            with undone(self._undo, "deleting the volume of an add"):
                volume_id = self._add(body)
            self._may_be_left = False
            return volume_id
        except Exception as exc:
            if self._committing and self._may_be_left and not is_in_doubt(exc):
                raise in_doubt(
                    "the add failed, but its image, "
                    f"the volume {self._committing}, may be complete",
                    remedy="delete that volume before you try again",
                ) from exc
            raise
        finally:
            self._life.end(keep=self._may_be_left)

    def _add(self, body: Body) -> str:
        self._refuse_existing()
        volume = self._create(body.size)
        self._refuse_existing()
        target = Target(self._api, volume, self._attachments, self._settings)
        total = target.fill(body)
        self._refuse_existing()
        self._commit(target.wait_detached(), total)
        return volume.id

    def _others(self) -> list[Volume]:
        """Return the other volumes of this image and of the same type.

        Stores of one project tell theirs by that: an image may be in each of them. Before there
        is a volume the type is known only where it is configured.
        """
        own, volume_type = next(iter(self._made), None), self._settings.volume_type
        if own is not None:
            volume_type = own.volume_type
        elif volume_type is None:
            return []
        return [
            each
            for each in self._api.volumes_of(self._image_id)
            if (own is None or each.id != own.id)
            and (each.metadata.get(IMAGE), each.volume_type) == (self._image_id, volume_type)
            and each.status != "deleting"
            and not (each.is_draft and each.status.startswith("error"))
        ]

    def _refuse_existing(self) -> None:
        """Raise AlreadyExists for a complete image, and for one that began to be added earlier.

        Cinder makes as many volumes of one name as are asked for. So everybody makes one first and
        looks then: an add that comes later sees the earlier ones.
        """
        for other in self._others():
            if not other.is_draft:
                raise AlreadyExists(f"the volume {other.id} is an image of this id")
            is_dead = self._remains.lives.fate(other.life) is Fate.DEAD
            if is_dead and other.status not in TRANSIENT:
                self._delete_draft(other, seconds=_BRIEFLY)
            elif not self._made or _order(other) < _order(self._made[0]):
                raise AlreadyExists(
                    "an add of this id is under way, or its process died",
                    remedy="try again later, call remove_leftovers(), or use another id",
                    retryable=True,
                )

    def _create(self, size: int | None) -> Volume:
        wanted = self._settings.initial_size if size is None else whole_gib(size)
        metadata = self._metadata if size is None else {**self._metadata, SIZE: str(size)}

        def create() -> None:
            self._may_be_left = True
            made = self._api.create(
                wanted,
                name=f"image-{self._image_id}"[:_NAME],
                volume_type=self._settings.volume_type,
                metadata=metadata,
            )
            self._made.append(made)

        try:
            uninterrupted(create)
            return self._made[0]
        except Exception as exc:
            if is_refusal(exc):
                self._may_be_left = False
            asked = self._settings.volume_type
            if asked and status_of(exc) in {400, 404} and "type" in describe(exc).lower():
                raise ConfigError(
                    f"Cinder has no volume type {asked!r} for this user",
                    remedy="create it, or correct cinder_volume_type",
                ) from exc
            raise

    def _commit(self, found: Volume, total: int) -> None:
        """Say that the image is complete, unless another one of this id is."""
        self._api.set_read_only(found.id)
        described = {**found.metadata, **self._metadata, SIZE: str(total)}
        for key in (DRAFT, ALIVE, "readonly"):
            described.pop(key, None)

        def describe_volume() -> None:
            self._committing = found.id
            try:
                self._api.describe(found.id, described)
            except Exception as exc:
                if is_refusal(exc):
                    self._committing = None
                raise

        def send() -> bool:
            uninterrupted(describe_volume)
            return True

        def ask(_: Exception) -> bool | None:
            now = self._api.volume(found.id)
            return (not now.is_draft and now.metadata.get(SIZE) == str(total)) or None

        settled(send, ask, is_refused=is_refusal)
        if not all(other.is_draft for other in self._others()):
            # Of two adds at least the later one sees both. Where each sees both, neither stays.
            raise AlreadyExists(
                "another add of this id was completed at the same time",
                remedy="try again, or use another id",
                retryable=True,
            )

    def _undo(self) -> None:
        """Delete the volume; also one whose creation was not answered.

        What is left, or comes later, is for others to find, by the life of an add that ended.
        """
        if not self._may_be_left:
            return
        if self._committing:
            delete_committed(self._api, self._committing, self._settings)
            self._may_be_left = False
            return
        found = self._made or [
            each for each in self._api.volumes_of(self._image_id) if each.life == self._life.name
        ]
        seconds = min(_UNDO, self._settings.patience.seconds)
        gone = [self._delete_draft(volume, seconds=seconds) for volume in found]
        self._may_be_left = not (gone and all(gone))

    def _delete_draft(self, volume: Volume, *, seconds: float) -> bool:
        """Delete a volume that is no image; return whether it is gone already."""
        try:
            return delete_draft(self._api, volume, self._settings, self._remains, seconds=seconds)
        except NotFound:
            return True


def _order(volume: Volume) -> tuple[object, str]:
    return volume.created, volume.id
