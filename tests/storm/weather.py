"""What goes wrong in a storm: to clients, to servers, to connections."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from servers.process import Process, until
from servers.proxy import Proxy

_TESTS = Path(__file__).resolve().parents[1]
_PAUSES = (0.05, 0.5)  # seconds between two things that go wrong
_CUTS = (1, 40, 400, 4000, 200_000, 3_000_000)  # bytes until a cut
_DELAYS = (0.0, 0.0, 0.005, 0.03)  # seconds each way


class Clients:
    """The clients of a storm: started, stopped, killed, ended.

    Each is known by a descriptor (pidfd_open(2)): a number is another process's soon after its own
    has ended.
    """

    def __init__(self, plan: Path, log: Path) -> None:
        paths = [str(_TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        with log.open("ab") as errors:
            self._nursery = subprocess.Popen(
                [sys.executable, "-m", "storm.clients", str(plan)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        self._count = 0
        self._descriptors: list[int] = []

    def start(self, seed: int) -> None:
        """Start one more."""
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._count += 1
        self._nursery.stdin.write(f"{self._count} {seed}\n")
        self._nursery.stdin.flush()
        line = self._nursery.stdout.readline()
        if not line:
            raise RuntimeError("the process that starts clients has ended; see its log")
        self._descriptors.append(os.pidfd_open(int(line)))

    @property
    def alive(self) -> list[int]:
        """Descriptors of those that live; ones that are stopped too."""
        poll = select.poll()
        for descriptor in self._descriptors:
            poll.register(descriptor, select.POLLIN)
        ended = {descriptor for descriptor, _ in poll.poll(0)}
        return [descriptor for descriptor in self._descriptors if descriptor not in ended]

    @staticmethod
    def signal(descriptor: int, number: signal.Signals) -> None:
        """Send a signal to one that may be gone."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, number)

    def end(self, chance: random.Random, *, seconds: float) -> list[int]:
        """Kill half of them, let the others come to their end; return those that did not."""
        for client in self.alive:
            self.signal(client, signal.SIGCONT)
            self.signal(client, signal.SIGKILL if chance.random() < 0.5 else signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while self.alive and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.alive

    def close(self) -> None:
        """Kill what is left, and what starts them."""
        for client in self.alive:
            self.signal(client, signal.SIGKILL)
        assert self._nursery.stdin is not None
        self._nursery.stdin.close()
        self._nursery.wait(30)
        assert self._nursery.stdout is not None
        self._nursery.stdout.close()
        until(lambda: not self.alive, seconds=30, what="all clients are dead")
        while self._descriptors:
            os.close(self._descriptors.pop())


class Weather:
    """Lets things go wrong, and undoes that in time."""

    def __init__(
        self,
        clients: Clients,
        *,
        chance: random.Random,
        servers: Sequence[Process] = (),
        proxies: Sequence[Proxy] = (),
        patience: float = 1.5,
        pace: float = 1.0,
    ) -> None:
        """`patience` is for how many seconds a server or a client is stopped at most.

        `pace` is longer for clients that need longer for anything.
        """
        self._clients = clients
        self._chance = chance
        self._servers = servers
        self._proxies = proxies
        self._patience = patience
        self._pauses = [pause * pace for pause in _PAUSES]
        self._due: list[tuple[float, Callable[[], Any]]] = []
        self.counts: dict[str, int] = {}

    def blow(self, until_time: float, *, clients: int) -> None:
        """Let things go wrong until then, with so many clients alive."""
        events = [self._kill, self._kill, self._stop, self._stop]
        events += [self._freeze] if self._servers else []
        events += [self._cut] * 3 + [self._drop, self._delay] if self._proxies else []
        while (now := time.monotonic()) < until_time:
            for _ in range(clients - len(self._clients.alive)):
                self._clients.start(self._chance.getrandbits(32))
            for at, undo in [each for each in self._due if each[0] <= now]:
                self._due.remove((at, undo))
                undo()
            event = self._chance.choice(events)
            event()
            name = event.__name__[1:]
            self.counts[name] = self.counts.get(name, 0) + 1
            time.sleep(self._chance.uniform(*self._pauses))
        self.calm()

    def calm(self) -> None:
        """Undo all."""
        for _, undo in self._due:
            undo()
        self._due.clear()
        for server in self._servers:
            server.thaw()
        for proxy in self._proxies:
            proxy.delay = 0.0
            proxy.flow()

    def _later(self, undo: Callable[[], Any]) -> None:
        # Mostly short, sometimes as long as it may be.
        seconds = self._patience * self._chance.random() ** 3
        self._due.append((time.monotonic() + seconds, undo))

    def _kill(self) -> None:
        if len(alive := self._clients.alive) > 1 and self._chance.random() < 0.6:
            self._clients.signal(self._chance.choice(alive), signal.SIGKILL)

    def _stop(self) -> None:
        if alive := self._clients.alive:
            client = self._chance.choice(alive)
            self._clients.signal(client, signal.SIGSTOP)
            self._later(lambda: self._clients.signal(client, signal.SIGCONT))

    def _freeze(self) -> None:
        server = self._chance.choice(self._servers)
        if server.alive:
            server.freeze()
            self._later(server.thaw)

    def _cut(self) -> None:
        proxy = self._chance.choice(self._proxies)
        proxy.cut(
            self._chance.choice(_CUTS),
            direction=self._chance.choice(("up", "down", "down")),
            times=self._chance.choice((1, 1, 2)),
            reset=self._chance.random() < 0.7,
        )

    def _drop(self) -> None:
        self._chance.choice(self._proxies).drop()

    def _delay(self) -> None:
        self._chance.choice(self._proxies).delay = self._chance.choice(_DELAYS)
