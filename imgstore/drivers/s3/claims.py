"""The right to commit an object, for servers that complete an upload over an existing object."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from imgstore.drivers.s3.client import head, is_conflict, server_time, status_of
from imgstore.errors import Unavailable

LOG = logging.getLogger(__name__)

PREFIX: Final = "imgstore-claim-"

_HOLDER: Final = "imgstore-holder"
_PAUSE: Final = 0.25


class Claim:
    """An object beside an image that only one add at a time can put; entered and left.

    It lies at ``<key prefix>imgstore-claim-<image id>`` while an upload of the image is completed.
    Entering waits until the claim of another add is gone, and takes over one that is older than
    ``lease`` seconds by the server's clock: its process died. With ``expires`` set it is not given
    up on leaving: what it guards may still be going on.
    """

    def __init__(
        self,
        s3: Any,
        at: Mapping[str, str],
        key_prefix: str,
        *,
        lease: float,
        encryption: Mapping[str, str],
    ) -> None:
        """Prepare to claim the object ``at``; ``encryption`` is what objects are put with."""
        self._s3 = s3
        self._lease = lease
        image_id = at["Key"].removeprefix(key_prefix)
        self._at = {"Bucket": at["Bucket"], "Key": f"{key_prefix}{PREFIX}{image_id}"}
        self._holder = uuid.uuid4().hex
        self._new = {
            **self._at,
            **encryption,
            "Body": self._holder.encode(),  # so that each claim has an ETag of its own
            "Metadata": {_HOLDER: self._holder},
        }
        self._since = 0.0
        self.expires = False

    def __enter__(self) -> Claim:
        """Wait for the claim and take it; raises Unavailable if that takes two leases."""
        deadline = time.monotonic() + 2 * self._lease
        try:
            while not self._take():
                _pause(deadline)
        except BaseException:
            self._give_up(is_sure=False)
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Give the claim up, unless it shall expire or was taken over."""
        if not self.expires:
            self._give_up(is_sure=time.monotonic() - self._since < self._lease / 2)

    def wait(self) -> bool:
        """Wait until nobody has the claim; return whether anybody had."""
        deadline = time.monotonic() + 2 * self._lease
        found = head(self._s3, self._at)
        was_held = found is not None
        while found is not None and not self._is_expired(found):
            _pause(deadline)
            found = head(self._s3, self._at)
        return was_held

    def _take(self) -> bool:
        self._since = time.monotonic()
        try:
            self._s3.put_object(**self._new, IfNoneMatch="*")
            return True
        except Exception as exc:
            if not is_conflict(exc):
                raise
        found = head(self._s3, self._at)
        # Ours: the request was sent twice, and taken the first time.
        return found is not None and (
            self._is_ours(found) or (self._is_expired(found) and self._take_over(found["ETag"]))
        )

    def _take_over(self, etag: str) -> bool:
        """Replace a dead claim; of many that try only one succeeds."""
        for tag in (etag.strip('"'), etag):  # Ceph 16 compares without the quotation marks
            try:
                self._s3.put_object(**self._new, IfMatch=tag)
            except Exception as exc:
                if not is_conflict(exc) and status_of(exc) != HTTPStatus.NOT_FOUND:
                    raise
                continue
            found = head(self._s3, self._at)
            return found is not None and self._is_ours(found)
        return False

    def _is_ours(self, found: Mapping[str, Any]) -> bool:
        return bool(found["Metadata"].get(_HOLDER) == self._holder)

    def _is_expired(self, found: Mapping[str, Any]) -> bool:
        age = server_time(found) - found["LastModified"]
        return bool(age.total_seconds() > self._lease)

    def _give_up(self, *, is_sure: bool) -> None:
        try:
            found = None if is_sure else head(self._s3, self._at)
            if is_sure or (found is not None and self._is_ours(found)):
                self._s3.delete_object(**self._at)
        except Exception as exc:  # it expires, and leftovers() finds it
            LOG.warning("a claim could not be removed: %s", type(exc).__name__)


def _pause(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise Unavailable("other adds of this id are being committed all the time")
    time.sleep(_PAUSE)
