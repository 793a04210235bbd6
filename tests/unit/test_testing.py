"""The contract itself: it finds what it is for, and selects its tests."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import imgstore
from imgstore import Capability
from imgstore.testing import StoreContract
from imgstore.testing.harness import difference, needs

BROKEN = Path(__file__).parent / "broken_stores.py"
KEPT = "TestLittering::test_leftovers_are_listed_and_removed_by_their_age"


def selected(cls):
    return {name for name in dir(cls) if name.startswith("test_") and callable(getattr(cls, name))}


@pytest.mark.tree  # a rule is broken in the same way on every interpreter
def test_every_broken_rule_is_found(tmp_path):
    """For each rule that a store breaks, the test that is there for it fails."""
    spec = importlib.util.spec_from_file_location("broken_stores", BROKEN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    expected = {f"Test{broken.__name__}::{broken.caught_by}" for broken in module.BROKEN}
    options = ("-q", "-rA", "--tb=no", "-p", "no:cacheprovider", "--import-mode=importlib")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", str(BROKEN.parent)]
        + [f"{BROKEN}::{test}" for test in sorted(expected | {KEPT})],
        cwd=tmp_path,
        # In CI pytest explains failures in full, which must not take minutes.
        env=os.environ | {"CI": "true", "PYTHONPATH": str(Path(imgstore.__file__).parents[1])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    found = set(re.findall(r"^FAILED \S*?::(\w+::\w+)", done.stdout, re.MULTILINE))
    assert expected - found == set(), done.stdout + done.stderr
    assert "ERROR" not in done.stdout
    # The store that others are derived from breaks nothing, so it is their fault that is found.
    assert KEPT in re.findall(r"^PASSED \S*?::(\w+::\w+)", done.stdout, re.MULTILINE)


def test_tests_are_selected_by_capability():
    """A class has the tests for what its store can do, and for what it cannot."""
    read_only = type("ReadOnly", (StoreContract,), {"capabilities": Capability.READ})
    everything = type("Everything", (StoreContract,), {"capabilities": ~Capability(0)})
    assert "test_what_is_added_comes_back" not in selected(read_only)
    assert "test_every_range_gives_its_bytes" not in selected(read_only)
    assert {
        "test_adding_is_unsupported",
        "test_copying_here_is_unsupported",
        "test_deleting_is_unsupported",
        "test_ranges_are_unsupported",
        "test_acls_are_unsupported",
        "test_an_image_that_exists_is_read",
    } <= selected(read_only)
    assert {"test_acls_are_set", "test_deleting_is_final"} <= selected(everything)
    assert not {name for name in selected(everything) if name.endswith("_unsupported")}
    assert selected(read_only) | selected(everything) | {
        "test_memory_does_not_grow_with_the_image"
    } == selected(StoreContract)


def test_what_is_no_test_is_left_alone():
    """A class may have attributes that are named like tests."""
    data = {"answer": 42}

    @needs(Capability.WRITE)
    class Part(StoreContract, is_part=True):
        test_data = data
        test_numbers = (1, 2)
        test_length = len

    class Whole(Part):
        capabilities = Capability.READ
        test_text = "text"
        test_deleting_is_final = None

    assert (Whole.test_data, Whole.test_numbers, Whole.test_text) == (data, (1, 2), "text")
    assert "test_deleting_is_unsupported" in selected(Whole)
    assert Whole.test_deleting_is_final is None


def test_images_are_compared_in_one_line():
    """Where two images differ is told without showing their bytes."""
    assert difference(b"same", b"same") == ""
    expected = "3145728 bytes instead of 3145729, the first difference at byte 3145728"
    assert difference(bytes(3145728), bytes(3145729)) == expected
    assert difference(b"one", b"ore") == "3 bytes instead of 3, the first difference at byte 1"


def test_no_test_hides_another():
    """Every part of the contract names its tests differently from all others."""
    names = [name for part in StoreContract.__bases__ for name in selected(part)]
    assert sorted(names) == sorted(selected(StoreContract))


def test_a_class_in_between_leaves_nothing_out():
    """What a class left out comes back in a class derived from it that can do more."""
    less = type("Less", (StoreContract,), {"capabilities": Capability.READ})
    more = type("More", (less,), {"capabilities": ~Capability(0), "memory_limit": 1})
    assert "test_deleting_is_final" not in selected(less)
    assert "test_deleting_is_final" in selected(more)
    assert "test_memory_does_not_grow_with_the_image" in selected(more)
    assert "test_deleting_is_unsupported" not in selected(more)


@pytest.mark.parametrize("name", sorted(selected(StoreContract)))
def test_every_test_states_its_rule(name):
    """Each test of the contract says in a sentence what a store must do."""
    assert getattr(StoreContract, name).__doc__.rstrip().endswith(".")
