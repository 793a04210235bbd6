"""Servers of our own that are written in Go, built from what the distribution packages of it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from pathlib import Path

from servers.missing import Missing, tool
from servers.process import ServerFailed

BUILT = Path(__file__).resolve().parents[3] / ".venv" / "go"

_PACKAGED = Path("/usr/share/gocode")
_BUILD_SECONDS = 240.0


def build(sources: Path, *, what: str, needs: str, package: str, built: Path = BUILT) -> Path:
    """Return the program made of the Go files in a directory; it is built when they changed.

    Its imports below `needs` come with the distribution's `package`. A first build takes a minute,
    later ones seconds. Raises Missing, naming `what`, and ServerFailed with what the compiler says.
    """
    go = tool("go", what=what, package="golang-go")
    library = _PACKAGED / "src" / needs
    if not library.is_dir():
        raise Missing(what, f"{library} is not there (apt-get install {package})")
    built.mkdir(parents=True, exist_ok=True)
    with (built / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        program = built / f"{sources.name}-{_digest(go, sources, library)}"
        if not program.exists():
            _compile(go, sources, program)
            for old in built.glob(f"{sources.name}-*"):
                if old != program:
                    old.unlink()
        return program


def _digest(go: str, *directories: Path) -> str:
    version = subprocess.run([go, "version"], capture_output=True, timeout=60, check=True)
    digest = hashlib.sha256(version.stdout)
    for directory in directories:
        for path in sorted(directory.glob("*.go")):
            digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _compile(go: str, sources: Path, program: Path) -> None:
    new = program.with_name(f"new-{program.name}")
    settings = {
        "GO111MODULE": "off",  # imports are looked for below GOPATH, never on the network
        "GOPATH": os.fspath(_PACKAGED),
        "GOCACHE": os.fspath(program.parent / "cache"),
        "GOENV": "off",
        "GOFLAGS": "",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
    }
    done = subprocess.run(
        [go, "build", "-ldflags=-s -w", "-o", new, "."],
        cwd=sources,
        env=os.environ | settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_BUILD_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise ServerFailed(f"go build {sources}: {done.stdout[-4000:]}")
    new.replace(program)
