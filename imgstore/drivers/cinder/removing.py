"""Deleting volumes, and waiting until they are gone."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Final, TypeVar

from imgstore.boundary.translation import describe
from imgstore.drivers.cinder.attaching import Attachments
from imgstore.drivers.cinder.client import Api, Volume, is_refusal, status_of
from imgstore.drivers.cinder.locks import Fate
from imgstore.drivers.cinder.settings import Settings
from imgstore.errors import InUse, NotFound, TimedOut

T = TypeVar("T")

# States from which a volume goes on by itself.
PASSING: Final = frozenset(
    {"creating", "extending", "attaching", "detaching", "reserved", "downloading"}
)


def discard(
    api: Api, volume: Volume, settings: Settings, attachments: Attachments, *, seconds: float
) -> bool:
    """Delete a volume that is no image; return whether it is gone, and not only accepted to go.

    Raises NotFound if it is gone, or became an image, and InUse. One that Cinder still works at is
    waited for. A state that only an administrator may leave is left, if the store's user is one.
    """
    is_here = attachments.fate(volume.mark or "") is not Fate.UNKNOWN
    for _ in dataclasses.replace(settings.patience, seconds=seconds).attempts():
        found = present(lambda: api.volume(volume.id))
        if found.mark is None or found.mark != volume.mark:
            raise NotFound("the volume has become an image")
        failure: Exception | None = None
        for attachment in api.attachments_of(volume.id):
            try:
                attachments.end(api, volume.id, attachment, is_here=is_here)
                found = api.volume(volume.id)
            except Exception as exc:
                failure = exc
        if found.status not in PASSING:
            break
    if failure is not None:
        # To reset the volume would end the attachment at Cinder, with a device still there.
        raise InUse("the volume is attached, and cannot be detached", retryable=True) from failure
    if found.status != "deleting":
        _delete(api, volume.id)
    if not settings.waits_for_delete:
        return False  # Cinder may give it up
    wait_until_gone(api, volume.id, settings)
    attachments.forget(volume)
    return True


def delete_image(api: Api, volume_id: str, settings: Settings) -> None:
    """Delete a volume that is an image, or becomes one if a lost request arrives."""
    with contextlib.suppress(NotFound):
        present(lambda: api.delete(volume_id))
        if settings.waits_for_delete:
            wait_until_gone(api, volume_id, settings)


def _delete(api: Api, volume_id: str) -> None:
    try:
        present(lambda: api.delete(volume_id))
    except NotFound:
        raise
    except Exception as exc:
        if not is_refusal(exc):
            raise
        try:
            api.reset(volume_id)
        except Exception:  # it is for administrators
            raise InUse(
                f"Cinder does not delete the volume: {describe(exc)}", retryable=True
            ) from exc
        present(lambda: api.delete(volume_id))


def wait_until_gone(api: Api, volume_id: str, settings: Settings) -> None:
    """Wait until a volume that is being deleted is gone; raises TimedOut, StoreError."""
    for _ in settings.patience.attempts():
        try:
            found = present(lambda: api.volume(volume_id))
        except NotFound:
            return
        if found.status != "deleting":
            raise InUse(
                f"Cinder did not delete the volume, which is {found.status} now",
                remedy="try again later; Cinder's log says what is in the way",
                retryable=True,
            )
    raise TimedOut(f"the volume is still there after {settings.patience.seconds:g} s")


def present(call: Callable[[], T]) -> T:
    """Call; raises NotFound where Cinder says so."""
    try:
        return call()
    except Exception as exc:
        if status_of(exc) == 404:
            raise NotFound("the volume is gone") from exc
        raise
