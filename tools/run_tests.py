"""What ``make test`` does: every check, on every supported interpreter, against one built wheel.

``--quick`` runs what a person at work waits for, on one interpreter and without servers; ``--all``
every test on every setting, the lab's own and the heavy ones too; ``--lab`` those of the lab. With
``CI=true`` nothing may be missing and nothing may be skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tools import environments, families, interpreters, lab, report, steps, system_packages
from tools.environments import ENVIRONMENTS, REPOSITORY
from tools.schedule import Schedule
from tools.steps import IN_CI, Step

CI_NEEDS = ("3.11", "3.13")
FUNCTIONAL = "3.11"  # the one that distributions build Ceph's bindings for
LIMIT = 80 * 60  # seconds for a run
LIMIT_OF_ALL = 6 * 3600
TESTS = REPOSITORY / "tests"
FACADE = REPOSITORY / "imgstore-glance" / "tests"
DURATIONS = ENVIRONMENTS / "durations.json"
WHEEL = "wheel"
SERVERS = {"openstack": "Swift, Keystone and Cinder", "moto": "moto's server", "glance": "Glance"}


@dataclass(frozen=True)
class Run:
    """Which steps a run has: ``everything``, only the ``quick`` ones, or ``lab_only``."""

    pythons: dict[str, str]
    quick: bool = False
    everything: bool = False
    lab_only: bool = False

    @property
    def main(self) -> str:
        """The version that the functional tests need, or else the newest."""
        return FUNCTIONAL if FUNCTIONAL in self.pythons else list(self.pythons)[-1]

    def steps(self) -> list[Step]:
        """Return all steps, in no order."""
        made = [Step(WHEEL, prepare=environments.build_wheel, budget=10)]
        made += map(self._environment, self.pythons if self._is_whole else [self.main])
        if not self.quick:
            made += [*map(_servers, SERVERS), *self._functional()]
        if self._is_whole:
            made += map(self._facade, dict.fromkeys([next(iter(self.pythons)), self.main]))
            made += [self._glances_own()]
        if not self.lab_only:
            made += [self._make("lint", 40)]
            made += map(self._unit, self.pythons if self._is_whole else [self.main])
        if self._is_whole:
            made += [self._make("docs", 60)]
        return made

    @property
    def _is_whole(self) -> bool:
        return not self.quick and not self.lab_only

    def _make(self, target: str, budget: int) -> Step:
        make = os.environ.get("MAKE", "make")
        return Step(target, (make, "--no-print-directory", target), budget=budget)

    def _environment(self, version: str) -> Step:
        python = self.pythons[version]
        prepare = partial(environments.ensure, "tests", version=version, python=python)
        return Step(_environment(f"tests{version}"), prepare=prepare, needs=(WHEEL,), budget=5)

    def _unit(self, version: str) -> Step:
        paths = [f"--ignore={TESTS / name}" for name in ("functional", "real", "typing")]
        return self._tests(f"unit tests {version}", version, [str(TESTS), *paths], 130)

    def _functional(self) -> list[Step]:
        pattern = "test_servers*.py" if self.lab_only else "test_*.py"
        files = sorted((TESTS / "functional").glob(pattern))
        return [
            self._tests(family.name, self.main, list(map(str, paths)), family.budget, family)
            for family, paths in families.grouped(files).items()
            if family.name != "control" or self._lab_counts
        ]

    def _facade(self, version: str) -> Step:
        return self._tests(f"imgstore-glance tests {version}", version, [str(FACADE)], 60)

    def _glances_own(self) -> Step:
        place = f"PYTHONPATH={REPOSITORY}"
        return Step(
            "Glance's own tests",
            ("env", "-u", "PYTHONSAFEPATH", place, sys.executable, "-m", "tools.glance"),
            needs=(_environment("glance"),),
            tests=True,
            budget=400,
        )

    def _tests(
        self,
        label: str,
        version: str,
        paths: list[str],
        budget: int,
        family: families.Family | None = None,
    ) -> Step:
        kind = (family and family.home) or f"tests{version}"
        pytest = str(ENVIRONMENTS / kind / "bin" / "pytest")
        options = [f"--config-file={REPOSITORY / 'pyproject.toml'}", f"--rootdir={REPOSITORY}"]
        options += ["--durations=25", "-m", self._selection(version)]
        needs = [_environment(kind)]
        if family is not None:
            needs += map(_environment, family.environments)
        return Step(
            label,
            (pytest, *options, *paths),
            needs=tuple(needs),
            waits=family is not None and family.waits,
            tests=True,
            budget=budget,
        )

    @property
    def _lab_counts(self) -> bool:
        return self.everything or self.lab_only or not lab.is_tested()

    def _selection(self, version: str) -> str:
        if self.lab_only:
            return "lab"
        left_out = [] if self.everything else ["heavy"]
        left_out += [] if self._lab_counts else ["lab"]
        # The checkout is the same, whichever interpreter looks at it.
        left_out += [] if version == self.main and not self.quick else ["tree"]
        return " and ".join(f"not {mark}" for mark in left_out)


def _environment(kind: str) -> str:
    return f"environment {kind}"


def _servers(kind: str) -> Step:
    return Step(_environment(kind), prepare=partial(provide, kind), budget=5)


def provide(kind: str, ensure: Callable[[str], object] = environments.ensure) -> bool:
    """Set up what servers of the tests run in; where that fails, tests say what is missing.

    Tests that run in it themselves cannot say so: then this has failed, and they are not run.
    """
    try:
        ensure(kind)
    except subprocess.CalledProcessError as exc:
        print(f"{SERVERS[kind]} could not be installed: {exc}", flush=True)
        return not IN_CI and kind not in families.HOMES
    return True


def main() -> int:
    """Run everything, print a summary, and return the exit status."""
    parser = argparse.ArgumentParser(prog="make", description=__doc__)
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument("--quick", action="store_true")
    parts.add_argument("--all", action="store_true", dest="everything")
    parts.add_argument("--lab", action="store_true", dest="lab_only")
    given = parser.parse_args()
    # A shell lets what it runs in the background ignore interrupts, which tests send.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    complete = given.quick or system_packages.provide()
    if IN_CI and not complete:
        print("System packages are missing, which CI=true does not allow.")
        return 1
    pythons = interpreters.find()
    absent = [version for version in interpreters.supported() if version not in pythons]
    if needed := [version for version in CI_NEEDS if version in absent] if IN_CI else []:
        print(f"Missing, which CI=true does not allow: Python {', '.join(needed)}")
        return 1
    if not pythons:
        print(f"Found none of Python {', '.join(absent)}")
        return 1
    for version, python in pythons.items():
        print(f"Python {version}: {python}", flush=True)
    if given.everything:
        os.environ["IMGSTORE_TESTS"] = "all"
    run = Run(pythons, given.quick, given.everything, given.lab_only)
    try:
        schedule = Schedule(run.steps(), _cores(), _before())
    except families.NoFamily as exc:
        print(exc)
        return 1
    began = time.monotonic()
    deadline = began + (LIMIT_OF_ALL if given.everything else LIMIT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which interrupts what runs
    results = schedule.run(lambda step: steps.run(step, deadline))
    report.show(results, time.monotonic() - began, [] if given.quick else absent)
    passed = all(result.passed for result in results)
    is_of_lab = given.everything or given.lab_only
    if is_of_lab and passed and not any("skipped" in result.closing for result in results):
        lab.record()
    if not is_of_lab:
        _remember(results)
    return 0 if passed else 1


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _before() -> dict[str, float]:
    """Return how long each step took the last time it passed."""
    try:
        found: dict[str, float] = json.loads(DURATIONS.read_text())
    except (OSError, ValueError):
        return {}
    return found


def _remember(results: list[steps.Result]) -> None:
    took = {result.step.label: round(result.seconds, 1) for result in results if result.passed}
    DURATIONS.write_text(json.dumps(_before() | took, indent=1, sort_keys=True))


if __name__ == "__main__":
    sys.exit(main())
