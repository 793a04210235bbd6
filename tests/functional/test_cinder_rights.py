"""What only root may do, by the helper that oslo.privsep starts with sudo for those who are not.

All of it is in a mount namespace, with what the page says in place of the machine's sudoers, and a
`mount` that binds a directory in place of an export.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.missing import root, tool
from servers.scratch import Scratch

import imgstore

pytestmark = pytest.mark.servers("cinder", "keystone")

PAGE = Path(__file__).parents[2] / "docs" / "drivers" / "cinder.md"
ID = "5d0a0a5e-7c4b-4c3a-9b1f-0a1b2c3d4e5f"
NOBODY = 65534
HELPER = "imgstore.drivers.cinder.privileged"
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

NAMESPACE = """
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind "$1/sudoers" /etc/sudoers
mount --bind "$1/mount" /usr/bin/mount
shift
exec "$@"
"""

# A process that has no rights at all from its second half on.
PROGRAM = """
import encodings.ascii, json, os, stat, subprocess, sys  # nobody may be unable to read them
from imgstore.drivers.cinder import privileged, rights
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
assert not rights.is_capable()

def opened(fd):
    os.pwrite(fd, b"J", 0)
    found = [os.pread(fd, 5, 0).decode(), os.get_inheritable(fd)]
    os.close(fd)
    return found

def point(share):
    return rights.place_of("/unused", share)

def step(verb, *arguments):
    if verb == "device":
        return opened(rights.open_device(*arguments, writable=True))
    if verb == "volume":
        return opened(rights.open_volume(point(arguments[0]), *arguments, writable=True))
    if verb == "mount":
        rights.mount(point(arguments[0]), *arguments)
        return sorted(os.listdir(point(arguments[0])))
    if verb == "flags":
        return os.statvfs(point(*arguments)).f_flag
    if verb == "mode":
        status = os.stat(os.path.dirname(point(*arguments)))
        return [status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)]
    if verb == "unmount":
        rights.unmount(point(*arguments), *arguments)
        return os.path.exists(point(*arguments))
    if verb == "sudo":
        return subprocess.run(["sudo", "-n", *arguments], capture_output=True).returncode
    if verb == "open":
        return os.open(*arguments)
    # Any function of the helper, or of another module, with any arguments.
    if verb == "call":
        name, *arguments = arguments
        arguments = [x.encode() if x == "\\0abcde" else x for x in arguments]
        return privileged.context.channel.remote_call(name, tuple(arguments), {}, 60)

said = []
for each in json.loads(sys.argv[1]):
    try:
        said.append(step(*each))
    except Exception as exc:
        said.append(type(exc).__name__)
print(json.dumps(said))
"""

Run = Callable[..., list[Any]]


@pytest.fixture
def run(scratch: Scratch) -> Run:
    """Let a process without rights take steps; return what came of each."""
    root("cinder")
    tool("sudo", what="cinder", package="sudo")
    home = scratch.directory("rights")
    (home / "helper").mkdir()
    helper = home / "helper" / "privsep-helper"
    real = Path(sys.executable).with_name("privsep-helper")
    package = Path(imgstore.__file__).parents[1]
    helper.write_text(f'#!/bin/sh\nPYTHONPATH={package} exec {real} "$@"\n')
    shutil.copy2("/usr/bin/mount", home / "real-mount")
    (home / "mount").write_text(
        '#!/bin/sh\ncase " $* " in *" -t nfs "*)\n'
        "    for word; do share=$point; point=$word; done\n"
        f'    {home}/real-mount --bind "${{share#*:}}" "$point" || exit\n'
        f'    exec {home}/real-mount -o remount,bind,nosuid,nodev,noexec "$point"\n'
        f'esac\nexec {home}/real-mount "$@"\n'
    )
    for program in (helper, home / "mount"):
        program.chmod(0o755)
    (rule,) = re.findall(r"^glance .*imgstore\.drivers\.cinder.*$", PAGE.read_text(), re.MULTILINE)
    rule = rule.replace("glance", "nobody", 1).replace("/usr/bin/privsep-helper", str(helper))
    (home / "sudoers").write_text(
        f'Defaults env_reset, secure_path="{helper.parent}:{SYSTEM_PATH}"\n{rule}\n'
    )
    (home / "sudoers").chmod(0o440)

    def run(*steps: list[object]) -> list[Any]:
        shell = ["unshare", "--mount", "--propagation", "private", "sh", "-c", NAMESPACE, "sh"]
        program = [sys.executable, "-W", "ignore", "-c", PROGRAM, json.dumps(steps)]
        done = subprocess.run(
            [*shell, str(home), *program],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={"PATH": SYSTEM_PATH, "PYTHONPATH": str(package)},
        )
        assert done.returncode == 0, done.stderr
        said: list[Any] = json.loads(done.stdout.splitlines()[-1])
        return said

    return run


@contextlib.contextmanager
def looped(path: Path) -> Iterator[str]:
    """A block device of a file's bytes."""
    tool("losetup", what="cinder", package="mount")
    made = subprocess.run(
        ["losetup", "--find", "--show", path], capture_output=True, text=True, check=True
    )
    device = made.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_devices(run: Run, tmp_path: Path) -> None:
    """Opened for one process, unless this host uses them; their owners and modes stay."""
    free, used = tmp_path / "free", tmp_path / "used"
    free.write_bytes(b"hello" + bytes(1 << 20))
    used.write_bytes(bytes(1 << 20))
    subprocess.run(["mke2fs", "-q", used], check=True)
    (tmp_path / "point").mkdir()
    with looped(free) as one, looped(used) as two:
        subprocess.run(["mount", two, tmp_path / "point"], check=True)
        try:
            said = run(
                ["open", one, os.O_RDWR],
                ["device", one],
                ["device", two],
                ["device", f"{one}x"],
                ["device", "/dev/null"],
                ["call", f"{HELPER}.send_device", "/etc/shadow", True, "\0abcde", "x"],
                ["call", f"{HELPER}.send_device", two, False, "\0abcde", "x"],
            )
        finally:
            subprocess.run(["umount", tmp_path / "point"], check=True)
        assert said[:3] == ["PermissionError", ["Jello", False], "OSError"]
        assert said[3:] == ["FileNotFoundError", "Refused", "Refused", "OSError"]
        assert os.stat(one).st_uid == 0
        assert os.stat(one).st_mode & 0o777 == 0o600


@pytest.fixture
def export(scratch: Scratch) -> str:
    """An export with a volume of somebody else, and with what is none."""
    path = scratch.directory("export")
    volume = path / f"volume-{ID}"
    volume.write_bytes(b"hello")
    volume.chmod(0o600)
    (path / f"link-{ID}").symlink_to("/etc/shadow")
    os.mkfifo(path / f"pipe-{ID}")
    return f"127.0.0.1:{path}"


def test_an_export(run: Run, export: str) -> None:
    """Where only root can put anything, without programs and devices, for one user."""
    names = [f"link-{ID}", f"pipe-{ID}", f"volume-{ID}"]
    volume = ["volume", export, export, names[-1]]
    said = run(
        ["mount", export, []],
        ["mount", export, ["-o", "soft"]],
        ["flags", export],
        ["mode", export],
        volume[:2] + volume[3:],
        ["volume", export, names[0]],
        ["volume", export, names[1]],
        ["volume", export, f"../{names[2]}"],
        ["unmount", export],
        volume[:2] + volume[3:],
        ["unmount", export],
    )
    flags = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC
    assert said[:2] == [names, names]
    assert said[2] & flags == flags
    assert said[3] == [0, NOBODY, 0o750]
    assert said[4:8] == [["Jello", False], "Refused", "Refused", "Refused"]
    assert said[8:] == [False, "FileNotFoundError", "FileNotFoundError"]


def test_who_calls_the_helper_with_anything(run: Run, export: str, tmp_path: Path) -> None:
    """No mount of another kind, at another place, or of what is here; nothing of others."""
    point = str(tmp_path)
    calls: list[list[object]] = [
        ["call", f"{HELPER}.mount", "fuse", "/tmp/program#", point, []],
        ["call", f"{HELPER}.mount", export, ["-o", "bind"]],
        ["call", f"{HELPER}.mount", export, ["-t", "fuse"]],
        ["call", f"{HELPER}.mount", "/etc", ["-o", "bind"]],
        ["call", f"{HELPER}.mount", "/tmp/program", ["-t", "fuse"]],
        ["call", f"{HELPER}.mount", [export], []],
        ["call", f"{HELPER}.unmount", "/proc"],
        ["call", f"{HELPER}.unmount", "../../proc"],
        ["call", f"{HELPER}.send_volume", "/etc", f"x-{ID}", True, "\0abcde", "\0abcde"],
        ["call", f"{HELPER}.send_volume", export, "../../../etc/shadow", True, "\0abcde", ""],
        ["call", "os.system", "true"],
        ["call", "imgstore.drivers.cinder.steps.mount", "/etc", export, []],
        ["call", "os_brick.privileged.rootwrap.execute_root", "true"],
    ]
    command = ["sudo", "privsep-helper", "--privsep_context", f"{HELPER}.context"]
    command.append("--privsep_sock_path")
    socket = "/tmp/tmpabcdefgh/privsep.sock"
    other = ["--privsep_context", "os_brick.privileged.default"]
    commands: list[list[object]] = [
        [*command, socket, *other],
        [*command, f"{socket} {' '.join(other)}", "x"],
        [*command, socket, "--log-file", "/etc/passwd"],
        [*command, socket, "--config-file", "/tmp/own.conf"],
        [*command, "/tmp/tmpabcd/../e/privsep.sock"],
        ["sudo", "privsep-helper", *other, "--privsep_sock_path", socket],
        ["sudo", "true"],
    ]
    said = run(["mount", export, []], *calls, *commands, ["unmount", export])
    assert said[1:14] == [
        "TypeError",
        *["Refused"] * 4,
        "TypeError",
        *["FileNotFoundError"] * 3,
        "Refused",
        *["NameError"] * 3,
    ]
    assert said[14:-1] == [1] * len(commands)
    assert said[-1] is False
