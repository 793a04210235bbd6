"""Cinder from PyPI: API, scheduler, and a volume service for each of two backends.

"rbd" keeps volumes in a pool of a Ceph cluster, "nfs" as files in a directory that stands for an
export: without a kernel that can mount NFS, a `mount` on `path` binds it. The services are
processes of their own and talk over RabbitMQ, so each may be killed while the others go on.

=========  =======  ===========
type       backend  multiattach
=========  =======  ===========
fast       rbd      no
slow       nfs      no
multi      rbd      yes
=========  =======  ===========

Without a type volumes are "fast". os-brick reads the key of a Ceph cluster only from /etc/ceph, so
a file of its own is there while this runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
import subprocess
import threading
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from servers.ceph import Ceph, User
from servers.cinder_files import BROKER, CONFIGURATION, PROGRAMS
from servers.keystone import REGION, Keystone, KeystoneUser
from servers.missing import Missing, root, tool
from servers.openstack import (
    ENVIRONMENT,
    Requests,
    ask,
    command,
    environment,
)
from servers.process import Process, ServerFailed, accepts, free_port, until
from servers.scratch import Scratch

Backend = Literal["rbd", "nfs"]

_PROGRAM = Path(__file__).with_name("cinder_program.py")
_POOL = "volumes"
_HOST = "127.0.0.1"
_TYPES: tuple[tuple[str, Backend, bool], ...] = (
    ("fast", "rbd", False),
    ("slow", "nfs", False),
    ("multi", "rbd", True),
)

# What the owner has of volumes and attachments, as a table says it: a request to ask for that takes
# fifty times as long.
_VOLUMES = "SELECT id, status FROM volumes WHERE NOT deleted AND project_id = ?"
_ATTACHMENTS = """\
SELECT volume_attachment.id FROM volume_attachment JOIN volumes ON volumes.id = volume_id
WHERE NOT volume_attachment.deleted AND project_id = ?
"""
_STATUS = "SELECT status FROM volumes WHERE NOT deleted AND id = ?"
# With an OSD that is gone for good, clients close an image after three times that.
LIMIT = "rados_osd_op_timeout = 30"
_WATCH = 10  # seconds for which Ceph keeps what a killed client has open; by default 30
_RESCUE = (250.0, 60.0)  # seconds until servers are healed during a test, and then again


class Cinder:
    """A running Cinder; its `services` may be killed and come back.

    `user` owns all volumes that `call` deals with, in a project of its own, and may administer
    Cinder. Clients need `path`, a PATH with such programs; they may mount in `mounts` and lock in
    `locks`; `key_file` has the key of Cinder's user of Ceph. `requests` are those to the API, at
    `port`.
    """

    def __init__(
        self,
        scratch: Scratch,
        keystone: Keystone,
        cluster: Ceph,
        *,
        rpc_seconds: int = 3,
        export: Path | None = None,
    ) -> None:
        root("cinder")
        if not (ENVIRONMENT / "etc" / "cinder").exists():
            command("cinder", "", {})  # says how to install it
            raise Missing("cinder", "Cinder is not installed: it needs Python 3.11 or later")
        self.keystone = keystone
        self.cluster = cluster
        self._broker_program = tool("rabbitmq-server", what="cinder", package="rabbitmq-server")
        tool("qemu-img", what="cinder", package="qemu-utils")
        self._scratch = scratch
        self._home = scratch.directory("cinder-data")
        self._database = self._home / "cinder.db"
        self._monitors = self._home / "monitors.json"
        self.requests = Requests(self._home / "access.log")
        for name in ("state", "locks", "mounts", "export", "bin", "client-locks", "client-mounts"):
            (self._home / name).mkdir()
        self.mounts, self.locks = self._home / "client-mounts", self._home / "client-locks"
        self.export = export or self._home / "export"
        self.path = f"{self._programs()}:{os.environ.get('PATH', os.defpath)}"
        self.port = free_port()
        self.url = f"http://{_HOST}:{self.port}/v3"
        self._cluster_name = f"tests{secrets.token_hex(4)}"
        self._rpc_seconds = rpc_seconds
        self.key_file = Path()
        self._token = ""
        self.services: dict[str, Process] = {}
        self._healing = threading.Lock()
        self._health: dict[Process, int] = {}  # how often each had changed when all was well

    def start(self) -> None:
        """Start everything and wait until volumes can be made; raises ServerFailed."""
        service = self.keystone.user("cinder", project="service", roles=("admin", "service"))
        self.user = self.keystone.user("glance", project="images", roles=("admin", "service"))
        for interface in ("public", "internal", "admin"):
            url = f"{self.url}/%(project_id)s"
            self.keystone.endpoint("volumev3", REGION, interface, url)
            self.keystone.endpoint("block-storage", REGION, interface, url)
        self.cluster.pool(_POOL)
        self.cluster.command("config", "set", "osd", "osd_client_watch_timeout", str(_WATCH))
        self._monitors.write_text(self.cluster.command("mon", "dump", "--format=json"))
        rights = f"profile rbd pool={_POOL}"
        key = self.cluster.user("cinder", mon="profile rbd", osd=rights)
        self.key_file = Path(f"/etc/ceph/{self._cluster_name}.client.{key.name}.keyring")
        self.key_file.parent.mkdir(exist_ok=True)
        self.key_file.touch(mode=0o600)
        self.key_file.write_text(f"{key.keyring.read_text()}\n{LIMIT}\n")
        broker = self._broker()
        self.services["broker"] = broker
        conf = self._configure(service, key, self._broker_port)
        database = subprocess.Popen(
            _command("database", {"conf": conf, "database": self._database}),
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        broker.start()
        said = database.communicate(timeout=120)[1]
        if database.returncode != 0:
            raise ServerFailed(f"Cinder's database: {said[-2000:]}")
        self._start_services(conf)

    def _start_services(self, conf: Path) -> None:
        self.services["api"] = self._service(
            "api", {"conf": conf, "port": self.port, "log": self.requests.path}
        )
        self.services["scheduler"] = self._service("scheduler", {"conf": conf})
        for backend in ("rbd", "nfs"):
            self.services[backend] = self._service("volume", {"conf": conf, "backend": backend})
        started = [self.services[name] for name in ("api", "scheduler", "rbd", "nfs")]
        with ThreadPoolExecutor(len(started)) as pool:
            for done in [pool.submit(process.start) for process in started]:
                done.result()
        until(self._is_up, seconds=120, what="Cinder's services are up")
        for name, backend, is_multi in _TYPES:
            made = self.call("POST", "types", {"volume_type": {"name": name}})["volume_type"]
            specs = {"volume_backend_name": backend}
            if is_multi:
                specs["multiattach"] = "<is> True"
            self.call("POST", f"types/{made['id']}/extra_specs", {"extra_specs": specs})
        self.quota(volumes=-1, gigabytes=-1)  # by default ten volumes
        self._note_health()

    def kill(self) -> None:
        """End everything at once, and take back what it left on this machine. Idempotent."""
        for process in reversed(self.services.values()):
            process.kill()
        if self.key_file.name:
            self.key_file.unlink(missing_ok=True)
        self.unmount(self._home)

    def heal(self, *, all_of_it: bool = False) -> None:
        """Bring back every service and the cluster, unless nothing was done to any of them."""
        with self._healing:
            services, daemons = list(self.services.values()), self.cluster.processes
            if all_of_it or self._is_changed(daemons):
                self.cluster.heal()
            if all_of_it or self._is_changed(services):
                for process in services:
                    process.revive()
                until(self._is_up, seconds=120, what="Cinder's services are up")
            self._note_health()

    def _is_changed(self, processes: list[Process]) -> bool:
        return any(not each.alive or each.changes != self._health.get(each) for each in processes)

    def _note_health(self) -> None:
        running = [*self.services.values(), *self.cluster.processes]
        self._health = {process: process.changes for process in running}

    @contextlib.contextmanager
    def rescue(self, after: float = _RESCUE[0], again: float = _RESCUE[1]) -> Iterator[None]:
        """Heal the servers when this takes longer than `after` seconds, and every `again` then.

        librados waits without a limit in some of its calls, which no signal ends: so would a test
        that waits for servers which come back only when it ends.
        """
        over = threading.Event()

        def watch() -> None:
            seconds = after
            while not over.wait(seconds):
                seconds = again
                with contextlib.suppress(Exception):
                    self.heal(all_of_it=True)

        threading.Thread(target=watch, daemon=True).start()
        try:
            yield
        finally:
            over.set()

    @staticmethod
    def unmount(directory: Path) -> None:
        """Unmount all below a directory: neither os-brick nor Cinder does."""
        lines = Path("/proc/self/mounts").read_text().splitlines()
        points = [line.split()[1].encode().decode("unicode_escape") for line in lines]
        for point in reversed(points):
            if point.startswith(f"{directory}/"):
                subprocess.run(["umount", "--lazy", point], check=False)

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        version: str = "3.70",
        user: KeystoneUser | None = None,
    ) -> Any:
        """Send a request and return what it answers, None where there is nothing of that name.

        Raises ServerFailed. It is sent as `user`, or as the one who owns the volumes.
        """
        owner = user or self.user
        url = f"{self.url}/{owner.project_id}/{path}"
        headers = {
            "Content-Type": "application/json",
            "OpenStack-API-Version": f"volume {version}",
        }
        data = None if body is None else json.dumps(body).encode()
        for _ in range(2):
            token = self._token = self._token or self.keystone.token(self.user)
            if user is not None:
                token = self.keystone.token(user)
            answer = ask(method, url, headers | {"X-Auth-Token": token}, data)
            if answer.status != 401:
                break
            self._token = ""
        if answer.status == 404:
            return None
        if answer.status >= 300:
            raise ServerFailed(f"{method} {path}: {answer.status} {answer.body!r}")
        return json.loads(answer.body) if answer.body else None

    def volumes(self, *, user: KeystoneUser | None = None) -> list[dict[str, Any]]:
        """Return the volumes of a user's project."""
        found: list[dict[str, Any]] = self.call("GET", "volumes/detail", user=user)["volumes"]
        return found

    def volume(self, volume_id: str) -> dict[str, Any] | None:
        """Return a volume, None where there is none."""
        found = self.call("GET", f"volumes/{volume_id}")
        return None if found is None else found["volume"]

    def make(self, *, kind: str = "fast", size: int = 1, **about: Any) -> str:
        """Make a volume and return its id once it is available."""
        asked = {"size": size, "volume_type": kind, **about}
        made = self.call("POST", "volumes", {"volume": asked})["volume"]["id"]
        self.wait(made, "available")
        return str(made)

    def states(self) -> list[str]:
        """Return the states of the user's volumes."""
        return [str(status) for _, status in self._rows(_VOLUMES, self.user.project_id)]

    def status(self, volume_id: str) -> str:
        """Return the state of a volume, "" where there is none."""
        return next((str(status) for (status,) in self._rows(_STATUS, volume_id)), "")

    def wait(self, volume_id: str, *states: str, seconds: float = 60.0) -> str:
        """Wait until a volume is in one of some states, "" for gone, and return which."""
        found = ""

        def is_there() -> bool:
            nonlocal found
            found = self.status(volume_id)
            return found in states

        until(is_there, seconds=seconds, what=f"{volume_id} is {' or '.join(states)}")
        return found

    def wait_snapshot_gone(self, snapshot: str) -> None:
        """Delete a snapshot as soon as it is there, and wait until it is not."""
        path = f"snapshots/{snapshot}"
        until(
            lambda: self.call("GET", path)["snapshot"]["status"] == "available",
            seconds=30,
            what="the snapshot is there",
        )
        self.call("DELETE", path)
        until(lambda: self.call("GET", path) is None, seconds=30, what="the snapshot is gone")

    def discard(self, *, but: Collection[str] = ()) -> list[str]:
        """Begin to remove every volume and attachment of the user, whatever state it is in.

        Only the volumes `but` stay. Return the ids of those that are not gone yet.
        """
        project = self.user.project_id
        for (attachment,) in self._rows(_ATTACHMENTS, project):
            self.call("DELETE", f"attachments/{attachment}")
        found = [each for each in self._rows(_VOLUMES, project) if each[0] not in but]
        for volume, state in found:
            path = f"volumes/{volume}"
            if state not in ("available", "error", "deleting"):
                status = {"os-reset_status": {"status": "error", "attach_status": "detached"}}
                self.call("POST", f"{path}/action", status)
            if state != "deleting":
                self.call("DELETE", path)
        return [str(volume) for volume, _ in found]

    def empty(self) -> None:
        """Remove all of that, and wait until it is gone.

        Ceph keeps what a killed client has open for some seconds.
        """
        until(lambda: not self.discard(), seconds=90, what="all volumes are gone")

    def _forget_usage(self) -> None:
        """Let Cinder's books say what is true of a project without volumes."""
        with contextlib.closing(sqlite3.connect(self._database, timeout=30)) as database, database:
            for table in ("reservations", "quota_usages"):
                owner = (self.user.project_id,)
                database.execute(f"DELETE FROM {table} WHERE project_id = ?", owner)

    def _rows(self, question: str, word: str) -> list[tuple[Any, ...]]:
        place = f"file:{self._database}?mode=ro"
        with contextlib.closing(sqlite3.connect(place, uri=True, timeout=30)) as database:
            return database.execute(question, (word,)).fetchall()

    def quota(self, **limits: int) -> None:
        """Limit the user's project: `volumes`, `gigabytes`; -1 is no limit.

        Volumes count until they are gone, and Cinder sets no limit below what there is. A service
        that was killed keeps what it had reserved for a day, unless it is taken back here.
        """
        path = f"os-quota-sets/{self.user.project_id}"

        def is_set() -> bool:
            try:
                self.call("PUT", path, {"quota_set": limits})
            except ServerFailed as exc:
                if "existing resources" not in str(exc):
                    raise
                if not self.volumes():
                    self._forget_usage()
                return False
            return True

        until(is_set, seconds=60, what="a quota is set")

    def _is_up(self) -> bool:
        try:
            services = self.call("GET", "os-services")["services"]
            pools = self.call("GET", "scheduler-stats/get_pools")["pools"]
        except ServerFailed:
            return False
        return sum(each["state"] == "up" for each in services) >= 3 and len(pools) >= 2

    def _configure(self, service: KeystoneUser, key: User, broker: int) -> Path:
        (self._home / "shares").write_text(f"{_HOST}:{self.export}\n")
        conf = self._home / "cinder.conf"
        conf.touch(mode=0o600)
        conf.write_text(
            CONFIGURATION.format(
                home=self._home,
                share=ENVIRONMENT / "etc" / "cinder",
                environment=ENVIRONMENT,
                broker=broker,
                rpc_seconds=self._rpc_seconds,
                keystone=self.keystone.url,
                user=service.name,
                password=service.password,
                pool=_POOL,
                ceph_user=key.name,
                ceph_conf=key.conf,
                cluster=self._cluster_name,
            )
        )
        return conf

    def _broker(self) -> Process:
        home = self._scratch.directory("rabbitmq")
        self._broker_port, between, mapper = free_port(), free_port(), free_port()
        (home / "rabbitmq.conf").write_text(BROKER.format(port=self._broker_port))
        (home / "enabled_plugins").write_text("[].\n")
        (home / "none").touch()
        local = "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none"
        where = {
            "HOME": home,
            "RABBITMQ_NODENAME": f"tests{self._broker_port}@localhost",
            "RABBITMQ_BASE": home,
            "RABBITMQ_MNESIA_BASE": home / "mnesia",
            "RABBITMQ_LOG_BASE": home / "log",
            "RABBITMQ_CONFIG_FILE": home / "rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": home / "none",
            "RABBITMQ_ENABLED_PLUGINS_FILE": home / "enabled_plugins",
            "RABBITMQ_PID_FILE": home / "pid",
            "RABBITMQ_DIST_PORT": between,
            "ERL_EPMD_PORT": mapper,
            "ERL_EPMD_ADDRESS": _HOST,
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": local,
        }
        return Process(
            "rabbitmq",
            [_unwrapped(self._broker_program)],
            directory=home,
            ready=lambda: accepts((_HOST, self._broker_port)),
            environment=environment() | {name: str(value) for name, value in where.items()},
            start_seconds=120.0,
        )

    def _service(self, verb: str, options: dict[str, Any]) -> Process:
        name = options.get("backend", verb)
        directory = self._scratch.directory(f"cinder-{name}")
        ready = directory / "ready"
        return Process(
            f"cinder-{name}",
            _command(verb, options | {"ready": ready}),
            directory=directory,
            ready=ready.exists if verb != "api" else lambda: accepts((_HOST, self.port)),
            environment=self._environment(),
            start_seconds=120.0,
        )

    def _environment(self) -> dict[str, str]:
        path = f"{self._home / 'bin'}:{ENVIRONMENT / 'bin'}:{os.environ.get('PATH', os.defpath)}"
        return environment() | {"PATH": path}

    def _programs(self) -> Path:
        """Write the programs, and return the directory of those that clients need."""
        for_clients = self._home / "client-bin"
        for_clients.mkdir()
        programs = {
            "mount": tool("mount", what="cinder", package="mount"),
            "ceph": tool("ceph", what="cinder", package="ceph-common"),
            "monitors": self._monitors,
        }
        needed = ("mount", "mount.nfs", "sudo", "glance-rootwrap")
        for directory, names in ((self._home / "bin", tuple(PROGRAMS)), (for_clients, needed)):
            for name in names:
                program = directory / name
                program.write_text(PROGRAMS[name].format(**programs))
                program.chmod(0o755)
        return for_clients


@contextlib.contextmanager
def cinder(
    scratch: Scratch,
    keystone: Keystone,
    cluster: Ceph,
    *,
    rpc_seconds: int = 3,
    export: Path | None = None,
) -> Iterator[Cinder]:
    """Run Cinder on a Keystone and a Ceph cluster with a manager; raises Missing.

    The API waits `rpc_seconds` for a service that does not answer. Volumes on nfs are files of the
    directory `export`.
    """
    servers = Cinder(scratch, keystone, cluster, rpc_seconds=rpc_seconds, export=export)
    try:
        servers.start()
        yield servers
    finally:
        servers.kill()


def _command(verb: str, options: Mapping[str, Any]) -> list[str]:
    python = [os.fspath(ENVIRONMENT / "bin" / "python"), "-I", "-W", "ignore"]
    return [*python, os.fspath(_PROGRAM), verb, json.dumps(options, default=os.fspath)]


def _unwrapped(program: str) -> Path:
    """Return the server behind Debian's wrapper, which changes to another user."""
    behind = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    return behind[-1] if behind else Path(program)
