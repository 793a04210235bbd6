"""How long a claim holds, by the clock of the process that has it."""

from __future__ import annotations

import time

import pytest

from imgstore.drivers._claims import Lease
from imgstore.errors import Unavailable


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give the clock's time, which stands still."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_commit_begins_in_the_first_half(clock: list[float]) -> None:
    """What begins later might go on when another add has the claim."""
    lease = Lease(60)
    lease.begin()
    for passed in (0, 30):
        clock[0] = 1000 + passed
        lease.check()
    clock[0] += 1
    with pytest.raises(Unavailable, match="took too long"):
        lease.check()
    assert not lease.is_over(31)
    assert lease.is_over(30)


def test_a_claim_that_is_sent_again_begins_anew(clock: list[float]) -> None:
    """The server counts from the last put."""
    lease = Lease(60)
    lease.begin()
    clock[0] += 100
    lease.begin()
    lease.check()
