"""What ``make test`` does: every check, on every supported interpreter, against one built wheel.

With ``CI=true`` nothing may be missing and nothing may be skipped.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tools import environments, interpreters, system_packages
from tools.environments import ENVIRONMENTS, REPOSITORY

IN_CI = os.environ.get("CI") == "true"
CI_NEEDS = ("3.11", "3.13")
FUNCTIONAL = "3.11"  # the one that distributions build Ceph's bindings for
SIDE_BY_SIDE = min(2, os.cpu_count() or 1)
LIMIT = 50 * 60  # seconds for one step
REPORT = 120  # seconds between lines that say how far it is
GRACE = 60  # seconds from its interruption to its end
TESTS = REPOSITORY / "tests"
# Functional tests run side by side: those with Ceph and some more, those with Cinder, which mostly
# wait for it, and the rest.
PARTS = (
    (
        "test_rbd*.py",
        "test_s3*.py",
        "test_servers_ceph.py",
        "test_swift_faults.py",
        "test_swift_identity.py",
    ),
    ("test_cinder*.py", "test_servers_cinder.py"),
)


@dataclass(frozen=True)
class Step:
    """One command; with ``python`` it needs the test environment of that interpreter."""

    label: str
    command: tuple[str, ...]
    version: str = ""
    python: str = ""

    @property
    def name(self) -> str:
        """The label as a file's name."""
        return re.sub(r"[^a-z0-9.]+", "-", self.label.lower())


@dataclass(frozen=True)
class Result:
    """How a step ended; ``closing`` is the last line that it printed."""

    label: str
    passed: bool
    seconds: float
    closing: str


def main() -> int:
    """Run everything, print a summary, and return the exit status."""
    # A shell lets what it runs in the background ignore interrupts, which tests send.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    complete = system_packages.provide()
    pythons = interpreters.find()
    absent = [version for version in interpreters.supported() if version not in pythons]
    if IN_CI and not complete:
        print("System packages are missing, which CI=true does not allow.")
        return 1
    if needed := [version for version in CI_NEEDS if version in absent] if IN_CI else []:
        print(f"Missing, which CI=true does not allow: Python {', '.join(needed)}")
        return 1
    if not pythons:
        print(f"Found none of Python {', '.join(absent)}")
        return 1
    for version, python in pythons.items():
        print(f"Python {version}: {python}", flush=True)
    environments.build_wheel()
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        results = list(pool.map(_run, _steps(pythons)))
    _provide_openstack()
    # After the others: these are the tests with disks, servers and time limits.
    with ThreadPoolExecutor(SIDE_BY_SIDE + 1) as pool:
        results += pool.map(_run, _functional_steps(pythons))
    _summarise(results, absent)
    return 0 if all(result.passed for result in results) else 1


def _provide_openstack() -> None:
    """Set up what OpenStack's servers run in; where that fails, tests say what is missing."""
    try:
        environments.ensure("openstack")
    except subprocess.CalledProcessError as exc:
        print(f"Swift, Keystone and Cinder could not be installed: {exc}", flush=True)


def _steps(pythons: dict[str, str]) -> list[Step]:
    make = os.environ.get("MAKE", "make")
    steps = [Step(target, (make, "--no-print-directory", target)) for target in ("lint", "docs")]
    paths = [str(TESTS), *(f"--ignore={TESTS / name}" for name in ("functional", "real", "typing"))]
    steps += [_tests("unit", version, python, *paths) for version, python in pythons.items()]
    return steps


def _functional_steps(pythons: dict[str, str]) -> list[Step]:
    version = FUNCTIONAL if FUNCTIONAL in pythons else list(pythons)[-1]
    files = sorted((TESTS / "functional").glob("test_*.py"))
    parts = [
        [path for path in files if any(path.match(pattern) for pattern in patterns)]
        for patterns in PARTS
    ]
    parts.append([path for path in files if not any(path in part for part in parts)])
    return [
        _tests(f"functional {number} of {len(parts)}", version, pythons[version], *map(str, paths))
        for number, paths in enumerate(parts, 1)
    ]


def _tests(kind: str, version: str, python: str, *paths: str) -> Step:
    pytest = str(ENVIRONMENTS / f"tests{version}" / "bin" / "pytest")
    configuration = ("--config-file", str(REPOSITORY / "pyproject.toml"))
    command = (pytest, *configuration, "--rootdir", str(REPOSITORY), *paths)
    return Step(f"{kind} tests, Python {version}", command, version, python)


def _run(step: Step) -> Result:
    """Run a step; what it prints is shown at its end."""
    began = time.monotonic()
    log = ENVIRONMENTS / "logs" / f"{step.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    print(f"started: {step.label}", flush=True)
    try:
        if step.python:
            environments.ensure("tests", version=step.version, python=step.python)
        passed = _execute(step, log)
    except subprocess.CalledProcessError as exc:
        passed = False
        log.write_text(f"its environment could not be set up: {exc}\n")
    print(f"\n---- {step.label}\n{log.read_text(errors='replace')}", flush=True)
    return Result(step.label, passed, time.monotonic() - began, _closing(log))


def _execute(step: Step, log: Path) -> bool:
    """Run the command with its output in ``log``; return whether it succeeded in time."""
    deadline = time.monotonic() + LIMIT
    # Python 3.10 does not know PYTHONSAFEPATH. Away from the checkout no child process of a test
    # finds the checkout's package there either.
    directory = ENVIRONMENTS / "run" / step.name if step.python else REPOSITORY
    directory.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            step.command,
            cwd=directory,
            env=_environ() if step.python else None,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            while not _is_over(process) and time.monotonic() < deadline:
                print(f"running: {step.label}: {_closing(log)}", flush=True)
            if process.returncode is None:
                output.write(f"\nstopped: it took longer than {LIMIT} s\n".encode())
                output.flush()
                process.send_signal(signal.SIGINT)
        finally:
            # When interrupted, pytest still has servers to stop and disks to unmount.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            process.kill()
            process.wait()
        return process.returncode == 0


def _is_over(process: subprocess.Popen[bytes]) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(REPORT)
    return process.returncode is not None


def _closing(log: Path) -> str:
    """Return the last line that says anything."""
    lines = log.read_text(errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.strip()), "")


def _environ() -> dict[str, str]:
    environ = os.environ | {
        "PYTHONSAFEPATH": "1",
        "IMGSTORE_WHEEL": str(environments.build_wheel()),
    }
    environ.pop("PYTHONPATH", None)
    if IN_CI:
        environ["IMGSTORE_REQUIRE"] = "all"
    return environ


def _summarise(results: list[Result], absent: list[str]) -> None:
    print("\n---- summary")
    for version in absent:
        print(f"  absent            Python {version}")
    for result in results:
        verdict = "passed" if result.passed else "FAILED"
        print(f"  {verdict}  {result.seconds:6.1f} s  {result.label}")
    print(*(result.closing for result in results if "tests" in result.label), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
