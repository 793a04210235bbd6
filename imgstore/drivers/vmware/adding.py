"""Adding an image: a draft beside it, filled, checked, and renamed by the server."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from imgstore.data.streams import Body
from imgstore.drivers._numbers import whole_number
from imgstore.drivers._placement import pick
from imgstore.drivers.vmware.datastores import Datastores
from imgstore.drivers.vmware.drafts import claim, claims
from imgstore.drivers.vmware.faults import may_pass, means, name_of
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
from imgstore.process.interrupts import uninterrupted

LOG = logging.getLogger(__name__)

# For an add of the same id in another datastore, which takes a few tasks to complete its image or
# to give way; but no longer than an answer may take.
_LOOKING: Final = 10.0  # seconds
_ROUNDS: Final = 3  # as many times as long, of all such adds together
_PAUSE: Final = 0.2  # seconds between looks


class Adding:
    """One add of one image; ``draft`` is the name of its data until they are complete."""

    def __init__(self, datastores: Datastores, image_id: str, draft: str) -> None:
        self._datastores = datastores
        self._files = datastores.files
        self._id = image_id
        self._draft = draft
        self._size = 0
        self._usable: set[Datastore] = set()
        self._names: list[Place] = []  # that the data have, or, in doubt, may have
        self._identity: Identity = (None, None)

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
        self._names = [draft]
        try:
            fill(draft)
            ready = draft
            if len(self._datastores.settings.datastores) > 1:
                ready = self._datastores.place(datastore, claim(self._draft, self._id))
                self._prevail(draft, ready)
            uninterrupted(lambda: self._rename(ready, final))
        except BaseException as exc:
            if getattr(exc, "indeterminate", False):
                raise
            is_moved = self._names == [final]
            kept = [place for place in self._names if not self._remove(place, final)]
            if is_moved and kept and isinstance(exc, Exception):
                raise _doubt() from exc
            raise
        return final

    def _remove(self, place: Place, final: Place) -> bool:
        """Delete the data again; return whether they are gone."""
        if place != final:
            return self._discard(place)
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
        self._identity = self._files.identity(draft)
        found = whole_number(self._identity[0])
        if found is None:
            found = self._files.size(draft)
        if found != self._size:
            raise IntegrityError(f"the server has {found} of the {self._size} bytes that were sent")

    # The id, in all datastores.

    def _prevail(self, draft: Place, ready: Place) -> None:
        """Rename the draft to a claim, and return when no other datastore has a claim or image.

        Each add looks after it has claimed, so of two at least one sees the other. The one whose
        datastore comes later by its name gives way and claims anew later; the other one waits
        for that. A claim that stays is that of a process that died or stands still: it is
        deleted, and if its owner goes on after all, there is nothing that it could rename.
        Raises AlreadyExists.
        """
        settings = self._datastores.settings
        patience = min(_LOOKING, settings.read_timeout)
        end = time.monotonic() + _ROUNDS * patience
        since: dict[Place, float] = {}
        uninterrupted(lambda: self._rename(draft, ready, is_commit=False))
        is_claimed = True
        while True:
            rivals = self._rivals(ready.datastore)
            is_late = any(rival.datastore.key < ready.datastore.key for rival in rivals)
            if is_claimed and not rivals:
                return
            if is_claimed and is_late:
                uninterrupted(lambda: self._rename(ready, draft, is_commit=False))
                is_claimed = False
            elif not is_claimed and not is_late:
                uninterrupted(lambda: self._rename(draft, ready, is_commit=False))
                is_claimed = True
                continue
            now = time.monotonic()
            if now > end:
                raise AlreadyExists("other adds of this id are under way", retryable=True)
            since = {rival: since.get(rival, now) for rival in rivals}
            for rival in rivals:
                if now - since[rival] >= patience:
                    self._discard(rival)
            time.sleep(_PAUSE)

    def _rivals(self, own: Datastore) -> list[Place]:
        """Return the claims of other datastores; raises AlreadyExists if one has the image."""
        # Claims first: one that becomes an image in between is seen as that.
        rivals = self._datastores.search_others(own, claims(self._id))
        for datastore, _ in self._datastores.settings.datastores:
            if datastore.key != own.key and self._has_image(datastore):
                raise _taken()
        return rivals

    # The commit.

    def _rename(self, place: Place, to: Place, *, is_commit: bool = True) -> None:
        """Rename the data, unless there is a file of that name."""
        doubts: list[Exception] = []

        def attempt() -> None:
            try:
                self._datastores.move(place, to, doubts)
            except Exception as exc:
                if doubts and not is_commit:
                    self._names = [place, to]
                if not self._is_renamed(place, to, exc, is_doubtful=bool(doubts)):
                    raise
            self._names = [to]

        def may_pass_soon(exc: Exception) -> bool:
            return not getattr(exc, "indeterminate", False) and (may_pass(exc) or means(exc, InUse))

        try:
            self._datastores.patience.repeat(attempt, may_pass=may_pass_soon)
        except Exception as exc:
            if isinstance(exc, NotFound):
                raise Unavailable(exc.reason) from exc
            is_doubtful = getattr(exc, "indeterminate", False)
            # What an earlier attempt began may still be under way: it has the files then.
            if not is_doubtful and not (doubts and means(exc, Unavailable, InUse)):
                raise
            raise _doubt(is_commit=is_commit) from exc

    def _is_renamed(
        self, place: Place, to: Place, failure: Exception, *, is_doubtful: bool
    ) -> bool:
        """Tell whether this or an earlier attempt, of which the answer was lost, has renamed it."""
        is_missing = name_of(failure) == "FileNotFound"
        try:
            if self._files.exists(place):
                return False
            # Or somebody removed the data, and another add has the name.
            if self._is_ours(to) and (is_doubtful or not is_missing):
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
        raise NotFound(
            "the data were removed before the image was complete, by a clean-up, "
            "or by an add of the same id for which this one took too long"
        ) from failure

    def _is_ours(self, place: Place) -> bool:
        """Tell whether a file has the size and date of what was checked, as far as these are said.

        Servers keep the date of a file that they rename. Raises NotFound.
        """
        found = self._files.identity(place)
        if found == self._identity == (None, None):
            return self._files.size(place) == self._size
        return found == self._identity


def _taken() -> AlreadyExists:
    return AlreadyExists("an image of this id exists")


def _doubt(*, is_commit: bool = True) -> Unavailable:
    """Return the error for data that may have either name."""
    if not is_commit:
        return Unavailable("whether the data were renamed could not be found out")
    return Unavailable(
        "whether the image was completed could not be found out",
        remedy="ask for its size later; if there is none, add it again",
        indeterminate=True,
    )
