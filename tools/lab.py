"""Whether the lab, the real servers that tests run, is the one that was tested last.

The lab's own tests are left out of ``make test`` until the lab or a package of it changes.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys

from tools.environments import REPOSITORY
from tools.system_packages import names

RECORD = REPOSITORY / "tools" / "tested-lab.txt"
_LAB = REPOSITORY / "tests" / "functional" / "servers"
_PINNED = ("requirements-servers.txt", "requirements-moto.txt", "requirements-glance.txt")


def is_tested() -> bool:
    """Return whether this lab, with this machine's packages, is the one of the record."""
    return RECORD.exists() and RECORD.read_text() == _state()


def record() -> None:
    """Say that this lab was tested."""
    RECORD.write_text(_state())


def _state() -> str:
    pinned = b"".join((RECORD.parent / name).read_bytes() for name in _PINNED)
    digest = hashlib.sha256(pinned)
    for path in sorted(_LAB.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"\0{path.relative_to(_LAB)}\0".encode() + path.read_bytes())
    return f"{digest.hexdigest()}  the lab\n{_versions()}"


def _versions() -> str:
    """Return the versions of the system's packages, one a line; nothing without dpkg."""
    if not shutil.which("dpkg-query"):
        return ""
    query = ["dpkg-query", "--show", "--showformat=${Package} ${Version}\\n", *names()]
    found = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    return "".join(sorted(found.splitlines(keepends=True)))


if __name__ == "__main__":
    sys.exit(0 if is_tested() else "The lab is not the one that was tested last.")
