"""One id in all datastores of a store: whether it is taken, and which add may have it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Final

from imgstore.drivers.vmware.datastores import Datastores
from imgstore.drivers.vmware.places import DRAFT_PREFIX, Datastore, Place
from imgstore.errors import AlreadyExists
from imgstore.process.patience import Patience

# For an add of the same id in another datastore, which takes a few tasks to complete its image or
# to give way; but no longer than an answer may take.
_LOOKING: Final = 10.0  # seconds
_ROUNDS: Final = 3  # as many times as long, of all such adds together
_PAUSE: Final = 0.2  # seconds between looks


class Claims:
    """The claims of all adds of an id, as one of them sees them.

    A claim is a draft that is complete, renamed so that others see for which id it is.
    """

    def __init__(self, datastores: Datastores, image_id: str) -> None:
        self._datastores = datastores
        self._id = image_id
        self._ending = f"-{hashlib.sha256(image_id.encode()).hexdigest()[:32]}"
        self._usable: set[Datastore] = set()

    def check_free(self, usable: set[Datastore], *, but: Datastore | None = None) -> None:
        """Raise AlreadyExists if a datastore has the image; those that are not usable may not tell.

        ``but`` one need not be asked.
        """
        self._usable = usable
        for datastore, _ in self._datastores.settings.datastores:
            if datastore != but and self._has_image(datastore):
                raise AlreadyExists("an image of this id exists")

    def _has_image(self, datastore: Datastore) -> bool:
        try:
            return self._datastores.files.exists(self._datastores.place(datastore, self._id))
        except Exception:
            if datastore in self._usable:
                raise
            return False

    def prevail(
        self,
        draft: Place,
        rename: Callable[[Place, Place], None],
        discard: Callable[[Place], object],
    ) -> Place:
        """Rename the draft to a claim, and return it when no other datastore has one or the image.

        Each add looks after it has claimed, so of two at least one sees the other. The one whose
        datastore comes later by its name gives way and claims anew later; the other one waits
        for that. A claim that stays is that of a process that died or stands still: it is
        deleted, and if its owner goes on after all, there is nothing that it could rename.
        Raises AlreadyExists.
        """
        datastores, own = self._datastores, draft.datastore
        claim = datastores.place(own, f"{draft.name}{self._ending}")
        looking = min(_LOOKING, datastores.settings.read_timeout)
        since: dict[Place, float] = {}
        rename(draft, claim)
        is_claimed = True
        for _ in Patience(_PAUSE, _PAUSE, seconds=_ROUNDS * looking).attempts():
            rivals = self._rivals(own)
            is_late = any(rival.datastore.key < own.key for rival in rivals)
            if is_claimed and not rivals:
                return claim
            if is_claimed and is_late:
                rename(claim, draft)
                is_claimed = False
            elif not is_claimed and not is_late:
                rename(draft, claim)
                is_claimed = True
            now = time.monotonic()
            since = {rival: since.get(rival, now) for rival in rivals}
            for rival in rivals:
                if now - since[rival] >= looking:
                    discard(rival)
        raise AlreadyExists("other adds of this id are under way", retryable=True)

    def _rivals(self, own: Datastore) -> list[Place]:
        """Return the claims of other datastores; raises AlreadyExists if one has the image."""
        # Claims first: one that becomes an image in between is seen as that.
        found = self._datastores.search(f"{DRAFT_PREFIX}*{self._ending}", but=own)
        rivals = [place for place, _ in found]
        self.check_free(self._usable, but=own)
        return rivals
