"""Glance's own tests, from its source distribution and unchanged, on the façade over imgstore.

``python -m tools.glance`` compares what becomes of each test with ``tests/glance/outcomes.txt``:
what became of it on the glance_store that Glance was written for, by which the façade is judged.
``--record`` runs them on that glance_store and writes the file.

They run in namespaces of their own. Glance's tests of its scrubber end processes by name, its
servers take ports, and its names of hosts are not this machine's. Where there can be none they are
left out, unless ``IMGSTORE_REQUIRE`` asks for ``glance``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tools import environments
from tools.environments import ENVIRONMENTS, REPOSITORY
from tools.steps import required

OUTCOMES = REPOSITORY / "tests" / "glance" / "outcomes.txt"
_SOURCE = Path("tools/requirements-glance-source.txt")
_SUITES = Path(__file__).with_name("glance_suites.py")
_UNSHARE = ("unshare", "--fork", "--pid", "--mount-proc", "--net", "--kill-child")


def source() -> Path:
    """Return the directory of Glance's unpacked source distribution."""
    directory = ENVIRONMENTS / "glance-source"
    with environments.kept(directory, [REPOSITORY / _SOURCE]) as is_there:
        if not is_there:
            directory.mkdir()
            python = str(ENVIRONMENTS / "glance" / "bin" / "python")
            wanted = ["--no-deps", "--requirement", str(REPOSITORY / _SOURCE)]
            environments.pip(python, "download", "--dest", str(directory), *wanted)
            (archive,) = directory.glob("*.tar.gz")
            shutil.unpack_archive(archive, directory)
            archive.unlink()
    return next(directory.glob("glance-*"))


def run(library: str, suites: list[str], *, record: bool) -> int:
    """Run suites with a directory first on the path of modules, and return the exit status."""
    tests = source()
    # When this is interrupted, the last of the tests' processes still write while they end.
    made = tempfile.TemporaryDirectory(prefix="imgstore-glance-", ignore_cleanup_errors=True)
    with made as home:
        asked = ["--home", home, "--outcomes", str(OUTCOMES), "--library", library]
        asked += ["--record"] if record else []
        command = [str(ENVIRONMENTS / "glance" / "bin" / "python"), "-P", str(_SUITES)]
        # A shell as the first process of the namespace collects orphans, which Python would not.
        first = ("sh", "-c", '"$@"; exit $?', "sh")
        return subprocess.run(
            [*_secluded(), *first, *command, *asked, *suites],
            cwd=tests,
            env=_environ(home, library),
            stdin=subprocess.DEVNULL,
            check=False,
        ).returncode


def can_run() -> bool:
    """Tell whether this user may have namespaces."""
    return subprocess.run([*_secluded(), "true"], check=False).returncode == 0


def facade() -> str:
    """Return the directory that has the façade's ``glance_store``, as an operator asks for it."""
    python = str(ENVIRONMENTS / "glance" / "bin" / "python")
    command = [python, "-P", "-m", "imgstore_glance"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    if said.returncode != 0:
        sys.exit(f"the façade is not installed in {ENVIRONMENTS / 'glance'}: {said.stderr}")
    return said.stdout.strip()


def _secluded() -> tuple[str, ...]:
    return _UNSHARE if os.geteuid() == 0 else (*_UNSHARE, "--map-root-user")


def _environ(home: str, library: str) -> dict[str, str]:
    """Return the variables of the tests: nothing of the caller's reaches them."""
    path = os.environ.get("PATH", os.defpath)
    environ = {
        "HOME": home,
        "TMPDIR": home,
        "LANG": "C.UTF-8",
        "PATH": f"{ENVIRONMENTS / 'glance' / 'bin'}:{path}",
        "PYTHONWARNINGS": "ignore",
    }
    return environ | ({"PYTHONPATH": library} if library else {})


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="tools.glance", description=__doc__)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--library", help="the directory of another glance_store")
    parser.add_argument("suites", nargs="*", help="unit, functional; by default both")
    given = parser.parse_args()
    # A shell lets what it runs in the background ignore interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not can_run():
        print("Glance's tests are left out: they need namespaces, which this user may not have")
        return 1 if required("glance") else 0
    environments.ensure("glance")
    if given.record and (given.library or given.suites):
        parser.error("--record is of everything, on glance_store")
    library = "" if given.record else given.library or facade()
    return run(library, given.suites or ["unit", "functional"], record=given.record)


if __name__ == "__main__":
    sys.exit(main())
