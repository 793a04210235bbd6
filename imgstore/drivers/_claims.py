"""How long the right to commit an object is held, for servers whose conditions do not give it."""

from __future__ import annotations

import time

from imgstore.errors import Unavailable


class Lease:
    """The time for which a claim holds; after that its process is taken for dead.

    Others count it by the server's clock, the process that has it by its own, from before the
    claim was sent. So a commit begins in the first half: the other half is for the commit.
    """

    def __init__(self, lease: float) -> None:
        """Remember for how many seconds a claim holds; none has begun."""
        self.lease = lease
        self._since = 0.0

    def begin(self) -> None:
        """Count from now on: the claim is about to be sent."""
        self._since = time.monotonic()

    def is_over(self, seconds: float) -> bool:
        """Return whether more than so many seconds have passed since it began."""
        return time.monotonic() - self._since > seconds

    def check(self) -> None:
        """Raise Unavailable if the claim may be over before a commit ends that begins now."""
        if self.is_over(self.lease / 2):
            raise Unavailable("the server took too long to let this add commit")
