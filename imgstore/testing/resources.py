"""What stores hold: descriptors, threads, memory."""

from __future__ import annotations

import gc
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Final

import pytest

from imgstore import Capability, Store, errors
from imgstore.testing.doubles import Failing
from imgstore.testing.harness import (
    MIB,
    Harness,
    Place,
    measures_memory,
    needs,
    new_id,
    pattern,
)

_DESCRIPTORS: Final = Path("/proc/self/fd")
_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")


def _held() -> tuple[int, int]:
    gc.collect()
    descriptors = len(list(_DESCRIPTORS.iterdir())) if _DESCRIPTORS.exists() else 0
    return descriptors, threading.active_count()


@contextmanager
def nothing_held(call: Callable[[], object], *, patience: float, kept: int = 0) -> Iterator[None]:
    """Call once, so that pools and clients exist; what the block takes it must give back.

    ``kept`` descriptors may stay.
    """
    call()
    descriptors, threads = _held()
    before = descriptors + kept, threads
    yield
    deadline = time.monotonic() + patience
    now = _held()
    while (now[0] > before[0] or now[1] > before[1]) and time.monotonic() < deadline:
        time.sleep(0.01)
        now = _held()
    assert now[0] <= before[0], "descriptors leak"
    assert now[1] <= before[1], "threads leak"


def _memory(name: str) -> int:
    found = re.search(rf"{name}:\s*(\d+) kB", _STATUS.read_text())
    assert found is not None
    return int(found[1]) * 1024


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    """Assert that the block's peak of resident memory is less than ``limit`` above its start."""
    gc.collect()
    _CLEAR.write_text("5")  # resets VmHWM, see proc(5)
    before = _memory("VmRSS")
    yield
    growth = _memory("VmHWM") - before
    assert growth < limit, f"{growth / MIB:.0f} MiB of memory, allowed are {limit / MIB:.0f}"


class Resources(Harness, is_part=True):
    """Whatever happens to a reader or an add, what it held is given back.

    ``rounds`` is how often adds are repeated, so that what each leaves adds up.
    """

    rounds: ClassVar[int] = 5

    def test_readers_hold_nothing_afterwards(self, store: Store, place: Place) -> None:
        """Readers that are closed, read to the end, left in the middle or dropped leak nothing."""
        location = place(pattern(self.large))

        def use() -> None:
            for number in range(12):
                reader = store.get(location)
                if number % 2:
                    reader.read(1000 if number % 4 == 1 else -1)
                if number % 3 == 0:
                    reader.close()

        with nothing_held(use, patience=self.patience, kept=self.kept_connections):
            use()
            use()

    def test_a_reader_of_nothing_holds_nothing(self, store: Store, place: Place) -> None:
        """Empty images and refused ranges leak nothing."""
        location = place(b"")

        def use() -> None:
            store.get(location)
            with pytest.raises((errors.InvalidRange, errors.Unsupported)):
                store.get(location, offset=1)

        with nothing_held(use, patience=self.patience, kept=self.kept_connections):
            for _ in range(20):
                use()

    @needs(Capability.WRITE)
    def test_adds_hold_nothing_afterwards(self, store: Store, tmp_path: Path) -> None:
        """Adds that succeed or fail, from any source, give back all they held."""
        path = tmp_path / "source"
        path.write_bytes(pattern(self.large))

        def use() -> None:
            store.add(new_id(), path, algorithms=("md5", "sha256"))
            with pytest.raises(RuntimeError):
                store.add(new_id(), Failing(RuntimeError(), after=self.large))
            with pytest.raises(RuntimeError):
                store.add(new_id(), path, sinks=[Failing(RuntimeError(), after=MIB)])
            with pytest.raises(errors.SizeMismatch):
                store.add(new_id(), path, size=self.large + 1)
            with pytest.raises(errors.TooLarge):
                store.add(new_id(), path, max_size=self.large - 1)

        with nothing_held(use, patience=self.patience, kept=self.kept_connections):
            for _ in range(self.rounds):
                use()

    @measures_memory
    @needs(Capability.WRITE)
    def test_memory_does_not_grow_with_the_image(self, store: Store) -> None:
        """Adding and reading an image take less memory than ``memory_limit``."""
        assert self.memory_limit is not None
        block = pattern(MIB)
        count = 4 * self.memory_limit // MIB
        with memory_below(self.memory_limit):
            image = store.add(new_id(), (block for _ in range(count)), size=count * MIB)
            with store.get(image.location) as reader:
                assert sum(map(len, reader)) == count * MIB
