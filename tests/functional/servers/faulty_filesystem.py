"""A FUSE program that passes through to a directory and fails or hangs when told to.

``python faulty_filesystem.py SOURCE MOUNTPOINT SOCKET`` mounts, serves until unmounted or killed,
and takes orders from the Unix socket SOCKET: one JSON object a line, one line of answer
(`servers.fuse` speaks this). It talks to the kernel itself, without libfuse: libfuse 2 knows
neither O_TMPFILE nor rename flags, so it could not tell a file system that has them from one that
refuses. Structures and numbers: linux/fuse.h, protocol 7.38. Nothing is cached by the kernel, so
the n-th call of a program is the n-th operation here.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import itertools
import json
import os
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

_MAX_WRITE = 1 << 20
_HEADER = struct.Struct("<IIQQIIIHH")  # len opcode unique nodeid uid gid pid total_extlen padding
_REPLY = struct.Struct("<IiQ")  # len error unique
_ATTRIBUTES = struct.Struct("<6Q10I")
_SETATTR = struct.Struct("<IIQQQQQQ8I")
_LOCK_SECONDS = 120.0

# fmt: off
_OPERATIONS = {
    1: "lookup", 2: "forget", 3: "getattr", 4: "setattr", 5: "readlink", 6: "symlink", 9: "mkdir",
    10: "unlink", 11: "rmdir", 12: "rename", 13: "link", 14: "open", 15: "read", 16: "write",
    17: "statfs", 18: "release", 20: "fsync", 25: "flush", 26: "init", 27: "opendir",
    28: "readdir", 29: "releasedir", 30: "fsyncdir", 32: "flock", 33: "flock_wait", 35: "create",
    36: "interrupt", 42: "batch_forget", 43: "fallocate", 45: "rename2", 46: "lseek",
    47: "copy_file_range", 51: "tmpfile",
}
# fmt: on
_WITHOUT_FAULTS = {"init", "forget", "batch_forget", "interrupt", "release", "releasedir"}
_FAULTY = {name.removesuffix("_wait") for name in _OPERATIONS.values()} - _WITHOUT_FAULTS

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class _Rule:
    error: int  # 0: hang
    skip: int  # calls that pass before the first that does not
    times: int | None
    seconds: float


class Faults:
    """What goes wrong; one rule an operation."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._rules: dict[str, _Rule] = {}
        self._calls: Counter[str] = Counter()
        self._generation = 0
        self._hanging = 0
        self._interrupted: set[int] = set()

    def order(self, order: dict[str, object]) -> dict[str, object]:
        """Carry out one order of the control socket and return its answer."""
        with self._changed:
            if order["do"] == "rule":
                if order["operation"] not in _FAULTY:
                    return {"unknown": f"{order['operation']!r}, only {sorted(_FAULTY)}"}
                self._rules[str(order["operation"])] = _Rule(
                    error=int(str(order["error"])),
                    skip=int(str(order["nth"])) - 1,
                    times=None if order["times"] is None else int(str(order["times"])),
                    seconds=float(str(order["seconds"])),
                )
            elif order["do"] == "release":
                self._rules.clear()
                self._calls.clear()
                self._generation += 1
                self._changed.notify_all()
            return {"calls": dict(self._calls), "hanging": self._hanging}

    def interrupt(self, unique: int) -> None:
        """Note that the caller of a request got a signal."""
        with self._changed:
            self._interrupted.add(unique)
            self._changed.notify_all()

    def interrupted(self, unique: int) -> bool:
        """Tell once whether `interrupt` was called for this request."""
        with self._changed:
            if unique in self._interrupted:
                self._interrupted.remove(unique)
                return True
            return False

    def meet(self, operation: str, unique: int, on_hang: Callable[[], object]) -> int:
        """Count a call and return the errno it gets, 0 for none; hang first where told to."""
        with self._changed:
            self._calls[operation] += 1
            rule = self._rules.get(operation)
            if rule is None or rule.times == 0:
                return 0
            if rule.skip > 0:
                rule.skip -= 1
                return 0
            if rule.times is not None:
                rule.times -= 1
            if rule.error:
                return rule.error
            on_hang()
            generation = self._generation
            self._hanging += 1
            self._changed.wait_for(
                lambda: self._generation != generation or unique in self._interrupted,
                timeout=rule.seconds,
            )
            self._hanging -= 1
        return errno.EINTR if self.interrupted(unique) else 0


@dataclass
class _Node:
    fd: int  # O_PATH: keeps the inode, so its number is not used again
    lookups: int


@dataclass(frozen=True)
class _Call:
    unique: int
    node: int
    uid: int
    gid: int
    data: bytes

    def unpack(self, layout: str) -> tuple[int, ...]:
        return struct.unpack_from(layout, self.data)

    def names(self, skip: int) -> list[bytes]:
        return self.data[skip:].split(b"\0")


class Passthrough:
    """The operations; a method gives the body of the reply or raises OSError."""

    def __init__(self, source: str, faults: Faults) -> None:
        self._faults = faults
        self._lock = threading.Lock()
        self._nodes = {1: _Node(os.open(source, os.O_PATH | os.O_DIRECTORY), 1)}
        status = os.fstat(self._nodes[1].fd)
        self._ids = {(status.st_dev, status.st_ino): 1}
        self._numbers = itertools.count(2)
        self._listings: dict[int, list[bytes]] = {}

    def _fd(self, node: int) -> int:
        with self._lock:
            return self._nodes[node].fd

    def _path(self, node: int) -> str:
        return f"/proc/self/fd/{self._fd(node)}"

    def _entry(self, fd: int) -> bytes:
        """Describe the inode of an O_PATH descriptor, which this takes over."""
        status = os.fstat(fd)
        key = (status.st_dev, status.st_ino)
        with self._lock:
            number = self._ids.setdefault(key, next(self._numbers))
            if number in self._nodes:
                self._nodes[number].lookups += 1
                os.close(fd)
            else:
                self._nodes[number] = _Node(fd, 1)
        return struct.pack("<QQQQII", number, 0, 0, 0, 0, 0) + _attributes(status)

    def _named(self, parent: int, name: bytes) -> bytes:
        return self._entry(os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=self._fd(parent)))

    def _forgotten(self, node: int, lookups: int) -> None:
        with self._lock:
            held = self._nodes.get(node)
            if held is None or node == 1:
                return
            held.lookups -= lookups
            if held.lookups <= 0:
                status = os.fstat(held.fd)
                del self._ids[(status.st_dev, status.st_ino)]
                del self._nodes[node]
                os.close(held.fd)

    def init(self, call: _Call) -> bytes:
        _, _, readahead, offered = call.unpack("<4I")
        # ASYNC_READ, BIG_WRITES, FLOCK_LOCKS, PARALLEL_DIROPS, MAX_PAGES
        flags = offered & (1 << 0 | 1 << 5 | 1 << 10 | 1 << 18 | 1 << 22)
        # ... max_background, congestion_threshold, max_write, time_gran, max_pages
        limits = 64, 48, _MAX_WRITE, 1, _MAX_WRITE // 4096
        return struct.pack("<4IHHIIH", 7, 38, readahead, flags, *limits).ljust(64, b"\0")

    def interrupt(self, call: _Call) -> None:
        self._faults.interrupt(call.unpack("<Q")[0])

    def forget(self, call: _Call) -> None:
        self._forgotten(call.node, call.unpack("<Q")[0])

    def batch_forget(self, call: _Call) -> None:
        for node, lookups in struct.iter_unpack("<QQ", call.data[8:]):
            self._forgotten(node, lookups)

    def lookup(self, call: _Call) -> bytes:
        return self._named(call.node, call.names(0)[0])

    def getattr(self, call: _Call) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + _attributes(os.fstat(self._fd(call.node)))

    def setattr(self, call: _Call) -> bytes:
        valid, _, handle, size, _, atime, mtime, _, *rest = _SETATTR.unpack(call.data)
        atime_ns, mtime_ns, _, mode, _, uid, gid, _ = rest
        path = self._path(call.node)
        if valid & 1:
            os.chmod(path, stat.S_IMODE(mode))
        if valid & 6:
            os.chown(path, uid if valid & 2 else -1, gid if valid & 4 else -1)
        if valid & 8:
            os.truncate(handle if valid & 64 else path, size)
        if valid & 48:
            status, now = os.stat(path), time.time_ns()
            times = [status.st_atime_ns, status.st_mtime_ns]
            if valid & 16:
                times[0] = now if valid & 128 else atime * 10**9 + atime_ns
            if valid & 32:
                times[1] = now if valid & 256 else mtime * 10**9 + mtime_ns
            os.utime(path, ns=(times[0], times[1]))
        return self.getattr(call)

    def readlink(self, call: _Call) -> bytes:
        return os.readlink(b"", dir_fd=self._fd(call.node))

    def symlink(self, call: _Call) -> bytes:
        name, target = call.names(0)[:2]
        os.symlink(target, name, dir_fd=self._fd(call.node))
        return self._named(call.node, name)

    def mkdir(self, call: _Call) -> bytes:
        name = call.names(8)[0]
        os.mkdir(name, call.unpack("<II")[0], dir_fd=self._fd(call.node))
        self._own(call, name)
        return self._named(call.node, name)

    def unlink(self, call: _Call) -> bytes:
        os.unlink(call.names(0)[0], dir_fd=self._fd(call.node))
        return b""

    def rmdir(self, call: _Call) -> bytes:
        os.rmdir(call.names(0)[0], dir_fd=self._fd(call.node))
        return b""

    def rename(self, call: _Call) -> bytes:
        old, new = call.names(8)[:2]
        parents = self._fd(call.node), self._fd(call.unpack("<Q")[0])
        os.rename(old, new, src_dir_fd=parents[0], dst_dir_fd=parents[1])
        return b""

    def rename2(self, call: _Call) -> bytes:
        parent, flags = call.unpack("<QI")
        old, new = call.names(16)[:2]
        _check(_libc.renameat2(self._fd(call.node), old, self._fd(parent), new, flags))
        return b""

    def link(self, call: _Call) -> bytes:
        name = call.names(8)[0]
        # With a dir_fd Python calls linkat(AT_SYMLINK_FOLLOW), which follows /proc/self/fd.
        os.link(self._path(call.unpack("<Q")[0]), name, dst_dir_fd=self._fd(call.node))
        return self._named(call.node, name)

    def open(self, call: _Call) -> bytes:
        return _opened(os.open(self._path(call.node), _flags(call.unpack("<I")[0])))

    def create(self, call: _Call) -> bytes:
        flags, mode = call.unpack("<II")
        name = call.names(16)[0]
        fd = os.open(name, _flags(flags) | os.O_CREAT, mode, dir_fd=self._fd(call.node))
        return self._created(call, fd)

    def tmpfile(self, call: _Call) -> bytes:
        flags, mode = call.unpack("<II")
        fd = os.open(self._path(call.node), _flags(flags) | os.O_TMPFILE, mode)
        return self._created(call, fd)

    def _created(self, call: _Call, fd: int) -> bytes:
        os.fchown(fd, call.uid, call.gid)
        return self._entry(os.open(f"/proc/self/fd/{fd}", os.O_PATH)) + _opened(fd)

    def _own(self, call: _Call, name: bytes) -> None:
        os.chown(name, call.uid, call.gid, dir_fd=self._fd(call.node), follow_symlinks=False)

    def read(self, call: _Call) -> bytes:
        handle, offset, size = call.unpack("<QQI")
        return os.pread(handle, size, offset)

    def write(self, call: _Call) -> bytes:
        handle, offset, size = call.unpack("<QQI")
        return struct.pack("<II", os.pwrite(handle, call.data[40 : 40 + size], offset), 0)

    def release(self, call: _Call) -> bytes:
        os.close(call.unpack("<Q")[0])
        return b""

    def flush(self, call: _Call) -> bytes:
        return b""

    def fsync(self, call: _Call) -> bytes:
        handle, flags = call.unpack("<QI")
        (os.fdatasync if flags & 1 else os.fsync)(handle)
        return b""

    def fsyncdir(self, call: _Call) -> bytes:
        fd = os.open(self._path(call.node), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        return b""

    def statfs(self, call: _Call) -> bytes:
        found = os.fstatvfs(self._fd(call.node))
        counts = found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree
        return struct.pack("<5Q3I28x", *counts, found.f_bsize, found.f_namemax, found.f_frsize)

    def opendir(self, call: _Call) -> bytes:
        listing = sorted(os.fsencode(name) for name in os.listdir(self._path(call.node)))
        with self._lock:
            handle = next(self._numbers)
            self._listings[handle] = listing
        return struct.pack("<QII", handle, 0, 0)

    def readdir(self, call: _Call) -> bytes:
        handle, offset, size = call.unpack("<QQI")
        found = b""
        for position, name in enumerate(self._listings[handle][offset:], offset + 1):
            padded = name.ljust((len(name) + 7) & ~7, b"\0")
            entry = struct.pack("<QQII", 1, position, len(name), 0) + padded
            if len(found) + len(entry) > size:
                break
            found += entry
        return found

    def releasedir(self, call: _Call) -> bytes:
        del self._listings[call.unpack("<Q")[0]]
        return b""

    def flock(self, call: _Call) -> bytes:
        handle, _, _, _, kind = call.unpack("<QQQQI")
        mode = {0: fcntl.LOCK_SH, 1: fcntl.LOCK_EX, 2: fcntl.LOCK_UN}[kind]
        fcntl.flock(handle, mode | fcntl.LOCK_NB)
        return b""

    def flock_wait(self, call: _Call) -> bytes:
        deadline = time.monotonic() + _LOCK_SECONDS
        while time.monotonic() < deadline and not self._faults.interrupted(call.unique):
            with contextlib.suppress(BlockingIOError):
                return self.flock(call)
            time.sleep(0.01)
        raise InterruptedError(errno.EINTR, "interrupted")

    def fallocate(self, call: _Call) -> bytes:
        handle, offset, length, mode = call.unpack("<QQQI")
        _check(_libc.fallocate64(handle, mode, ctypes.c_int64(offset), ctypes.c_int64(length)))
        return b""

    def lseek(self, call: _Call) -> bytes:
        handle, offset, whence = call.unpack("<QQI")
        return struct.pack("<Q", os.lseek(handle, offset, whence))

    def copy_file_range(self, call: _Call) -> bytes:
        source, source_at, _, target, target_at, length, _ = call.unpack("<7Q")
        copied = os.copy_file_range(source, target, length, source_at, target_at)
        return struct.pack("<II", copied, 0)


class Server:
    """Reads requests from the kernel on several threads, one more for each that hangs."""

    def __init__(self, device: int, passthrough: Passthrough, faults: Faults) -> None:
        self._device = device
        self._passthrough = passthrough
        self._faults = faults

    def add_thread(self) -> threading.Thread:
        thread = threading.Thread(target=self._serve, daemon=True)
        thread.start()
        return thread

    def _serve(self) -> None:
        while True:
            try:
                message = os.read(self._device, _MAX_WRITE + 65536)
            except OSError as exc:
                if exc.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue  # a request that was given up before it was read
                os._exit(0)  # unmounted
            self._answer(message)

    def _answer(self, message: bytes) -> None:
        length, opcode, unique, node, uid, gid, *_ = _HEADER.unpack_from(message)
        call = _Call(unique, node, uid, gid, message[_HEADER.size : length])
        name = _OPERATIONS.get(opcode, "")
        error, body = 0, b""
        if (faulty := name.removesuffix("_wait")) in _FAULTY:
            error = self._faults.meet(faulty, unique, self.add_thread)
        if error == 0:
            try:
                operation = getattr(self._passthrough, name) if name else _unknown
                body = operation(call)
            except OSError as exc:
                error = exc.errno or errno.EIO
        if body is None:
            return
        with contextlib.suppress(OSError):  # the caller was interrupted and is gone
            size = 0 if error else len(body)
            os.write(self._device, _REPLY.pack(16 + size, -error, unique) + body[:size])


def _unknown(call: _Call) -> bytes:
    raise OSError(errno.ENOSYS, "no such operation")


def _attributes(found: os.stat_result) -> bytes:
    seconds = [
        divmod(ns, 10**9) for ns in (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)
    ]
    return _ATTRIBUTES.pack(
        *(found.st_ino, found.st_size, found.st_blocks),
        *(whole for whole, _ in seconds),
        *(rest for _, rest in seconds),
        *(found.st_mode, found.st_nlink, found.st_uid, found.st_gid),
        *(found.st_rdev, found.st_blksize, 0),
    )


def _opened(fd: int) -> bytes:
    return struct.pack("<QII", fd, 1, 0)  # FOPEN_DIRECT_IO


def _flags(flags: int) -> int:
    # pwrite() on an O_APPEND descriptor ignores its offset; the kernel gives us the right one.
    return flags & ~(os.O_APPEND | os.O_DIRECT | os.O_NOFOLLOW) | os.O_CLOEXEC


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def mount(mountpoint: str) -> int:
    """Mount at `mountpoint` and return the descriptor of /dev/fuse; fusermount where not root."""
    options = "default_permissions,max_read=1048576"
    if os.geteuid() == 0:
        device = os.open("/dev/fuse", os.O_RDWR)
        fixed = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,"
        kind, where, said = b"fuse.faulty", os.fsencode(mountpoint), (fixed + options).encode()
        _check(_libc.mount(b"faulty", where, kind, 2 | 4, said))  # MS_NOSUID | MS_NODEV
        return device
    ours, theirs = socket.socketpair()
    with ours, theirs:
        environment = {**os.environ, "_FUSE_COMMFD": str(theirs.fileno())}
        command = ["fusermount", "-o", "default_permissions,subtype=faulty", "--", mountpoint]
        subprocess.run(command, env=environment, pass_fds=[theirs.fileno()], timeout=30, check=True)
        return socket.recv_fds(ours, 1, 1)[1][0]


def main(arguments: list[str]) -> None:
    """Mount, serve, and take orders."""
    source, mountpoint, control = arguments
    os.umask(0)
    faults = Faults()
    passthrough = Passthrough(source, faults)
    server = Server(mount(mountpoint), passthrough, faults)
    for _ in range(4):
        server.add_thread()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(control)
        listener.listen()
        while True:
            connection = listener.accept()[0]
            with connection, connection.makefile("rwb") as stream:
                order = json.loads(stream.readline())
                stream.write(json.dumps(faults.order(order)).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
