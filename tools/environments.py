"""Virtual environments under .venv/, renewed only when what they are made of changed.

``python -m tools.environments NAME`` sets one up: demo, bench, docs, glance, lint, moto, openstack
or tests.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tools import bindings, system_packages

REPOSITORY = Path(__file__).resolve().parent.parent
ENVIRONMENTS = REPOSITORY / ".venv"
_METADATA = ("pyproject.toml", "setup.cfg", "README.md", "LICENSE")
# The directory of each distribution of this repository, and its package there.
_DISTRIBUTIONS = {
    "imgstore": (REPOSITORY, "imgstore"),
    "imgstore-glance": (REPOSITORY / "imgstore-glance", "imgstore_glance"),
}


@dataclass(frozen=True)
class Recipe:
    """What an environment holds: pinned requirements, and the package with these extras.

    With ``ceph`` also Ceph's modules, where the distribution has them for the same Python; with
    ``facade`` the package that Glance runs on.
    """

    requirements: str | None = None
    extras: str | None = None
    package: bool = True
    ceph: bool = False
    facade: bool = field(default=False, repr=False)  # installed apart, so no reason to begin anew


RECIPES = {
    "demo": Recipe(),
    "bench": Recipe(extras="all", ceph=True),
    "docs": Recipe("tools/requirements-docs.txt", extras="http,testing"),
    "glance": Recipe("tools/requirements-glance.txt", extras="all,testing", ceph=True, facade=True),
    "lint": Recipe("tools/requirements-lint.txt", package=False),
    "openstack": Recipe("tools/requirements-servers.txt", package=False, ceph=True),
    "moto": Recipe("tools/requirements-moto.txt", package=False),
    "tests": Recipe("tools/requirements-test.txt", extras="all,testing", ceph=True, facade=True),
}


def ensure(kind: str, *, version: str = "", python: str = sys.executable) -> Path:
    """Return the directory of an up-to-date environment; ``version`` tells tests' ones apart."""
    recipe = RECIPES[kind]
    directory = ENVIRONMENTS / (kind + version)
    with _locked(directory):
        _ensure_made(directory, recipe, python)
        if recipe.package:
            _ensure_package(directory, build_wheel())
        if recipe.facade:
            _ensure_package(directory, build_wheel("imgstore-glance"), "facade")
        if recipe.ceph:
            bindings.link(directory / "bin" / "python")
    return directory


def build_wheel(distribution: str = "imgstore") -> Path:
    """Return the checkout's wheel, built from a copy: the checkout is left as it is."""
    root, package = _DISTRIBUTIONS[distribution]
    directory = ENVIRONMENTS / distribution.replace("imgstore", "dist")
    with _locked(directory):
        sources = [root / name for name in _METADATA if (root / name).exists()]
        sources += [path for path in (root / package).rglob("*") if _is_source(path)]
        stamp = _digest(sorted(sources), sys.version)
        if _stamp(directory, "wheel") != stamp:
            shutil.rmtree(directory, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix="imgstore-build-") as copy:
                for path in sources:
                    target = Path(copy) / path.relative_to(root)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, target)
                pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", str(directory), copy)
            _write_stamp(directory, "wheel", stamp)
        return next(directory.glob("*.whl"))


@contextmanager
def kept(directory: Path, files: Iterable[Path]) -> Iterator[bool]:
    """Tell whether a directory was made of these files; otherwise it is gone, and made inside."""
    stamp = _digest(files)
    with _locked(directory):
        is_there = _stamp(directory, "made") == stamp
        if not is_there:
            shutil.rmtree(directory, ignore_errors=True)
        yield is_there
        if not is_there:
            _write_stamp(directory, "made", stamp)


def _is_source(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


def _ensure_made(directory: Path, recipe: Recipe, python: str) -> None:
    named = [recipe.requirements] if recipe.requirements else []
    if recipe.package:
        named.append("pyproject.toml")
    # The directory counts: scripts hold their environment's path, so a copied one must not be used.
    identity = (python, _version(python), str(directory), str(recipe))
    stamp = _digest([REPOSITORY / name for name in named], *identity)
    if _stamp(directory, "made") == stamp:
        return
    print(f"Setting up {directory} with {python}", flush=True)
    shutil.rmtree(directory, ignore_errors=True)
    if python == sys.executable and importlib.util.find_spec("ensurepip") is None:
        system_packages.provide(["python3-venv"])
    subprocess.run([python, "-m", "venv", directory], stdin=subprocess.DEVNULL, check=True)
    install: list[str] = []
    if recipe.requirements:
        install += ["--requirement", str(REPOSITORY / recipe.requirements)]
    if recipe.package:
        wheel = build_wheel()
        install.append(f"{wheel}[{recipe.extras}]" if recipe.extras else str(wheel))
    pip(str(directory / "bin" / "python"), "install", *install)
    if recipe.package:
        _write_stamp(directory, "package", _digest([wheel]))
    _write_stamp(directory, "made", stamp)


def _ensure_package(directory: Path, wheel: Path, name: str = "package") -> None:
    stamp = _digest([wheel])
    if _stamp(directory, name) == stamp:
        return
    python = str(directory / "bin" / "python")
    pip(python, "install", "--force-reinstall", "--no-deps", str(wheel))
    _write_stamp(directory, name, stamp)


def pip(python: str, *arguments: str) -> None:
    """Run an interpreter's pip; raises subprocess.CalledProcessError."""
    command = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True)


def _version(python: str) -> str:
    return subprocess.run(
        [python, "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()


def _digest(files: Iterable[Path], *words: str) -> str:
    digest = hashlib.sha256("\0".join(words).encode())
    for path in files:
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _stamp(directory: Path, name: str) -> str | None:
    stamp = directory / f".{name}.stamp"
    return stamp.read_text() if stamp.exists() else None


def _write_stamp(directory: Path, name: str, text: str) -> None:
    (directory / f".{name}.stamp").write_text(text)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Let one process at a time look after ``directory``: targets run side by side."""
    ENVIRONMENTS.mkdir(exist_ok=True)
    with directory.with_name(f"{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Set up the environment that the command line names."""
    if sys.argv[1:2] == [] or sys.argv[1] not in RECIPES:
        sys.exit(f"usage: python -m tools.environments {{{','.join(RECIPES)}}}")
    try:
        ensure(sys.argv[1])
    except subprocess.CalledProcessError as exc:
        sys.exit(f"failed: {' '.join(map(str, exc.cmd))}")


if __name__ == "__main__":
    main()
