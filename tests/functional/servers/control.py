"""Servers that outlive the command that starts them: ``make servers-up``, ``make servers-down``.

``python -m servers.control up [BACKENDS]`` starts one background process, the holder, which enters
the same context managers as the tests and so owns the servers' keepers. ``down`` ends the holder
and with it the servers, and nothing else. Were the holder killed, the keepers would end them.

Who holds is told by a lock on the file ``holder``, never by a number that somebody wrote down: the
kernel names the process that has the lock, and takes the lock away when that process ends. How to
reach the servers stands in ``servers.json`` and, for a shell, in ``servers.env``.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from servers.holding import BACKENDS, forget, hold
from servers.missing import Missing
from servers.process import ServerFailed, until
from servers.scratch import Scratch, tail

DIRECTORY = Path(__file__).resolve().parents[3] / ".venv" / "servers"

_START_SECONDS = 180.0
_STOP_SECONDS = 60.0
_FLOCK = "hhqqi0q"  # struct flock of fcntl(2): type, whence, start, length, pid


def up(directory: Path, backends: list[str]) -> int:
    """Start servers and print how to reach them; those that run already stay as they are."""
    with _alone(directory):
        if _holder(directory):
            _say("Running already:")
            running = _describe(directory)
            absent = [name for name in backends if name not in running]
            if absent:
                _say(f"Not among them: {', '.join(absent)}. `make servers-down` comes first.")
            return 1 if absent else 0
        forget(directory)
        _say(f"Starting {', '.join(backends)} ...")
        if not _start(directory, backends):
            return 1
        _describe(directory)
        return 0


def down(directory: Path) -> int:
    """Stop what `up` started, and return when it is gone."""
    with _alone(directory):
        holder = _holder(directory)
        if holder:
            _end(directory, holder)
        forget(directory)
        with Scratch():
            pass  # removes what a killed holder left
        _say("Stopped." if holder else "Nothing was running.")
        return 0


def _start(directory: Path, backends: list[str]) -> bool:
    """Start the holder and wait for its servers; False, or an exception, leaves nothing."""
    log = directory / "log"
    command = [sys.executable, "-m", "servers.control", "--directory", os.fspath(directory)]
    with log.open("wb") as output:
        holder = subprocess.Popen(
            [*command, "hold", ",".join(backends)],
            env={**os.environ, "PYTHONPATH": os.fspath(Path(__file__).parent.parent)},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,  # an interrupt from the terminal is passed on by this process
        )
    assert holder.stdin is not None
    try:
        until(lambda: _answers(directory, holder), seconds=_START_SECONDS, what="they answer")
        with holder.stdin:
            holder.stdin.write(b"keep\n")
    except BaseException as exc:
        holder.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            holder.wait(_STOP_SECONDS)
        holder.kill()
        holder.wait()
        if isinstance(exc, (ServerFailed, OSError)):
            _say(f"They did not come up: {exc}. The end of {log}:", tail(log))
            return False
        raise
    return True


def _answers(directory: Path, holder: subprocess.Popen[bytes]) -> bool:
    if holder.poll() is not None:
        raise ServerFailed(f"their holder ended with status {holder.returncode}")
    return (directory / "servers.json").exists()


def _describe(directory: Path) -> dict[str, dict[str, str]]:
    """Print how to reach the servers, and return it."""
    state = directory / "servers.json"
    servers: dict[str, dict[str, str]] = json.loads(state.read_text())["servers"]
    for server, values in servers.items():
        _say(server, *(f"  {name:12} {value}" for name, value in values.items()))
    _say("", f"The same is in {state} and, for a shell, in {state.with_suffix('.env')}.")
    _say("`make servers-down` stops them.")
    return servers


def _end(directory: Path, holder: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process = os.pidfd_open(holder)
        try:
            # Had it ended before that, the number could be another's by now.
            if _holder(directory) == holder:
                for number in (signal.SIGTERM, signal.SIGKILL):
                    signal.pidfd_send_signal(process, number)
                    if select.select([process], [], [], _STOP_SECONDS)[0]:
                        return
        finally:
            os.close(process)


def _holder(directory: Path) -> int:
    """Return the pid of the process that has the lock; 0 where there is none."""
    try:
        file = os.open(directory / "holder", os.O_RDWR)
    except FileNotFoundError:
        return 0
    try:
        question = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, question))
    finally:
        os.close(file)
    return 0 if answer[0] == fcntl.F_UNLCK else int(answer[4])


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Let one command at a time look after the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _say(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _backends(text: str) -> list[str]:
    names = [name for name in BACKENDS if name in text.split(",")]
    if len(names) != len(set(text.split(","))):
        raise argparse.ArgumentTypeError(f"{text!r}; there are {','.join(BACKENDS)}")
    return names


def main() -> int:
    """Do what the command line says; the exit status is 0 only where that succeeded."""
    parser = argparse.ArgumentParser(prog="servers.control")
    parser.add_argument("--directory", type=Path, default=DIRECTORY)
    parser.add_argument("verb", choices=["up", "down", "hold"])
    parser.add_argument("backends", type=_backends, nargs="?", default=list(BACKENDS))
    asked = parser.parse_args()
    try:
        if asked.verb == "down":
            return down(asked.directory)
        return (up if asked.verb == "up" else hold)(asked.directory, asked.backends)
    except (Missing, ServerFailed) as exc:
        _say(str(exc))
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
