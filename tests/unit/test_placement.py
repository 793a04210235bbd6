"""Choosing a place, and how places are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore.drivers._placement import Candidate, Weighted, parse_weighted, pick
from imgstore.errors import InvalidArgument, StorageFull


def candidates(*rows):
    return [Candidate(place, weight, lambda free=free: free) for place, weight, free in rows]


@pytest.mark.parametrize(
    ("rows", "size", "order"),
    [
        ([("a", 0, 10), ("b", 0, 20)], 5, "ba"),
        ([("a", 1, 10), ("b", 0, 20)], 5, "ab"),
        ([("a", 1, 4), ("b", 0, 20)], 5, "b"),
        ([("a", 1, 5), ("b", 0, 20)], 5, "ab"),
        ([("a", 0, 10), ("b", 0, 10), ("c", 0, 10)], 5, "abc"),
        ([("a", -1, 10), ("b", 0, 1)], 1, "ba"),
        ([("a", 0, None), ("b", 0, 1)], 1, "ba"),
        ([("a", 1, None), ("b", 0, 100)], 10, "ab"),
        ([("a", 0, None)], 1 << 60, "a"),
        ([("a", 0, 1), ("b", 0, 0)], None, "a"),
        ([("a", 0, 0)], 0, "a"),
        ([("a", 100, 50), ("b", 200, 50), ("c", 200, 60), ("d", 300, 49)], 50, "cba"),
    ],
)
def test_places_are_ordered(rows, size, order):
    """Highest weight, then most free space, then the order given; too small ones are left out."""
    assert pick(candidates(*rows), size) == list(order)


@pytest.mark.parametrize(
    ("rows", "size"), [([], 0), ([], None), ([("a", 0, 4)], 5), ([("a", 9, 0)], None)]
)
def test_no_room_is_storage_full(rows, size):
    """Where nothing fits the error is StorageFull, with a remedy."""
    with pytest.raises(StorageFull) as caught:
        pick(candidates(*rows), size)
    assert caught.value.remedy


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.none() | st.integers(0, 50)), min_size=1),
    st.none() | st.integers(0, 50),
)
def test_pick_is_a_stable_order_of_what_fits(pairs, size):
    """Every place with room is returned once, best first."""
    rows = [(number, weight, free) for number, (weight, free) in enumerate(pairs)]
    need = 1 if size is None else size
    fitting = {number for number, _, free in rows if free is None or free >= need}
    try:
        picked = pick(candidates(*rows), size)
    except StorageFull:
        assert not fitting
        return
    assert set(picked) == fitting
    assert len(picked) == len(fitting)
    keys = [(-rows[n][1], -(rows[n][2] or 0), n) for n in picked]
    assert keys == sorted(keys)


@pytest.mark.parametrize(
    ("text", "fields", "parts", "weight"),
    [
        ("dc:ds", 2, ("dc", "ds"), 0),
        ("dc:ds:7", 2, ("dc", "ds"), 7),
        ("dc:ds:", 2, ("dc", "ds"), 0),
        ("d\\:c:d\\:s:7", 2, ("d:c", "d:s"), 7),
        ("d\\c:ds\\", 2, ("d\\c", "ds\\"), 0),
        ("a/b dc: my ds :7", 2, ("a/b dc", "my ds"), 7),
    ],
)
def test_weighted_places_are_parsed(text, fields, parts, weight):
    """A place is its fields and a weight, 0 if there is none; spaces around them do not count."""
    assert parse_weighted(text, fields=fields) == Weighted(parts, weight)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("dc", 2),
        ("dc:", 2),
        (":ds", 2),
        ("dc:ds:x", 2),
        ("dc:ds:1:2", 2),
        ("dc\\:ds", 2),
    ],
)
def test_what_is_no_weighted_place(text, fields):
    """Missing or surplus fields and weights that are no whole numbers are refused, by name."""
    with pytest.raises(InvalidArgument) as caught:
        parse_weighted(text, fields=fields)
    assert repr(text) in str(caught.value)


@given(
    st.lists(st.text(st.characters(exclude_characters="\\:"), min_size=1), min_size=2, max_size=2)
)
def test_escaped_colons_are_part_of_a_field(fields):
    """A field may hold any colons, escaped."""
    names = [f"x{field}:{field}x" for field in fields]
    text = ":".join(name.replace(":", "\\:") for name in names)
    assert parse_weighted(f"{text}:3", fields=2) == Weighted(tuple(names), 3)
