"""Volumes attached to this host: by Cinder, which reserves them, and os-brick, which connects."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final

from imgstore._interrupts import uninterrupted
from imgstore.drivers.cinder.client import Api, Volume, is_of, status_of
from imgstore.drivers.cinder.connectors import Connectors
from imgstore.drivers.cinder.devices import Device
from imgstore.drivers.cinder.locks import Life, Locks
from imgstore.drivers.cinder.settings import Settings
from imgstore.errors import InUse
from imgstore.translation import describe

LOG = logging.getLogger(__name__)

# What Cinder calls the place of an attachment: with it goes the name of its maker's Life.
_DEVICE: Final = "imgstore-"
_FIRST_PAUSE: Final = 0.5  # seconds until a busy volume is asked for again; then twice as many
_DETACH_ATTEMPTS: Final = 3
# What Cinder says of a volume that is attached, or being read by Cinder itself, and so refuses to
# reserve.
_BUSY: Final = ("must be available", "downloading to reserve", "is in use", "already attached")


def host() -> str:
    """Return the name by which Cinder knows this host."""
    return socket.gethostname()


class Attached:
    """A volume that is attached; whoever attached it detaches it."""

    def __init__(self, api: Api, volume_id: str) -> None:
        self.api = api
        self.volume_id = volume_id
        # Known wherever an interrupt comes.
        self.id: str | None = None
        self.device: Device | None = None


class Attachments:
    """What one process of a store has attached."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._locks = Locks(settings.lock_path)
        self._connectors = Connectors(settings, self._locks)
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._shared: dict[str, _Shared] = {}
        self._all: set[Attached] = set()
        self._lives: list[Life] = []
        weakref.finalize(self, _detach_all, os.getpid(), self._all, self._lives)

    def attach(self, api: Api, volume: Volume, mode: str) -> Attached:
        """Attach a volume for this caller alone; raises InUse where somebody else has it."""
        attached = Attached(api, volume.id)
        self._all.add(attached)
        try:
            self._reserve(attached, volume, mode)
            connection = api.connect(str(attached.id), self._connector())
            uninterrupted(lambda: self._connect(attached, volume, connection))
            api.complete(str(attached.id))
        except BaseException:
            self.detach(attached)
            raise
        return attached

    def _connect(self, attached: Attached, volume: Volume, connection: Mapping[str, Any]) -> None:
        attached.device = self._connectors.connect(volume, connection)

    def detach(self, attached: Attached) -> None:
        """Disconnect and detach, whatever fails; what Cinder then still thinks is logged."""
        if os.getpid() == self._pid and attached in self._all:
            uninterrupted(lambda: _detach(attached))
            self._all.discard(attached)

    def share(self, api: Api, volume: Volume) -> tuple[Device, Callable[[], None]]:
        """Attach a volume for reading, or use it where this process has it already.

        Also return what to call after use, once.
        """
        with self._lock:
            shared = self._shared.setdefault(volume.id, _Shared())
            shared.users += 1
        uses = [None]

        def leave() -> None:
            try:
                uses.pop()
            except IndexError:
                return
            self._leave(volume.id, shared)

        try:
            with shared.lock:
                if shared.attached is None:
                    shared.attached = self.attach(api, volume, "ro")
                shared.attached.api = api  # whose token is younger
                assert shared.attached.device is not None  # noqa: S101  # attach has seen to it
                return shared.attached.device, leave
        except BaseException:
            leave()
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
        """Detach everything."""
        for attached in list(self._all):
            self.detach(attached)
        self._connectors.close()
        _end(self._lives)

    @property
    def life(self) -> Life:
        """Return what tells others that this process works; raises ConfigError without locks."""
        with self._lock:
            if not self._lives:
                self._lives.append(Life(self._locks))
            return self._lives[0]

    def _connector(self) -> Mapping[str, Any]:
        return {**self._connectors.properties(), "mountpoint": f"{_DEVICE}{self.life.name}"}

    def _reserve(self, attached: Attached, volume: Volume, mode: str) -> None:
        """Create the attachment; a busy volume is asked for again, as often as configured."""
        _ = self.life
        pause = _FIRST_PAUSE
        for attempt in range(self._settings.attachment_attempts):
            if attempt:
                time.sleep(pause)
                pause *= 2

            def attach() -> None:
                attached.id = attached.api.attach(volume.id, mode)

            try:
                uninterrupted(attach)
                return
            except Exception as exc:
                if not _is_busy(exc):
                    raise
                if self.end_dead(attached.api, attached.api.volume(volume.id)):
                    pause = 0.0 if not attempt else pause
        raise InUse(
            "the volume is attached, and its type does not allow that more than once",
            remedy="try again later, or give the store a volume type with multiattach",
            retryable=True,
        )

    def is_of_dead(self, at: str, device: str) -> bool:
        """Return whether an attachment, or a mark, is one of this host's processes that died."""
        if at != host() or not device.startswith(_DEVICE):
            return False
        return self._locks.is_dead(device.removeprefix(_DEVICE))

    def end_dead(self, api: Api, volume: Volume) -> bool:
        """End the attachments of this host's processes that died; return whether there were any."""
        dead = [use for use in volume.uses if self.is_of_dead(use.host, use.device)]
        for use in dead:
            LOG.info("ending an attachment of %s, whose process died", volume.id)
            api.detach(use.id)
        return bool(dead)


class _Shared:
    """A volume that readers of this process have in common."""

    def __init__(self) -> None:
        # The garbage collector may close a reader while its thread opens another one.
        self.lock = threading.RLock()
        self.users = 0
        self.attached: Attached | None = None


def _is_busy(exc: Exception) -> bool:
    said = str(getattr(exc, "message", "") or exc).lower()
    return status_of(exc) in {400, 409} and any(words in said for words in _BUSY)


def _detach(attached: Attached) -> None:
    """Do it to the end; nothing is raised, for something else may be."""
    device, attached.device = attached.device, None
    if device is not None:
        try:
            device.disconnect()
        except Exception as exc:
            LOG.warning("volume %s: disconnecting failed: %s", attached.volume_id, describe(exc))
    attachment, attached.id = attached.id, None
    if attachment is None:
        return
    for attempt in range(_DETACH_ATTEMPTS):
        if attempt:
            time.sleep(_FIRST_PAUSE * 2**attempt)
        try:
            attached.api.detach(attachment)
        except Exception as exc:
            if status_of(exc) == 404:
                return
            last = attempt == _DETACH_ATTEMPTS - 1
            if last or (is_of(exc, "cinderclient") and status_of(exc) < 500):
                LOG.warning("volume %s stays attached: %s", attached.volume_id, describe(exc))
                return
        else:
            return


def _detach_all(pid: int, everything: set[Attached], lives: list[Life]) -> None:
    """Detach at exit what somebody has left open."""
    if os.getpid() == pid:
        for attached in list(everything):
            _detach(attached)
        _end(lives)


def _end(lives: list[Life]) -> None:
    while lives:
        lives.pop().end()
