"""What a storm says of what clean-up leaves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from storm.plan import Plan
from storm.storming import Backend, _left

from imgstore import errors


class Left:
    """A store and its backend, which has something else after each clean-up."""

    def __init__(self, *rounds: Iterable[str], fails: bool = False) -> None:
        self.cleaned = 0
        self._rounds = [list(each) for each in rounds]
        self._fails = fails

    def remove_leftovers(self, **_: Any) -> None:
        self.cleaned += 1
        if self._fails:
            raise errors.Unavailable("not now")

    def listing(self) -> tuple[list[Any], list[str]]:
        return [], self._rounds[min(self.cleaned, len(self._rounds)) - 1]


def left(made: Left) -> list[str]:
    backend = Backend(Plan("", {}, ""), made.listing, clean=1.0)
    return [each.rule for each in _left(backend, made)]


def test_nothing_is_left() -> None:
    """One clean-up is enough."""
    made = Left([])
    assert left(made) == []
    assert made.cleaned == 1


def test_something_goes_later() -> None:
    """As where a server finds out late that a client is dead."""
    assert left(Left(["lock"], ["lock"], [])) == []


def test_something_stays() -> None:
    assert left(Left(["old", "gone"], ["old", "young"])) == ["clean-up leaves old, young"]


def test_what_comes_up_meanwhile_is_left_alone() -> None:
    """The time of a claim ended after the last clean-up had looked at it."""
    assert left(Left(*([f"claim-{number}"] for number in range(9)))) == []


@pytest.mark.parametrize("rest", [[], ["old"]])
def test_clean_up_that_fails(rest: list[str]) -> None:
    """It counts only where something is left."""
    said = left(Left(rest, fails=True))
    assert [text.startswith("clean-up leaves old (not now") for text in said] == [True] * len(rest)
