"""A loopback TCP proxy that makes a good connection bad: slow, cut, stalled, refused."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from servers.process import free_port

Direction = Literal["up", "down"]

_CHUNK = 65536
_TICK_SECONDS = 0.02


@dataclass
class _Cut:
    direction: Direction
    after: int
    times: int
    reset: bool
    left: int


class _Severed(Exception):
    """The connection met its cut."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__()
        self.reset = reset


class Proxy:
    """Forwards connections made to `address` to `target`; "down" is towards the client.

    `delay` (seconds, each way) and `bandwidth` (bytes per second, each connection and direction;
    None: unlimited) may be set at any time. At most `window` bytes of a direction are under way:
    a further byte leaves when the delay back and forth has passed, as in TCP. `port` 0 is any.
    """

    def __init__(
        self,
        target: tuple[str, int],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        delay: float = 0.0,
        bandwidth: float | None = None,
        window: int = 1 << 20,
    ) -> None:
        self.target = target
        self.address = (host, port or free_port())
        self.delay = delay
        self.bandwidth = bandwidth
        self.window = window
        self.connections = 0
        self.passed: dict[Direction, int] = {"up": 0, "down": 0}
        self._lock = threading.Lock()
        self._cut: _Cut | None = None
        self._stalled = threading.Event()
        self._closing = threading.Event()
        self._dropped = 0
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self.accept()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def port(self) -> int:
        """The port to connect to; it stays the same while connections are refused."""
        return self.address[1]

    def cut(
        self,
        after: int,
        *,
        direction: Direction = "down",
        times: int = 1,
        reset: bool = True,
    ) -> None:
        """Cut the connection that carries the `after`-th byte from now on in `direction`.

        Bytes of all connections count. Each further of the `times` cuts comes after as many bytes
        again. `reset` ends with RST, otherwise with FIN, which looks like an orderly end.
        """
        with self._lock:
            self._cut = _Cut(direction, after, times, reset, left=after)

    def stall(self) -> None:
        """Forward nothing more until `flow()`; connections stay open and are still accepted."""
        self._stalled.set()

    def flow(self) -> None:
        """End a stall and forget a cut."""
        self._stalled.clear()
        with self._lock:
            self._cut = None

    def drop(self) -> None:
        """Reset every connection that is open now."""
        with self._lock:
            self._dropped = self.connections

    def refuse(self) -> None:
        """Refuse new connections (ECONNREFUSED) until `accept()`. Idempotent."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def accept(self) -> None:
        """Accept connections, as at the start. Idempotent."""
        if self._listener is None:
            self._listener = socket.create_server(self.address, backlog=128)
            self._run(self._accept_all, self._listener)

    def close(self) -> None:
        """Stop listening, reset what is open, and wait for every thread. Idempotent."""
        self._closing.set()
        self.refuse()
        for thread in self._threads:
            thread.join(timeout=10)

    def _run(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True, name="proxy")
        with self._lock:
            self._threads = [old for old in self._threads if old.is_alive()]
            self._threads.append(thread)
            thread.start()

    def _accept_all(self, listener: socket.socket) -> None:
        while True:
            try:
                client = listener.accept()[0]
            except OSError:
                return  # refuse() ended it
            with self._lock:
                self.connections += 1
                number = self.connections
            self._run(self._forward, client, number)

    def _forward(self, client: socket.socket, number: int) -> None:
        with client:
            try:
                server = socket.create_connection(self.target, timeout=10)
            except OSError:
                _reset_on_close(client)
                return
            with server:
                try:
                    self._pump(client, server, number)
                except _Severed as severed:
                    if severed.reset:
                        _reset_on_close(client)
                        _reset_on_close(server)
                except OSError:
                    _reset_on_close(client)
                    _reset_on_close(server)

    def _pump(self, client: socket.socket, server: socket.socket, number: int) -> None:
        for end in (client, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        flows = [_Flow(self, client, server, "up"), _Flow(self, server, client, "down")]
        while not all(flow.done for flow in flows):
            if self._closing.is_set() or number <= self._dropped:
                raise _Severed(reset=True)
            if self._stalled.is_set():
                time.sleep(_TICK_SECONDS)
                continue
            now = time.monotonic()
            readers = [flow.source for flow in flows if flow.has_room(now)]
            writers = [flow.sink for flow in flows if flow.is_due(now)]
            pause = min(_TICK_SECONDS, *(flow.next_event(now) for flow in flows))
            ready, writable, _ = select.select(readers, writers, [], pause)
            for flow in flows:
                if flow.source in ready:
                    flow.take()
                if flow.sink in writable:
                    flow.give()
                flow.end()

    def _send(self, direction: Direction, sink: socket.socket, data: memoryview) -> int:
        """Send what the bandwidth and a cut allow; raises _Severed where the cut is met."""
        with self._lock:
            cut = self._cut if self._cut and self._cut.direction == direction else None
            allowed = len(data) if cut is None else min(len(data), cut.left)
            sent = sink.send(data[:allowed]) if allowed else 0
            self.passed[direction] += sent
            if cut is not None:
                cut.left -= sent
                if cut.left == 0:
                    cut.times -= 1
                    cut.left = cut.after
                    if cut.times <= 0:
                        self._cut = None
                    raise _Severed(reset=cut.reset)
        return sent


class _Flow:
    """One direction of one connection; used by its one thread only."""

    def __init__(
        self, proxy: Proxy, source: socket.socket, sink: socket.socket, direction: Direction
    ) -> None:
        self.source = source
        self.sink = sink
        self.done = False
        self._proxy = proxy
        self._direction = direction
        self._queue: deque[tuple[float, memoryview]] = deque()
        self._acknowledged: deque[tuple[float, int]] = deque()
        self._under_way = 0
        self._ended = False
        self._send_at = 0.0

    def has_room(self, now: float) -> bool:
        while self._acknowledged and self._acknowledged[0][0] <= now:
            self._under_way -= self._acknowledged.popleft()[1]
        return not self._ended and self._under_way < self._proxy.window

    def is_due(self, now: float) -> bool:
        return bool(self._queue) and max(self._queue[0][0], self._send_at) <= now

    def next_event(self, now: float) -> float:
        """Return the seconds until something that no socket tells."""
        times = [self._acknowledged[0][0]] if self._acknowledged else []
        if self._queue and not self.is_due(now):
            times.append(max(self._queue[0][0], self._send_at))
        return max(0.0, min(times, default=now + 1.0) - now)

    def take(self) -> None:
        data = self.source.recv(min(_CHUNK, self._proxy.window - self._under_way))
        if data:
            self._queue.append((time.monotonic() + self._proxy.delay, memoryview(data)))
            self._under_way += len(data)
        else:
            self._ended = True

    def give(self) -> None:
        due, data = self._queue.popleft()
        bandwidth = self._proxy.bandwidth
        piece = data if bandwidth is None else data[: max(1, int(bandwidth * _TICK_SECONDS))]
        sent = self._proxy._send(self._direction, self.sink, piece)
        now = time.monotonic()
        if bandwidth is not None:
            self._send_at = max(self._send_at, now - _TICK_SECONDS) + sent / bandwidth
        if sent < len(data):
            self._queue.appendleft((due, data[sent:]))
        self._acknowledged.append((now + self._proxy.delay, sent))

    def end(self) -> None:
        if self._ended and not self._queue and not self.done:
            self.done = True
            with contextlib.suppress(OSError):
                self.sink.shutdown(socket.SHUT_WR)


def _reset_on_close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
