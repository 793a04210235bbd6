"""Adding an image: a draft beside it, filled, checked, and renamed by the server."""

from __future__ import annotations

import logging
from collections.abc import Callable

from imgstore.data.streams import Body
from imgstore.drivers._numbers import whole_number
from imgstore.drivers._placement import pick
from imgstore.drivers.vmware.claims import Claims
from imgstore.drivers.vmware.datastores import Datastores
from imgstore.drivers.vmware.deleting import delete
from imgstore.drivers.vmware.errors import means
from imgstore.drivers.vmware.files import Stamp, Upload
from imgstore.drivers.vmware.places import Datastore, Place
from imgstore.drivers.vmware.renaming import REMOVED, Renaming
from imgstore.errors import ImgStoreError, IntegrityError, NotFound, StorageFull, Unavailable
from imgstore.process.committing import in_doubt, is_in_doubt
from imgstore.process.interrupts import uninterrupted

LOG = logging.getLogger(__name__)


class Adding:
    """One add of one image; ``draft`` is the name of its data until they are complete."""

    def __init__(self, datastores: Datastores, image_id: str, draft: str) -> None:
        self._datastores = datastores
        self._files = datastores.files
        self._id = image_id
        self._draft = draft
        self.size = 0
        self._names: list[Place] = []  # that the data have, or, in doubt, may have
        self._stamp = Stamp()
        self._claims = Claims(datastores, image_id)

    def add(self, body: Body) -> Place:
        """Store an image and return where; raises AlreadyExists, StorageFull."""
        upload = Upload(body)
        best = self._choose(upload.size, is_small=upload.is_small)

        def fill(draft: Place) -> None:
            self._upload(draft, upload, body)

        for datastore in best[:-1]:
            try:
                return self._store(datastore, fill)
            except StorageFull:
                # The server says how much is free, which others use at the same time.
                if upload.is_begun:
                    raise
        return self._store(best[-1], fill)

    def copy(self, source: Place) -> Place:
        """Let the server copy a file, and return where the copy is."""
        self.size = self._files.size(source)
        best = self._choose(self.size, is_small=False)[0]

        def fill(draft: Place) -> None:
            self._datastores.make_directory(best)
            self._datastores.copy(source, draft)
            self._check(draft)

        return self._store(best, fill)

    def _choose(self, size: int | None, *, is_small: bool) -> list[Datastore]:
        """Return where the image may go, best first; raises AlreadyExists for an id that is taken.

        Of the best datastore the commit finds that out, too.
        """
        candidates = self._datastores.candidates()
        best = pick(candidates, size)
        usable = {candidate.place for candidate in candidates}
        self._claims.check_free(usable, but=best[0] if is_small else None)
        return best

    def _store(self, datastore: Datastore, fill: Callable[[Place], None]) -> Place:
        draft = self._datastores.place(datastore, self._draft)
        final = self._datastores.place(datastore, self._id)
        self._names = [draft]
        try:
            fill(draft)
            ready = draft
            if len(self._datastores.settings.datastores) > 1:
                ready = self._claims.prevail(draft, self._rename, self._discard)
            self._rename(ready, final, is_commit=True)
        except BaseException as exc:
            if is_in_doubt(exc):
                raise
            is_moved = self._names == [final]
            kept = [
                place for place in self._names if not self._discard(place, is_image=place == final)
            ]
            if is_moved and kept and isinstance(exc, Exception):
                raise in_doubt() from exc
            raise
        return final

    # The data.

    def _upload(self, draft: Place, upload: Upload, body: Body) -> None:
        # Where a server refuses large data, they are gone: the source cannot be read again.
        self._datastores.make_directory(draft.datastore, anew=not upload.is_small)
        failure: Exception | None = None
        try:
            self._put(draft, upload)
        except Exception as exc:
            # An answer that was lost may have been a good one; one that came was not.
            is_lost = not isinstance(exc, ImgStoreError) and means(exc, Unavailable)
            if not (upload.is_sent and is_lost):
                raise
            failure = exc
        self.size = body.total
        try:
            self._check(draft)
        except Exception as exc:
            raise failure or exc from None

    def _put(self, draft: Place, upload: Upload) -> None:
        try:
            self._files.put(draft, upload)
        except NotFound:
            if upload.is_begun:
                raise
            # The directory was there when this process last made it.
            self._datastores.make_directory(draft.datastore, anew=True)
            self._files.put(draft, upload)

    def _check(self, draft: Place) -> None:
        try:
            self._stamp = self._files.stamp(draft)
            found = whole_number(self._stamp.size)
            if found is None:
                found = self._files.size(draft)
        except NotFound as exc:
            raise Unavailable(REMOVED) from exc
        if found != self.size:
            raise IntegrityError(f"the server has {found} of the {self.size} bytes that were sent")

    # The names.

    def _rename(self, place: Place, to: Place, *, is_commit: bool = False) -> None:
        """Rename the data, unless there is a file of that name; note what they are called then."""
        uninterrupted(lambda: self._try_to_rename(place, to, is_commit=is_commit))

    def _try_to_rename(self, place: Place, to: Place, *, is_commit: bool) -> None:
        renaming = Renaming(self._datastores, place, to, self._stamp, self.size)
        try:
            renaming.run()
        except Exception as exc:
            if is_commit:
                raise
            if renaming.is_doubtful:
                self._names = [place, to]
            if is_in_doubt(exc):
                raise Unavailable("whether the data were renamed could not be found out") from exc
            raise
        self._names = [to]

    def _discard(self, place: Place, *, is_image: bool = False) -> bool:
        """Delete the data, or of the image's name no other ones; return whether they are gone."""
        try:
            stamp = self._files.stamp(place) if is_image else None
            delete(self._datastores, place, stamp, is_unneeded=True)
        except Exception as exc:
            if not means(exc, NotFound):
                LOG.debug("%s could not be deleted", place.full, exc_info=True)
                return False
        return True
