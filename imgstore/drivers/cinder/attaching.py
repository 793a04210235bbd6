"""Volumes attached to this host: by Cinder, which reserves them, and os-brick, which connects."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from imgstore.boundary.translation import ClosedError, describe
from imgstore.drivers.cinder.client import Api, Volume, is_of, is_refusal, status_of
from imgstore.drivers.cinder.connectors import Connectors, StillConnected
from imgstore.drivers.cinder.devices import Device
from imgstore.drivers.cinder.locks import Fate, Life, Locks, Record
from imgstore.drivers.cinder.settings import Settings
from imgstore.errors import InUse, Unavailable
from imgstore.process.interrupts import uninterrupted

LOG = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.5  # seconds until a busy volume is asked for again; then twice as many
_DETACH_ATTEMPTS: Final = 3
_ATTACH_ATTEMPTS: Final = 3  # of which each may last as long as Cinder waits for its services
# Seconds for which nobody goes on with a reservation that its maker has forgotten. Those that work
# go on with the next request; the storage may take some time for it.
_FORGOTTEN: Final = 30.0
# What Cinder says of a volume that is attached, or being read by Cinder itself, and so refuses to
# reserve.
_BUSY: Final = ("must be available", "downloading to reserve", "is in use", "already attached")

# States of such a volume that a reader's or writer's end changes, or that do not last. Others, such
# as maintenance, backing-up, awaiting-transfer or retyping, may last for hours.
_SOON: Final = frozenset(
    {"available", "in-use", "attaching", "detaching", "reserved", "downloading", "uploading"}
)


class Attached:
    """A volume that is attached; whoever attached it detaches it.

    Its life is where Cinder has the place of the device: so others can tell whether it is used.
    """

    def __init__(self, api: Api, volume_id: str, life: Life) -> None:
        self.api = api
        self.volume_id = volume_id
        self.life = life
        # Known wherever an interrupt comes.
        self.id: str | None = None
        self.is_in_doubt = False  # whether there may be an attachment without a known id
        self.connection: Mapping[str, Any] = {}
        self.is_connected = False  # also where there is no device to use
        self.device: Device | None = None
        self.is_ended = False


class Attachments:
    """What one process of a store has attached."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._locks = Locks(settings.lock_path)
        self._connectors = Connectors(settings, self._locks)
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._shared: dict[str, _Shared] = {}
        self._all: set[Attached] = set()
        self._closed = False
        _living.add(self)

    def life(self) -> Life:
        """Return a name for something that this process does; raises ConfigError without locks."""
        return Life(self._locks)

    def attach(self, api: Api, volume: Volume, mode: str) -> Attached:
        """Attach a volume for this caller alone; raises InUse where somebody else has it.

        A server that is too busy to answer in time is asked again, with all undone before.
        """
        if self._closed:
            raise ClosedError("the store is closed")
        properties = self._connectors.properties()
        for attempt in range(1, _ATTACH_ATTEMPTS + 1):
            attached = Attached(api, volume.id, self.life())
            try:
                return self._attach(attached, volume, mode, properties)
            except Exception as exc:
                may_pass = status_of(exc) >= 500 and attached.is_ended and not self._closed
                if not may_pass or attempt == _ATTACH_ATTEMPTS:
                    raise
                LOG.info("attaching %s again: Cinder answered %s", volume.id, status_of(exc))
            time.sleep(_FIRST_PAUSE * attempt)
        raise AssertionError("unreachable")

    def _attach(
        self, attached: Attached, volume: Volume, mode: str, properties: Mapping[str, Any]
    ) -> Attached:
        self._all.add(attached)
        try:
            self._reserve(attached, volume, mode)
            self._connect(attached, volume, properties)
        except BaseException:
            self.detach(attached)
            raise
        return attached

    def _connect(self, attached: Attached, volume: Volume, properties: Mapping[str, Any]) -> None:
        api, attachment = attached.api, str(attached.id)

        def connect() -> None:
            try:
                attached.device = self._connectors.connect(volume, attached.connection)
            except StillConnected:
                attached.is_connected = True
                raise

        try:
            attached.connection = api.connect(
                attachment, {**properties, "mountpoint": attached.life.name}
            )
            uninterrupted(connect)
            api.complete(attachment)
        except Exception as exc:
            if status_of(exc) == 404:
                raise Unavailable("somebody has ended the attachment") from exc
            raise

    def detach(self, attached: Attached) -> None:
        """Disconnect and detach.

        Where that fails it is logged, and left to whoever next wants the volume: see ``end_dead``.
        """

        def detach() -> None:
            with contextlib.suppress(KeyError):
                self._all.remove(attached)
                _detach(attached, self._connectors)

        if os.getpid() == self._pid:
            uninterrupted(detach)

    def share(self, api: Api, volume: Volume) -> tuple[Device, Callable[[], None]]:
        """Attach a volume for reading, or use it where this process has it already.

        Also return what to call after use, once.
        """
        with self._lock:
            shared = self._shared.setdefault(volume.id, _Shared())
            shared.users += 1
        uses = [None]

        def leave() -> None:
            with contextlib.suppress(IndexError):
                uses.pop()
                self._leave(volume.id, shared)

        try:
            with shared.lock:
                if shared.attached is None:
                    shared.attached = self.attach(api, volume, "ro")
                shared.attached.api = api  # whose token is younger
                assert shared.attached.device is not None  # noqa: S101  # attach has seen to it
                return shared.attached.device, lambda: uninterrupted(leave)
        except BaseException:
            uninterrupted(leave)
            raise

    def _leave(self, volume_id: str, shared: _Shared) -> None:
        if os.getpid() != self._pid:
            return
        with shared.lock:
            with self._lock:
                shared.users -= 1
                if shared.users:
                    return
            if shared.attached is not None:
                attached, shared.attached = shared.attached, None
                self.detach(attached)
            with self._lock:
                if not shared.users:
                    self._shared.pop(volume_id, None)

    def close(self) -> None:
        """Detach what is being read. An add that is under way ends by itself."""
        self._closed = True
        with self._lock:
            reading = list(self._shared.values())
        for shared in reading:
            with shared.lock:
                if shared.attached is not None:
                    self.detach(shared.attached)
        self._connectors.close()

    def exit(self) -> None:
        """Detach, at the interpreter's exit, what somebody has left open."""
        if os.getpid() == self._pid:
            while self._all:
                with contextlib.suppress(KeyError):
                    _detach(self._all.pop(), self._connectors)

    def _reserve(self, attached: Attached, volume: Volume, mode: str) -> None:
        """Create the attachment; a busy volume is asked for again, as often as configured."""
        attached.life.note(volume.id)
        left, was_freed = self._settings.attachment_attempts, False
        pause = _FIRST_PAUSE

        def attach() -> None:
            attached.is_in_doubt = True
            attached.id = attached.api.attach(volume.id, mode)
            attached.is_in_doubt = False
            attached.life.note(attached.id)

        while True:
            try:
                uninterrupted(attach)
                return
            except Exception as exc:
                attached.is_in_doubt = not is_refusal(exc)
                if not _is_busy(exc):
                    raise
            found = attached.api.volume(volume.id)
            if self.end_dead(attached.api, found) and not was_freed:
                was_freed = True
                continue
            if found.status not in _SOON:
                raise InUse(f"the volume is in the state {found.status!r}", retryable=True)
            left -= 1
            if not left:
                break
            time.sleep(pause)
            pause *= 2
        raise InUse(
            "the volume is attached, and its type does not allow that more than once",
            remedy="try again later, call remove_leftovers() if its process died, or give the "
            "store a volume type with multiattach",
            retryable=True,
        )

    def fate(self, life: str) -> Fate:
        """Return whether the bearer of a life's name lives."""
        return self._locks.fate(life)

    def records(self) -> dict[str, list[Record]]:
        """Return what this host's processes, living and dead, noted of volumes that they attach."""
        return self._locks.records()

    def sweep(self, volumes: Iterable[Volume]) -> None:
        """Forget what dead processes noted of volumes that are free."""
        records = self._locks.records()
        for volume in volumes:
            if volume.id in records and volume.status == "available":
                self._forget(records[volume.id])
        self._locks.sweep()

    def _forget(self, records: Iterable[Record]) -> None:
        for record in records:
            if record.is_dead:
                self._locks.remove(record)

    def has_dead(self, volume: Volume, records: Mapping[str, list[Record]]) -> bool:
        """Return whether a process of this host that died, or failed, has attached a volume."""
        noted = records.get(volume.id, ())
        if volume.status != "available" and any(each.is_dead for each in noted):
            return True
        return any(self.fate(use.device) is Fate.DEAD for use in volume.uses)

    def end_dead(self, api: Api, volume: Volume) -> bool:
        """End the attachments of this host's lives that ended; return whether there were any.

        What goes wrong is logged: it is not what the caller wants to know.
        """
        ended = False
        uses = {use.id: use.device for use in volume.uses if self.fate(use.device) is Fate.DEAD}
        records = [
            each
            for each in self._locks.records().get(volume.id, ())
            if each.is_dead and each.attachment
        ]
        for attachment in {*uses, *(str(each.attachment) for each in records)}:
            LOG.info("ending an attachment of %s, whose process died", volume.id)
            try:
                ended |= self.end(api, volume.id, attachment, is_here=True)
            except Exception as exc:
                LOG.warning("volume %s stays attached: %s", volume.id, describe(exc))
                return ended
        for life in uses.values():
            self._locks.forget(life)
        for record in records:
            self._locks.remove(record)
        return ended

    def end_forgotten(self, api: Api, volume_id: str) -> bool:
        """End reservations whose ids nobody learned; return whether there were any.

        Cinder does not say whose a reservation is. That of a process that works does not last.
        """
        noted = self._locks.records().get(volume_id, ())
        forgotten = [each for each in noted if each.is_dead and not each.attachment]
        if not forgotten:
            return False
        reserved = set(api.reservations_of(volume_id))
        for _ in dataclasses.replace(self._settings.patience, seconds=_FORGOTTEN).attempts():
            reserved &= set(api.reservations_of(volume_id))
            if not reserved:
                break
        noted = self._locks.records().get(volume_id, ())
        reserved -= {str(each.attachment) for each in noted if not each.is_dead}
        ended = [self.end(api, volume_id, each, is_here=False) for each in reserved]
        self._forget(forgotten)
        return any(ended)

    def end(self, api: Api, volume_id: str, attachment: str, *, is_here: bool) -> bool:
        """End an attachment that nobody uses; return whether it was there.

        Before the storage takes the volume from this host, no device may lead to it any more: it
        could come to be another one's (CVE-2023-2088).
        """
        try:
            if is_here:
                self._connectors.forget(volume_id, api.connection_of(attachment))
            api.detach(attachment)
        except Exception as exc:
            if status_of(exc) == 404:
                return False
            raise
        return True

    def forget(self, volume: Volume) -> None:
        """Remove what dead lives noted of a volume that is gone."""
        self._locks.forget(volume.mark or "")
        self._forget(self._locks.records().get(volume.id, ()))


class _Shared:
    """A volume that readers of this process have in common."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.attached: Attached | None = None


def _is_busy(exc: Exception) -> bool:
    said = str(getattr(exc, "message", "") or exc).lower()
    return status_of(exc) in {400, 409} and any(words in said for words in _BUSY)


def _detach(attached: Attached, connectors: Connectors) -> None:
    """Do it to the end; nothing is raised, for something else may be.

    The life's file stays for what did not succeed.
    """
    device, attached.device = attached.device, None
    is_done = not attached.is_in_doubt
    try:
        if device is not None:
            device.disconnect()
        elif attached.is_connected:
            connectors.forget(attached.volume_id, attached.connection)
        if attached.id is not None:
            _end(attached.api, attached.id)
    except Exception as exc:
        LOG.warning("volume %s stays attached: %s", attached.volume_id, describe(exc))
        is_done = False
    attached.is_ended = is_done
    attached.life.end(keep=not is_done)


def _end(api: Api, attachment: str) -> None:
    for attempt in range(_DETACH_ATTEMPTS):
        if attempt:
            time.sleep(_FIRST_PAUSE * 2**attempt)
        try:
            api.detach(attachment)
        except Exception as exc:
            if status_of(exc) == 404:
                return
            is_answer = is_of(exc, "cinderclient") and status_of(exc) < 500
            if is_answer or attempt == _DETACH_ATTEMPTS - 1:
                raise
        else:
            return


_living: weakref.WeakSet[Attachments] = weakref.WeakSet()


@atexit.register
def _exit() -> None:
    for each in list(_living):
        each.exit()
