"""One step of a test run: how it is carried out, and how it ended."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools import environments
from tools.environments import ENVIRONMENTS, REPOSITORY

IN_CI = os.environ.get("CI") == "true"
LOGS = ENVIRONMENTS / "logs"
REPORT = 120  # seconds between lines that say how far a step is
SILENCE = 420  # seconds until tests that print nothing are given up: more than one may take
GRACE = 60  # seconds from a step's interruption to its end
STACK = 12  # lines of a stack that say where a test hung
_running: set[subprocess.Popen[bytes]] = set()
_FAILED = re.compile(r"^(?:FAILED|ERROR) (?=\S*(?:::|\.py))")
_STOPPED = "stopped: "
_STACK = "(most recent call first):"
_CASES = re.compile(r"\b(\d+) (?:passed|failed|errors?)\b")


@dataclass(frozen=True)
class Step:
    """A command, or a call that prepares something.

    ``needs`` are the labels of the steps without whose success this one is not begun. A step that
    ``waits`` leaves the processor to others for most of its time. A command that is of ``tests``
    runs away from the checkout, with the environment variables of tests. ``budget`` is how many
    seconds it should take, and the guess until a first run has told.
    """

    label: str
    command: tuple[str, ...] = ()
    prepare: Callable[[], object] | None = None
    needs: tuple[str, ...] = ()
    waits: bool = False
    tests: bool = False
    budget: int = 60

    @property
    def log(self) -> Path:
        """The file that holds what the step printed."""
        return LOGS / f"{re.sub(r'[^a-z0-9.]+', '-', self.label.lower())}.log"


@dataclass(frozen=True)
class Result:
    """How a step ended; one whose needs failed was not run, and took no time."""

    step: Step
    passed: bool
    seconds: float = 0.0
    missing: str = ""

    @property
    def closing(self) -> str:
        """The last line that the step printed."""
        return self.missing or closing(self.step.log)

    @property
    def cases(self) -> int | None:
        """How many tests the step ran."""
        counts = _CASES.findall(self.closing) if self.step.tests else []
        return sum(map(int, counts)) if counts else None

    def failures(self) -> list[str]:
        """Name each failed test with the first line of its error, and say where a step hung.

        Where neither is known, quote the log's last lines.
        """
        if self.passed or self.missing:
            return []
        lines = self.step.log.read_text(errors="replace").splitlines()
        # A failed test is named when it fails, and again in the summary.
        named: dict[str, str] = {}
        for line in filter(_FAILED.match, lines):
            named.setdefault(line.split()[1].lstrip("./"), line)
        said = _where_it_hung(lines)
        if not named and not said:
            said = [line for line in lines if line.strip()][-5:]
        return [*named.values(), *(f"{self.step.label}: {line}" for line in said)]


def required(what: str) -> bool:
    """Tell whether CI=true or IMGSTORE_REQUIRE, as tests read it, makes an absence a failure."""
    names = {name.strip() for name in os.environ.get("IMGSTORE_REQUIRE", "").split(",")}
    return IN_CI or bool(names & {what, "all"})


def run(step: Step, deadline: float) -> Result:
    """Carry out a step, until ``deadline`` of the monotonic clock; its log is shown at its end."""
    began = time.monotonic()
    LOGS.mkdir(parents=True, exist_ok=True)
    step.log.write_bytes(b"")
    print(f"started: {step.label}", flush=True)
    try:
        passed = _execute(step, deadline) if step.command else _prepare(step)
    except Exception:
        passed = False
        step.log.write_text(f"it could not be carried out:\n{traceback.format_exc()}")
    seconds = time.monotonic() - began
    said = step.log.read_text(errors="replace")
    print(f"\n---- {step.label}: {seconds:.0f} s\n{said}", flush=True)
    return Result(step, passed, seconds)


def interrupt() -> None:
    """Interrupt all commands that run; their steps end, and have failed."""
    for process in list(_running):
        process.send_signal(signal.SIGINT)


def closing(log: Path) -> str:
    """Return the last line of a log that says anything."""
    lines = log.read_text(errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.strip()), "")


def _prepare(step: Step) -> bool:
    assert step.prepare  # noqa: S101  # a step without a command
    return step.prepare() is not False


def _execute(step: Step, deadline: float) -> bool:
    """Run the command with its output in the log; return whether it succeeded in time."""
    # Python 3.10 does not know PYTHONSAFEPATH. Away from the checkout no child process of a test
    # finds the checkout's package there either.
    directory = ENVIRONMENTS / "run" / step.log.stem if step.tests else REPOSITORY
    directory.mkdir(parents=True, exist_ok=True)
    with step.log.open("ab") as output:
        process = subprocess.Popen(
            step.command,
            cwd=directory,
            env=_environ() if step.tests else None,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _running.add(process)
        try:
            if why := _wait(process, step, deadline):
                output.write(f"\n{_STOPPED}{why}\n".encode())
                output.flush()
                process.send_signal(signal.SIGINT)
        finally:
            # When interrupted, pytest still has servers to stop and disks to unmount.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            process.kill()
            process.wait()
            _running.discard(process)
        return process.returncode == 0


def _wait(process: subprocess.Popen[bytes], step: Step, deadline: float) -> str:
    """Wait until the process ends; return why it should be ended, where it should."""
    size, said_at = 0, time.monotonic()
    while time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, min(REPORT, deadline - time.monotonic())))
            return ""
        print(f"running: {step.label}: {closing(step.log)}", flush=True)
        if size != (size := step.log.stat().st_size):
            said_at = time.monotonic()
        elif step.tests and time.monotonic() - said_at > SILENCE:
            return f"no test has ended for {SILENCE} s"
    return "the time of the whole run is over"


def _where_it_hung(lines: list[str]) -> list[str]:
    """Return the beginning of the last stack in the log of a step that was stopped, and why."""
    why = [line for line in lines if line.startswith(_STOPPED)]
    stacks = [number for number, line in enumerate(lines) if line.endswith(_STACK)] if why else []
    return [*why, *(lines[stacks[-1] : stacks[-1] + STACK] if stacks else [])]


def _environ() -> dict[str, str]:
    environ = os.environ | {
        "PYTHONSAFEPATH": "1",
        "IMGSTORE_WHEEL": str(environments.build_wheel()),
        "COLUMNS": "200",  # pytest cuts the first line of an error to the terminal's width
    }
    environ.pop("PYTHONPATH", None)
    if IN_CI:
        environ["IMGSTORE_REQUIRE"] = "all"
    return environ
