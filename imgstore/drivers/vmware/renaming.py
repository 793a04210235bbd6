"""Renaming a draft, which is also how it becomes an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from imgstore.drivers.vmware.datastores import Datastores
from imgstore.drivers.vmware.errors import DoubtfulError, may_pass, means, name_of
from imgstore.drivers.vmware.files import Stamp
from imgstore.drivers.vmware.places import Place
from imgstore.errors import ImgStoreError, InUse, NotFound, Unavailable
from imgstore.process.committing import in_doubt, is_in_doubt, settled

REMOVED: Final = (
    "the data were removed before the image was complete, by a clean-up, "
    "or by an add of the same id for which this one took too long"
)


@dataclass
class Renaming:
    """One draft on its way to another name; ``stamp`` and ``size`` are those of its data."""

    datastores: Datastores
    place: Place
    to: Place
    stamp: Stamp
    size: int
    is_doubtful: bool = False  # after an attempt that may be done, or become done later

    def run(self) -> None:
        """Rename, unless there is a file of that name; raises Unavailable if the data are gone.

        A failure that leaves an earlier attempt in doubt also leaves no data, or is in doubt.
        """
        try:
            self.datastores.settings.patience.repeat(self._attempt, _may_pass)
        except Exception as exc:
            if is_in_doubt(exc):
                raise
            if self.is_doubtful and (means(exc, Unavailable, InUse) or not self._is_withdrawn()):
                raise in_doubt() from exc
            if isinstance(exc, NotFound):
                raise Unavailable(exc.reason) from exc
            raise

    def _is_withdrawn(self) -> bool:
        """Delete the data; return whether the server did, so that no attempt finds them later."""
        try:
            self.datastores.delete(self.place)
        except Exception:
            return False
        return True

    def _attempt(self) -> None:
        # What the server says is looked at in any case: where the data are counts.
        settled(self._send, self._ask, is_refused=lambda exc: False)

    def _send(self) -> bool:
        try:
            self.datastores.move(self.place, self.to)
        except DoubtfulError as exc:
            self.is_doubtful = True
            raise exc.failure from exc.failure.__cause__
        return True

    def _ask(self, failure: Exception) -> bool | ImgStoreError | None:
        """Return whether this attempt or an earlier one has renamed it; None if none has."""
        try:
            if self.datastores.files.exists(self.place):
                return None
            # Or somebody removed the data, and another add has the name.
            is_missing = name_of(failure) == "FileNotFound"
            if self._is_ours() and (self.is_doubtful or not is_missing):
                return True
        except NotFound:
            pass
        except Exception:
            if self.is_doubtful:
                raise
            return None
        if self.is_doubtful or means(failure, Unavailable):
            # A datastore that cannot be reached shows no files, either.
            return in_doubt()
        return NotFound(REMOVED)

    def _is_ours(self) -> bool:
        """Tell whether a file has the size and date of what was checked, as far as these are said.

        Servers keep the date of a file that they rename. Raises NotFound.
        """
        found = self.datastores.files.stamp(self.to)
        if found == self.stamp == Stamp():
            return self.datastores.files.size(self.to) == self.size
        return found == self.stamp


def _may_pass(failure: Exception) -> bool:
    return not is_in_doubt(failure) and (may_pass(failure) or means(failure, InUse))
