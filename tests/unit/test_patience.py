"""Pauses, attempts and repeats, by a clock that is told how late it is."""

from __future__ import annotations

import logging
import time

import pytest

from imgstore.errors import NotFound, Unavailable
from imgstore.process.patience import Patience, noted


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def slept(clock, patience, *, attempts=None):
    """Return the pauses of a patience, of which each attempt takes a second."""
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        clock[0] += seconds

    kept = Patience(**{**vars(patience), "sleep": sleep})
    for number in kept.attempts():
        clock[0] += 1
        if number == attempts:
            break
    return pauses


@pytest.mark.parametrize(
    ("patience", "pauses"),
    [
        (Patience(0.5, times=0), []),
        (Patience(0.5, times=3), [0.5, 1, 2]),
        (Patience(0.5, 1, times=4), [0.5, 1, 1, 1]),
        (Patience(0.5, 1, times=3, at_once=True), [0, 0.5, 1]),
        (Patience(1, seconds=0), []),
        (Patience(1, seconds=1), []),
        (Patience(1, seconds=5), [1, 2]),
        (Patience(1, seconds=6.5), [1, 2, 0.5]),
        (Patience(1, 1, seconds=60, times=2), [1, 1]),
    ],
)
def test_pauses(clock, patience, pauses):
    """They double up to the longest, and end with the time or the number."""
    assert slept(clock, patience) == pauses


def test_without_an_end(clock):
    """Patience without limits goes on."""
    assert len(slept(clock, Patience(1, 2), attempts=50)) == 49


def test_spread_pauses(clock):
    """They differ, and are no shorter than a half."""
    pauses = slept(clock, Patience(1, 1, times=50, spread=True))
    assert len(set(pauses)) > 1
    assert all(0.5 <= pause <= 1 for pause in pauses)


def test_repeating():
    """A failure that passes is one of many; the last one is raised."""
    failures = [Unavailable("once"), Unavailable("twice")]
    patience = Patience(0, times=2)

    def call():
        if failures:
            raise failures.pop()
        return "done"

    assert patience.repeat(call, lambda exc: isinstance(exc, Unavailable)) == "done"
    failures += [Unavailable("last"), Unavailable("second"), Unavailable("first")]
    with pytest.raises(Unavailable, match="last"):
        patience.repeat(call, lambda exc: True)


def test_what_does_not_pass():
    """It is raised at once."""
    calls = []

    def call():
        calls.append(1)
        raise NotFound("it is not there")

    with pytest.raises(NotFound):
        Patience(0, times=9).repeat(call, lambda exc: isinstance(exc, Unavailable))
    assert len(calls) == 1


def test_time_that_calls_take_counts(clock):
    """A call that took all the time is the last one."""

    def call():
        clock[0] += 10
        raise Unavailable("no answer")

    with pytest.raises(Unavailable):
        Patience(1, seconds=10).repeat(call, lambda exc: True)
    assert clock[0] == 110


def test_what_is_tried_again_is_noted(caplog):
    """Each failure before another attempt is a line at INFO; the last one is raised."""
    caplog.set_level(logging.INFO)
    failures = [OSError(5, "first"), OSError(5, "second"), OSError(5, "third")]

    def fail():
        raise failures[len(caplog.messages)]

    patience = Patience(0, times=2)
    with pytest.raises(OSError, match="third"):
        patience.repeat(fail, lambda exc: True, noted(logging.getLogger("imgstore.x"), "a request"))
    assert caplog.messages == [
        "a request is tried again: first (EIO)",
        "a request is tried again: second (EIO)",
    ]
