"""The volume of an add: waited for, filled while attached, and extended where that is needed."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from typing import Final

from imgstore.boundary.translation import describe
from imgstore.data.streams import Body
from imgstore.data.units import GIB, MIB
from imgstore.drivers.cinder.attaching import Attachments
from imgstore.drivers.cinder.client import Api
from imgstore.drivers.cinder.devices import Device, Writing
from imgstore.drivers.cinder.errors import status_of
from imgstore.drivers.cinder.settings import Settings
from imgstore.drivers.cinder.volumes import Volume, failure_of
from imgstore.errors import StorageFull, TimedOut

LOG = logging.getLogger(__name__)

_ZEROS: Final = bytes(MIB)
_ALIVE: Final = 60.0  # seconds between two signs of life of an add


class Target:
    """A volume that was just made, as the asker of an add sees it."""

    def __init__(
        self, api: Api, volume: Volume, attachments: Attachments, settings: Settings
    ) -> None:
        self._api = api
        self._volume = volume
        self._attachments = attachments
        self._settings = settings
        self._noted = time.monotonic()
        self._size = volume.size
        self._closing = ExitStack()  # detaches the volume
        # What it is while it is attached.
        self._device: Device
        self._writing: Writing

    def fill(self, body: Body) -> int:
        """Write the whole of ``body``; return its length. The volume is detached afterwards."""
        # Some backends make volumes of certain sizes only.
        self._size = self._wait("available", "creating").size
        with self._closing:
            self._open()
            for position, length, data in body.stretches(lambda: self._writing.piece):
                self._note_alive()
                self._reserve(position + length)
                if data is None:
                    self._clear(position, length)
                else:
                    self._writing.write(data, position)
            self._writing.finish()
        return body.total

    def wait_detached(self) -> Volume:
        """Wait until the volume is available again; detaching is tried once more if it failed."""
        found = self._api.volume(self._volume.id)
        if found.status == "available":
            return found
        self._attachments.remains.end_dead(self._api, found)
        return self._wait("available", "in-use", "detaching", "attaching", "reserved")

    def _wait(self, wanted: str, *passing: str, size: int = 0) -> Volume:
        """Wait until the volume is in a state; raises TimedOut, or what the state means."""
        patience = self._settings.patience
        for _ in patience.attempts():
            found = self._api.volume(self._volume.id)
            if found.status == wanted and found.size >= size:
                return found
            if found.status not in {wanted, *passing}:
                raise failure_of(found)
            self._note_alive()
        raise TimedOut(
            f"the volume is still {found.status} after {patience.seconds:g} s",
            remedy="look at Cinder's services, or raise cinder_state_transition_timeout",
        )

    def _note_alive(self) -> None:
        """Say now and then that the add goes on: clean-up on other hosts goes by that."""
        now = time.monotonic()
        if now - self._noted < _ALIVE:
            return
        self._noted = now
        try:
            self._api.note_alive(self._volume.id)
        except Exception as exc:
            LOG.debug("noting that an add goes on: %s", describe(exc))

    def _open(self) -> None:
        attached = self._attachments.attach(self._api, self._volume, "rw")
        self._closing.callback(self._attachments.detach, attached)
        self._device = attached.device
        self._writing = self._device.writing()
        self._closing.callback(self._writing.close)

    def _clear(self, position: int, length: int) -> None:
        """Write zeros, unless they are there."""
        if self._writing.reads_zero:
            return
        while length:
            self._note_alive()
            part = min(length, len(_ZEROS))
            self._writing.write(_ZEROS[:part], position)
            position, length = position + part, length - part

    def _reserve(self, end: int) -> None:
        """Let ``end`` bytes fit in; raises StorageFull."""
        if end <= self._size * GIB:
            return
        if self._settings.extends_attached and self._device.can_grow:
            self._size = self._extend(self._size, end, "in-use")
            self._device.grow()
        else:
            self._writing.finish()
            self._closing.close()
            self._size = self._extend(self.wait_detached().size, end, "available")
            self._open()
        if self._writing.size() < end:
            raise StorageFull(f"the device has {self._writing.size()} bytes, not {self._size} GiB")

    def _extend(self, told: int, end: int, state: str) -> int:
        """Extend the volume, of ``told`` GiB, until ``end`` bytes fit in; return its new size.

        It is in ``state`` before and after. It may be larger than it has to be.
        """
        size = told
        while size * GIB < end:
            size = self._settings.next_size(size)
        if size == told:
            return told
        try:
            self._api.extend(self._volume.id, size)
        except Exception as exc:
            if status_of(exc) in {400, 409}:
                raise StorageFull(
                    f"Cinder refuses to extend the volume to {size} GiB: {describe(exc)}"
                ) from exc
            raise
        found = self._wait(state, "extending", "available", "in-use", size=size)
        return found.size
