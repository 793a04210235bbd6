"""The right to commit an object, for servers that complete an upload over an existing object."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final

from imgstore.drivers.s3.client import Client, head, is_conflict, server_time, status_of, told
from imgstore.drivers.s3.deleting import delete
from imgstore.drivers.s3.settings import CLAIM, Settings
from imgstore.errors import Unavailable

LOG = logging.getLogger(__name__)

_HOLDER: Final = "imgstore-holder"
_LEASE: Final = "imgstore-lease"
_FIRST_PAUSE: Final = 0.25  # seconds; later ones are longer
_LONGEST_PAUSE: Final = 2.0
_NOT_TAKEN: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND})


class Claim:
    """An object beside an image that only one add at a time can put.

    It lies at ``<key prefix>imgstore-claim-<image id>`` while an upload of the image is completed.
    Its metadata says for how many seconds it holds, by the server's clock: after that its process
    is dead, and another may take it over.
    """

    def __init__(self, client: Client, settings: Settings, key: str, *, lease: float) -> None:
        """Prepare to claim the object ``key``; ``lease`` is in seconds."""
        self._client = client
        self._s3 = client.s3
        self._lease = lease
        image_id = key.removeprefix(settings.key_prefix)
        self._at = {"Bucket": settings.bucket, "Key": f"{settings.key_prefix}{CLAIM}{image_id}"}
        self._holder = uuid.uuid4().hex
        self._new = {
            **self._at,
            **settings.encryption,
            "Body": self._holder.encode(),  # so that each claim has an ETag of its own
            "Metadata": {_HOLDER: self._holder, _LEASE: str(lease)},
        }
        self._etag = ""
        self._since = 0.0
        self._is_held = False

    def take(self) -> None:
        """Wait until nobody has the claim, and have it; raises Unavailable after two leases."""
        try:
            while not self._put():
                self.wait()
            self._is_held = True
        except BaseException:
            self.give_up()
            raise

    def wait(self) -> None:
        """Wait until nobody has the claim; raises Unavailable after two leases."""
        deadline = time.monotonic() + 2 * self._lease
        pause = _FIRST_PAUSE
        while (found := head(self._s3, self._at)) is not None and not is_expired(found):
            if time.monotonic() > deadline:
                raise Unavailable("other adds of this id are being committed all the time")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def check(self) -> None:
        """Raise Unavailable if the claim may be over before a commit that begins now."""
        if time.monotonic() - self._since > self._lease / 2:
            raise Unavailable("the server took too long to let this add commit")

    def is_held(self) -> bool:
        """Return whether the claim is ours still, by asking the server."""
        found = head(self._s3, self._at)
        self._is_held = found is not None and self._is_ours(found)
        return self._is_held

    def give_up(self) -> None:
        """Remove the claim if it is still ours; best effort, for it expires.

        It is asked for once: sent again, the request may meet the claim of the next add, also
        where that came between a look and the request.
        """
        try:
            is_sure = self._is_held and time.monotonic() - self._since < self._lease / 4
            if is_sure or self.is_held():
                delete(self._client, self._at, self._etag, self._is_ours, attempts=1)
        except Exception as exc:  # leftovers() finds it
            LOG.warning("a claim could not be removed: %s", type(exc).__name__)

    def _put(self) -> bool:
        self._since = time.monotonic()
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
        for tag in (etag, etag.strip('"')):  # Ceph 16 compares without the quotation marks
            try:
                self._s3.put_object(**self._new, IfMatch=tag)
            except Exception as exc:
                if not is_conflict(exc) and status_of(exc) not in _NOT_TAKEN:
                    raise
                continue
            time.sleep(_FIRST_PAUSE)  # where If-Match has no effect the last one has it
            break
        return head(self._s3, self._at)

    def _is_ours(self, found: Mapping[str, Any]) -> bool:
        return bool(found["Metadata"].get(_HOLDER) == self._holder)


def is_expired(found: Mapping[str, Any]) -> bool:
    """Return whether what ``head`` found is a claim whose time is over, or not a claim at all."""
    lease = 0.0
    with suppress(ValueError):
        lease = float(found["Metadata"].get(_LEASE, 0))
    if not math.isfinite(lease):
        lease = 0.0
    return bool((server_time(found) - told(found, "LastModified")).total_seconds() > lease)
