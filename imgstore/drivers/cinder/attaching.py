"""Volumes attached to this host: by Cinder, which reserves them, and os-brick, which connects."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from imgstore.boundary.translation import ClosedError, describe
from imgstore.drivers.cinder.client import Api
from imgstore.drivers.cinder.connectors import Connectors, StillConnected
from imgstore.drivers.cinder.devices import Device
from imgstore.drivers.cinder.errors import is_busy, is_gone, is_refusal, status_of
from imgstore.drivers.cinder.lives import Life, Lives
from imgstore.drivers.cinder.locks import Locks
from imgstore.drivers.cinder.reconciling import Remains
from imgstore.drivers.cinder.settings import Settings
from imgstore.drivers.cinder.volumes import Volume, check_free
from imgstore.errors import InUse, Unavailable
from imgstore.process.interrupts import uninterrupted
from imgstore.process.patience import Patience

LOG = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.5  # seconds until a busy volume is asked for again; then twice as many
# With a server that is too busy: each attempt may last as long as Cinder waits for its services.
_ATTACHING: Final = Patience(_FIRST_PAUSE, times=2)
_DETACHING: Final = Patience(1.0, times=2)


class Attached:
    """A volume that is attached; the operation that attached it detaches it.

    Its life is where Cinder has the place of the device: so others can tell whether it is used.
    """

    def __init__(self, api: Api, volume_id: str, life: Life) -> None:
        self.api = api
        self.volume_id = volume_id
        self.life = life
        # Known wherever an interrupt comes.
        self.id: str | None = None
        self.is_in_doubt = False  # whether there may be an attachment without a known id
        self.device: Device  # once it is connected
        self.disconnect: Callable[[], None] = lambda: None
        self.is_ended = False


class Attachments:
    """What one process of a store has attached."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        locks = Locks(settings.lock_path)
        self._connectors = Connectors(settings, locks)
        self.lives = Lives(locks)
        self.remains = Remains(settings, self.lives, self._connectors)
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._shared: dict[str, _Shared] = {}
        self._all: set[Attached] = set()
        self._closed = False
        _living.add(self)

    def attach(self, api: Api, volume: Volume, mode: str) -> Attached:
        """Attach a volume for this caller alone; raises InUse where somebody else has it.

        A server that is too busy to answer in time is asked again, with all undone before.
        """
        if self._closed:
            raise ClosedError("the store is closed")
        properties = self._connectors.properties(api.endpoint)
        attached: Attached

        def attach() -> Attached:
            nonlocal attached
            attached = Attached(api, volume.id, self.lives.begin())
            return self._attach(attached, volume, mode, properties)

        def may_pass(exc: Exception) -> bool:
            if status_of(exc) < 500 or not attached.is_ended or self._closed:
                return False
            LOG.info("attaching %s: Cinder answered %s", volume.id, status_of(exc))
            return True

        return _ATTACHING.repeat(attach, may_pass)

    def _attach(
        self, attached: Attached, volume: Volume, mode: str, properties: Mapping[str, Any]
    ) -> Attached:
        self._all.add(attached)
        try:
            self._reserve(attached, mode)
            self._connect(attached, volume, properties)
        except BaseException:
            self.detach(attached)
            raise
        return attached

    def _reserve(self, attached: Attached, mode: str) -> None:
        """Create the attachment; a busy volume is asked for again, as often as configured."""
        attached.life.note(attached.volume_id)
        patience = Patience(_FIRST_PAUSE, times=self._settings.attachment_attempts - 1)
        for _ in patience.attempts():
            if self._try_to_reserve(attached, mode):
                return
            if self._is_freed(attached) and self._try_to_reserve(attached, mode):
                return
        raise InUse(
            "the volume is attached, and its type does not allow that more than once",
            remedy="try again later, call remove_leftovers() if its process died, or give the "
            "store a volume type with multiattach",
            retryable=True,
        )

    def _try_to_reserve(self, attached: Attached, mode: str) -> bool:
        """Create the attachment; return whether the volume was free."""

        def reserve() -> None:
            attached.is_in_doubt = True
            attached.id = attached.api.attach(attached.volume_id, mode)
            attached.is_in_doubt = False
            attached.life.note(attached.id)

        try:
            uninterrupted(reserve)
        except Exception as exc:
            attached.is_in_doubt = not is_refusal(exc)
            if not is_busy(exc):
                raise
            return False
        return True

    def _is_freed(self, attached: Attached) -> bool:
        """Return whether it was the dead who kept a volume busy; raises what its state means."""
        found = attached.api.volume(attached.volume_id)
        if self.remains.end_dead(attached.api, found):
            return True
        check_free(found)
        return False

    def _connect(self, attached: Attached, volume: Volume, properties: Mapping[str, Any]) -> None:
        api, attachment = attached.api, str(attached.id)

        def connect() -> None:
            try:
                attached.device = self._connectors.connect(volume, connection)
            except StillConnected:
                attached.disconnect = partial(self._connectors.disconnect, volume.id, connection)
                raise
            attached.disconnect = attached.device.disconnect

        try:
            connection = api.connect(attachment, {**properties, "mountpoint": attached.life.name})
            uninterrupted(connect)
            api.complete(attachment)
        except Exception as exc:
            if is_gone(exc):
                raise Unavailable("somebody has ended the attachment") from exc
            raise

    def detach(self, attached: Attached) -> None:
        """Disconnect and detach.

        Where that fails it is logged, and left to the next operation that wants the volume: see
        ``Remains``.
        """

        def detach() -> None:
            with contextlib.suppress(KeyError):
                self._all.remove(attached)
                _detach(attached)

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
                    check_free(volume)
                    shared.attached = self.attach(api, volume, "ro")
                shared.attached.api = api  # whose token is younger
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
                    _detach(self._all.pop())


class _Shared:
    """A volume that readers of this process have in common."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.attached: Attached | None = None


def _detach(attached: Attached) -> None:
    """Do it to the end; nothing is raised, for something else may be.

    The life's file stays for what did not succeed.
    """
    is_done = not attached.is_in_doubt
    try:
        attached.disconnect()
        if attached.id is not None:
            _end(attached.api, attached.id)
    except Exception as exc:
        LOG.warning("volume %s stays attached: %s", attached.volume_id, describe(exc))
        is_done = False
    attached.is_ended = is_done
    attached.life.end(keep=not is_done)


def _end(api: Api, attachment: str) -> None:
    try:
        _DETACHING.repeat(lambda: api.detach(attachment), lambda exc: not is_refusal(exc))
    except Exception as exc:
        if not is_gone(exc):
            raise


_living: weakref.WeakSet[Attachments] = weakref.WeakSet()


@atexit.register
def _exit() -> None:
    for each in list(_living):
        each.exit()
