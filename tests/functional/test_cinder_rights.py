"""What only root may do, by the helper that oslo.privsep starts for those who are not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from servers.cinder import Cinder
from servers.missing import root

pytestmark = pytest.mark.servers("cinder", "keystone")

# A process of root that gave up its rights, and gets them back for programs that it starts: so no
# sudo has to be configured for the test.
PROGRAM = """
import ctypes, json, os, struct, sys
from oslo_config import cfg
from imgstore.drivers.cinder import rights

libc = ctypes.CDLL(None, use_errno=True)
header = struct.pack("Ii", 0x20080522, 0)
data = ctypes.create_string_buffer(24)
assert libc.capget(header, data) == 0
words = list(struct.unpack("6I", data.raw))
for number in (1, 2, 21):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN
    words[0] &= ~(1 << number)
assert libc.capset(header, struct.pack("6I", *words)) == 0
from imgstore.drivers.cinder import privileged
cfg.CONF.set_override("helper_command", sys.argv[1], group="imgstore_cinder_privsep")
said = []
for step in json.loads(sys.argv[2]):
    verb, *arguments = step
    try:
        if verb == "open":
            fd = rights.open_device(arguments[0], writable=True)
            os.pwrite(fd, b"J", 0)
            said.append([os.pread(fd, 5, 0).decode(), os.get_inheritable(fd)])
        elif verb == "plain":
            os.open(arguments[0], os.O_RDWR)
        else:
            getattr(rights, verb)(*arguments)
            said.append(sorted(os.listdir(arguments[-2 if verb == "mount" else 0])))
    except OSError as exc:
        said.append(type(exc).__name__)
print(json.dumps(said))
"""


ID = "5d0a0a5e-7c4b-4c3a-9b1f-0a1b2c3d4e5f"


def run(*steps: list[object]) -> list[object]:
    root("cinder")
    helper = Path(sys.executable).with_name("privsep-helper")
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, os.fspath(helper), json.dumps(steps)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said: list[object] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A file of somebody else."""
    path = tmp_path / f"volume-{ID}"
    path.write_bytes(b"hello")
    path.chmod(0o600)
    os.chown(path, 65534, 65534)
    return path


def test_a_device_is_opened_for_one_process(device: Path) -> None:
    """Its owner and mode stay."""
    said = run(["plain", str(device)], ["open", str(device)])
    assert said == ["PermissionError", ["Jello", False]]
    status = device.stat()
    assert (status.st_uid, status.st_mode & 0o777) == (65534, 0o600)


def test_nothing_but_devices_and_files(tmp_path: Path) -> None:
    names = ("absent", f"pipe-{ID}", ".", "other", f"link-{ID}")
    os.mkfifo(tmp_path / names[1])
    (tmp_path / "other").touch()
    (tmp_path / names[-1]).symlink_to("other")
    said = run(*(["open", str(tmp_path / name)] for name in names))
    refused = ["PermissionError", "OSError"]
    assert said == ["FileNotFoundError", refused[0], "IsADirectoryError", *refused]


def test_an_export_is_mounted(cinder: Cinder, tmp_path: Path) -> None:
    made = cinder.make(kind="slow")
    point = str(tmp_path)
    said = run(
        ["mount", "nfs", f"127.0.0.1:{cinder.export}", point, []],
        ["unmount", point],
        ["unmount", point],
    )
    assert said == [[f"volume-{made}"], [], "OSError"]
    cinder.empty()
