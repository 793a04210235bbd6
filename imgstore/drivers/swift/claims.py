"""The right to commit an object, which Swift's own conditions do not give.

Swift looks for an object when a request begins: of two puts that overlap both succeed, whatever
If-None-Match says, and Ceph's gateway knows no such condition.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from http import HTTPStatus
from typing import Any, Final

from imgstore.drivers._claims import Lease
from imgstore.drivers._told import not_told, told
from imgstore.drivers.swift.client import Caller, date_of
from imgstore.drivers.swift.containers import Containers
from imgstore.drivers.swift.errors import status_of
from imgstore.drivers.swift.settings import CLAIM, SERVICE, Settings
from imgstore.errors import Unavailable
from imgstore.process.committing import attempted
from imgstore.process.patience import Patience

_SECONDS: Final = re.compile(r"[0-9]{1,9}")
_FIRST_PAUSE: Final = 0.05  # seconds; later ones are longer
_LONGEST_PAUSE: Final = 1.0


class Claim(Lease):
    """An object beside an image, by which adds of the same id see one another.

    It is ``imgstore-claim-<image id>/<token>-<lease>``. An add that put one and then finds no other
    in the listing may commit, and a deletion may send its request again: of two at least the one
    that looked later sees the other. The lease is the number of seconds, by the server's clock,
    after which its process is dead.
    """

    def __init__(
        self, caller: Caller, settings: Settings, containers: Containers, image_id: str, token: str
    ) -> None:
        """Prepare to claim an image id."""
        super().__init__(settings.lease)
        self._caller = caller
        self._containers = containers
        self._container = containers.images
        self._prefix = f"{CLAIM}{image_id}/"
        self._own = f"{self._prefix}{token}-{settings.lease}"
        self._may_exist = False
        self._is_held = False
        self._is_listed = False

    def take(self, refuse: Callable[[], object] = lambda: None, *, within: float) -> None:
        """Wait until nobody else has a claim, and have it; ``refuse`` raises if that is in vain.

        Raises Unavailable after ``within`` seconds, and where it was held for too long.
        """
        if self._is_held:
            self.check()
            return
        patience = Patience(_FIRST_PAUSE, longest=_LONGEST_PAUSE, seconds=within, spread=True)
        for attempt in patience.attempts():
            is_alone = self._try(is_waiting=attempt > 1)
            refuse()
            if is_alone:
                self._is_held = True
                return
        raise Unavailable(
            "another add of this id is being committed, or its process died, or the container's "
            "listing is not up to date",
            remedy=f"try again; after {self.lease} s a dead process counts no more",
        )

    def _try(self, *, is_waiting: bool) -> bool:
        """Return whether nobody else has a claim; of two that see each other one withdraws."""
        if not self._may_exist:
            if is_waiting and any(self._others()):
                return False
            self._put()
        others = list(self._others())
        if any(name < self._own for name in others):
            self.give_up()
        return not others and self._is_listed

    def _put(self) -> None:
        self.begin()
        self._may_exist = True
        self._containers.inside(lambda: self._caller.put(self._container, self._own))

    def _others(self) -> Iterator[str]:
        # A listing that lacks one's own claim may lack those of others.
        self._is_listed = False
        try:
            page, headers = self._caller.page(self._container, self._prefix, is_newest=True)
        except Exception as exc:
            if status_of(exc) != HTTPStatus.NOT_FOUND or self._may_exist:
                raise
            return
        for entry in page:
            name = entry.get("name") or ""
            if name == self._own:
                self._is_listed = True
            elif is_expired(entry, headers):
                self._caller.delete(self._container, name)
            else:
                yield name

    def give_up(self) -> None:
        """Remove the claim; best effort, for it expires and leftovers() finds it."""
        if not self._may_exist:
            return
        self._may_exist = self._is_held = False
        attempted(lambda: self._caller.delete(self._container, self._own), "removing a claim")


def is_expired(entry: Mapping[str, Any], headers: Mapping[str, str]) -> bool:
    """Return whether the time of a claim in a listing is over, by the listing's own clock."""
    lease = lease_of(told(entry, "name", service=SERVICE))
    return lease is None or (date_of(headers) - modified(entry)).total_seconds() > lease


def lease_of(name: str) -> int | None:
    """Return for how many seconds a claim of this name holds, None if it is no claim's."""
    text = name.rpartition("-")[2]
    return int(text) if _SECONDS.fullmatch(text) else None


def modified(entry: Mapping[str, Any]) -> datetime:
    """Return when an object in a listing was put; raises Unsupported where that is not told."""
    text = str(told(entry, "last_modified", service=SERVICE)).replace("Z", "")
    try:
        return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)
    except ValueError:
        raise not_told("last_modified", service=SERVICE) from None
