"""What the steps that only root may make let themselves be asked for."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from imgstore import errors
from imgstore.drivers.cinder import steps
from imgstore.drivers.cinder.connectors import Connectors
from imgstore.drivers.cinder.locks import Locks
from imgstore.drivers.cinder.options import OPTIONS
from imgstore.drivers.cinder.settings import read

ID = "5d0a0a5e-7c4b-4c3a-9b1f-0a1b2c3d4e5f"
LABEL = "system_u:object_r:glance_var_lib_t:s0"


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Programs that mount nothing; return how they were called."""
    log = tmp_path / "log"
    for name in ("mount", "umount"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho {name} "$@" >> {log}\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return lambda: log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def point(tmp_path: Path) -> str:
    made = tmp_path / "point"
    made.mkdir()
    return os.fspath(made)


@pytest.mark.parametrize(
    ("options", "passed"),
    [
        ([], "nosuid,nodev,noexec"),
        (["-o", "vers=4.1,soft"], "vers=4.1,soft,nosuid,nodev,noexec"),
        (["-onoatime", "-o", "sec=krb5p"], "noatime,sec=krb5p,nosuid,nodev,noexec"),
        (["-o", "defaults,auto,noauto,nofail,_netdev,bg,soft"], "soft,nosuid,nodev,noexec"),
        (["-o", "suid,dev,exec"], "nosuid,nodev,noexec"),
        (["-o", "fsc,nosharetransport"], "fsc,nosharetransport,nosuid,nodev,noexec"),
        (["-o", "write=eager,rdirplus=none"], "write=eager,rdirplus=none,nosuid,nodev,noexec"),
        (["-o", f"context={LABEL}"], f"context={LABEL},nosuid,nodev,noexec"),
        (["-o", f'ro,fscontext="{LABEL}"'], f"ro,fscontext={LABEL},nosuid,nodev,noexec"),
    ],
)
def test_an_export_is_mounted(
    point: str, ran: Callable[[], list[str]], options: list[str], passed: str
) -> None:
    """Without programs and devices, whatever Cinder says."""
    for share in ("10.0.0.1:/srv/images", "[fd00::1]:/a b", "filer.example.org:/"):
        steps.mount(point, share, options)
        assert ran()[-1] == f"mount -t nfs -o {passed} -- {share} {point}"


@pytest.mark.parametrize(
    "options",
    [
        ["-o", "bind"],
        ["-o", "soft,rbind"],
        ["-o", "remount,suid"],
        ["-o", "loop"],
        ["-o", "loop=/dev/loop0"],
        ["-o", "x-systemd.automount"],
        ["-o", "helper=program"],
        ["-o", "uhelper=program"],
        ["-o", "user"],
        ["-o", "users"],
        ["-o", "owner"],
        ["-o", "group"],
        ["-o", "mountaddr=10.0.0.2"],
        ["-o", "write=later"],
        ["-o", "fsc=x"],
        ["-o", "bg=1"],
        ["-o", "context"],
        ["-o", "context=x"],
        ["-o", f'context="{LABEL}'],
        ["-o", f"context={LABEL}:c1"],
        ["-o", f"rootcontext={LABEL}"],
        ["-o", "context=system_u:system_r:nfs_t:s0"],
        ["-o", "soft=1"],
        ["-o", "rsize"],
        ["-o", "rsize=1\n"],
        ["-o", "rsize=/etc"],
        ["-o", "soft\\,bind"],
        ["-t", "fuse"],
        ["--bind"],
        ["--types=fuse.sshfs"],
        ["-o", "soft", "-t", "tmpfs"],
        ["-f"],
        ["/etc"],
    ],
)
def test_options_that_are_not_on_the_list(
    point: str, ran: Callable[[], list[str]], options: Sequence[str]
) -> None:
    with pytest.raises(steps.Refused, match="not allowed"):
        steps.mount(point, "h:/e", options)
    assert ran() == []


def test_who_asks_the_helper_chooses_no_label(
    tmp_path: Path, point: str, ran: Callable[[], list[str]]
) -> None:
    with pytest.raises(steps.Refused, match="'context' is not allowed"):
        steps.mount(point, "h:/e", ["-o", f"context={LABEL}"], search=os.fspath(tmp_path))
    assert ran() == []


def test_no_program_outlives_its_time(
    tmp_path: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child of mount, which would mount when nobody waits for that any more, ends as well."""
    noted = tmp_path / "pid"
    program = tmp_path / "mount"
    program.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {noted}\nwait\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(steps, "SECONDS", 1)
    with pytest.raises(TimeoutError, match="mount does not end within 1 s"):
        steps.mount(point, "h:/e", [])
    child = int(noted.read_text())
    try:
        deadline = time.monotonic() + 30
        while is_running(child):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        if is_running(child):
            os.kill(child, signal.SIGKILL)


def is_running(pid: int) -> bool:
    """Return whether a process runs, or waits; not one that only its parent has not asked after."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


SHARES = ["", "/etc", "h", "h:", "h:e", "-h:/e", "--bind:/e", "h:/e\n", "a b:/e", ":/e", "tmpfs"]


@pytest.mark.parametrize("share", SHARES)
def test_exports_that_are_none(point: str, ran: Callable[[], list[str]], share: str) -> None:
    with pytest.raises(steps.Refused, match="<host>:/<path>"):
        steps.mount(point, share, [])
    with pytest.raises(steps.Refused, match="<host>:/<path>"):
        steps.mount_for_caller(share, [])
    assert ran() == []


def test_who_adds_learns_which_option_it_is(tmp_path: Path, ran: Callable[[], list[str]]) -> None:
    locks = Locks(os.fspath(tmp_path / "locks"))
    if os.geteuid() != 0:
        pytest.skip("others would ask the helper")
    defaults = {name: opt.default for name, opt in OPTIONS.items()}
    connectors = Connectors(read(defaults | {"mount_point_base": os.fspath(tmp_path)}), locks)
    with pytest.raises(errors.Unsupported, match=r"'bind' is not allowed.*nfs_mount_options"):
        connectors._by_mount({"export": "h:/e", "name": ID, "options": "-o bind"})
    assert list(locks.directory.iterdir()) == []


def test_nothing_is_mounted_twice(ran: Callable[[], list[str]]) -> None:
    steps.mount("/proc", "h:/e", [])
    assert ran() == []


def test_a_directory_that_is_no_mount_is_not_unmounted(
    point: str, ran: Callable[[], list[str]]
) -> None:
    steps.unmount(point)
    assert ran() == []
    assert not os.path.exists(point)


def test_a_volume_is_opened(tmp_path: Path) -> None:
    name = f"volume-{ID}"
    (tmp_path / name).write_bytes(b"data")
    fd = steps.open_volume(os.fspath(tmp_path), name, writable=True, is_mount=False)
    assert os.pread(fd, 4, 0) == b"data"
    assert not os.get_inheritable(fd)
    os.close(fd)
    with pytest.raises(FileNotFoundError, match="not mounted"):
        steps.open_volume(os.fspath(tmp_path), name, writable=True)


def test_what_is_no_volume_is_not_even_opened(tmp_path: Path) -> None:
    """Opening a pipe lets its other end go on; of some devices it has effects."""
    (tmp_path / "other").touch()
    (tmp_path / f"link-{ID}").symlink_to("other")
    (tmp_path / f"dir-{ID}").mkdir()
    os.mkfifo(tmp_path / f"pipe-{ID}")
    (tmp_path / "way").symlink_to(tmp_path)
    for name in (f"link-{ID}", f"dir-{ID}", f"pipe-{ID}", f"../{tmp_path.name}/x-{ID}", "other"):
        with pytest.raises(steps.Refused):
            steps.open_volume(os.fspath(tmp_path), name, writable=True, is_mount=False)
    with pytest.raises(OSError, match="Not a directory"):
        steps.open_volume(os.fspath(tmp_path / "way"), f"x-{ID}", writable=True, is_mount=False)


@pytest.mark.parametrize("path", ["/dev/null", "/dev/tty", "/etc/hostname", "/", "/dev"])
def test_what_is_no_block_device(path: str) -> None:
    with pytest.raises(steps.Refused, match="no block device"):
        steps.open_device(path, writable=False)


@pytest.mark.parametrize("path", ["/etc/shadow", "/etc/absent", "/root/x", "/dev/null", "", "/"])
def test_the_helper_tells_nothing_of_other_paths(path: str) -> None:
    with pytest.raises(steps.Refused, match="no device that can be opened"):
        steps.send_device(path, b"\0abcde", bytes(16), writable=False)


def test_the_helper_answers_nobody_else() -> None:
    """Servers of root, which listen at other addresses, would take a message of root for an order.

    And who asks has a word of a certain length, too short to be one.
    """
    directory = tempfile.mkdtemp()
    path = os.path.join(directory, "server")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(path)
        server.listen(1)
        server.setblocking(False)
        for address in (path.encode(), b"\0name", b"\0abcdef", b"", b"\0abcd/"):
            with pytest.raises(steps.Refused, match="address"):
                steps._send(os.open("/dev/null", os.O_RDONLY), address, bytes(16))
        with pytest.raises(steps.Refused, match="address"):
            steps._send(os.open("/dev/null", os.O_RDONLY), b"\0abcde", bytes(17))
        with pytest.raises(BlockingIOError):
            server.accept()
    os.unlink(path)
    os.rmdir(directory)


def test_the_helper_answers_no_other_user(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind("")
        server.listen(1)
        address = server.getsockname()
        monkeypatch.setenv("SUDO_UID", str(os.getuid() + 1))
        with pytest.raises(steps.Refused, match="another user"):
            steps._send(os.open("/dev/null", os.O_RDONLY), address, bytes(16))
