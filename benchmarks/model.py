"""What a benchmark is made of: tasks for a fresh process, the runs of a case, and its targets."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1024 * 1024
GIB = 1024 * MIB


@dataclass(frozen=True, kw_only=True)
class Task:
    """One measured operation; worker.py carries it out in a process of its own.

    `side` names the module (`side_<name>.py`) that does the work; tasks of the side `incumbent`
    run in the incumbent's environment. `options` are the operator's, the same file for both sides.
    `unknown` keeps the size from the store. With `warm` the store is used once before, as in a
    service that runs.
    """

    operation: str
    side: str = "raw"
    driver: str = "file"
    options: Mapping[str, str] = field(default_factory=dict)
    algorithms: tuple[str, ...] = ()
    source: str = ""
    as_path: bool = False
    url: str = ""
    evict: str = ""
    size: int = 0
    unknown: bool = False
    count: int = 1
    threads: int = 1
    discard: bool = False
    then_fsync: bool = False
    verify: bool = False
    warm: bool = False
    arguments: tuple[str, ...] = ()
    creates: str = ""

    @property
    def of_children(self) -> bool:
        """Whether the work is another program's, so that its RSS has a peak but no growth."""
        return self.operation in ("command", "imports", "rbd_import", "rbd_export")


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one operation cost: seconds, CPU seconds (user and system), the peak RSS in bytes.

    `rss_growth` is how far the peak is above the RSS that the process had before the operation.
    """

    seconds: float
    cpu: float
    rss_growth: int
    rss_peak: int
    digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """A figure computed from the medians of a case, and the limit it should keep."""

    text: str
    measure: Callable[[Mapping[str, Figures]], float]
    limit: float
    at_least: bool
    unit: str = "×"

    def met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file with `data` random bytes in 1 MiB extents spread evenly over `size` bytes of holes."""

    path: Path
    size: int
    data: int

    def make(self) -> None:
        """Write the file unless it is there, and flush it: dirty pages would disturb the runs."""
        if self.path.exists():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        extents = self.data // MIB
        with self.path.open("wb", buffering=0) as file:
            file.truncate(self.size)
            for number in range(extents):
                file.seek(number * (self.size // extents) // 4096 * 4096)
                file.write(os.urandom(MIB))
            os.fsync(file.fileno())


@dataclass(frozen=True, kw_only=True)
class Case:
    """Work done by several contenders in turn; the first of `runs` is the one compared.

    `amount` in `unit` is what every run does: it turns seconds into a rate (0: no rate).
    No target needs the contenders in `once`: they run one time, for context. `around` is entered
    before the first run, with the sources made, and left after the last.
    """

    name: str
    title: str
    runs: Mapping[str, Task]
    targets: tuple[Target, ...] = ()
    sources: tuple[SourceFile, ...] = ()
    amount: float = 0
    unit: str = "MiB"
    least_runs: int = 1
    once: tuple[str, ...] = ()
    around: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where the cases work and how large they are: `quick` asks for a smoke run."""

    tmpfs: Path
    disk: Path
    quick: bool

    def sized(self, full: int, quick: int) -> int:
        return quick if self.quick else full


def speed(run: str, against: str, at_least: float) -> Target:
    """`run` is at least so many times as fast as `against`."""
    return Target(
        f"≥ {at_least:g} × {against}",
        lambda medians: medians[against].seconds / medians[run].seconds,
        at_least,
        at_least=True,
    )


def duration(run: str, against: str, at_most: float) -> Target:
    """`run` takes at most so many times the seconds of `against`."""
    return Target(
        f"time ≤ {at_most:g} × {against}",
        lambda medians: medians[run].seconds / medians[against].seconds,
        at_most,
        at_least=False,
    )


def processor(run: str, against: str, at_most: float) -> Target:
    """`run` takes at most so many times the CPU seconds of `against`."""
    return Target(
        f"client CPU ≤ {at_most:g} × {against}",
        lambda medians: medians[run].cpu / medians[against].cpu,
        at_most,
        at_least=False,
    )


def seconds(run: str, at_most: float) -> Target:
    """`run` takes at most so many seconds."""
    return Target(
        f"{run}: ≤ {at_most:g} s",
        lambda medians: medians[run].seconds,
        at_most,
        at_least=False,
        unit="s",
    )


def memory(*runs: str, at_most: int) -> Target:
    """The peak RSS of no run grows by more than `at_most` MiB."""
    return Target(
        f"peak RSS growth ≤ {at_most} MiB",
        lambda medians: max(medians[run].rss_growth for run in runs) / MIB,
        at_most,
        at_least=False,
        unit="MiB",
    )
