"""Deleting images that rbd-mirror replicates: mirroring ends first, as for ``rbd rm``.

The daemon of the other cluster has such an image open like a user. Who has an image open is told
by numbers that say nothing of what they are; but the daemon closes it once it is not mirrored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from imgstore.drivers._librbd.connection import Connection
from imgstore.drivers._librbd.errors import quietly
from imgstore.drivers.rbd.states import is_watched
from imgstore.errors import InUse
from imgstore.process.patience import Patience

_CLOSES: Final = Patience(0.1, longest=1.0, seconds=60.0)  # for a daemon to close an image


class Mirroring:
    """The mirroring of one image, which is open; raises InUse for one that is not primary."""

    def __init__(self, connection: Connection, pool: Any, image: Any) -> None:
        self._image = image
        self._rbd = connection.rbd
        info = image.mirror_image_get_info()
        self._is_on = info["state"] == self._rbd.RBD_MIRROR_IMAGE_ENABLED
        self._resume: Callable[[Any], object] | None = None
        self.others = 0  # who may have the image open beside this process without using it
        if not self._is_on:
            return
        if not info["primary"]:
            raise InUse(
                "the image is mirrored from another cluster",
                remedy="delete it there, or promote it here first",
            )
        self.others = sum(1 for _ in connection.verbs.mirror_peer_list(pool))

    def end(self) -> bool:
        """End it; False if somebody has the image open even so."""
        if not self._is_on:
            return True
        mode = self._image.mirror_image_get_mode()
        try:
            self._image.mirror_image_disable(False)
            self._resume = lambda image: image.mirror_image_enable(mode)
        except self._rbd.InvalidArgument:
            # The pool's mode is to mirror all images with a journal, and only those.
            journaling = self._rbd.RBD_FEATURE_JOURNALING
            self._image.update_features(journaling, False)
            self._resume = lambda image: image.update_features(journaling, True)
        except self._rbd.ImageBusy as exc:
            raise InUse(
                "clones of the image are mirrored",
                remedy="end the mirroring of the clones, flatten or delete them first",
            ) from exc
        return any(not is_watched(self._image, own=1) for _ in _CLOSES.attempts())

    def resume(self, image: Any) -> None:
        """Mirror the image again, which is open as ``image``, if ``end`` has ended that."""
        if self._resume is not None:
            with quietly("mirroring an image again that was not deleted"):
                self._resume(image)
