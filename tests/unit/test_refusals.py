"""What cannot be done is refused before a byte is read, whoever is asked."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from imgstore import Store, StoreManager, errors
from imgstore.data import Opened
from imgstore.drivers.memory import MemoryStore
from imgstore.layers import Limited
from imgstore.testing.doubles import Collected, Untouched
from imgstore.testing.expecting import BAD_DIGESTS, WRONG, Judging, digests_of
from imgstore.testing.failures import BAD_COUNTS
from imgstore.testing.harness import refusal

URL = "memory://memory/image"
DATA = b"data"
Verb = Callable[..., object]


class Counting(MemoryStore):
    """A store that counts how often an image is opened."""

    opened = 0

    def _get(self, *args: Any, **given: Any) -> Opened:
        self.opened += 1
        return super()._get(*args, **given)


class Mute(Collected):
    """A sink with no last word."""

    finish: Any = None


class Asynchronous(Collected):
    """A sink whose answer would have to be awaited."""

    async def finish(self) -> None:
        """Refuse nothing."""


@pytest.fixture
def inner() -> Iterator[Counting]:
    with Counting("memory") as store:
        store.add("image", DATA)
        yield store


@pytest.fixture(params=["store", "layer", "manager"])
def verbs(request: pytest.FixtureRequest, inner: Counting) -> Store | StoreManager:
    """The verbs, as each has them."""
    if request.param == "manager":
        return StoreManager([inner], default="memory")
    return Limited(inner, 1) if request.param == "layer" else inner


@pytest.fixture
def add(verbs: Store | StoreManager) -> Verb:
    return partial(verbs.add, "other", Untouched())


@pytest.fixture
def copy(verbs: Store | StoreManager) -> Verb:
    if isinstance(verbs, StoreManager):
        return partial(verbs.copy, URL, "other", to="memory")
    return partial(verbs.copy, URL, "other")


@pytest.fixture(autouse=True)
def _nothing_is_read_or_stored(inner: Counting) -> Iterator[None]:
    yield
    assert inner.opened == 0
    with pytest.raises(errors.NotFound):
        inner.size("memory://memory/other")


@pytest.mark.parametrize("case", BAD_DIGESTS)
def test_expected_digests_are_digests(
    verbs: Store | StoreManager, add: Verb, copy: Verb, tmp_path: Path, case: str
) -> None:
    """An unknown algorithm, another length, no digits, and none at all."""
    save = partial(verbs.save, URL, tmp_path / "file")
    for verb in (add, copy, save, partial(verbs.get, URL), partial(verbs.verify, URL)):
        refusal(errors.InvalidArgument, case, partial(verb, expected=BAD_DIGESTS[case]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("offset", "length"), [(1, None), (0, 4), (0, 0)])
def test_a_range_has_no_digest(
    verbs: Store | StoreManager, offset: int, length: int | None
) -> None:
    """Expected digests are those of a whole image, whether the store has ranges or not."""
    expected = digests_of(DATA, "sha256")
    with pytest.raises(errors.InvalidArgument):
        verbs.get(URL, offset=offset, length=length, expected=expected)


def test_a_finish_can_be_called(add: Verb, copy: Verb) -> None:
    """One that is None is no finish."""
    for verb in (add, copy):
        with pytest.raises(errors.InvalidArgument, match="callable"):
            verb(sinks=[Mute()])


@pytest.mark.parametrize("case", ["sinks", "a sink", "algorithms", "progress", *BAD_COUNTS])
def test_a_copy_refuses_what_an_add_refuses(add: Verb, copy: Verb, case: str) -> None:
    """It does so before the image is opened."""
    for verb in (add, copy):
        given = {
            "sinks": {"sinks": 5},
            "a sink": {"sinks": iter([object()])},
            "algorithms": {"algorithms": iter(["sha257"])},
            "progress": {"progress": 5},
        }.get(case) or {"max_size": BAD_COUNTS[case]}
        with pytest.raises(errors.InvalidArgument):
            verb(**given)


def test_a_copy_takes_iterators(verbs: Store | StoreManager, inner: Counting) -> None:
    """What is looked at before is there afterwards."""
    to: Any = {"to": "memory"} if isinstance(verbs, StoreManager) else {}
    sink = Collected()
    image = verbs.copy(URL, "copy", algorithms=iter(["md5"]), sinks=iter([sink]), **to)
    assert (image.digests, sink.data) == (digests_of(DATA, "md5"), DATA)
    inner.opened = 0


def test_a_copy_has_a_name_that_is_safe(verbs: Store | StoreManager) -> None:
    """Its id is looked at before the image is opened."""
    to: Any = {"to": "memory"} if isinstance(verbs, StoreManager) else {}
    with pytest.raises(errors.InvalidArgument):
        verbs.copy(URL, "../other", **to)


@pytest.mark.parametrize("path", [5, None, "a\0b", "directory/"])
def test_a_file_has_a_name(
    verbs: Store | StoreManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Any
) -> None:
    """A descriptor, nothing, a NUL and a directory are no names of files."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.InvalidArgument):
        verbs.save(URL, path)


def test_an_asynchronous_finish_refuses(inner: Counting) -> None:
    """It returns what would have to be awaited, which is no consent, and Python does not warn."""
    with pytest.raises(errors.InvalidArgument, match="finish"):
        inner.add("other", DATA, sinks=[Asynchronous()])
    gc.collect()


@pytest.mark.parametrize("answer", [False, True, 0, "", [], b"no"])
def test_an_answer_is_no_consent(inner: Counting, answer: object) -> None:
    """Only None lets an image in."""
    with pytest.raises(errors.InvalidArgument, match="finish"):
        inner.add("other", DATA, sinks=[Judging(lambda _: answer)])


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1])
def test_a_source_that_lies_about_its_size_is_refused_for_that(inner: Counting, size: int) -> None:
    """The size comes first: digests of what was cut off, or goes on, say nothing."""
    judge = Judging(lambda _: pytest.fail("it was asked"))
    for expected in (WRONG, digests_of(DATA, "sha256"), digests_of(DATA[:size], "sha256")):
        with pytest.raises(errors.SizeMismatch):
            inner.add("other", iter([DATA]), size=size, expected=expected, sinks=[judge])


def test_each_difference_counts(inner: Counting) -> None:
    """Of two expected digests, in either case, one that differs is enough."""
    good, bad = digests_of(DATA, "md5", "sha512"), digests_of(b"other", "md5", "sha512")
    for name in good:
        expected = {each: text.upper() for each, text in (good | {name: bad[name]}).items()}
        with pytest.raises(errors.DigestMismatch, match=name):
            inner.add("other", DATA, expected=expected)


def test_an_empty_iterator_asks_for_nothing(inner: Counting) -> None:
    """Then the digest is SHA-256, as without any."""
    assert inner.verify(URL, algorithms=iter(())) == digests_of(DATA, "sha256")
    inner.opened = 0
