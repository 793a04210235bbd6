"""The program that runs Glance's test suites, with the Python that Glance is installed for.

It is the work of ``tools.glance``, which starts it in namespaces of its own and in the directory
of Glance's source distribution.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib
import os
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

# With how many workers: the functional tests wait half of their time.
_WORKERS = {"unit": 2, "functional": 5}
_REPORT = 100  # tests between lines that say how far a suite is
_QUOTED = 200  # characters of an error
# Glance resolves these names before it says which hosts it would ask; nothing reaches them.
_NAMES = ("storeurl.com", "example.com", "www.example.com", "valid.example.com")
_SOMEWHERE = "93.184.216.34"  # Glance's tests take it for a public address, too
_UNREAD = "unittest.loader._FailedTest."
_WAITS = ("functional",)  # suites whose tests wait for fixed times, which a busy machine exceeds
_ENDINGS = {"success": "passed", "xfail": "passed", "skip": "skipped"}
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 0x1


class Suite:
    """One run of some tests; ``outcomes`` are passed, skipped or failed, by their ids."""

    def __init__(self, name: str, home: Path) -> None:
        self.name = name
        self.outcomes: dict[str, str] = {}
        self.said: dict[str, bytes] = {}
        self._home = home

    def run(self, tests: Iterable[str] = (), *, workers: int | None = None) -> None:
        """Run the suite, or those of its ``tests``."""
        number = str(workers or _WORKERS[self.name])
        command = [sys.executable, "-P", "-m", "stestr", "run", "--subunit", "--concurrency"]
        command.append(number)
        if tests:
            wanted = self._home / "wanted"
            wanted.write_text("".join(f"{test}\n" for test in tests))
            command += ["--load-list", str(wanted)]
        for stream in Path(".stestr").glob("[0-9]*"):
            stream.unlink()
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=self._environ()) as process:
            assert process.stdout is not None  # noqa: S101  # a pipe
            self._read(process.stdout)

    def failed(self) -> list[str]:
        """Return the ids of failed tests."""
        return [test for test, outcome in self.outcomes.items() if outcome == "failed"]

    def once_more(self) -> list[str]:
        """Return the ids of failed tests that may succeed when no others run beside them."""
        if self.name not in _WAITS:
            return []
        return [test for test in self.failed() if not test.startswith(_UNREAD)]

    def _environ(self) -> dict[str, str]:
        environ = os.environ | {"OS_TEST_PATH": f"./glance/tests/{self.name}"}
        if self.name == "unit":
            # As Glance's tox.ini has it: a sign for oslo.db to use files.
            place = f"sqlite:///{self._home}/never-made.db"
            environ["OS_TEST_DBAPI_ADMIN_CONNECTION"] = place
        return environ

    def _read(self, stream: IO[bytes]) -> None:
        subunit: Any = importlib.import_module("subunit")
        testtools: Any = importlib.import_module("testtools")
        suite = self

        class Result(testtools.StreamResult):  # type: ignore[misc]
            def status(self, test_id: str | None = None, **about: Any) -> None:
                suite._note(test_id, about)

        reader = subunit.ByteStreamToStreamResult(stream, non_subunit_name="stdout")
        reader.run(Result())

    def _note(self, test: str | None, about: dict[str, Any]) -> None:
        if test is None:
            return
        if about.get("file_bytes"):
            self.said[test] = self.said.get(test, b"") + bytes(about["file_bytes"])
        status = about.get("test_status")
        if status in (None, "inprogress", "exists"):
            return
        self.outcomes[test] = _ENDINGS.get(str(status), "failed")
        if self.outcomes[test] == "failed":
            said = self.said.get(test, b"").decode(errors="replace")
            _say(f"\n---- failed: {test}\n{said}")
        if len(self.outcomes) % _REPORT == 0:
            _say(f"{self.name}: {len(self.outcomes)} tests have ended")


def measured(name: str, home: Path) -> Suite:
    """Run a suite; failed tests that may have waited too briefly are run once more, at the end."""
    began = time.monotonic()
    suite = Suite(name, home)
    suite.run()
    if again := suite.once_more():
        second = Suite(name, home)
        second.run(again, workers=1)
        for test in set(again) - set(second.failed()):
            _say(f"failed at first, and not when it ran alone: {test}")
        suite.outcomes |= second.outcomes
        suite.said |= second.said
    _say(f"{name}: {len(suite.outcomes)} tests took {time.monotonic() - began:.0f} s")
    return suite


def differences(suite: Suite, expected: dict[str, str]) -> list[str]:
    """Name each test whose outcome is another than the expected one, in pytest's words."""
    found = []
    for test in sorted(expected.keys() | suite.outcomes.keys()):
        wanted, got = expected.get(test, "unknown"), suite.outcomes.get(test, "not run")
        if got != wanted:
            why = _last_line(suite.said.get(test, b"")) if got == "failed" else ""
            found.append(f"FAILED glance::{test} - {got}, on glance_store {wanted}. {why}")
    return found


def read(outcomes: Path, suite: str) -> dict[str, str]:
    """Return the recorded outcomes of a suite's tests."""
    lines = [line.split(" ", 1) for line in outcomes.read_text().splitlines()]
    return {test: outcome for outcome, test in lines if test.startswith(f"glance.tests.{suite}.")}


def _last_line(said: bytes) -> str:
    """Return the last line of the traceback in what a test said."""
    lines = [line.strip() for line in said.decode(errors="replace").splitlines()]
    errors = [line for line in lines if re.match(r"(\w+\.)*[A-Z]\w+(: |$)", line)]
    return (errors or [line for line in lines if line] or [""])[-1][:_QUOTED]


def _seclude(home: Path) -> None:
    """Bring up the loopback interface of this namespace, and name the hosts."""
    with socket.socket() as probe:
        request = struct.pack("16sh14x", b"lo", _IFF_UP)
        fcntl.ioctl(probe, _SIOCSIFFLAGS, request)
    hosts = home / "hosts"
    places = {"localhost": "127.0.0.1", **dict.fromkeys(_NAMES, _SOMEWHERE)}
    # Glance asks for names that end with a dot, which a file of hosts must spell out.
    lines = [f"{address} {name} {name}.\n" for name, address in places.items()]
    hosts.write_text("".join(lines))
    subprocess.run(["mount", "--bind", str(hosts), "/etc/hosts"], check=True)


def is_of(package: str, library: str) -> bool:
    """Return whether the package that Glance imports is the one to be tested.

    ``library`` is the directory of a façade; empty it is glance_store as it is installed.
    """
    if library:
        return Path(package).resolve().is_relative_to(Path(library).resolve())
    return Path(package).parent.parent.name == "site-packages"


def _package() -> str:
    """Return the file that Glance would import as glance_store."""
    command = [sys.executable, "-P", "-c", "import glance_store; print(glance_store.__file__)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Do what the command line says; the exit status is 1 where any outcome differs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--outcomes", type=Path, required=True)
    parser.add_argument("--library", default="")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("suites", nargs="+", choices=list(_WORKERS))
    given = parser.parse_args()
    _seclude(given.home)
    package = _package()
    _say(f"Glance's tests on {package}")
    if not is_of(package, given.library):
        _say(f"They were to run on {given.library or 'the glance_store that is installed'}.")
        return 1
    suites = [measured(name, given.home) for name in given.suites]
    if given.record:
        return _record(suites, given.outcomes)
    failures: list[str] = []
    same: list[str] = []
    for suite in suites:
        expected = read(given.outcomes, suite.name)
        failures += differences(suite, expected)
        same += [was for test, was in expected.items() if suite.outcomes.get(test) == was]
    _say("\n".join(failures))
    _say(f"{same.count('skipped')} tests were skipped, as on glance_store")
    _say(f"{same.count('passed')} passed, {len(failures)} failed")
    return 1 if failures else 0


def _record(suites: list[Suite], outcomes: Path) -> int:
    """Write what became of each test, unless any failed."""
    failed = [test for suite in suites for test in suite.failed()]
    lines = [f"{outcome} {test}\n" for suite in suites for test, outcome in suite.outcomes.items()]
    if not failed:
        outcomes.parent.mkdir(exist_ok=True)
        outcomes.write_text("".join(sorted(lines, key=lambda line: line.split(" ", 1)[1])))
    _say(f"{len(lines) - len(failed)} outcomes recorded, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
