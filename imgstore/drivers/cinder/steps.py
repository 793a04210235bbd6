"""Steps that only root may make, for a process that has the rights: this one, or the helper.

Who may start the helper calls it with any arguments, and may change every path that is not root's
meanwhile. So what is opened and mounted is a closed list, and checked on the descriptor that is
used.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
from collections.abc import Sequence
from typing import Final

from imgstore.drivers._linux import is_mount_point
from imgstore.process.patience import Patience

SECONDS: Final = 120
# Cinder has the id in the names of files.
_VOLUME: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# An address that only the kernel chooses, see unix(7): no server of root has it.
_ADDRESS: Final = re.compile(rb"\0[0-9a-f]{5}")
WORD: Final = 16  # bytes by which who asked knows the answer
# Where the helper mounts: nobody but root can change anything on the way there.
_RUN: Final = "/run/imgstore"
# The helper's programs are not looked for where its caller says.
_PROGRAMS: Final = "/usr/sbin:/usr/bin:/sbin:/bin"

_SHARE: Final = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\]):/[^\x00-\x1f\x7f]*")
# Of nfs(5), and of mount(8) what concerns times: nothing that runs a program, names a file of this
# host, or makes a mount of another kind (bind, loop, remount, helper, x-…).
_WORDS: Final = (
    "ro rw sync async atime noatime diratime nodiratime relatime norelatime soft hard softerr "
    "softreval nosoftreval intr nointr tcp udp rdma ac noac cto nocto acl noacl rdirplus "
    "nordirplus sharecache nosharecache resvport noresvport lock nolock fg fsc nofsc "
    "sharetransport nosharetransport nomigration notrunkdiscovery nosuid nodev noexec"
)
_OPTIONS: Final = frozenset(_WORDS.split())
# What has no meaning here, or is overridden: of a line in fstab, that it may be mounted later.
_DROPPED: Final = frozenset(
    {"defaults", "auto", "noauto", "nofail", "_netdev", "bg", "suid", "dev", "exec"}
)
_NAMES: Final = (
    "rsize wsize timeo retrans retry acregmin acregmax acdirmin acdirmax actimeo vers nfsvers "
    "minorversion proto port mountproto mountport mountvers sec lookupcache local_lock namlen "
    "clientaddr nconnect max_connect xprtsec"
)
_WITH_VALUE: Final = frozenset(_NAMES.split())
_VALUE: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_CHOICES: Final = {"write": {"lazy", "eager", "wait"}, "rdirplus": {"none", "force"}}
# SELinux's, see mount(8). A label decides who else may look at the files.
_LABELS: Final = frozenset({"context", "fscontext"})
_LABEL: Final = re.compile(r'(?P<quote>"?)(?P<label>system_u:object_r:[a-z0-9_]+:s0)(?P=quote)')
# Whatever else is asked for; the last ones count.
_ALWAYS: Final = ("nosuid", "nodev", "noexec")
# Another process that looks at the same moment is not in the way for longer.
_OTHERS: Final = Patience(0.02, 0.02, times=50)


class Refused(PermissionError):
    """A step that is not on the list."""


def _refusal(said: str) -> Refused:
    return Refused(errno.EPERM, said)


def open_device(path: str, *, writable: bool) -> int:
    """Open a whole block device that nothing on this host is made of; raises OSError."""
    found = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        status = os.fstat(found)
        if not stat.S_ISBLK(status.st_mode):
            raise _refusal("it is no block device")
        number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        if os.path.exists(f"/sys/dev/block/{number}/partition"):
            raise _refusal("a partition is no volume")
        _refuse_claimed(found)
        return _open_again(found, writable=writable)
    finally:
        os.close(found)


def _refuse_claimed(found: int) -> None:
    """Raise OSError for a device that is mounted, or part of another one: see open(2), O_EXCL."""
    for _ in _OTHERS.attempts():
        try:
            os.close(os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
        except OSError as exc:
            if exc.errno != errno.EBUSY:
                raise
        else:
            return
    raise OSError(errno.EBUSY, "this host has mounted the device, or made another one of it")


def open_volume(directory: str, name: str, *, writable: bool, is_mount: bool = True) -> int:
    """Open a volume's file that lies in a directory, by default the root of an export.

    Raises OSError.
    """
    if not is_volume(name):
        raise _refusal("the name is not that of a volume")
    point = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if is_mount and not is_mount_point(point):
            raise FileNotFoundError(errno.ENOENT, "the export is not mounted")
        found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=point)
    finally:
        os.close(point)
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise _refusal("it is no file")
        return _open_again(found, writable=writable)
    finally:
        os.close(found)


def is_volume(name: str) -> bool:
    """Return whether a name is one segment of a path, and has the id of a volume in it."""
    return not set(name) & {"/", "\0"} and _VOLUME.search(name) is not None


def _open_again(found: int, *, writable: bool) -> int:
    """Open what a descriptor of O_PATH stands for, see open(2)."""
    flags = os.O_RDWR if writable else os.O_RDONLY
    return os.open(f"/proc/self/fd/{found}", flags | os.O_CLOEXEC)


def mount(point: str, share: str, options: Sequence[str], *, search: str | None = None) -> None:
    """Show an export of nfs in a directory, unless something is mounted; raises OSError.

    ``search`` is where programs are looked for, by default ``PATH``. It is the helper that gives
    one; its caller may not choose labels of SELinux.
    """
    check_share(share)
    checked = [*_flat(options, with_labels=search is None), *_ALWAYS]
    if not _is_mounted(point):
        _run(search, "mount", "-t", "nfs", "-o", ",".join(checked), "--", share, point)


def unmount(point: str, *, search: str | None = None) -> None:
    """Unmount the export, if there is one, and remove the directory; raises OSError."""
    if _is_mounted(point):
        _run(search, "umount", "--", point)
    os.rmdir(point)


def check_share(share: str) -> None:
    """Raise Refused for what is not ``<host>:/<path>``."""
    if not _SHARE.fullmatch(share):
        raise _refusal("the export is not <host>:/<path>")


def _flat(options: Sequence[str], *, with_labels: bool) -> list[str]:
    """Return the single options of ``-o a,b -o c`` that have a meaning here; raises Refused."""
    words, found = list(options), []
    while words:
        word = words.pop(0)
        if not word.startswith("-o"):
            raise _refusal(f"the mount option {word!a} is not allowed")
        text = word[2:] or (words.pop(0) if words else "")
        found += [_checked(each, with_labels=with_labels) for each in text.split(",") if each]
    return [each for each in found if each not in _DROPPED]


def _checked(option: str, *, with_labels: bool) -> str:
    """Return an option as it is passed on; raises Refused."""
    name, has_value, value = option.partition("=")
    if name in _LABELS and with_labels:
        label = _LABEL.fullmatch(value)
        if label:
            return f"{name}={label['label']}"
    if not has_value:
        is_allowed = name in _OPTIONS or name in _DROPPED
    elif name in _CHOICES:
        is_allowed = value in _CHOICES[name]
    else:
        is_allowed = name in _WITH_VALUE and _VALUE.fullmatch(value) is not None
    if not is_allowed:
        raise _refusal(f"the mount option {name!a} is not allowed")
    return option


def digest(share: str) -> str:
    """Return the name of the directory in which an export is mounted."""
    return hashlib.sha256(os.fsencode(share)).hexdigest()


def _is_mounted(point: str) -> bool:
    directory = os.open(point, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return is_mount_point(directory)
    finally:
        os.close(directory)


def _run(search: str | None, program: str, *arguments: str) -> None:
    path = shutil.which(program, path=search)
    if path is None:
        raise FileNotFoundError(errno.ENOENT, f"there is no program {program}")
    with subprocess.Popen(  # noqa: S603  # no shell, and what a client may choose is checked
        [path, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={"PATH": search, "LC_ALL": "C"} if search else None,
        text=True,
        start_new_session=True,
    ) as running:
        try:
            said = running.communicate(timeout=SECONDS)[1]
        except BaseException as exc:
            # With its children: mount.nfs would mount later, when nobody counts as a user.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            if not isinstance(exc, subprocess.TimeoutExpired):
                raise
            late = f"{program} does not end within {SECONDS} s"
            raise OSError(errno.ETIMEDOUT, late) from None
    if running.returncode != 0:
        raise OSError(errno.EIO, f"{program}: {said.strip()}")


# What the helper does, as its caller may ask for it.


def directory_of(user: int) -> str:
    """Return the directory in which the helper mounts for a user."""
    return f"{_RUN}/cinder-{user}"


def mount_for_caller(share: str, options: Sequence[str]) -> str:
    """Mount an export where nobody but root can put anything else; return where."""
    check_share(share)
    user, group = _caller()
    directory = directory_of(user)
    _make(_RUN, 0o755)
    _make(directory, 0o750)
    os.chown(directory, -1, group, follow_symlinks=False)
    point = f"{directory}/{digest(share)}"
    _make(point, 0o755)
    mount(point, share, options, search=_PROGRAMS)
    return point


def unmount_for_caller(share: str) -> None:
    """Undo that."""
    unmount(f"{directory_of(_caller()[0])}/{digest(share)}", search=_PROGRAMS)


def send_device(path: str, address: bytes, word: bytes, *, writable: bool) -> None:
    """Open a device, and send it."""
    try:
        descriptor = open_device(path, writable=writable)
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            raise
        # No path that its caller may not look at is told from one that does not exist.
        raise _refusal("it is no device that can be opened") from None
    _send(descriptor, address, word)


def send_volume(share: str, name: str, address: bytes, word: bytes, *, writable: bool) -> None:
    """Open a file of an export that was mounted for the same user, and send it."""
    point = f"{directory_of(_caller()[0])}/{digest(share)}"
    _send(open_volume(point, name, writable=writable), address, word)


def _send(descriptor: int, address: bytes, word: bytes) -> None:
    """Send a descriptor with ``word`` to a socket of the caller."""
    try:
        if not _ADDRESS.fullmatch(address) or len(word) != WORD:
            raise _refusal("the address is not one that the kernel chose")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(SECONDS)
            connection.connect(address)
            size = struct.calcsize("3i")
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
            if struct.unpack("3i", credentials)[1] != _caller()[0]:
                raise _refusal("the address is that of another user")
            socket.send_fds(connection, [word], [descriptor])
    finally:
        os.close(descriptor)


def _caller() -> tuple[int, int]:
    """Return the user and group that started the helper, see sudo(8)."""
    user, group = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
    return int(user or os.getuid()), int(group or os.getgid())


def _make(path: str, mode: int) -> None:
    """Make a directory unless it is there and root's alone to change; raises Refused."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, mode)
    if _is_mounted(path):
        return  # an export says what it likes of its root
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or status.st_mode & 0o022:
        raise _refusal(f"{path} is not a directory that only root can change")
