"""The meter, the source that both sides read from, and the sink that both sides send to."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from model import Figures


class Readable(Protocol):
    def read(self, n: int, /) -> bytes: ...


class Stream:
    """A source as a service passes it: `read(n)` and nothing else, so no side can go around it."""

    def __init__(self, raw: Readable) -> None:
        self._raw = raw

    def read(self, n: int) -> bytes:
        return self._raw.read(n)


class Meter:
    """Collects the figures of the block that `measured` encloses."""

    figures: Figures


def peak_rss() -> int:
    """Return VmHWM in bytes; writing 5 to clear_refs resets it to the present RSS (proc(5))."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status shows no VmHWM")


@contextmanager
def measured(who: int = resource.RUSAGE_SELF) -> Iterator[Meter]:
    """Measure the block; `who` is RUSAGE_CHILDREN where the work is another program's.

    The peak RSS is then that of the largest child, and no less than this process's own: the kernel
    counts the memory that a child had before execve(2), shared with its parent. It has no growth.
    """
    meter = Meter()
    Path("/proc/self/clear_refs").write_text("5")
    rss = peak_rss()
    before = resource.getrusage(who)
    started = time.perf_counter()
    yield meter
    seconds = time.perf_counter() - started
    after = resource.getrusage(who)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    own = who == resource.RUSAGE_SELF
    peak = peak_rss() if own else after.ru_maxrss * 1024
    growth = peak - rss if own else 0
    meter.figures = Figures(seconds=seconds, cpu=cpu, rss_growth=growth, rss_peak=peak)


class Sink:
    """A loopback TCP connection drained by another process, which does not count as ours.

    With `discard` the kernel drops what arrives (MSG_TRUNC, tcp(7)): the copy to the reader, which
    a remote machine would make, does not compete with the sender for this one's memory.
    """

    def __init__(self, *, discard: bool) -> None:
        self._flags = socket.MSG_TRUNC if discard else 0

    def __enter__(self) -> Sink:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(30)
            port = server.getsockname()[1]
            argv = [sys.executable, __file__, str(port), str(int(self._flags))]
            self._process = subprocess.Popen(argv)
            self.socket, _ = server.accept()
        self.socket.settimeout(None)
        return self

    def finish(self) -> int:
        """Wait until the other end has read everything; return the bytes it counted."""
        self.socket.shutdown(socket.SHUT_WR)
        return int.from_bytes(self.socket.recv(8, socket.MSG_WAITALL), "big")

    def __exit__(self, *exc: object) -> None:
        self.socket.close()
        self._process.wait(timeout=30)


def drain(port: int, flags: int) -> None:
    """Read the connection to its end and answer with the number of bytes."""
    buffer = bytearray(1024 * 1024)
    total = 0
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while n := connection.recv_into(buffer, 0, flags):
            total += n
        connection.sendall(total.to_bytes(8, "big"))


if __name__ == "__main__":
    drain(int(sys.argv[1]), int(sys.argv[2]))
