"""Adding an image: a volume that is made, filled while attached, and then said to be complete."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable
from typing import Final

from imgstore.boundary.translation import describe
from imgstore.data.streams import Body
from imgstore.data.units import GIB, MIB
from imgstore.drivers.cinder.attaching import Attached, Attachments
from imgstore.drivers.cinder.client import (
    ALIVE,
    IMAGE,
    MARK,
    OWNER,
    SIZE,
    Api,
    Volume,
    is_refusal,
    status_of,
)
from imgstore.drivers.cinder.devices import Writing
from imgstore.drivers.cinder.locks import Fate
from imgstore.drivers.cinder.removing import PASSING, delete_image, discard
from imgstore.drivers.cinder.settings import Settings
from imgstore.errors import (
    AlreadyExists,
    ConfigError,
    NotFound,
    StorageFull,
    StoreError,
    TimedOut,
    Unavailable,
)
from imgstore.process.interrupts import uninterrupted

LOG = logging.getLogger(__name__)

# Characters of a name that Cinder takes.
_NAME: Final = 255
_ZEROS: Final = bytes(MIB)
_ALIVE: Final = 60.0  # seconds between two signs of life of an add
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
        self._image_id = image_id
        self._life = attachments.life()
        self._metadata = {IMAGE: image_id, OWNER: owner, MARK: self._life.name}
        # Known wherever an interrupt comes.
        self._volume: Volume | None = None
        self._asked = False
        self._committing = False
        self._noted = time.monotonic()

    def add(self, body: Body) -> str:
        """Store ``body`` and return the volume's id; undoes everything on any failure."""
        stays = True
        try:
            volume_id = self._add(body)
            stays = False
            return volume_id
        except BaseException as exc:
            if self._committing and getattr(exc, "indeterminate", False):
                raise
            stays = not self._undo()
            if stays and self._committing and isinstance(exc, Exception):
                raise Unavailable(
                    f"the add failed, but its image, the volume {self.volume.id}, may be complete",
                    remedy="delete that volume before you try again",
                    indeterminate=True,
                ) from exc
            raise
        finally:
            self._life.end(keep=stays)

    def _add(self, body: Body) -> str:
        self._refuse_existing(self._others())
        size = self._settings.initial_size if body.size is None else whole_gib(body.size)
        self._create(size, body.size)
        volume = self.volume
        self._refuse_existing(self._others(), instead_of=volume)
        # Some backends make volumes of certain sizes only.
        made = self._wait(volume.id, "available", "creating")
        total = self._fill(body, made.size)
        self._finish(total)
        return volume.id

    @property
    def volume(self) -> Volume:
        """Return the volume that was made."""
        assert self._volume is not None  # noqa: S101  # its callers made it
        return self._volume

    def _others(self) -> list[Volume]:
        """Return the other volumes of this image and of the same type.

        Stores of one project tell theirs by that: an image may be in each of them. Before there
        is a volume the type is known only where it is configured.
        """
        own, kind = self._volume, self._settings.volume_type
        if own is not None:
            kind = own.kind
        elif kind is None:
            return []
        return [
            each
            for each in self._api.volumes_of(self._image_id)
            if (own is None or each.id != own.id)
            and (each.metadata.get(IMAGE), each.kind) == (self._image_id, kind)
            and each.status != "deleting"
            and not (each.mark and each.status.startswith("error"))
        ]

    def _refuse_existing(
        self, others: Iterable[Volume], *, instead_of: Volume | None = None
    ) -> None:
        """Raise AlreadyExists for a complete image, and for one that began to be added earlier.

        Cinder makes as many volumes of one name as are asked for. So everybody makes one first and
        looks then: whoever comes later sees the earlier ones.
        """
        for other in others:
            if other.mark is None:
                raise AlreadyExists(f"the volume {other.id} is an image of this id")
            is_dead = self._attachments.fate(other.mark) is Fate.DEAD
            if is_dead and other.status not in PASSING:
                self._discard(other, seconds=_BRIEFLY)
                continue
            if instead_of is None or _order(other) < _order(instead_of):
                raise AlreadyExists(
                    "an add of this id is under way, or its process died",
                    remedy="try again later, call remove_leftovers(), or use another id",
                    retryable=True,
                )

    def _create(self, size: int, known: int | None) -> None:
        metadata = dict(self._metadata)
        if known is not None:
            metadata[SIZE] = str(known)

        def create() -> None:
            self._asked = True
            self._volume = self._api.create(
                size,
                name=f"image-{self._image_id}"[:_NAME],
                kind=self._settings.volume_type,
                metadata=metadata,
            )

        try:
            uninterrupted(create)
        except Exception as exc:
            kind = self._settings.volume_type
            if kind and status_of(exc) in {400, 404} and "type" in describe(exc).lower():
                raise ConfigError(
                    f"Cinder has no volume type {kind!r} for this user",
                    remedy="create it, or correct cinder_volume_type",
                ) from exc
            if is_refusal(exc):
                self._asked = False
            raise

    def _fill(self, body: Body, size: int) -> int:
        """Write the whole of ``body``; return its length. The volume is detached afterwards."""
        with contextlib.ExitStack() as closing:
            target = _Target(self, size, closing)
            position = 0
            while True:
                self.note_alive()
                hole = body.hole()
                if hole:
                    body.skip(hole)
                    target.reserve(position + hole)
                    target.clear(position, hole)
                    position += hole
                    continue
                piece = target.piece
                block = body.read(body.before_hole(piece - position % piece))
                if not block:
                    target.writing.finish()
                    return position
                target.reserve(position + len(block))
                target.writing.write(block, position)
                position += len(block)

    def note_alive(self) -> None:
        """Say now and then that the add goes on: clean-up on other hosts goes by that."""
        now = time.monotonic()
        if now - self._noted < _ALIVE:
            return
        self._noted = now
        try:
            self._api.note_alive(self.volume.id)
        except Exception as exc:
            LOG.debug("noting that an add goes on: %s", describe(exc))

    def attach(self) -> Attached:
        """Attach the volume for writing."""
        return self._attachments.attach(self._api, self.volume, "rw")

    def detach(self, attached: Attached) -> None:
        """Detach it."""
        self._attachments.detach(attached)

    def wait_detached(self) -> Volume:
        """Wait until the volume is available again; detaching is tried once more if it failed."""
        found = self._api.volume(self.volume.id)
        if found.status == "available":
            return found
        self._attachments.end_dead(self._api, found)
        return self._wait(
            self.volume.id, "available", "in-use", "detaching", "attaching", "reserved"
        )

    @property
    def extends_attached(self) -> bool:
        """Return whether the volume may be extended while it is attached."""
        return self._settings.extends_attached

    def next_size(self, size: int, needed: int) -> int:
        """Return the GiB to extend ``size`` to, so that ``needed`` bytes fit in."""
        while size * GIB < needed:
            size = self._settings.next_size(size)
        return size

    def extend(self, size: int, state: str) -> int:
        """Extend the volume to ``size`` GiB, and wait until it is in ``state`` again.

        Return the size that it has then, which may be more.
        """
        try:
            self._api.extend(self.volume.id, size)
        except Exception as exc:
            if status_of(exc) in {400, 409}:
                raise StorageFull(
                    f"Cinder refuses to extend the volume to {size} GiB: {describe(exc)}"
                ) from exc
            raise
        found = self._wait(self.volume.id, state, "extending", "available", "in-use", size=size)
        if found.size < size:
            raise StorageFull(f"Cinder did not extend the volume to {size} GiB")
        return found.size

    def _wait(self, volume_id: str, wanted: str, *passing: str, size: int = 0) -> Volume:
        """Wait until the volume is in a state; raises TimedOut, or what the state means."""
        patience = self._settings.patience
        for _ in patience.attempts():
            volume = self._api.volume(volume_id)
            if volume.status == wanted and volume.size >= size:
                return volume
            if volume.status not in {wanted, *passing}:
                raise _failed(volume)
            self.note_alive()
        raise TimedOut(
            f"the volume is still {volume.status} after {patience.seconds:g} s",
            remedy="look at Cinder's services, or raise cinder_state_transition_timeout",
        )

    def _finish(self, total: int) -> None:
        """Say that the image is complete, unless another one of this id is."""
        volume = self.volume
        self._refuse_existing(self._others(), instead_of=volume)
        found = self.wait_detached()
        self._api.set_read_only(volume.id)
        described = {**found.metadata, **self._metadata, SIZE: str(total)}
        for key in (MARK, ALIVE, "readonly"):
            described.pop(key, None)

        def describe_volume() -> None:
            self._committing = True
            self._api.describe(volume.id, described)

        try:
            uninterrupted(describe_volume)
        except Exception as exc:
            if is_refusal(exc):
                self._committing = False
                raise
            if not self._is_described(exc, total):
                raise
        if any(other.mark is None for other in self._others()):
            # Whoever looks last sees both; where both look last, neither stays.
            raise AlreadyExists(
                "another add of this id was completed at the same time",
                remedy="try again, or use another id",
                retryable=True,
            )

    def _is_described(self, exc: Exception, total: int) -> bool:
        try:
            found = self._api.volume(self.volume.id)
            return (found.mark, found.metadata.get(SIZE)) == (None, str(total))
        except Exception:
            raise Unavailable(
                "it cannot be told whether the image was completed",
                remedy="look for the image later",
                indeterminate=True,
            ) from exc

    def _undo(self) -> bool:
        """Delete the volume; also one whose creation was not answered. Return whether it is gone.

        What is left, or comes later, is for others to find, by the mark of an add that ended.
        """
        if not self._asked:
            return True
        try:
            found = [self._volume] if self._volume else self._lost()
            if self._committing:
                delete_image(self._api, self.volume.id, self._settings)
                return True
            seconds = min(_UNDO, self._settings.patience.seconds)
            gone = [self._discard(volume, seconds=seconds) for volume in found]
            return bool(gone) and all(gone)
        except Exception as exc:
            LOG.warning("the volume of an add that failed stays: %s", describe(exc))
            return False

    def _discard(self, volume: Volume, *, seconds: float) -> bool:
        """Delete a volume that is no image; return whether it is gone already."""
        try:
            return discard(self._api, volume, self._settings, self._attachments, seconds=seconds)
        except NotFound:
            return True

    def _lost(self) -> list[Volume]:
        mark = self._metadata[MARK]
        return [each for each in self._api.volumes_of(self._image_id) if each.mark == mark]


class _Target:
    """The volume while it is written: attached, and made larger where that is needed."""

    def __init__(self, adding: Adding, size: int, closing: contextlib.ExitStack) -> None:
        self._adding = adding
        self._size = size
        closing.callback(self._close)
        self._attached: Attached | None = None
        self._opened: Writing | None = None
        self._open()

    @property
    def writing(self) -> Writing:
        """Return the volume, open for writing."""
        assert self._opened is not None  # noqa: S101  # between _open and _close
        return self._opened

    @property
    def piece(self) -> int:
        """Return how many bytes to write at once."""
        return self.writing.piece

    def reserve(self, end: int) -> None:
        """Let ``end`` bytes fit in; raises StorageFull."""
        if end <= self._size * GIB:
            return
        extended = self._extend_attached(end) if self._adding.extends_attached else 0
        if not extended:
            self.writing.finish()
            self._close()
            found = self._adding.wait_detached()
            extended = self._extend(found.size, end, "available")
            self._open()
        self._size = extended
        if self.writing.size() < end:
            raise StorageFull(f"the device has {self.writing.size()} bytes, not {extended} GiB")

    def _extend(self, size: int, end: int, state: str) -> int:
        """Extend the volume from the ``size`` that Cinder told; return the one that it tells."""
        wanted = self._adding.next_size(size, end)
        return self._adding.extend(wanted, state) if wanted > size else size

    def _extend_attached(self, end: int) -> int:
        """Extend the volume while it is attached; return 0 if its backend cannot do that."""
        attached = self._attached
        assert attached is not None and attached.device is not None  # noqa: S101, PT018
        if not attached.device.can_grow:
            return 0
        extended = self._extend(self._size, end, "in-use")
        attached.device.grow()
        return extended

    def clear(self, position: int, length: int) -> None:
        """Write zeros, unless they are there."""
        if self.writing.reads_zero:
            return
        while length:
            self._adding.note_alive()
            part = min(length, len(_ZEROS))
            self.writing.write(_ZEROS[:part], position)
            position, length = position + part, length - part

    def _open(self) -> None:
        self._attached = self._adding.attach()
        assert self._attached.device is not None  # noqa: S101  # attach has seen to it
        self._opened = self._attached.device.writing()

    def _close(self) -> None:
        opened, self._opened = self._opened, None
        try:
            if opened is not None:
                opened.close()
        finally:
            attached, self._attached = self._attached, None
            if attached is not None:
                self._adding.detach(attached)


def whole_gib(size: int) -> int:
    """Return the GiB that hold ``size`` bytes; there is no volume without any."""
    return max(1, -(-size // GIB))


def _order(volume: Volume) -> tuple[object, str]:
    return volume.created, volume.id


def _failed(volume: Volume) -> StoreError:
    if volume.status == "error_extending":
        return StorageFull("Cinder could not extend the volume")
    if volume.status.startswith("error"):
        return StorageFull(
            f"the volume is in the state {volume.status!r}",
            remedy="look at its messages in Cinder: most often no backend has room for its type",
        )
    return Unavailable(f"the volume is in the state {volume.status!r}")
