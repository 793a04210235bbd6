"""Which of the supported interpreters this machine has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

_PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
_PROBE = """
import ensurepip, platform, sys, sysconfig
free_threaded = sysconfig.get_config_var("Py_GIL_DISABLED")
if platform.python_implementation() == "CPython" and not free_threaded:
    print("%d.%d" % sys.version_info[:2], sys.executable)
"""


def supported() -> list[str]:
    """Return the versions that the package's classifiers promise, oldest first."""
    return re.findall(r'"Programming Language :: Python :: (3\.\d+)"', _PYPROJECT.read_text())


def find() -> dict[str, str]:
    """Map each supported version that is present to its interpreter's path."""
    found = {version: _find_one(version) for version in supported()}
    return {version: path for version, path in found.items() if path}


def _find_one(version: str) -> str | None:
    for candidate in _candidates(version):
        # A pyenv shim exists for versions that are installed but not selected: only running tells.
        try:
            probe = subprocess.run(
                [candidate, "-c", _PROBE], capture_output=True, text=True, timeout=30, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        answered, _, path = probe.stdout.strip().partition(" ")
        if probe.returncode == 0 and answered == version:
            return path
    return None


def _candidates(version: str) -> Iterator[str]:
    program = f"python{version}"
    if on_path := shutil.which(program):
        yield on_path
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    installed = (pyenv / "versions").glob(f"{version}.*/bin/{program}")
    yield from map(str, sorted(installed, key=_patch_level, reverse=True))
    yield f"/usr/bin/{program}"
    yield f"/usr/local/bin/{program}"


def _patch_level(path: Path) -> int:
    """Return 9 for …/versions/3.11.9/bin/python3.11; pre-releases come last."""
    patch = path.parts[-3].split(".")[2]
    return int(patch) if patch.isdigit() else -1
