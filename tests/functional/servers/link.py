"""A `Proxy` in a process of its own, for measurements: it takes no time of the client's.

``python -m servers.link OPTIONS`` is that process; OPTIONS are the arguments of `Proxy` as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from servers.process import Process, accepts, free_port
from servers.proxy import Proxy
from servers.scratch import Scratch


@dataclass(frozen=True)
class Link:
    """Connections made to `address` arrive at the target, as good as they were told to be."""

    address: tuple[str, int]
    process: Process

    @property
    def port(self) -> int:
        """The port to connect to."""
        return self.address[1]


@contextlib.contextmanager
def link(
    scratch: Scratch,
    target: tuple[str, int],
    *,
    delay: float = 0.0,
    bandwidth: float | None = None,
    window: int = 1 << 20,
) -> Iterator[Link]:
    """Run one; the options are those of `Proxy`. Once it runs, `target` was connected to."""
    address = ("127.0.0.1", free_port())
    options = {"target": target, "host": address[0], "port": address[1]}
    options |= {"delay": delay, "bandwidth": bandwidth, "window": window}
    process = Process(
        "link",
        [sys.executable, "-m", "servers.link", json.dumps(options)],
        directory=scratch.directory("link"),
        ready=lambda: accepts(address),
        environment={**os.environ, "PYTHONPATH": os.fspath(Path(__file__).parent.parent)},
    )
    with process:
        yield Link(address, process)


def main() -> None:
    """Be the process."""
    options = json.loads(sys.argv[1])
    with Proxy(tuple(options.pop("target")), **options):
        signal.pause()


if __name__ == "__main__":
    main()
