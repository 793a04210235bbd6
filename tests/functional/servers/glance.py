"""Glance's API from PyPI, on a database in a file and with the stores that a test gives it.

It is served by the façade over imgstore, or by the glance_store that it was written for: `switch`
does for it what an operator does. IMGSTORE_GLANCE names another directory with a `glance_store`
that stands for the façade; empty it is glance_store itself.

Without a Keystone whoever asks is an admin. There is a cache of images unless it is asked not to
be, and web-download may fetch from this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from servers.ceph import User as CephUser
from servers.cinder import Cinder
from servers.keystone import REGION, Interface, Keystone, KeystoneUser
from servers.missing import Missing
from servers.openstack import Requests, ask, environment
from servers.process import Process, ServerFailed, free_port
from servers.radosgw import User
from servers.scratch import Scratch

ENVIRONMENT = Path(__file__).resolve().parents[3] / ".venv" / "glance"
PYTHON = ENVIRONMENT / "bin" / "python"
STAGING = "os_glance_staging_store"
TASKS = "os_glance_tasks_store"

Library = Literal["imgstore", "glance_store"]

_PROGRAM = Path(__file__).with_name("glance_program.py")
# sqlite_synchronous: no test ends with the machine.
# node_staging_uri: unused where there are several stores, but Glance looks whether it is there.
_CONFIGURATION = """\
[DEFAULT]
use_stderr = true
default_log_levels = werkzeug=WARNING
enabled_backends = {enabled}
enabled_import_methods = [glance-direct,web-download,copy-image]
node_staging_uri = file://{home}/{staging}
worker_self_reference_url = {url}
show_image_direct_url = true
show_multiple_locations = true
image_cache_driver = centralized_db
image_cache_dir = {home}/cache
[database]
connection = sqlite:///{home}/glance.db?timeout=30
sqlite_synchronous = false
[glance_store]
default_backend = {default}
[{staging}]
filesystem_store_datadir = {home}/{staging}
[{tasks}]
filesystem_store_datadir = {home}/{tasks}
[paste_deploy]
config_file = {home}/paste.ini
flavor = {flavor}
[oslo_concurrency]
lock_path = {home}/locks
[import_filtering_opts]
allowed_hosts = [127.0.0.1]
allowed_ports = []
"""
_IDENTITY = """\
[keystone_authtoken]
www_authenticate_uri = {url}
auth_url = {url}
auth_type = password
username = {user.name}
password = {user.password}
project_name = {user.project}
user_domain_name = {user.domain}
project_domain_name = {user.domain}
service_token_roles_required = true
"""


@dataclass(frozen=True)
class GlanceStore:
    """One store of a Glance: its driver, options by glance_store's names, and variables."""

    driver: str
    options: Mapping[str, object]
    environment: Mapping[str, str] = field(default_factory=dict)

    def section(self, name: str) -> str:
        """Return its lines of Glance's configuration."""
        return "".join([f"[{name}]\n", *(f"{key} = {at}\n" for key, at in self.options.items())])


class Glance:
    """A running Glance at `url`: `process` may be killed and comes back on the same `port`.

    `library` serves it. Where there is a Keystone clients ask as `user`. `requests` are those to
    the API.
    """

    def __init__(
        self,
        scratch: Scratch,
        stores: Mapping[str, GlanceStore],
        *,
        library: Library = "imgstore",
        identity: Keystone | None = None,
        cache: bool = True,
    ) -> None:
        if not (ENVIRONMENT / ".made.stamp").exists():
            remedy = "python -m tools.environments glance"
            raise Missing("glance", f"Glance is not installed in {ENVIRONMENT} ({remedy})")
        self._scratch = scratch
        self._home = scratch.directory("glance-data")
        self._stores = stores
        self._identity = identity
        words = ["keystone"] if identity else []
        self._flavor = "+".join([*words, *(["caching"] if cache else [])])
        self.requests = Requests(self._home / "access.log")
        self.user: KeystoneUser | None = None
        self.library: Library = library
        paste = ENVIRONMENT / "etc" / "glance" / "glance-api-paste.ini"
        # Without a Keystone its middleware's headers come from the program itself.
        text = paste.read_text().replace(" unauthenticated-context ", " context ")
        (self._home / "paste.ini").write_text(text)
        for name in ("locks", "cache", STAGING, TASKS):
            (self._home / name).mkdir()
        self.port = free_port()
        self.process = self._server(self.port, library)

    @property
    def url(self) -> str:
        """Where the API answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def staged(self) -> list[str]:
        """The names of the files that wait to be imported."""
        return sorted(path.name for path in (self._home / STAGING).iterdir())

    @property
    def cached(self) -> list[str]:
        """The ids of the images in the cache."""
        paths = (self._home / "cache").iterdir()
        return sorted(path.name for path in paths if path.is_file())

    def start(self) -> None:
        """Make its database and start it; raises ServerFailed."""
        self._run("database", {"database": self._home / "glance.db"})
        self.process.start()
        if self._identity is not None:
            interfaces: tuple[Interface, ...] = ("public", "internal", "admin")
            for interface in interfaces:
                self._identity.endpoint("image", REGION, interface, self.url)

    def kill(self) -> None:
        """End it at once. Idempotent."""
        self.process.kill()

    def switch(self, library: Library) -> None:
        """Serve with another library from now on, on the same port."""
        self.process.stop()
        self.library = library
        self.process = self._server(self.port, library)
        self.process.start()

    @contextlib.contextmanager
    def another(self, library: Library) -> Iterator[tuple[str, Process]]:
        """Run a second API on the same database and stores; give its URL and its process."""
        port = free_port()
        with self._server(port, library) as process:
            yield f"http://127.0.0.1:{port}", process

    def token(self) -> str:
        """Return what to ask with."""
        if self._identity is None or self.user is None:
            return "none"
        return self._identity.token(self.user)

    def _server(self, port: int, library: Library) -> Process:
        directory = self._scratch.directory(f"glance-{library}")
        trusting = self._identity is None
        options = {"port": port, "log": self.requests.path, "trusting": trusting}
        return Process(
            f"glance-{library}",
            self._command("api", options),
            directory=directory,
            ready=lambda: ask("GET", f"http://127.0.0.1:{port}/", seconds=5).status == 300,
            environment=self._environment(self._configure(directory, port), library),
            start_seconds=120.0,
        )

    def _configure(self, directory: Path, port: int) -> Path:
        conf = directory / "glance-api.conf"
        conf.touch(mode=0o600)
        names = list(self._stores)
        text = _CONFIGURATION.format(
            enabled=",".join(f"{name}:{store.driver}" for name, store in self._stores.items()),
            home=self._home,
            staging=STAGING,
            tasks=TASKS,
            url=f"http://127.0.0.1:{port}",
            default=names[0],
            flavor=self._flavor,
        )
        text += "".join(store.section(name) for name, store in self._stores.items())
        conf.write_text(text + self._authentication())
        return directory

    def _authentication(self) -> str:
        if self._identity is None:
            return ""
        if self.user is None:
            name = f"images-{secrets.token_hex(4)}"
            self.user = self._identity.user(name, roles=("member", "admin", "service"))
        return _IDENTITY.format(url=self._identity.url, user=self._identity.service)

    def _environment(self, configuration: Path, library: Library) -> dict[str, str]:
        made = environment() | {
            "OS_GLANCE_CONFIG_DIR": os.fspath(configuration),
            "PYTHONWARNINGS": "ignore",
        }
        for store in self._stores.values():
            made |= store.environment
        # There is the program with which os-brick becomes root; Cinder's stand-ins come first.
        made["PATH"] = f"{made.get('PATH', os.defpath)}:{ENVIRONMENT / 'bin'}"
        if library == "imgstore" and (path := facade()):
            made["PYTHONPATH"] = path
        return made

    def _run(self, verb: str, options: Mapping[str, Any]) -> None:
        done = subprocess.run(
            self._command(verb, options),
            env=environment() | {"PYTHONWARNINGS": "ignore"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode != 0:
            raise ServerFailed(f"Glance's {verb}: {done.stderr[-2000:]}")

    def _command(self, verb: str, options: Mapping[str, Any]) -> list[str]:
        asked = json.dumps(options, default=os.fspath)
        return [os.fspath(PYTHON), "-P", os.fspath(_PROGRAM), verb, asked]


def facade() -> str:
    """Return the directory that has the façade's `glance_store`, "" for glance_store itself."""
    if (other := os.environ.get("IMGSTORE_GLANCE")) is not None:
        return other
    command = [os.fspath(PYTHON), "-P", "-m", "imgstore_glance"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    if said.returncode != 0:
        raise Missing("glance", f"imgstore-glance is not installed in {ENVIRONMENT}")
    return said.stdout.strip()


@contextlib.contextmanager
def glance(
    scratch: Scratch,
    stores: Mapping[str, GlanceStore],
    *,
    library: Library = "imgstore",
    identity: Keystone | None = None,
    cache: bool = True,
) -> Iterator[Glance]:
    """Run Glance with these stores, the first of which is the default; raises Missing."""
    server = Glance(scratch, stores, library=library, identity=identity, cache=cache)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def file_store(*directories: Path) -> GlanceStore:
    """Return a store of files in directories, which are filled in their order."""
    if len(directories) == 1:
        return GlanceStore("file", {"filesystem_store_datadir": directories[0]})
    # The option may be given several times, so a mapping cannot hold it.
    lines = "\nfilesystem_store_datadirs = ".join(
        f"{directory}:{100 - rank}" for rank, directory in enumerate(directories)
    )
    # The other option has a default, which glance_store refuses beside this one.
    return GlanceStore("file", {"filesystem_store_datadir": "", "filesystem_store_datadirs": lines})


def s3_store(url: str, user: User, bucket: str, **more: object) -> GlanceStore:
    """Return a store of objects in a bucket; glance_store does not know all that may be `more`."""
    options: dict[str, object] = {
        "s3_store_host": url,
        "s3_store_access_key": user.access_key,
        "s3_store_secret_key": user.secret_key,
        "s3_store_bucket": bucket,
        "s3_store_bucket_url_format": "path",
    }
    return GlanceStore("s3", options | more)


def swift_store(directory: Path, user: KeystoneUser, container: str, **more: object) -> GlanceStore:
    """Return a store of objects in a container, with its account in a file of `directory`."""
    references = directory / f"swift-{uuid.uuid4().hex[:8]}.conf"
    references.touch(mode=0o600)
    references.write_text(
        f"[images]\nauth_version = 3\nauth_address = {user.url}\n"
        f"user = {user.project}:{user.name}\nkey = {user.password}\n"
        "user_domain_id = default\nproject_domain_id = default\n"
    )
    options: dict[str, object] = {
        "swift_store_config_file": references,
        "default_swift_reference": "images",
        "swift_store_container": container,
        "swift_store_create_container_on_put": True,
    }
    return GlanceStore("swift", options | more)


def rbd_store(pool: str, user: CephUser) -> GlanceStore:
    """Return a store of images in a pool."""
    options = {
        "rbd_store_pool": pool,
        "rbd_store_user": user.name,
        "rbd_store_ceph_conf": user.conf,
    }
    return GlanceStore("rbd", options)


def cinder_store(server: Cinder, kind: str = "fast") -> GlanceStore:
    """Return a store of volumes of a type."""
    options = {
        "cinder_store_auth_address": server.user.url,
        "cinder_store_user_name": server.user.name,
        "cinder_store_password": server.user.password,
        "cinder_store_project_name": server.user.project,
        "cinder_volume_type": kind,
        "cinder_mount_point_base": server.mounts,
    }
    return GlanceStore(
        "cinder", options, {"PATH": server.path, "OSLO_LOCK_PATH": str(server.locks)}
    )
