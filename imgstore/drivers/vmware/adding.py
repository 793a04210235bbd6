"""Adding an image: a draft beside it, filled, checked, and renamed by the server."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from imgstore._interrupts import uninterrupted
from imgstore.drivers.vmware.datastores import Datastores
from imgstore.drivers.vmware.faults import may_pass, means
from imgstore.drivers.vmware.files import Identity, Upload
from imgstore.drivers.vmware.places import Datastore, Place
from imgstore.errors import (
    AlreadyExists,
    ImgStoreError,
    IntegrityError,
    InUse,
    NotFound,
    StorageFull,
    Unavailable,
)
from imgstore.placement import pick
from imgstore.streams import Body

LOG = logging.getLogger(__name__)

# At an image of the same id in another datastore, which may be withdrawn: that takes a task.
_LOOKING: Final = 10.0  # seconds
_PAUSE: Final = 0.4  # seconds between looks


class Adding:
    """One add of one image; ``draft`` is the name of its data until they are complete."""

    def __init__(self, datastores: Datastores, image_id: str, draft: str) -> None:
        self._datastores = datastores
        self._files = datastores.files
        self._id = image_id
        self._draft = draft
        self._size = 0
        self._usable: set[Datastore] = set()
        self._moved = False

    def add(self, body: Body) -> Place:
        """Store an image and return where; raises AlreadyExists, StorageFull."""
        upload = Upload(body)
        best = self._choose(upload.size, is_small=upload.is_small)

        def fill(draft: Place) -> None:
            self._upload(draft, upload, body)

        for datastore in best:
            try:
                return self._store(datastore, fill)
            except StorageFull:
                # The server says how much is free, which others use at the same time.
                if upload.is_begun or datastore is best[-1]:
                    raise
        raise AssertionError("unreachable")

    def copy(self, source: Place) -> Place:
        """Let the server copy a file, and return where the copy is."""
        self._size = self._files.size(source)
        best = self._choose(self._size, is_small=False)[0]

        def fill(draft: Place) -> None:
            self._datastores.make_directory(best)
            self._datastores.copy(source, draft)
            self._check(draft)

        return self._store(best, fill)

    @property
    def size(self) -> int:
        """Return the size of the image in bytes."""
        return self._size

    def _choose(self, size: int | None, *, is_small: bool) -> list[Datastore]:
        """Return where the image may go, best first; raises AlreadyExists for an id that is taken.

        Of the best datastore the commit finds that out, too.
        """
        candidates = self._datastores.candidates()
        self._usable = {candidate.place for candidate in candidates}
        best = pick(candidates, size)
        for datastore, _ in self._datastores.settings.datastores:
            if not (is_small and datastore == best[0]) and self._has_image(datastore):
                raise _taken()
        return best

    def _has_image(self, datastore: Datastore) -> bool:
        """Return whether a datastore has an image of the id, as far as it can be asked."""
        try:
            return self._files.exists(self._datastores.place(datastore, self._id))
        except Exception:
            if datastore in self._usable:
                raise
            return False

    def _store(self, datastore: Datastore, fill: Callable[[Place], None]) -> Place:
        draft = self._datastores.place(datastore, self._draft)
        final = self._datastores.place(datastore, self._id)
        try:
            fill(draft)
            uninterrupted(lambda: self._commit(draft, final))
            self._check_others(final)
        except BaseException as exc:
            if getattr(exc, "indeterminate", False):
                raise
            is_gone = self._withdraw(final) if self._moved else self._discard(draft)
            if self._moved and not is_gone and isinstance(exc, Exception):
                raise _doubt() from exc
            raise
        return final

    def _withdraw(self, final: Place) -> bool:
        """Delete the image again; return whether it is gone."""
        try:
            identity = self._files.identity(final)
        except Exception as exc:
            return means(exc, NotFound)
        return self._discard(final, identity)

    def _discard(self, place: Place, identity: Identity | None = None) -> bool:
        """Delete a file; return whether it is gone."""
        try:
            self._datastores.discard(place, identity)
        except Exception as exc:
            if not means(exc, NotFound):
                LOG.debug("%s could not be deleted", place.full, exc_info=True)
                return False
        return True

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
        self._size = body.total
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
        found = self._files.size(draft)
        if found != self._size:
            raise IntegrityError(f"the server has {found} of the {self._size} bytes that were sent")

    # The commit.

    def _commit(self, draft: Place, final: Place) -> None:
        """Rename the draft, unless there is an image of that name."""
        doubts: list[Exception] = []

        def attempt() -> None:
            try:
                self._datastores.move(draft, final, doubts)
            except Exception as exc:
                if not self._is_moved(draft, final, exc, is_doubtful=bool(doubts)):
                    raise
            self._moved = True

        def may_pass_soon(exc: Exception) -> bool:
            return not getattr(exc, "indeterminate", False) and (may_pass(exc) or means(exc, InUse))

        try:
            self._datastores.patience.repeat(attempt, may_pass=may_pass_soon)
        except Exception as exc:
            # What an earlier attempt began may still be under way: it has the files then.
            if doubts and means(exc, Unavailable, InUse):
                raise _doubt() from exc
            raise

    def _is_moved(
        self, draft: Place, final: Place, failure: Exception, *, is_doubtful: bool
    ) -> bool:
        """Tell whether this or an earlier attempt, of which the answer was lost, has renamed it."""
        try:
            if self._files.exists(draft):
                return False
            if self._files.size(final) == self._size:
                return True
        except NotFound:
            pass
        except Exception:
            if not is_doubtful:
                return False
            raise _doubt() from failure
        if is_doubtful or means(failure, Unavailable):
            # A datastore that cannot be reached shows no files, either.
            raise _doubt() from failure
        raise NotFound("somebody has removed the data before they were complete") from failure

    def _check_others(self, final: Place) -> None:
        """Raise AlreadyExists if an image of this id was added to another datastore meanwhile.

        Each add looks after its own commit, so of two at least one sees the other. The one whose
        datastore comes later by its name withdraws; the other waits whether that happens.
        """
        own = final.datastore
        for datastore, _ in self._datastores.settings.datastores:
            if datastore == own or not self._has_image(datastore):
                continue
            if datastore.key < own.key or not self._is_withdrawn(datastore):
                raise _taken()

    def _is_withdrawn(self, datastore: Datastore) -> bool:
        end = time.monotonic() + _LOOKING
        while time.monotonic() < end:
            time.sleep(_PAUSE)
            if not self._has_image(datastore):
                return True
        return False


def _taken() -> AlreadyExists:
    return AlreadyExists("an image of this id exists")


def _doubt() -> Unavailable:
    return Unavailable(
        "whether the image was completed could not be found out",
        remedy="ask for its size later; if there is none, add it again",
        indeterminate=True,
    )
