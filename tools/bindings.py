"""Ceph's Python modules, which are not on PyPI: links to those of the distribution.

They are built for the distribution's own Python, so an environment of another version gets none.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

_DISTRIBUTION = "/usr/bin/python3"
_MODULES = ("rados", "rbd")
_FIND = """
import importlib.util, sys
for name in sys.argv[1:]:
    spec = importlib.util.find_spec(name)
    print(spec.origin if spec else "")
"""
_ABOUT = """
import sysconfig
print(sysconfig.get_config_var("EXT_SUFFIX"), sysconfig.get_path("platlib"), sep="\\n")
"""


def link(python: Path) -> bool:
    """Link the modules into the environment of ``python``; return whether it has them now."""
    found = _ask(_DISTRIBUTION, _FIND, *_MODULES)
    suffix, directory = _ask(str(python), _ABOUT)
    if len(found) != len(_MODULES) or not all(path.endswith(suffix) for path in found):
        return False
    for path in map(Path, found):
        target = Path(directory) / path.name
        if not target.exists():
            target.unlink(missing_ok=True)
            target.symlink_to(path)
    return True


def _ask(python: str, code: str, *arguments: str) -> list[str]:
    try:
        # From /, so that nothing in the working directory is taken for one of the modules.
        done = subprocess.run(
            [python, "-I", "-c", code, *arguments],
            cwd="/",
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return done.stdout.split("\n")[:-1]
