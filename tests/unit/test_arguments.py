"""Checks of arguments, as properties."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imgstore import Location
from imgstore.boundary.arguments import age_limit, check_image_id, check_storable, is_below
from imgstore.errors import InvalidArgument


def accepts(check, argument):
    """Return whether a check accepts; what it refuses it says in one printable line."""
    try:
        check(argument)
    except InvalidArgument as exc:
        refusal = str(exc)
    else:
        return True
    assert refusal.isprintable()
    return False


@given(st.text() | st.text(st.characters(), max_size=300) | st.none() | st.integers() | st.binary())
@example("x" * 256)
@example("ü" * 128)
@example("\ud800")
def test_an_id_is_one_safe_segment_or_refused(image_id):
    """What is accepted can be a file name and a path segment of a URL; the rest is refused."""
    if not accepts(check_image_id, image_id):
        return
    assert image_id.isprintable()
    assert 0 < len(image_id.encode()) <= 255
    assert image_id not in {".", ".."}
    assert not set(image_id) & set("/?#")
    assert Location.parse(f"file:///dir/{image_id}").rest == f"/dir/{image_id}"


@given(st.integers() | st.floats() | st.text() | st.none() | st.timedeltas())
def test_an_age_is_a_length_of_time_or_refused(age):
    """Seconds and timedeltas are taken, unless they are negative or no number."""
    if accepts(age_limit, age):
        assert age_limit(age) >= timedelta(0)


@pytest.mark.parametrize(
    ("url", "prefix", "below"),
    [
        ("file:///a/b", "file:///a", True),
        ("file:///a/b", "file:///a/", True),
        ("file:///a", "file:///a/", True),
        ("file:///ab", "file:///a", False),
        ("file:///a/b", "filesystem:///a", False),
        ("s3://k:s@host/b/x", "s3://host/b", True),
        ("http://host/x", "http://host", True),
        ("http://hostile/x", "http://host", False),
    ],
)
def test_below_means_whole_segments(url, prefix, below):
    """A prefix is a directory: half a segment is none, and credentials do not count."""
    assert is_below(Location.parse(url), Location.parse(prefix)) is below


@pytest.mark.parametrize(
    ("image_id", "without", "is_good"),
    [
        ("4b5f1d8e", "", True),
        ("imgstore-x", "", False),
        ("imgstore-", "", False),
        ("imgstorex", "", True),
        ("Imgstore-x", "", True),
        ("a@b", "", True),
        ("a@b", "@", False),
        ("a+b", "@+", False),
    ],
)
def test_names_of_a_stores_own(image_id, without, is_good):
    """No image is named like what a store makes for itself, nor with what its URLs cannot have."""
    if is_good:
        check_storable(image_id, "Somewhere", without=without)
        return
    with pytest.raises(InvalidArgument, match="cannot be stored in Somewhere") as caught:
        check_storable(image_id, "Somewhere", without=without)
    assert "imgstore-" in caught.value.remedy
    assert all(char in caught.value.remedy for char in without)


def test_other_names_of_a_stores_own():
    """Where a backend hides files that begin with a dot, those of a store do."""
    check_storable("imgstore-1", "Somewhere", own=".imgstore-")
    with pytest.raises(InvalidArgument) as caught:
        check_storable(".imgstore-1", "Somewhere", own=".imgstore-")
    assert "'.imgstore-'" in caught.value.remedy
