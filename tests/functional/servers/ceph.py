"""Ceph from the distribution's packages: a monitor and an OSD, on request a manager.

Each daemon is a process of its own and has its log to itself. They talk on 127.0.0.1 only, with
cephx; `Ceph.conf` makes a client of theirs, `Ceph.user` a user with less rights than its admin.

One OSD holds every object once; more are for pools that are erasure-coded. On "memstore" the
cluster is there within a second, but ends with its OSD: that may be frozen, not killed. On
"bluestore", in a sparse file, both daemons may be killed and come back with what they had; the
start takes some seconds.

An OSD is read from as long as its lease lasts, 0.8 of osd_heartbeat_grace, and peers renew that.
One OSD has none: if a request meets it after a longer freeze, all stand at "waiting for readable"
until it is marked down and peers anew. So the grace is long here, and `thaw()` of an OSD and
`heal()` see to it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import struct
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from servers.ceph_asks import Monitors, NotTaken, Refused, ask_daemon
from servers.missing import tool
from servers.process import Process, ServerFailed, free_port, free_ports, until
from servers.scratch import Scratch

Store = Literal["memstore", "bluestore"]

GIB = 1 << 30
GRACE = 600  # seconds; Ceph's default is 20
WATCH = 8  # seconds until a killed client's watch ends; Ceph's default is 30

_START_SECONDS = 60.0
# What the caller's shell says about Ceph and Python must not reach Ceph's programs.
_UNWANTED = ("CEPH_ARGS", "CEPH_CONF", "CEPH_KEYRING", "PYTHONPATH", "PYTHONHOME", "PYTHONWARNINGS")

# objecter_tick_interval: so often a client says that it still watches; 5 s by default.
# mon_tick_interval: of looks at quotas, say; 5 s by default.
# paxos_*: the monitor decides at once; by default it collects changes for a second.
# osd_max_markdown_count: an OSD ends that was marked down so often, by default 5 times in 10 min.
# osd_memory_target: of caches; Ceph takes 4 GiB by default.
_CONFIGURATION = """\
[global]
fsid = {fsid}
mon_host = [{address}]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_msgr1 = false
ms_bind_port_min = {first}
ms_bind_port_max = {last}
keyring = {home}/keyring
run_dir = {home}
crash_dir = {home}
# Relative, as a socket's path holds at most 107 bytes: each daemon runs in its own directory.
admin_socket = {socket}
chdir =
pid_file =
setuser_match_path =
log_file =
log_to_file = false
log_to_stderr = true
err_to_stderr = true
debug_rocksdb = 0
debug_bluestore = 0
debug_bluefs = 0
debug_bdev = 0
debug_ms = 0
debug_objecter = 0
debug_rados = 0
debug_rbd = 0
debug_objclass = 0
debug_optracker = 0
debug_auth = 0
debug_osd = 1/1
debug_mon = 1/1
debug_paxos = 1/1
debug_rgw = 1/1
mon_cluster_log_to_file = false
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_allow_pool_delete = true
mon_warn_on_pool_no_redundancy = false
mon_debug_no_require_bluestore_for_ec_overwrites = true
auth_allow_insecure_global_id_reclaim = false
osd_heartbeat_grace = {grace}
[client]
log_to_stderr = false
admin_socket =
objecter_tick_interval = 1
[mon]
mon_data = {mon}/data
mon_data_avail_warn = 2
mon_data_avail_crit = 1
mon_tick_interval = 1
paxos_propose_interval = 0.05
paxos_min_wait = 0.01
[osd]
osd_objectstore = {store}
memstore_device_bytes = {size}
bluestore_block_size = {size}
bluestore_block_create = true
bluestore_debug_enforce_settings = ssd
osd_memory_target = {memory}
osd_op_num_shards = 2
osd_op_num_threads_per_shard = 2
osd_numa_auto_affinity = false
osd_crush_initial_weight = 1
osd_client_watch_timeout = {watch}
osd_max_markdown_count = 1000
mgr_stats_period = 1
[mgr]
mgr_data = {mgr}/data
mgr_initial_modules =
mgr_tick_period = 1
"""
_SOCKET = "control"
_LEASE = 0.8  # of the grace: osd_pool_default_read_lease_ratio
_WAITING = "waiting for readable"
_ALL = "allow *"
_OF_OSD = {"mon": "allow profile osd", "mgr": "allow profile osd", "osd": _ALL}
_CAPABILITIES = {
    "mon.": {"mon": _ALL},
    "client.admin": {"mon": _ALL, "osd": _ALL, "mgr": _ALL},
    "mgr.x": {"mon": "allow profile mgr", "osd": _ALL},
}


@dataclass(frozen=True)
class User:
    """A user of the cluster: `conf` is a ceph.conf that knows no other key than this user's."""

    name: str
    conf: Path
    keyring: Path


class _Osd(Process):
    """An OSD, which after a longer freeze than half of its `lease`, in seconds, has to peer anew.

    Half, as it renews the lease as often as that.
    """

    lease: float
    peer_anew: Callable[[], None]
    _frozen_at: float | None = None

    def freeze(self) -> None:
        super().freeze()
        self._frozen_at = time.monotonic()

    def thaw(self) -> None:
        frozen_at, self._frozen_at = self._frozen_at, None
        super().thaw()
        if frozen_at is not None and time.monotonic() - frozen_at > self.lease / 2:
            self.peer_anew()

    def kill(self) -> None:
        self._frozen_at = None
        super().kill()


P = TypeVar("P", bound=Process)


class Ceph:
    """A cluster: `conf` is its ceph.conf; `mon`, `osd` and `mgr` (or None) are its daemons.

    `osds` are all OSDs, of which `osd` is the first.
    """

    def __init__(
        self,
        scratch: Scratch,
        *,
        store: Store = "memstore",
        size: int = 8 * GIB,
        mgr: bool = False,
        osds: int = 1,
        grace: int = GRACE,
        fsid: str = "",
    ) -> None:
        programs = {name: _program(f"ceph-{name}") for name in ("mon", "osd")}
        if mgr:
            programs["mgr"] = _program("ceph-mgr")
        self._ceph = _program("ceph", package="ceph-common")
        self.fsid = fsid or str(uuid.uuid4())
        self.directory = scratch.directory("ceph")
        self.conf = self.directory / "ceph.conf"
        self._monitors = Monitors(self.conf)
        numbers = [str(number) for number in range(osds)]
        kinds = ("mon", "mgr", *(f"osd.{number}" for number in numbers))
        self._homes = {kind: scratch.directory(f"ceph-{kind}") for kind in kinds}
        self._address = f"v2:127.0.0.1:{free_port()}"
        self._store = store
        self._paused = self._full = False
        self._grace = grace
        self._configure(size, numbers)
        self.mon = self._daemon("mon", programs["mon"], "a", ready=_leads)
        self.osds = [self._osd(number, programs["osd"]) for number in numbers]
        self.osd = self.osds[0]
        self.mgr = self._daemon("mgr", programs["mgr"], "x", ready=self._manages) if mgr else None

    def start(self) -> None:
        """Make the cluster and start it; raises ServerFailed."""
        map_file, keyring = self.directory / "monmap", self.directory / "keyring"
        monitor = ["--fsid", self.fsid, "--addv", "a", f"[{self._address}]"]
        self._make("monmaptool", "--create", *monitor, map_file, package="ceph-base")
        self._make("ceph-mon", "--mkfs", "-i", "a", "--monmap", map_file, "--keyring", keyring)
        self.mon.start()
        for number, osd in enumerate(self.osds):
            osd_uuid = str(uuid.uuid4())
            (self._homes[f"osd.{number}"] / "data").mkdir()
            identity = ("-i", str(number), "--osd-uuid", osd_uuid)
            self._make("ceph-osd", "--mkfs", *identity, "--no-mon-config")
            self.command("osd", "new", osd_uuid, str(number))
            # Not until it answers is a pool made: its first requests would wait for seconds.
            osd.start()
        if self.mgr is not None:
            (self._homes["mgr"] / "data").mkdir()
            self.mgr.start()

    def kill(self) -> None:
        """End all daemons at once. Idempotent."""
        for process in self.processes[::-1]:
            process.kill()

    def heal(self) -> None:
        """Take back what a test did: every daemon runs, no I/O waits for `pause()` or `fill()`.

        Raises ServerFailed for the OSD of a memstore that was killed: its objects are gone.
        """
        if self._store == "memstore" and not self.osd.alive:
            raise ServerFailed("the OSD was killed, and what it stored was in its memory")
        for process in self.processes:
            process.revive()
        if self._paused:
            self.unpause()
        if self._full:
            self.make_room()
        for number in map(str, range(len(self.osds))):
            if self.waits_for_lease(number):
                self._peer_anew(number)

    def waits_for_lease(self, number: str = "0") -> bool:
        """Return whether requests stand at an OSD because its lease is over."""
        return _WAITING in ask_daemon(self._homes[f"osd.{number}"] / _SOCKET, "ops")

    def _peer_anew(self, number: str) -> None:
        """Have an OSD marked down, which comes back with a new lease: what waited goes on.

        Again while requests wait: the next ones may have met the old lease meanwhile.
        """
        place = self._homes[f"osd.{number}"] / _SOCKET
        deadline = time.monotonic() + _START_SECONDS
        while True:
            self.command("osd", "down", number)
            until(lambda: _serves(place), seconds=_START_SECONDS, what=f"OSD {number} is up")
            with contextlib.suppress(ServerFailed):
                until(lambda: not self.waits_for_lease(number), seconds=3, what="")
                return
            if time.monotonic() > deadline:
                raise ServerFailed(f"requests still wait for the lease of OSD {number}")

    def command(self, *arguments: str, seconds: float = 30.0) -> str:
        """Do as the ``ceph`` program does as admin, return its output; raises ServerFailed."""
        said = f"ceph {' '.join(arguments)}: "
        try:
            return self._monitors.ask(arguments, seconds=seconds)
        except NotTaken:
            return self.run([self._ceph, *arguments], seconds=seconds)
        except TimeoutError:
            raise ServerFailed(f"{said}no answer within {seconds:g} s") from None
        except Refused as exc:
            raise ServerFailed(f"{said}{exc}") from None

    def run(self, command: list[str], *, conf: Path | None = None, seconds: float = 30.0) -> str:
        """Run one of Ceph's programs as a client of this cluster; as `command` otherwise."""
        full = [*command, "--conf", os.fspath(conf or self.conf)]
        said = f"{' '.join(command)}: "
        try:
            done = subprocess.run(
                full,
                cwd=self.directory,
                env=environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ServerFailed(f"{said}no answer within {seconds:g} s") from None
        if done.returncode != 0:
            raise ServerFailed(said + done.stderr.strip())
        return done.stdout

    def pool(self, name: str, *, pg_num: int = 8, application: str = "rbd") -> None:
        """Create a pool; one for rbd is initialised, so that images can be made."""
        self.command("osd", "pool", "create", name, str(pg_num))
        self.command("osd", "pool", "application", "enable", name, application)
        if application == "rbd":
            self.run([_program("rbd", package="ceph-common"), "pool", "init", name], seconds=60)

    def erasure_pool(self, name: str) -> None:
        """Create an erasure-coded pool for the data of RBD images; three OSDs are needed."""
        profile = f"{name}-profile"
        shards = ("k=2", "m=1", "crush-failure-domain=osd")
        self.command("osd", "erasure-code-profile", "set", profile, *shards)
        self.command("osd", "pool", "create", name, "8", "8", "erasure", profile)
        self.command("osd", "pool", "set", name, "allow_ec_overwrites", "true")
        self.command("osd", "pool", "application", "enable", name, "rbd")

    def quota(self, pool: str, max_bytes: int | None) -> None:
        """Let a pool hold at most `max_bytes`; None lifts that. Only a manager sees to it."""
        if self.mgr is None:
            raise ServerFailed("a pool's quota is watched by the manager, and there is none")
        self.command("osd", "pool", "set-quota", pool, "max_bytes", str(max_bytes or 0))

    def user(self, name: str, *, mon: str, osd: str) -> User:
        """Create client.`name` with these capabilities, or return it as it was created."""
        entity = f"client.{name}"
        keyring = self.directory / f"{entity}.keyring"
        capabilities = ["mon", mon, "osd", osd]
        keyring.touch(mode=0o600)
        keyring.write_text(self.command("auth", "get-or-create", entity, *capabilities))
        conf = self.directory / f"{entity}.conf"
        conf.write_text(
            f"[global]\nfsid = {self.fsid}\nmon_host = [{self._address}]\n"
            f"[client]\nadmin_socket =\nlog_to_stderr = false\nlog_file =\n"
            "objecter_tick_interval = 1\n"
            f"[{entity}]\nkeyring = {keyring}\n"
        )
        return User(name, conf, keyring)

    def pause(self) -> None:
        """Let every read and write wait until `unpause()`."""
        self._paused = True
        self.command("osd", "set", "pause")

    def unpause(self) -> None:
        """Let reads and writes go on."""
        self.command("osd", "unset", "pause")
        self._paused = False

    def fill(self) -> None:
        """Have the OSD say that it is full: within seconds writes wait until `make_room()`."""
        self._full = True
        self._say_full("full")

    def make_room(self) -> None:
        """Have the OSD say that it is not full any more; what waited goes on within seconds."""
        self._say_full("none")
        self._full = False

    def _say_full(self, what: Literal["full", "none"]) -> None:
        ask_daemon(self._homes["osd.0"] / _SOCKET, "injectfull", type=what)
        until(
            lambda: ("full" in self._osd_states()) == (what == "full"),
            seconds=30,
            what=f"the monitor hears what the OSD says, {what}",
        )

    def _osd_states(self) -> list[str]:
        (osd,) = json.loads(self.command("osd", "dump", "--format", "json"))["osds"]
        states: list[str] = osd["state"]
        return states

    @property
    def processes(self) -> list[Process]:
        """All daemons."""
        return [process for process in (self.mon, *self.osds, self.mgr) if process is not None]

    def _osd(self, number: str, program: str) -> _Osd:
        osd = self._daemon(f"osd.{number}", program, number, ready=_serves, kind_of=_Osd)
        osd.lease = _LEASE * self._grace
        osd.peer_anew = lambda: self._peer_anew(number)
        return osd

    def _daemon(
        self,
        kind: str,
        program: str,
        name: str,
        *,
        ready: Callable[[Path], bool],
        kind_of: type[P] = Process,
    ) -> P:
        home = self._homes[kind]
        return kind_of(
            f"ceph-{kind}",
            [program, "--conf", self.conf, "-f", "-i", name],
            directory=home,
            ready=lambda: ready(home / _SOCKET),
            environment=environment(),
            start_seconds=_START_SECONDS,
        )

    def _manages(self, _: Path) -> bool:
        return bool(json.loads(self.command("mgr", "stat", "--format", "json"))["available"])

    def _make(self, program: str, *arguments: str | Path, package: str = "") -> None:
        words = [os.fspath(word) for word in arguments]
        self.run([_program(program, package=package), *words], seconds=60)

    def _configure(self, size: int, osds: list[str]) -> None:
        ports = free_ports(32)
        places = "".join(
            f"[osd.{number}]\nosd_data = {self._homes[f'osd.{number}']}/data\n" for number in osds
        )
        self.conf.write_text(
            _CONFIGURATION.format(
                fsid=self.fsid,
                address=self._address,
                first=ports[0],
                last=ports[-1],
                home=self.directory,
                socket=_SOCKET,
                store=self._store,
                size=size,
                grace=self._grace,
                watch=WATCH,
                memory=GIB,
                mon=self._homes["mon"],
                mgr=self._homes["mgr"],
            )
            + places
        )
        lines = []
        entities = _CAPABILITIES | {f"osd.{number}": _OF_OSD for number in osds}
        for entity, capabilities in entities.items():
            lines += [f"[{entity}]", f"key = {_new_key()}"]
            lines += [f'caps {kind} = "{what}"' for kind, what in capabilities.items()]
        keyring = self.directory / "keyring"
        keyring.touch(mode=0o600)
        keyring.write_text("\n".join(lines) + "\n")


@contextlib.contextmanager
def ceph(
    scratch: Scratch,
    *,
    store: Store = "memstore",
    size: int = 8 * GIB,
    mgr: bool = False,
    osds: int = 1,
    grace: int = GRACE,
    fsid: str = "",
) -> Iterator[Ceph]:
    """Run a cluster of OSDs of `size` bytes; raises Missing where Ceph is not installed."""
    cluster = Ceph(scratch, store=store, size=size, mgr=mgr, osds=osds, grace=grace, fsid=fsid)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


def environment() -> dict[str, str]:
    """Return the environment of Ceph's programs."""
    return {name: value for name, value in os.environ.items() if name not in _UNWANTED}


def _program(name: str, *, package: str = "") -> str:
    return tool(name, what="ceph", package=package or name)


def _new_key() -> str:
    """Make a key as ceph-authtool does: type 1 (AES), time of creation, length, 16 bytes."""
    secret = secrets.token_bytes(16)
    header = struct.pack("<HIIH", 1, int(time.time()), 0, len(secret))
    return base64.b64encode(header + secret).decode()


def _leads(place: Path) -> bool:
    return _state(place, "mon_status") == "leader"


def _serves(place: Path) -> bool:
    return _state(place, "status") == "active"


def _state(place: Path, question: str) -> object:
    """Return a daemon's state, or None where it does not know the question yet; raises OSError."""
    answer = ask_daemon(place, question)
    return json.loads(answer)["state"] if answer.startswith("{") else None
