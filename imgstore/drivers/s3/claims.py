"""The right to commit an object, for servers that complete an upload over an existing object."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any, Final

from imgstore.boundary.arguments import OWN
from imgstore.drivers._claims import Lease
from imgstore.drivers.s3.checking import content_md5, md5_of
from imgstore.drivers.s3.client import Client, head, server_time, told
from imgstore.drivers.s3.deleting import delete
from imgstore.drivers.s3.errors import is_conflict, status_of
from imgstore.drivers.s3.places import CLAIM, TOKEN
from imgstore.errors import Unavailable
from imgstore.process.committing import attempted, undone
from imgstore.process.patience import Patience

LOG = logging.getLogger(__name__)

_LEASE: Final = f"{OWN}lease"
_SETTLING: Final = 0.25  # seconds in which one of several that took a claim over is the last
_REMOVAL: Final = "the removal of a claim"
_SEVERAL: Final = 4  # attempts, after which a wait is told
_NOT_TAKEN: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND})


class Claim(Lease):
    """An object beside an image that only one add at a time can put.

    It lies at ``<key prefix>imgstore-claim-<image id>`` while the image is committed.
    Its metadata says for how many seconds it holds, by the server's clock: after that its process
    is dead, and another may take it over.
    """

    def __init__(self, client: Client, key: str, *, lease: float) -> None:
        """Prepare to claim the object ``key``; ``lease`` is in seconds."""
        super().__init__(lease)
        self._client = client
        self._s3 = client.s3
        settings = client.settings
        image_id = key.removeprefix(settings.key_prefix)
        self._at = {"Bucket": settings.bucket, "Key": f"{settings.key_prefix}{CLAIM}{image_id}"}
        self._token = uuid.uuid4().hex
        body = self._token.encode()
        self._new = {
            **self._at,
            **settings.encryption,
            "Body": body,  # so that each claim has an ETag of its own
            **content_md5(md5_of([body])),
            "Metadata": {TOKEN: self._token, _LEASE: str(lease)},
        }
        self._etag = ""
        self._may_exist = False
        self._is_held = False

    def take(
        self, refuse: Callable[[], object] = lambda: None, *, within: float | None = None
    ) -> None:
        """Wait until nobody has the claim, and have it; ``refuse`` raises if that is in vain.

        Raises Unavailable after ``within`` seconds, two leases by default.
        """
        if self._is_held:
            self.check()
            return
        seconds = 2 * self.lease if within is None else within
        patience = Patience(0.25, 2.0, seconds=seconds, spread=True)
        with undone(self._remove, _REMOVAL):
            for attempt in patience.attempts():
                if attempt > 1:
                    refuse()
                if attempt == _SEVERAL:
                    LOG.info("another add of %s is waited for", self._at["Key"])
                if (attempt == 1 or self._is_free()) and self._put():
                    self._is_held = True
                    return
            raise Unavailable(
                "another add of this id is being committed, or its process died",
                remedy=f"try again; after {math.ceil(self.lease)} s a dead process counts no more",
            )

    def _is_free(self) -> bool:
        found = head(self._s3, self._at)
        return found is None or is_expired(found)

    def is_held(self) -> bool:
        """Return whether the claim is ours still, by asking the server."""
        found = head(self._s3, self._at)
        self._is_held = found is not None and self._is_ours(found)
        return self._is_held

    def give_up(self) -> None:
        """Remove the claim if it is still ours; best effort, for it expires."""
        if self._may_exist:
            attempted(self._remove, _REMOVAL)
            self._may_exist = self._is_held = False

    def _remove(self) -> None:
        """Ask for its removal once.

        Sent again, the request may meet the claim of the next add, also where that came between a
        look and the request.
        """
        is_sure = self._is_held and not self.is_over(self.lease / 4)
        if is_sure or self.is_held():
            delete(self._client, self._at, self._etag, self._is_ours, attempts=1)

    def _put(self) -> bool:
        self.begin()
        self._may_exist = True
        try:
            self._etag = self._s3.put_object(**self._new, IfNoneMatch="*").get("ETag", "")
            return True
        except Exception as exc:
            if not is_conflict(exc):
                raise
        found = head(self._s3, self._at)
        if found is not None and not self._is_ours(found) and is_expired(found):
            found = self._take_over(found.get("ETag", ""))
        # Ours also where a request was sent twice, and the claim put the first time.
        if found is None or not self._is_ours(found):
            return False
        self._etag = found.get("ETag", "")
        return True

    def _take_over(self, etag: str) -> dict[str, Any] | None:
        """Replace a dead claim, and return what is there then; of many that try one succeeds."""
        # A proxy that compresses makes a weak tag of the server's (nginx, as W/"tag").
        tag = etag.removeprefix("W/")
        for condition in (tag, tag.strip('"')):  # Ceph 16 compares without the quotation marks
            try:
                self._s3.put_object(**self._new, IfMatch=condition)
            except Exception as exc:
                if not is_conflict(exc) and status_of(exc) not in _NOT_TAKEN:
                    raise
                continue
            time.sleep(_SETTLING)  # where If-Match has no effect the last one has it
            break
        return head(self._s3, self._at)

    def _is_ours(self, found: Mapping[str, Any]) -> bool:
        return bool(found["Metadata"].get(TOKEN) == self._token)


@contextmanager
def claiming(
    client: Client, key: str, is_needed: Callable[[], bool]
) -> Iterator[Callable[[], object]]:
    """Yield a function that takes the claim of an object, if need be; give it up in the end."""
    claim = Claim(client, key, lease=client.settings.lease)

    def take() -> None:
        if is_needed():
            claim.take(within=client.settings.read_timeout)

    try:
        yield take
    finally:
        claim.give_up()


def is_expired(found: Mapping[str, Any]) -> bool:
    """Return whether what ``head`` found is a claim whose time is over, or not a claim at all."""
    lease = 0.0
    with suppress(ValueError):
        lease = float(found["Metadata"].get(_LEASE, 0))
    if not math.isfinite(lease):
        lease = 0.0
    return bool((server_time(found) - told(found, "LastModified")).total_seconds() > lease)
