"""The right to commit an object, for servers that complete an upload over an existing object."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final

from imgstore.drivers.s3.client import head, server_time, status_of

LOG = logging.getLogger(__name__)

PREFIX: Final = "imgstore-claim-"
# Seconds after which a claim counts as a dead process's; a commit takes far less.
LEASE: Final = 300.0

_HOLDER: Final = "imgstore-holder"
_PAUSE: Final = 0.25
_PRECONDITION_FAILED: Final = 412


class Claim:
    """An object beside an image that only one add at a time can put; entered and left.

    It lies at ``<key prefix>imgstore-claim-<image id>`` and exists while an upload of the image is
    completed. Entering waits until the claim of another add is gone, and takes over one that is
    older than LEASE: its process died.
    """

    def __init__(
        self, s3: Any, at: Mapping[str, str], key_prefix: str, *, lease: float = LEASE
    ) -> None:
        """Prepare to claim the object ``at``; ``lease`` is in seconds."""
        self._s3 = s3
        self._lease = lease
        image_id = at["Key"].removeprefix(key_prefix)
        self._at = {"Bucket": at["Bucket"], "Key": f"{key_prefix}{PREFIX}{image_id}"}
        self._holder = uuid.uuid4().hex
        self._since = 0.0

    def __enter__(self) -> Claim:
        """Wait for the claim and take it."""
        while not self._take():
            found = head(self._s3, self._at)
            if found is None:
                continue
            if found["Metadata"].get(_HOLDER) == self._holder:  # sent twice, the first time taken
                break
            if (server_time(found) - found["LastModified"]).total_seconds() > self._lease:
                self._s3.delete_object(**self._at)
            else:
                time.sleep(_PAUSE)
        self._since = time.monotonic()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Give the claim up, unless it was taken over."""
        try:
            found = None
            if is_overdue := time.monotonic() - self._since > self._lease / 2:
                found = head(self._s3, self._at)
            if not is_overdue or (found and found["Metadata"].get(_HOLDER) == self._holder):
                self._s3.delete_object(**self._at)
        except Exception as exc:  # it expires, and leftovers() finds it
            LOG.warning("a claim could not be removed: %s", type(exc).__name__)

    def _take(self) -> bool:
        try:
            self._s3.put_object(
                **self._at,
                Body=self._holder.encode(),
                IfNoneMatch="*",
                Metadata={_HOLDER: self._holder},
            )
        except Exception as exc:
            if status_of(exc) != _PRECONDITION_FAILED:
                raise
            return False
        return True
