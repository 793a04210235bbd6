"""Deleting volumes, and waiting until they are gone."""

from __future__ import annotations

import contextlib
import dataclasses

from imgstore.boundary.translation import describe
from imgstore.drivers.cinder.client import Api
from imgstore.drivers.cinder.errors import is_refusal, present, said_of, status_of
from imgstore.drivers.cinder.lives import Fate
from imgstore.drivers.cinder.reading import image
from imgstore.drivers.cinder.reconciling import Remains
from imgstore.drivers.cinder.settings import Settings
from imgstore.drivers.cinder.volumes import TRANSIENT, Volume, check_free
from imgstore.errors import InUse, NotFound, TimedOut
from imgstore.process.patience import Patience


def delete_image(api: Api, volume: Volume, settings: Settings, remains: Remains) -> None:
    """Delete a complete image; raises NotFound and InUse."""
    if volume.uses or volume.status != "available":
        remains.end_dead(api, volume)
    try:
        api.delete(volume.id)
    except Exception as exc:
        if status_of(exc) != 400:
            raise
        said = f"Cinder does not delete the volume: {said_of(exc)}"
        found = image(api, volume.id)  # what is in the way may be somebody else's deletion
        check_free(found, said=said)
        raise InUse(said, retryable=True) from exc
    if settings.waits_for_delete:
        wait_until_gone(api, volume.id, settings)
    remains.forget(volume)


def delete_committed(api: Api, volume_id: str, settings: Settings) -> None:
    """Delete a volume that is an image, or becomes one if a lost request arrives."""
    with contextlib.suppress(NotFound):
        present(lambda: api.delete(volume_id))
        if settings.waits_for_delete:
            wait_until_gone(api, volume_id, settings)


def delete_draft(
    api: Api, volume: Volume, settings: Settings, remains: Remains, *, seconds: float
) -> bool:
    """Delete a volume that is no image; return whether it is gone, and not only accepted to go.

    Raises NotFound if it is gone, or became an image, and InUse. One that Cinder still works at is
    waited for. A state that only an administrator may leave is left, if the store's user is one.
    """
    patience = dataclasses.replace(settings.patience, seconds=seconds)
    found = _let_go(api, volume, remains, patience)
    if found.status != "deleting":
        _delete(api, found)
    if not settings.waits_for_delete:
        return False  # Cinder may give it up
    wait_until_gone(api, volume.id, settings)
    remains.forget(volume)
    return True


def _let_go(api: Api, volume: Volume, remains: Remains, patience: Patience) -> Volume:
    """End a draft's attachments until Cinder works at it no more; return it as it is then."""
    is_here = remains.lives.fate(volume.life) is not Fate.UNKNOWN
    for _ in patience.attempts():
        found = present(lambda: api.volume(volume.id))
        if not found.is_draft or found.life != volume.life:
            raise NotFound("the volume has become an image")
        attachments = api.attachments_of(volume.id)
        failures = []
        for attachment in attachments:
            try:
                remains.end(api, volume.id, attachment, is_here=is_here)
            except Exception as exc:
                failures.append(exc)
        if len(failures) < len(attachments):
            found = present(lambda: api.volume(volume.id))
        if found.status not in TRANSIENT:
            break
    if failures:
        # To reset the volume would end the attachment at Cinder, with a device still there.
        reason = "the volume is attached, and cannot be detached"
        raise InUse(reason, retryable=True) from failures[-1]
    return found


def _delete(api: Api, volume: Volume) -> None:
    try:
        present(lambda: api.delete(volume.id))
    except Exception as exc:
        if not is_refusal(exc):
            raise
        try:
            api.reset(volume.id)
        except Exception:  # it is for administrators
            raise _refused(volume, exc) from exc
        try:
            present(lambda: api.delete(volume.id))
        except Exception as again:
            if not is_refusal(again):
                raise
            raise _refused(volume, again) from again


def _refused(volume: Volume, exc: Exception) -> InUse:
    said = f"Cinder does not delete the volume, which was {volume.status!r}: {describe(exc)}"
    return InUse(said, retryable=True)


def wait_until_gone(api: Api, volume_id: str, settings: Settings) -> None:
    """Wait until a volume that is being deleted is gone; raises TimedOut, InUse."""
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
