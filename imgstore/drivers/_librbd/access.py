"""How to reach a cluster, and what its images are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# https://docs.ceph.com/en/latest/man/8/rbd/#cmdoption-rbd-image-feature
FEATURES: Final = {
    "layering": 1,
    "exclusive-lock": 4,
    "object-map": 8,
    "fast-diff": 16,
    "deep-flatten": 32,
}
LAYERING: Final = FEATURES["layering"]


@dataclass(frozen=True)
class Access:
    """What a connection needs to know; times are in seconds.

    ``conf`` is the path of a ceph.conf, or empty where librados looks for it. ``connect_timeout``
    limits everything unless it is negative; ``op_timeout`` holds where the configuration has no
    limit. New images have ``features``, or where that is None what the configuration says. Images
    of ``pool`` are in ``namespace``. ``source`` is what operators know the configuration as;
    ``if_unreadable`` and ``if_incomplete`` are remedies, which name the options of their driver.
    """

    pool: str
    user: str | None
    conf: str
    connect_timeout: int
    op_timeout: int
    source: str
    if_unreadable: str
    if_incomplete: str
    namespace: str = ""
    features: int | None = None

    def namespace_of(self, pool: str) -> str:
        """Return the namespace in which images of a pool are looked for."""
        return self.namespace if pool == self.pool else ""
