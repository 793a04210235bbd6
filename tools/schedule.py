"""Steps side by side: each after those it needs, the longest chain of them first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from tools.steps import Result, Step, interrupt


@dataclass
class Schedule:
    """As many steps at once as there are ``cores``, and one more that waits.

    ``seconds`` are how long steps took before, by their labels. A step whose needs failed is not
    begun. ``interrupt`` ends the steps that run when the run itself is interrupted.
    """

    steps: Iterable[Step]
    cores: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    interrupt: Callable[[], object] = interrupt

    def __post_init__(self) -> None:
        """Order the steps."""
        given = list(self.steps)
        if unknown := {need for step in given for need in step.needs} - {s.label for s in given}:
            raise ValueError(f"steps need what nobody does: {', '.join(sorted(unknown))}")
        ranks: dict[str, float] = {}

        def rank(step: Step) -> float:
            if step.label not in ranks:
                after = (rank(other) for other in given if step.label in other.needs)
                # The second more keeps a step behind all that it needs.
                ranks[step.label] = self._guess(step) + 1 + max(after, default=0.0)
            return ranks[step.label]

        self._pending = sorted(given, key=rank, reverse=True)
        self._results: dict[str, Result] = {}
        self._running: dict[Future[Result], Step] = {}

    def run(self, execute: Callable[[Step], Result]) -> list[Result]:
        """Execute every step, and return the results in the order of their ends."""
        with ThreadPoolExecutor(self.cores + 1) as pool:
            try:
                while self._pending or self._running:
                    self._advance(pool, execute)
            except BaseException:
                self.interrupt()
                raise
        return list(self._results.values())

    def _advance(self, pool: ThreadPoolExecutor, execute: Callable[[Step], Result]) -> None:
        """Begin what can begin, and wait until a step ends."""
        self._drop()
        while step := self._next():
            self._pending.remove(step)
            self._running[pool.submit(execute, step)] = step
        ended, _ = wait(self._running, return_when=FIRST_COMPLETED)
        for future in ended:
            step = self._running.pop(future)
            self._results[step.label] = future.result()

    def _guess(self, step: Step) -> float:
        return self.seconds.get(step.label, step.budget)

    def _drop(self) -> None:
        """Give up the steps that need a failed one, and those that need these."""
        for step in list(self._pending):
            ended = (self._results[need] for need in step.needs if need in self._results)
            if failed := [result.step.label for result in ended if not result.passed]:
                self._pending.remove(step)
                missing = f"not run: it needs {failed[0]!r}, which failed"
                self._results[step.label] = Result(step, passed=False, missing=missing)

    def _next(self) -> Step | None:
        """Return the step to begin now, if there is room for one."""
        running = list(self._running.values())
        waiting = min(1, sum(step.waits for step in running))
        room = len(running) - waiting < self.cores
        for step in self._pending:
            ready = all(need in self._results for need in step.needs)
            if ready and (room or (step.waits and not waiting)):
                return step
        return None
