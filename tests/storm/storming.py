"""A storm from its beginning to its verdict."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servers.process import Process
from servers.proxy import Proxy

from imgstore import errors
from storm.checker import Violation, check, final
from storm.history import Operation, read
from storm.plan import Plan
from storm.weather import Clients, Weather

_ENDING = 90.0  # seconds for clients to end once nothing goes wrong any more
_WAITING = 10.0  # for those that may wait for dead ones


@dataclass(frozen=True)
class Found:
    """An image that a backend has, as its SDK sees it; `url` where it is one of several places."""

    image_id: str
    digest: str
    url: str = ""


@dataclass(frozen=True)
class Backend:
    """A real server and how its stores are used.

    `listing` returns its images and the names of all else that it has. `clean` is for how many
    seconds clean-up is tried again: some backends find out late that a client is dead. `clients`,
    `patience` and `pace` are those of the weather. Where a store `waits`, a client may do so for
    minutes, for what a dead one holds: it is killed in the end. One that `repeats` puts an image
    again if an answer was lost, also where the image was deleted in between.
    """

    plan: Plan
    listing: Callable[[], tuple[list[Found], list[str]]]
    servers: Sequence[Process] = ()
    proxies: Sequence[Proxy] = ()
    heal: Callable[[], object] = lambda: None
    clients: int = 4
    patience: float = 1.5
    pace: float = 3.0
    clean: float = 20.0
    waits: bool = False
    repeats: bool = False


@dataclass
class Report:
    """What came of a storm."""

    seed: int
    violations: list[Violation] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    weather: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # that parts of it took

    @contextlib.contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Note how long a part of it takes."""
        begun = time.monotonic()
        yield
        self.seconds[part] = time.monotonic() - begun

    def __str__(self) -> str:
        counts = Counter(f"{each.kind} {each.error or each.outcome}" for each in self.operations)
        lines = [
            f"seed {self.seed}: {len(self.operations)} operations",
            f"{len(self.violations)} violations",
            ", ".join(f"{name} {count}" for name, count in sorted(counts.items())),
            ", ".join(f"{name} {count}" for name, count in sorted(self.weather.items())),
            ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.seconds.items()),
        ]
        return "\n".join([*lines, *map(str, self.violations)])


def seed_of(environment: str = "IMGSTORE_STORM_SEED") -> int:
    """Return the seed that is set, else a new one."""
    return int(os.environ.get(environment) or random.SystemRandom().getrandbits(32))


def storm(backend: Backend, seconds: float, *, seed: int, clients: int | None = None) -> Report:
    """Let it storm, clean up, and judge."""
    sys.stdout.write(f"storm with seed {seed}, history in {backend.plan.directory}\n")
    sys.stdout.flush()
    chance = random.Random(seed)
    directory = Path(backend.plan.directory)
    (directory / "board").mkdir(parents=True)
    plan = dataclasses.replace(backend.plan, began=time.monotonic())
    plan.save(directory / "plan.json")
    report = Report(seed)
    crowd = Clients(directory / "plan.json", directory / "clients.log")
    weather = _weather(backend, crowd, chance)
    late: list[int] = []
    try:
        crowd.start(chance.getrandbits(32))  # whatever it has to import first
        with report.timed("storm"):
            weather.blow(time.monotonic() + seconds, clients=clients or backend.clients)
        with report.timed("end"):
            late = crowd.end(chance, seconds=_WAITING if backend.waits else _ENDING)
    finally:
        weather.calm()
        crowd.close()
    report.weather = weather.counts
    if late and not backend.waits:
        report.violations.append(Violation(f"{len(late)} clients did not end", "", None))
    backend.heal()
    with report.timed("clean-up"), plan.make() as store:
        report.violations += _left(backend, store)
    report.operations = read(directory)
    with report.timed("judge"):
        report.violations += _judged(backend, report.operations)
    with report.timed("deletion"):
        report.violations += _emptied(backend, plan)
    return report


def _weather(backend: Backend, crowd: Clients, chance: random.Random) -> Weather:
    return Weather(
        crowd,
        chance=chance,
        servers=backend.servers,
        proxies=backend.proxies,
        patience=backend.patience,
        pace=backend.pace,
    )


def _left(backend: Backend, store: Any) -> list[Violation]:
    """Clean up; what is left then that is no image is a violation.

    Not what came up since a clean-up began: the time of a claim may end at any moment.
    """
    deadline = time.monotonic() + backend.clean
    before: list[str] = []
    while True:
        is_last, said = time.monotonic() > deadline, ""
        try:
            store.remove_leftovers(older_than=0)
        except errors.StoreError as exc:
            said = f" ({exc})"
        _, rest = backend.listing()
        stuck = [each for each in rest if each in before]
        if not (rest or said) or (is_last and not stuck):
            return []
        if is_last:
            text = f"clean-up leaves {', '.join(stuck[:8])}{said}"
            return [Violation(text, "", None)]
        before = rest
        time.sleep(0.5)


def _judged(backend: Backend, operations: list[Operation]) -> list[Violation]:
    """Compare what clients said with each other, and with what is there in the end."""
    now = time.monotonic()
    images, _ = backend.listing()
    found: dict[str, list[Found]] = {}
    for image in images:
        found.setdefault(image.image_id, []).append(image)
    used = {each.image_id for each in operations if each.image_id}
    violations = [
        Violation(f"{len(several)} images of one id", image_id, None)
        for image_id, several in found.items()
        if len(several) > 1
    ]
    ends = [
        final(image_id, now, image.digest, image.url)
        for image_id in sorted(used | found.keys())
        for image in found.get(image_id, [None])[:1]
        if image is not None
    ]
    ends += [final(image_id, now, None) for image_id in sorted(used - found.keys())]
    return violations + check([*operations, *ends], repeats=backend.repeats)


def _emptied(backend: Backend, plan: Plan) -> list[Violation]:
    """Read and delete what is left by way of a store; then nothing is to be there."""
    violations = []
    images, _ = backend.listing()
    with plan.make() as store:
        for image in images:
            url = image.url or plan.places[0].replace("{id}", image.image_id)
            try:
                with store.get(url) as reader:
                    reader.read()
                _deleted(store, url, seconds=backend.clean)
            except errors.ImgStoreError as exc:
                violations.append(Violation(f"what is left cannot be used: {exc}", "", None))
        if violations:
            return violations
        violations += _left(backend, store)
    images, _ = backend.listing()
    if images:
        text = f"deleting all leaves {', '.join(image.image_id for image in images[:8])}"
        violations.append(Violation(text, "", None))
    return violations


def _deleted(store: Any, url: str, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            store.delete(url)
            return
        except errors.InUse:  # by a client that was killed
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
