"""A real server as an ordinary process: started, asked, killed, frozen, restarted, stopped."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from servers.scratch import tail

# Not the global generator: test runners seed it anew before each test.
_random = random.SystemRandom()
_KEEPER = Path(__file__).with_name("keeper.py")


class ServerFailed(Exception):
    """A server that did not start, or did not do as it was told; the message ends with its log."""


def free_port() -> int:
    """Return a port that nothing listens on, on any address of this machine.

    Below the ephemeral range: no outgoing connection can take it while its server is down.
    """
    for port in _random.sample(range(20000, 32768), 200):
        if _is_free(port):
            return port
    raise ServerFailed("no free port between 20000 and 32767")


def free_ports(count: int) -> range:
    """Return `count` consecutive ports that nothing listens on, for a server that picks of them.

    Apart from those of `free_port()`, which the server could take while their owner is down.
    """
    for first in _random.sample(range(10000, 20000 - count), 200):
        ports = range(first, first + count)
        if all(map(_is_free, ports)):
            return ports
    raise ServerFailed(f"no {count} free ports between 10000 and 19999")


def until(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Ask `condition` every 20 ms until it is true; an OSError means not yet.

    Raises ServerFailed naming `what` after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if condition():
                return
        if time.monotonic() > deadline:
            raise ServerFailed(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)


def _is_free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind(("0.0.0.0", port))
        return True
    return False


def accepts(address: tuple[str, int]) -> bool:
    """Tell whether a TCP connection to `address` is accepted; raises OSError where it is not."""
    with socket.create_connection(address, timeout=2):
        return True


def state(pid: int) -> str:
    """Return a process's state letter of proc(5); "" where it is gone; a zombie counts as gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    letter = text.rpartition(")")[2].split()[0]
    return "" if letter in "ZX" else letter


class Process:
    """One server. `command` runs in `directory` and must stay in the foreground.

    Its output goes to ``server.log`` there. `ready` is asked every 20 ms whether the server
    answers, for at most `start_seconds`. However this process ends, the server ends with it.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        directory: Path,
        ready: Callable[[], bool],
        environment: Mapping[str, str] | None = None,
        start_seconds: float = 30.0,
    ) -> None:
        self.name = name
        self.log = directory / "server.log"
        self._command = [os.fspath(word) for word in command]
        self._directory = directory
        self._ready = ready
        self._environment = dict(os.environ if environment is None else environment)
        self._start_seconds = start_seconds
        self._keeper: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._left_alone = False

    def __enter__(self) -> Process:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The server's own pid, which also names its process group; 0 when it is not running."""
        return self._pid if self.alive else 0

    @property
    def alive(self) -> bool:
        """Whether the server runs (or is frozen); a zombie does not."""
        return self._keeper is not None and self._keeper.poll() is None and state(self._pid) != ""

    @property
    def left_alone(self) -> bool:
        """Whether the server runs, and nothing was done to it since it answered."""
        return self._left_alone and state(self._pid) not in ("", "T")

    def log_text(self, *, limit: int = 16384) -> str:
        """Return the last `limit` bytes of the log as text."""
        return tail(self.log, limit=limit) if self.log.exists() else ""

    def start(self) -> None:
        """Start the server and wait until it answers; raises ServerFailed, then nothing runs."""
        if self.alive:
            raise ServerFailed(f"{self.name} is running already")
        self._reap()
        try:
            self._spawn()
            self._wait()
        except BaseException as exc:
            self.kill()
            if isinstance(exc, ServerFailed):
                raise ServerFailed(f"{exc}\n{self.log_text()}") from None
            raise

    def revive(self) -> None:
        """Thaw the server, or start it where it ended, and wait until it answers."""
        self.thaw()
        if not self.alive:
            self.start()
        else:
            self._wait()

    def stop(self, *, seconds: float = 10.0) -> None:
        """Ask the server to end (SIGTERM), and kill it after `seconds`. Idempotent."""
        if self.alive:
            self.thaw()
            self._signal(signal.SIGTERM)
            with contextlib.suppress(ServerFailed):
                until(lambda: not self.alive, seconds=seconds, what=f"{self.name} ends")
        self.kill()

    def kill(self) -> None:
        """Kill the server and all that it started (SIGKILL). Idempotent."""
        if self._keeper is not None and not self._pid:
            self._keeper.kill()  # start() was interrupted; what the keeper started dies with it
        self._signal(signal.SIGKILL)
        self._reap()

    def freeze(self) -> None:
        """Stop the server in its tracks (SIGSTOP): connections stay open, nothing answers."""
        self._signal(signal.SIGSTOP)
        until(lambda: state(self._pid) == "T", seconds=10, what=f"{self.name} is frozen")

    def thaw(self) -> None:
        """Let a frozen server go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Stop the server if it runs and start it again, on the same port."""
        self.stop()
        self.start()

    def _spawn(self) -> None:
        read_end, write_end = os.pipe()
        keeper = [sys.executable, "-I", "-S", os.fspath(_KEEPER), str(os.getpid()), str(write_end)]
        try:
            with self.log.open("ab") as log:
                self._keeper = subprocess.Popen(
                    [*keeper, *self._command],
                    cwd=self._directory,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[write_end],
                    start_new_session=True,
                )
        finally:
            os.close(write_end)
            with os.fdopen(read_end, "rb") as report:
                line = report.readline() if self._keeper is not None else b""
        self._pid = int(line or 0)
        if not self._pid:
            self._reap()
            raise ServerFailed(f"{self.name}: the keeper ended")

    def _wait(self) -> None:
        until(self._answers, seconds=self._start_seconds, what=f"{self.name} answers")
        self._left_alone = True

    def _answers(self) -> bool:
        if not self.alive:
            raise ServerFailed(f"{self.name} ended while it started")
        return self._ready()

    def _signal(self, number: int) -> None:
        self._left_alone = False
        # While the keeper runs it holds the child's pid, so the group is still the server's.
        if self._pid and self._keeper is not None and self._keeper.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, number)

    def _reap(self) -> None:
        if self._keeper is None:
            return
        try:
            self._keeper.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait(timeout=20)
        self._keeper = None
        self._pid = 0
