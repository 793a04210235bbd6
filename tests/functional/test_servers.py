"""The harness itself: processes, what a killed run leaves, the proxy and the fixtures."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from servers.filesystems import Filesystems
from servers.fuse import FaultyFilesystem
from servers.missing import Missing, tool
from servers.process import Process, ServerFailed, accepts, free_port, state, until
from servers.proxy import Direction, Proxy
from servers.scratch import Scratch, mounts_below

pytestmark = [pytest.mark.servers("filesystems"), pytest.mark.lab]

HERE = Path(__file__).parent
PYTHON = [sys.executable, "-I", "-S", "-c"]
ECHO = """
import socket, sys, threading
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening", flush=True)
def echo(connection):
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)
while True:
    threading.Thread(target=echo, args=listener.accept()[:1], daemon=True).start()
"""


@dataclass
class Echo:
    """A server that sends back what it gets."""

    process: Process
    address: tuple[str, int]


@pytest.fixture
def echo(scratch: Scratch) -> Iterator[Echo]:
    """Run an Echo as a process of its own."""
    address = ("127.0.0.1", free_port())
    with Process(
        "echo",
        [*PYTHON, ECHO, str(address[1])],
        directory=scratch.directory("echo"),
        ready=lambda: accepts(address),
    ) as process:
        yield Echo(process, address)


def exchange(address: tuple[str, int], data: bytes, *, seconds: float = 10.0) -> bytes:
    """Send `data`, and return what came back until the connection ended or was cut."""
    with socket.create_connection(address, timeout=seconds) as connection:
        sender = threading.Thread(target=_send, args=(connection, data))
        sender.start()
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(65536):
                received += chunk
        sender.join(timeout=seconds)
    return received


def _send(connection: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)


def test_process_is_killed_frozen_and_restarted_on_its_port(echo: Echo) -> None:
    """A killed server refuses, a frozen one is silent, a restarted one answers where it was."""
    address, process = echo.address, echo.process
    assert exchange(address, b"hello") == b"hello"
    process.freeze()
    with pytest.raises(TimeoutError):
        exchange(address, b"hello", seconds=0.2)
    process.thaw()
    assert exchange(address, b"hello") == b"hello"
    pid = process.pid
    process.kill()
    assert not process.alive
    assert state(pid) == ""
    with pytest.raises(ConnectionRefusedError):
        exchange(address, b"hello")
    process.restart()
    assert exchange(address, b"hello") == b"hello"
    assert process.log_text().count("listening") == 2


def test_process_that_cannot_start_shows_its_log(scratch: Scratch) -> None:
    """A server that ends at once is reported with what it said."""
    server = Process(
        "broken",
        [*PYTHON, "raise SystemExit('no disk today')"],
        directory=scratch.directory("broken"),
        ready=lambda: False,
    )
    with pytest.raises(ServerFailed, match="no disk today"):
        server.start()
    assert not server.alive


def test_process_that_never_answers_is_killed(scratch: Scratch) -> None:
    """Readiness is bounded in time, and nothing is left running."""
    server = Process(
        "silent",
        ["sleep", "60"],
        directory=scratch.directory("silent"),
        ready=lambda: False,
        start_seconds=0.3,
    )
    with pytest.raises(ServerFailed, match="not within"):
        server.start()
    assert not server.alive


ORPHANS = """
import os, sys, threading, time
from pathlib import Path
from servers.process import Process
daemon = "setsid sleep 300 & echo $! > daemon; exec sleep 300"
directory = Path(sys.argv[1])
server = Process("orphan", ["sh", "-c", daemon], directory=directory,
                 ready=lambda: (directory / "daemon").stat().st_size > 0)
# From a thread that ends, to show that the server's life does not hang on that.
thread = threading.Thread(target=server.start); thread.start(); thread.join()
time.sleep(0.2)
if os.fork() == 0:
    time.sleep(3); os._exit(0)  # holds every descriptor of its parent
print(server.pid, flush=True)
time.sleep(300)
"""


def test_server_dies_with_a_killed_run(tmp_path: Path) -> None:
    """SIGKILL to the run ends its servers and their daemons, within the second."""
    run = subprocess.Popen(
        [sys.executable, "-c", ORPHANS, tmp_path],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stdout=subprocess.PIPE,
    )
    with run:
        assert run.stdout is not None
        pids = [int(run.stdout.readline()), int((tmp_path / "daemon").read_text())]
        assert all(state(pid) for pid in pids)
        run.kill()
    until(lambda: not any(state(pid) for pid in pids), seconds=2, what="both are gone")


STALE = """
import sys, time
from pathlib import Path
from servers.filesystems import Filesystems
from servers.fuse import FaultyFilesystem
from servers.scratch import Scratch
scratch = Scratch(Path(sys.argv[1])).__enter__()
filesystems = Filesystems(scratch)
mounted = filesystems.ext4()
filesystems.bind(mounted)
open_file = open(mounted / "open", "w")
faulty = FaultyFilesystem(scratch)
faulty.process.start()
print(scratch.path, flush=True)
time.sleep(300)
"""


def test_mounts_of_a_killed_run_are_removed_by_the_next(
    tmp_path: Path, filesystems: Filesystems, faulty_filesystem: FaultyFilesystem
) -> None:
    """The next run unmounts, detaches and removes what a killed one left; never a live one's."""
    del faulty_filesystem  # wanted: it skips where there is no FUSE
    filesystems.ext4()
    command = [sys.executable, "-c", STALE, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        left = Path(run.stdout.readline().decode().strip())
        with Scratch(tmp_path):
            assert len(list(mounts_below(left))) == 3
        run.kill()
    assert len(list(mounts_below(left))) == 3
    with Scratch(tmp_path):
        assert list(mounts_below(tmp_path)) == []
        assert not left.exists()
    loops = subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True)
    assert str(left) not in loops.stdout


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("reset", [True, False])
def test_proxy_cuts(
    echo: Echo, proxies: Callable[..., Proxy], direction: Direction, *, reset: bool
) -> None:
    """Exactly N bytes pass before each cut; afterwards connections are whole again."""
    proxy = proxies(echo.address)
    data = random.Random(2).randbytes(300_000)
    proxy.cut(100_001, direction=direction, times=2, reset=reset)
    for n in (1, 2):
        exchange(proxy.address, data)
        assert proxy.passed[direction] == 100_001 * n
    assert exchange(proxy.address, data) == data


def test_proxy_cut_is_seen_as_a_reset_or_an_end(echo: Echo, proxies: Callable[..., Proxy]) -> None:
    """The client gets the bytes before the cut, then ECONNRESET, or an end with reset=False."""
    proxy = proxies(echo.address)
    proxy.cut(4, reset=False)
    assert exchange(proxy.address, b"12345678") == b"1234"
    proxy.cut(4)
    with socket.create_connection(proxy.address, timeout=10) as client:
        client.sendall(b"12345678")
        time.sleep(0.2)
        assert client.recv(100) == b"1234"
        with pytest.raises(ConnectionResetError):
            client.recv(100)


def test_proxy_delays_both_ways(echo: Echo, proxies: Callable[..., Proxy]) -> None:
    """A byte there and back takes the delay twice."""
    proxy = proxies(echo.address, delay=0.1)
    started = time.monotonic()
    assert exchange(proxy.address, b"x") == b"x"
    assert time.monotonic() - started >= 0.2


def test_proxy_window_bounds_what_is_under_way(echo: Echo, proxies: Callable[..., Proxy]) -> None:
    """A window a round trip: 10 windows take at least 9 round trips."""
    proxy = proxies(echo.address, delay=0.02, window=10_000)
    started = time.monotonic()
    assert len(exchange(proxy.address, bytes(100_000))) == 100_000
    assert time.monotonic() - started >= 9 * 0.04


def test_proxy_limits_bandwidth(echo: Echo, proxies: Callable[..., Proxy]) -> None:
    """200 kB at 500 kB/s take 0.4 s, but for the first tick's share."""
    proxy = proxies(echo.address, bandwidth=500_000)
    started = time.monotonic()
    assert len(exchange(proxy.address, bytes(200_000))) == 200_000
    assert 0.3 <= time.monotonic() - started < 5


def test_proxy_stalls_refuses_and_drops(echo: Echo, proxies: Callable[..., Proxy]) -> None:
    """Each fault holds until it is taken back."""
    proxy = proxies(echo.address)
    proxy.stall()
    with pytest.raises(TimeoutError):
        exchange(proxy.address, b"hello", seconds=0.3)
    proxy.flow()
    assert exchange(proxy.address, b"hello") == b"hello"
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        exchange(proxy.address, b"hello")
    proxy.accept()
    with socket.create_connection(proxy.address, timeout=10) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        proxy.drop()
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    assert exchange(proxy.address, b"hello") == b"hello"


def test_proxy_shows_a_dead_target_as_a_reset(echo: Echo, proxies: Callable[..., Proxy]) -> None:
    """The client is reset where nothing listens behind."""
    proxy = proxies(echo.address)
    echo.process.kill()
    with (
        pytest.raises(ConnectionResetError),
        socket.create_connection(proxy.address, timeout=10) as client,
    ):
        client.recv(1)


MISSING_AND_FAILING = """
import sys
import pytest
from servers.missing import Missing
from servers.process import Process

pytestmark = pytest.mark.servers()

@pytest.fixture(scope="session")
def absent():
    raise Missing("holodeck", "there is none")

def test_fixture(absent): pass
def test_again(absent): pass
def test_call(): raise Missing("holodeck", "there is none")
def test_log(scratch):
    server = Process("talker", ["sh", "-c", "echo all is lost; sleep 60"],
                     directory=scratch.directory("talker"), ready=lambda: True)
    with server:
        while "lost" not in server.log_text(): pass
        assert False
"""


@pytest.mark.parametrize(
    ("require", "outcome"),
    [("", "1 failed, 3 skipped"), ("holodeck", "2 failed"), ("all", "2 failed")],
)
def test_missing_is_skipped_or_failed(tmp_path: Path, require: str, outcome: str) -> None:
    """What is missing skips with its reason, unless required; a failing test shows the log."""
    shutil.copy(HERE / "conftest.py", tmp_path)
    (tmp_path / "test_inner.py").write_text(MISSING_AND_FAILING)
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "-c", "/dev/null"]
    done = subprocess.run(
        [*command, "--rootdir", tmp_path, tmp_path],
        env={**os.environ, "PYTHONPATH": str(HERE), "IMGSTORE_REQUIRE": require},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome in done.stdout
    assert "holodeck: there is none" in done.stdout
    assert "all is lost" in done.stdout


def test_missing_names_the_remedy() -> None:
    """An absent program is reported with the package that has it."""
    with pytest.raises(
        Missing, match=r"^wand: alohomora is not installed .apt-get install magic.$"
    ):
        tool("alohomora", what="wand", package="magic")
