"""Deleting files, again where that was in vain or its answer was lost."""

from __future__ import annotations

from typing import Final

from imgstore.drivers.vmware.datastores import Datastores
from imgstore.drivers.vmware.errors import DoubtfulError, error_of, may_pass, means, name_of
from imgstore.drivers.vmware.files import Stamp
from imgstore.drivers.vmware.places import Place
from imgstore.errors import InUse, NotFound, Unavailable
from imgstore.process.patience import Patience

_BRIEF: Final = Patience(0.1, seconds=5.0, times=4)  # for what leftovers() lists if it stays


def delete(
    datastores: Datastores, place: Place, stamp: Stamp | None = None, *, is_unneeded: bool = False
) -> None:
    """Delete a file; raises NotFound, InUse, and otherwise what hinders it.

    With its ``stamp`` no other file of the name is deleted in its place, when an attempt has to be
    repeated of which the answer was lost. What nobody needs may be in use for a moment only.
    """
    patience = _BRIEF if is_unneeded else datastores.settings.patience
    is_doubtful = False

    def attempt() -> None:
        nonlocal is_doubtful
        if is_doubtful and stamp is not None and not _is_there(datastores, place, stamp):
            return
        try:
            datastores.delete(place)
        except DoubtfulError as exc:
            is_doubtful = True
            raise exc.failure from exc.failure.__cause__
        except datastores.api.vim.fault.FileNotFound:
            if not is_doubtful:
                raise

    try:
        patience.repeat(attempt, lambda exc: may_pass(exc) or (is_unneeded and means(exc, InUse)))
    except Exception as exc:
        if name_of(exc) != "FileNotFound" and means(exc, NotFound):
            # Something else is missing: the file may be there.
            raise Unavailable(f"the file cannot be deleted: {error_of(exc).reason}") from exc
        raise


def _is_there(datastores: Datastores, place: Place, stamp: Stamp) -> bool:
    try:
        return datastores.files.stamp(place) == stamp
    except NotFound:
        return False
