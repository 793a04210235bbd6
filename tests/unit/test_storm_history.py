"""What the judge of storms says of histories that were written by hand."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from storm.checker import check, final
from storm.history import NEVER, Operation, Recorder, read

ID = "image"


def op(
    kind: Any, begun: float, ended: float = NEVER, outcome: Any = "ok", **more: Any
) -> Operation:
    """Return an operation; a success unless it never ended."""
    outcome = "unknown" if ended == NEVER else outcome
    more.setdefault("size", sum(map(ord, more.get("digest", ""))))
    return Operation(kind, ID, begun, ended, outcome, **more)


def add(begun: float, ended: float = NEVER, digest: str = "a", **more: Any) -> Operation:
    return op("add", begun, ended, digest=digest, **more)


def refused(begun: float, ended: float, digest: str = "r", **more: Any) -> Operation:
    return op("add", begun, ended, "failed", digest=digest, error="AlreadyExists", **more)


def failed(begun: float, ended: float, digest: str = "f") -> Operation:
    return op("add", begun, ended, "failed", digest=digest, error="Unavailable")


def delete(begun: float, ended: float = NEVER, **more: Any) -> Operation:
    return op("delete", begun, ended, **more)


def missed(kind: str, begun: float, ended: float, **more: Any) -> Operation:
    return op(kind, begun, ended, "failed", error="NotFound", **more)


def seen(begun: float, ended: float, digest: str = "a", **more: Any) -> Operation:
    return op("read", begun, ended, digest=digest, **more)


def lost(kind: str, begun: float, ended: float, **more: Any) -> Operation:
    """Return an operation that came back without knowing what became of it."""
    return op(kind, begun, ended, "unknown", error="Unavailable", **more)


GOOD = {
    "nothing": [],
    "one after the other": [
        missed("read", 0, 1),
        add(2, 3),
        seen(4, 5),
        refused(6, 7),
        delete(8, 9),
        missed("read", 10, 11),
        missed("delete", 12, 13),
        add(14, 15, "b"),
        seen(16, 17, "b"),
        final(ID, 20, "b"),
    ],
    "an add that overlaps what sees it": [add(0, 10), seen(1, 2), missed("read", 0, 1)],
    "an add that overlaps what does not see it": [add(0, 10), missed("read", 8, 9)],
    "two adds and a deletion overlap": [add(0, 10), add(0, 10, "b"), delete(0, 10)],
    "the deletion was before the second add ended": [add(0, 1), delete(4, 5), add(2, 6, "b")],
    "of two adds at the same time one is refused": [add(0, 9), refused(1, 2), seen(10, 11)],
    "refused for one that fails": [failed(0, 9), refused(1, 2)],
    "refused for one that was killed": [add(0), refused(5, 6), final(ID, 9, None)],
    "refused for what a killed one left": [
        lost("add", 0, 1, digest="a"),
        refused(5, 6, retryable=True),
        final(ID, 9, None),
    ],
    "refused for one in doubt that is there": [
        lost("add", 0, 1, digest="a"),
        refused(5, 6),
        final(ID, 9, "a"),
    ],
    "an add in doubt was not": [lost("add", 0, 1, digest="a"), add(2, 3, "b"), seen(4, 5, "b")],
    "an add in doubt was, and was deleted": [
        lost("add", 0, 1, digest="a"),
        delete(2, 3),
        add(4, 5, "b"),
    ],
    "an add in doubt was late": [
        lost("add", 0, 1, digest="a"),
        missed("read", 2, 3),
        seen(4, 5),
        final(ID, 9, "a"),
    ],
    "a deletion in doubt was not": [add(0, 1), lost("delete", 2, 3), seen(4, 5)],
    "a deletion in doubt was late": [
        add(0, 1),
        lost("delete", 2, 3),
        seen(4, 5),
        add(6, 7, "b"),
        seen(8, 9, "b"),
    ],
    "a killed deletion": [add(0, 1), delete(2), missed("read", 3, 4), final(ID, 9, None)],
    "a read that began before the deletion": [add(0, 1), seen(2, 9), delete(3, 4)],
    "a read of the image before, which ends after the next add": [
        add(0, 1),
        seen(2, 9),
        delete(3, 4),
        add(5, 6, "b"),
        seen(7, 8, "b"),
    ],
    "hidden by a deletion that is undone": [
        add(0, 1),
        op("delete", 2, 9, "failed", error="InUse"),
        missed("read", 3, 4),
        missed("delete", 5, 6),
        seen(10, 11),
    ],
    "an add that fails leaves nothing": [failed(0, 1), missed("read", 2, 3), add(4, 5)],
    "two deletions share an image": [add(0, 1), delete(2, 5), delete(4, 7), add(8, 9, "b")],
    "a killed deletion shares an image": [add(0, 1), delete(2), delete(3, 4), delete(5, 6)],
    "another place": [
        add(0, 1, url="one"),
        missed("read", 2, 3, url="two"),
        missed("delete", 2, 3, url="two"),
        seen(4, 5, url="one"),
        delete(6, 7, url="one"),
    ],
    "an unknown place": [lost("add", 0, 1, digest="a"), missed("read", 2, 3, url="x")],
    "ends and begins at the same time": [add(0, 1), delete(1, 1), add(1, 2, "b")],
    "a copy": [
        Operation("add", "source", 0, 1, "ok", digest="a", size=97),
        op("copy", 2, 3, source="source", size=97),
        seen(4, 5, "a"),
    ],
    "a copy in doubt": [
        Operation("add", "source", 0, 1, "ok", digest="a", size=97),
        op("copy", 2, source="source"),
        seen(4, 5, "a"),
    ],
    "a copy whose source is missing": [op("copy", 2, 3, "failed", error="NotFound", source="s")],
}
BAD = {
    "two adds": ([add(0, 1), add(2, 3, "b")], "two adds"),
    "two adds that overlap": ([add(0, 10), add(0, 10, "b")], "two adds"),
    "a deletion too early": ([delete(0, 1), add(2, 3), add(4, 5, "b")], "a deletion succeeded"),
    "one deletion for two adds": (
        [add(0, 1), delete(2, 5), add(3, 6, "b"), add(7, 8, "c")],
        "two adds",
    ),
    "one deletion in doubt for two adds": (
        [add(0, 1), lost("delete", 2, 3), add(4, 5, "b"), add(6, 7, "c")],
        "two adds",
    ),
    "gone": ([add(0, 1), missed("read", 2, 3)], "is gone"),
    "gone in the end": ([add(0, 1), final(ID, 9, None)], "is gone"),
    "gone for a deletion": ([add(0, 1), missed("delete", 2, 3)], "NotFound for a deletion"),
    "replaced": ([add(0, 1), add(0, 9, "b"), seen(2, 3)], "two adds"),
    "replaced in the end": (
        [add(0, 1), lost("add", 2, 3, digest="b"), final(ID, 9, "b")],
        "another image",
    ),
    "back again": ([add(0, 1), delete(2, 3), seen(4, 5)], "is there that was deleted"),
    "back again in the end": ([add(0, 1), delete(2, 3), final(ID, 9, "a")], "is there that"),
    "deleted twice": ([add(0, 1), delete(2, 3), delete(4, 5)], "there was no image"),
    "deleted twice, side by side, and never added": (
        [add(0, 1), delete(2, 5), delete(2, 5), seen(6, 7)],
        "is there that was deleted",
    ),
    "read before it was added": ([seen(0, 1), add(2, 3)], "never added under this id"),
    "read of nobody": ([add(0, 1), seen(2, 3, "x")], "mixture"),
    "read of another id": (
        [Operation("add", "other", 0, 1, "ok", digest="x"), seen(2, 3, "x")],
        "under this id",
    ),
    "read of an add that failed": ([failed(0, 1, "f"), seen(2, 3, "f")], "add that failed"),
    "left by an add that failed": ([failed(0, 1, "f"), final(ID, 9, "f")], "add that failed"),
    "refused for nobody": ([refused(0, 1)], "nobody had the id"),
    "refused for what was deleted": ([add(0, 1), delete(2, 3), refused(4, 5)], "nobody had"),
    "refused for what comes later": ([refused(0, 1), add(2, 3)], "nobody had"),
    "refused for good by what a failed one left": ([failed(0, 1), refused(2, 3)], "nobody had"),
    "refused for now by what succeeded and was deleted": (
        [add(0, 1), delete(2, 3), refused(4, 5, retryable=True)],
        "nobody had",
    ),
    "there and back": ([add(0, 9), seen(1, 2), missed("read", 3, 4)], "is gone"),
    "both orders": (
        [add(0, 9), add(0, 9, "b"), delete(0, 9), seen(1, 2), seen(3, 4, "b"), seen(5, 6)],
        "another image",
    ),
    "the wrong place": ([add(0, 1, url="one"), seen(2, 3, url="two")], "is there that"),
    "gone from its place": ([add(0, 1, url="one"), missed("read", 2, 3, url="one")], "is gone"),
    "an error of others": (
        [op("add", 0, 1, "failed", digest="a", error="outside: KeyError")],
        "none of the library's",
    ),
    "a copy of what was deleted": (
        [
            Operation("add", "source", 0, 1, "ok", digest="a", size=97),
            Operation("delete", "source", 2, 3, "ok"),
            op("copy", 4, 5, source="source", size=97),
        ],
        "is there that was deleted",
    ),
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_good_histories(history: list[Operation]) -> None:
    """Nothing is found that may have been right."""
    assert check(history) == []


@pytest.mark.parametrize(("history", "rule"), BAD.values(), ids=BAD)
def test_bad_histories(history: list[Operation], rule: str) -> None:
    """What is wrong is found, and named."""
    violations = check(history)
    assert len(violations) == 1
    assert rule in violations[0].rule
    assert rule in str(violations[0])


REPEATED = {
    "put again after a deletion": [add(0, 9), delete(1, 2), delete(3, 4), seen(10, 11)],
    "and there in the end": [add(0, 9), delete(1, 2), final(ID, 20, "a")],
    "in doubt": [lost("add", 0, 9, digest="a"), delete(1, 2), delete(3, 4), final(ID, 20, None)],
    "in doubt, and deleted later": [
        lost("add", 0, 9, digest="a"),
        delete(1, 2),
        delete(8, 11),
        add(10, 12, "b"),
        final(ID, 20, "b"),
    ],
    "killed": [add(0), delete(1, 2), delete(3, 4)],
    "another image in between": [
        add(0, 9),
        delete(1, 2),
        add(3, 4, "b"),
        seen(5, 6, "b"),
        delete(7, 8),
        seen(10, 11, "a"),
    ],
}
NOT_REPEATED = {
    "after its end": ([add(0, 3), delete(1, 2), delete(4, 5), delete(6, 7)], "there was no image"),
    "in doubt, after its end": (
        [lost("add", 0, 3, digest="a"), delete(1, 2), delete(4, 5), delete(6, 7)],
        "there was no image",
    ),
    "over another image": (
        [add(0, 9), delete(1, 2), add(3, 4, "b"), seen(10, 11, "a")],
        "another image",
    ),
    "beside another image": ([add(0, 3), delete(1, 2), add(4, 5, "b"), seen(6, 7)], "another"),
}


@pytest.mark.parametrize("history", REPEATED.values(), ids=REPEATED)
def test_adds_that_repeat_a_request(history: list[Operation]) -> None:
    """Where its answer was lost, it brings back what was deleted in between."""
    assert check(history, repeats=True) == []
    assert len(check(history)) == 1


@pytest.mark.parametrize(("history", "rule"), NOT_REPEATED.values(), ids=NOT_REPEATED)
def test_repeated_adds_end(history: list[Operation], rule: str) -> None:
    (violation,) = check(history, repeats=True)
    assert rule in violation.rule


def _simulated(chance: random.Random, count: int, loss: float) -> list[Operation]:
    """Return what clients saw of an id that had one state after the other, as it should."""
    state, at, found = "", 0.0, []
    for number in range(count):
        at += 1.0
        kind = chance.choice(("add", "add", "read", "delete"))
        begun, ended = at - chance.uniform(0, 3), at + chance.uniform(0, 3)
        digest = f"{number}"
        is_lost = chance.random() < loss
        if is_lost and chance.random() < 0.5:  # nothing comes of it
            found.append(op(kind, begun, digest=digest if kind == "add" else ""))
        elif kind == "add":
            made = add(begun, ended, digest) if not state else refused(begun, ended, digest)
            if is_lost:
                made = add(begun, digest=digest)
            state = state or digest
            found.append(made)
        elif kind == "read":
            found.append(seen(begun, ended, state) if state else missed("read", begun, ended))
        else:
            made = delete(begun, ended) if state else missed("delete", begun, ended)
            found.append(delete(begun) if is_lost else made)
            state = ""
    found.append(final(ID, at + 10, state or None))
    return found


@pytest.mark.parametrize("seed", range(40))
def test_what_happened_is_never_wrong(seed: int) -> None:
    """Whatever overlaps, and whatever is lost."""
    history = _simulated(random.Random(seed), 60, loss=0.15)
    assert check(history) == check(history, repeats=True) == []


def test_most_changes_of_what_happened_are_found() -> None:
    """An image that is back, gone, or another one in the end."""
    found = 0
    for seed in range(60):
        history = _simulated(random.Random(seed), 30, loss=0.0)
        last = history.pop()
        history.append(final(ID, last.begun, None if last.digest else "0"))
        found += bool(check(history))
    assert found > 50


def test_many_in_doubt_take_no_long_time() -> None:
    """What allows for nothing more is not followed."""
    doubts = [op("add", 0, digest=f"{n}") for n in range(14)]
    doubts += [op("delete", 0) for _ in range(14)]
    ends = [seen(n + 1, n + 1.5, f"{n}") for n in range(14)]
    assert check([*doubts, *ends]) == []
    assert check([*doubts, *ends, seen(20, 21, "0")])


def test_histories_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Also what was killed in the middle of a line, or of an operation."""
    recorder = Recorder(tmp_path / "0001.jsonl", 1)
    first = recorder.begin("add", ID, digest="a", size=1)
    second = recorder.begin("delete", ID)
    recorder.end(first, outcome="ok", url="there")
    with (tmp_path / "0001.jsonl").open("a") as file:
        file.write(f'{{"number": {second}, "ended": 1.0, "outc')
    added, deleted = read(tmp_path)
    assert (added.outcome, added.url, added.client) == ("ok", "there", 1)
    assert added.begun <= added.ended < NEVER
    assert (deleted.outcome, deleted.ended) == ("unknown", NEVER)
    assert "delete" in str(deleted)
