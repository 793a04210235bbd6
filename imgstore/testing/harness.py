"""What the author of a driver tells the contract about a store."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar, Final, TypeVar

import pytest

from imgstore import Capability, Location, Store
from imgstore.location import LocationLike

KIB: Final = 1024
MIB: Final = 1024 * KIB
WAIT: Final = 60  # seconds for a thread of a test, which has nothing slow to do

Place = Callable[[bytes], Location]
Undone = Callable[[], AbstractContextManager[str]]
Rot = Callable[[Location], object]
T = TypeVar("T", bound=Any)
E = TypeVar("E", bound=BaseException)

_LEFT_OUT: Final = "left out: it does not suit the store"  # pytest passes over what is no function


class Harness:
    """The fixtures and settings of a contract class; only ``store`` has no default.

    ``capabilities`` are those that the store must have, and selects the tests. ``sizes`` are the
    sizes in bytes of the images that make the round trip, ``large`` that of one which no driver
    should hold at once, ``judged_sizes`` those of others that are compared with digests.
    ``good_ids`` are image ids that the store must accept. ``foreign_locations`` are URLs of the
    store's schemes that lie outside it. ``secrets`` are the credentials that the store was given,
    none of which may be shown. ``threads`` is how many use the store at once.
    ``library_half`` False leaves out the tests that never reach a driver:
    one class of a driver is enough for them. ``memory_limit`` is how many bytes of memory an add or
    a read may take, however large the image; None leaves that test out. ``patience`` is how many
    seconds threads and connections may take to end after their use, ``kept_connections`` how many
    more than after a first use a pool may come to keep: as many as are used at once.
    """

    capabilities: ClassVar[Capability] = (
        Capability.READ | Capability.WRITE | Capability.DELETE | Capability.RANGES
    )
    sizes: ClassVar[tuple[int, ...]] = (
        0,
        1,
        64 * KIB - 1,
        64 * KIB,
        64 * KIB + 1,
        MIB - 1,
        MIB,
        MIB + 1,
        5 * MIB + 3,
    )
    large: ClassVar[int] = 3 * MIB + 7
    judged_sizes: ClassVar[tuple[int, ...]] = (0, 1000)
    good_ids: ClassVar[tuple[str, ...]] = (
        "8c9f7d2e-0b1a-4c3d-9e8f-7a6b5c4d3e2f",
        "two words",
        "dots.in..side",
        ".hidden",
        "~+-=,;:!$&'()*@[]^_`{|}",
        "50%-%41-%2f",
        "back\\slash",
        "Grüße-図像-\U0001f600",
        "x" * 255,
        "ü" * 127 + "x",
    )
    foreign_locations: ClassVar[tuple[str, ...]] = ()
    secrets: ClassVar[tuple[str, ...]] = ()
    threads: ClassVar[int] = 8
    library_half: ClassVar[bool] = True
    memory_limit: ClassVar[int | None] = None
    patience: ClassVar[float] = 5.0
    kept_connections: ClassVar[int] = 0

    def __init_subclass__(cls, *, is_part: bool = False, **kwargs: Any) -> None:
        """Leave out the tests that do not suit the store; a part of the contract keeps all."""
        super().__init_subclass__(**kwargs)
        for name in () if is_part else dir(cls):
            if name.startswith("test_") and _is_test(test := _test(cls, name)):
                wanted = is_wanted(test, cls)
                if wanted is (getattr(cls, name) is _LEFT_OUT):
                    setattr(cls, name, test if wanted else _LEFT_OUT)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run tests that take ``image_size``, ``judged_size`` or ``good_id`` for each value."""
        if "image_size" in metafunc.fixturenames:
            metafunc.parametrize("image_size", self.sizes)
        if "judged_size" in metafunc.fixturenames:
            metafunc.parametrize("judged_size", (*self.judged_sizes, self.large))
        if "good_id" in metafunc.fixturenames:
            metafunc.parametrize("good_id", self.good_ids, ids=range(len(self.good_ids)))

    @pytest.fixture
    def store(self) -> Store:
        """Give an empty store; the fixture also closes it and removes its images."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `store`")

    @pytest.fixture
    def place(self, store: Store) -> Place:
        """Give a function that puts bytes into the store; a store without WRITE needs its own."""
        return lambda data: store.add(new_id(), data, algorithms=()).location

    @pytest.fixture
    def missing(self, store: Store, place: Place) -> Location:
        """Give a location inside the store where no image is."""
        location = place(b"soon gone")
        store.delete(location)
        return location

    @pytest.fixture
    def leaves(self) -> Callable[[], Iterable[str]]:
        """Give a function that names everything which exists in the backend, unfinished or not.

        It shows that failed adds leave nothing behind. Without one only ``leftovers`` is asked.
        """
        return lambda: ()

    @pytest.fixture
    def abandon(self) -> Callable[[], object]:
        """Give a function that leaves, just now, what an add of a process that died leaves.

        It shows that clean-up goes by age. Without one nothing is left.
        """
        return lambda: None

    @pytest.fixture
    def rot(self) -> Rot | None:
        """Give a function that changes a byte of an image where its bytes lie.

        It shows that reads which are compared find that out. Without one no image is changed.
        """
        return None

    @pytest.fixture
    def undone(self, store: Store, leaves: Callable[[], Iterable[str]]) -> Undone:
        """Give a context in which an add of the id it yields fails and leaves no trace."""

        @contextmanager
        def context() -> Iterator[str]:
            image_id = new_id()
            before = sorted(leaves())
            yield image_id
            assert sorted(leaves()) == before, "the failed add left something in the backend"
            assert store.leftovers(older_than=0) == []
            image = store.add(image_id, b"the id is free", algorithms=())
            assert content(store, image.location) == b"the id is free"

        return context


def needs(capability: Capability) -> Callable[[T], T]:
    """Select a test, or all tests of a class, for stores that have ``capability``."""
    return _mark("needs", capability)


def lacks(capability: Capability) -> Callable[[T], T]:
    """Select a test for stores that have not ``capability``."""
    return _mark("lacks", capability)


def library_half(test: T) -> T:
    """Select a test that never reaches a driver, for classes that set ``library_half``."""
    vars(test)["library_half"] = True
    return test


def _mark(key: str, capability: Capability) -> Callable[[T], T]:
    def mark(subject: T) -> T:
        tests = [subject]
        if isinstance(subject, type):
            named = (test for name, test in vars(subject).items() if name.startswith("test_"))
            tests = [test for test in named if _is_test(test)]
        for test in tests:
            vars(test)[key] = vars(test).get(key, Capability(0)) | capability
        return subject

    return mark


def is_wanted(test: Callable[..., object], of: type[Harness]) -> bool:
    """Return whether a test suits what a contract class says about its store."""
    needed: Capability = vars(test).get("needs", Capability(0))
    lacking: Capability = vars(test).get("lacks", Capability(0))
    if vars(test).get("measures_memory") and of.memory_limit is None:
        return False
    if vars(test).get("library_half") and not of.library_half:
        return False
    return needed in of.capabilities and not lacking & of.capabilities


def _is_test(attribute: object) -> bool:
    """Tell a test from another attribute of that name; marks are kept in its ``__dict__``."""
    return callable(attribute) and isinstance(getattr(attribute, "__dict__", None), dict)


def _test(cls: type[Harness], name: str) -> Any:
    """Return the test of that name as it was written, or None if a class took it out."""
    found = (vars(base)[name] for base in cls.__mro__ if name in vars(base))
    return next((test for test in found if test is not _LEFT_OUT), None)


def measures_memory(test: T) -> T:
    """Select a test for stores that set ``memory_limit``."""
    vars(test)["measures_memory"] = True
    return test


def refusal(expected: type[E], case: str, call: Callable[[], object]) -> E:
    """Return how ``call`` is refused; ``case`` says of which case a failure is."""
    try:
        call()
    except expected as exc:
        return exc
    raise AssertionError(f"{case}: this should have been refused")


def new_id() -> str:
    """Return an image id that is not in use."""
    return str(uuid.uuid4())


def content(store: Store, location: LocationLike) -> bytes:
    """Return the whole of an image."""
    with store.get(location) as reader:
        return reader.read()


def difference(found: bytes, expected: bytes) -> str:
    """Say where two images differ; empty where they do not.

    Comparing in an assertion would make pytest explain megabytes line by line, for minutes.
    """
    if found == expected:
        return ""
    pairs = enumerate(zip(found, expected, strict=False))
    at = next((at for at, (one, other) in pairs if one != other), min(len(found), len(expected)))
    return f"{len(found)} bytes instead of {len(expected)}, the first difference at byte {at}"


def pattern(size: int) -> bytes:
    """Return ``size`` bytes without repetitions, the same ones each time."""
    return random.Random(size).randbytes(size)  # noqa: S311  # test data
