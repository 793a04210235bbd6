"""Install what tests need from the distribution, or name the command that does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

_LIST = Path(__file__).with_name("system-packages.txt")
_POLICY = Path("/usr/sbin/policy-rc.d")


def provide(only: Collection[str] | None = None) -> bool:
    """Return True when nothing of the list (or of ``only``) is missing any more.

    With apt and as root, what is missing is installed; otherwise the command is printed.
    """
    if not (shutil.which("apt-get") and shutil.which("dpkg-query")):
        print(f"System packages are yours to install here: {_LIST} says which, and why.")
        return False
    missing = [names for names in _wanted(only) if not any(map(_installed, names))]
    if not missing:
        return True
    if os.geteuid() == 0:
        return _install(missing)
    names = " ".join(alternatives[0] for alternatives in missing)
    print("System packages are missing; what needs them will say so. To install them:")
    print(f"  sudo apt-get update && sudo apt-get install -y --no-install-recommends {names}")
    return False


def names() -> list[str]:
    """Return every package of the list, alternatives too."""
    return [name for alternatives in _wanted(None) for name in alternatives]


def _wanted(only: Collection[str] | None) -> list[list[str]]:
    lines = (line.partition("#")[0].strip() for line in _LIST.read_text().splitlines())
    wanted = [[name.strip() for name in line.split("|")] for line in lines if line]
    return [names for names in wanted if only is None or not set(only).isdisjoint(names)]


def _installed(name: str) -> bool:
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", name]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    return answer.stdout == "installed"


def _install(missing: list[list[str]]) -> bool:
    if not _apt("update"):
        print("apt-get update failed; trying the lists that are here.")
    names = [next(filter(_offered, alternatives), alternatives[0]) for alternatives in missing]
    with _no_daemons():
        return _apt("install", "-y", "--no-install-recommends", *names)


def _offered(name: str) -> bool:
    show = ["apt-cache", "show", "--no-all-versions", name]
    return subprocess.run(show, capture_output=True, check=False).returncode == 0


def _apt(*arguments: str) -> bool:
    command = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", *arguments]
    print("+", *command, flush=True)
    run = subprocess.run(
        command,
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return run.returncode == 0


@contextmanager
def _no_daemons() -> Iterator[None]:
    """Keep package scripts from starting services, unless the machine has a policy of its own.

    https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt: 101 is "forbidden".
    """
    try:
        descriptor = os.open(_POLICY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)
    except FileExistsError:
        yield
        return
    try:
        with os.fdopen(descriptor, "w") as script:
            script.write("#!/bin/sh\nexit 101\n")
        # A terminated run must not leave the machine unable to start its services.
        with _ended_by_exceptions():
            yield
    finally:
        _POLICY.unlink()


@contextmanager
def _ended_by_exceptions() -> Iterator[None]:
    """Let SIGTERM unwind the stack; in other threads than the main one signals do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
