"""The holder behind `servers.control`: it starts servers, says how to reach them, and waits."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from servers.ceph import GIB, Ceph, ceph
from servers.ceph import User as CephUser
from servers.cinder import Cinder, cinder
from servers.glance import (
    cinder_store,
    file_store,
    glance,
    rbd_store,
    s3_store,
    swift_store,
)
from servers.keeper import end_children
from servers.keystone import Keystone, KeystoneUser, keystone
from servers.nginx import PASSWORD, USER, nginx
from servers.process import Process
from servers.radosgw import RadosGateway, radosgw
from servers.radosgw import User as S3User
from servers.scratch import Scratch
from servers.swift import LARGE, Swift, swift
from servers.vsphere import vsphere

_SIZE = 32 * GIB  # of a sparse file
_NAMES = ("servers.env", "servers.json")  # in the order in which they appear


class _Servers:
    """What to start for each backend; each method returns how to reach it, by name."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.processes: list[Process] = []
        self._stack = stack
        self._scratch = stack.enter_context(Scratch())
        # A program whose start was interrupted would write into what is being removed.
        stack.callback(end_children)

    def nginx(self) -> dict[str, str]:
        server = self._stack.enter_context(nginx(self._scratch))
        self.processes.append(server.process)
        return {
            "url": server.url("files/"),
            "https_url": server.url("files/", scheme="https"),
            "ca": str(server.ca),
            "directory": str(server.root),
            "user": USER,
            "password": PASSWORD,
        }

    def s3(self) -> dict[str, str]:
        server, user = self._bucket
        return {
            "url": server.url(),
            "https_url": server.url("https"),
            "ca": str(server.ca),
            "access_key": user.access_key,
            "secret_key": user.secret_key,
            "bucket": "images",
            "admin_conf": str(server.conf),
        }

    def rbd(self) -> dict[str, str]:
        user = self._pool
        return {
            "conf": str(user.conf),
            "user": user.name,
            "pool": "images",
            "keyring": str(user.keyring),
            "admin_conf": str(self._ceph.conf),
        }

    def swift(self) -> dict[str, str]:
        identity = self._keystone
        servers, user = self._containers
        secure = servers.front(tls=True)
        self.processes.append(secure.process)
        v1 = servers.v1_user()
        return {
            "auth_url": identity.url,
            "https_auth_url": identity.secure_url,
            "user": user.name,
            "password": user.password,
            "project": user.project,
            "domain": user.domain,
            "storage_url": servers.account_url(user),
            "https_storage_url": servers.account_url(user).replace(servers.url, secure.url),
            "v1_auth_url": v1.url,
            "v1_user": v1.name,
            "v1_key": v1.key,
            "admin_password": identity.admin.password,
            "ca": str(identity.ca),
        }

    def cinder(self) -> dict[str, str]:
        server = self._volumes
        return {
            "auth_url": self._keystone.url,
            "user": server.user.name,
            "password": server.user.password,
            "project": server.user.project,
            "url": server.url,
            "types": "fast,slow,multi",
            "path": server.path,
            "mount_point_base": str(server.mounts),
            "lock_path": str(server.locks),
        }

    def vsphere(self) -> dict[str, str]:
        server = self._stack.enter_context(vsphere(self._scratch))
        self.processes.append(server.process)
        listed = [server.datastore("DC0"), server.datastore("F0/DC1")]
        return {  # as `make test-vsphere` has them
            "host": f"127.0.0.1:{server.ports['https']}",
            "username": server.user,
            "password": server.password,
            "ca_file": str(server.ca),
            "datastores": ";".join(f"{each.datacenter}:{each.name}" for each in listed),
            "directory": str(listed[0].root),
        }

    def glance(self) -> dict[str, str]:
        gateway, s3_user = self._bucket
        stores = {
            "files": file_store(self._scratch.directory("glance-files")),
            "objects": s3_store(gateway.url(), s3_user, "images"),
            "container": swift_store(
                self._scratch.directory("glance-swift"), self._containers[1], "images"
            ),
            "pool": rbd_store("images", self._pool),
            "volumes": cinder_store(self._volumes),
        }
        held = glance(self._scratch, stores, identity=self._keystone)
        server = self._stack.enter_context(held)
        self.processes.append(server.process)
        assert server.user is not None
        return {
            "url": server.url,
            "auth_url": self._keystone.url,
            "user": server.user.name,
            "password": server.user.password,
            "project": server.user.project,
            "domain": server.user.domain,
            "stores": ",".join(stores),
            "log": str(server.process.log),
        }

    @cached_property
    def _bucket(self) -> tuple[RadosGateway, S3User]:
        server = self._stack.enter_context(radosgw(self._scratch, self._ceph))
        self.processes.append(server.process)
        user = server.user("glance")
        server.bucket(user, "images")
        return server, user

    @cached_property
    def _pool(self) -> CephUser:
        self._ceph.pool("images")
        return self._ceph.user("glance", mon="profile rbd", osd="profile rbd pool=images")

    @cached_property
    def _containers(self) -> tuple[Swift, KeystoneUser]:
        held = swift(self._scratch, self._keystone, max_file_size=LARGE)
        servers = self._stack.enter_context(held)
        self.processes += servers.processes
        return servers, self._keystone.user("glance-swift")

    @cached_property
    def _volumes(self) -> Cinder:
        cluster = ceph(self._scratch, store="bluestore", size=_SIZE, mgr=True)
        held = self._stack.enter_context(cluster)
        server = self._stack.enter_context(cinder(self._scratch, self._keystone, held))
        self.processes += [held.mon, held.osd, *server.services.values()]
        return server

    @cached_property
    def _keystone(self) -> Keystone:
        identity = self._stack.enter_context(keystone(self._scratch))
        self.processes.append(identity.process)
        return identity

    @cached_property
    def _ceph(self) -> Ceph:
        cluster = self._stack.enter_context(ceph(self._scratch, store="bluestore", size=_SIZE))
        self.processes += [cluster.mon, cluster.osd]
        return cluster


BACKENDS: dict[str, Callable[[_Servers], dict[str, str]]] = {
    "nginx": _Servers.nginx,
    "s3": _Servers.s3,
    "rbd": _Servers.rbd,
    "swift": _Servers.swift,
    "cinder": _Servers.cinder,
    "vsphere": _Servers.vsphere,
    "glance": _Servers.glance,
}


def hold(directory: Path, backends: list[str]) -> int:
    """Run servers until SIGTERM; their description appears in `directory` when they answer.

    Whoever started this confirms that by a line on standard input, or nothing is kept.
    """
    # A lock of the process: what it starts does not inherit it.
    lock = os.open(directory / "holder", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    signal.signal(signal.SIGTERM, _leave)
    with contextlib.ExitStack() as stack:
        stack.callback(forget, directory)
        servers = _Servers(stack)
        described = {name: BACKENDS[name](servers) for name in backends}
        pids = {process.name: process.pid for process in servers.processes}
        _write(directory, {"holder": os.getpid(), "processes": pids, "servers": described})
        if not sys.stdin.buffer.readline():
            return 1
        signal.pause()
    return 0


def forget(directory: Path) -> None:
    """Remove the description."""
    for name in _NAMES:
        (directory / name).unlink(missing_ok=True)


def _leave(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(0)


def _write(directory: Path, state: dict[str, object]) -> None:
    """Write the description for programs and for shells, each whole or not at all."""
    servers = state["servers"]
    assert isinstance(servers, dict)
    lines = [
        f"IMGSTORE_{server}_{name}".upper() + f"={shlex.quote(value)}\n"
        for server, values in servers.items()
        for name, value in values.items()
    ]
    texts = ("".join(lines), json.dumps(state, indent=2) + "\n")
    for name, text in zip(_NAMES, texts, strict=True):
        made = directory / f"{name}.new"
        made.touch(mode=0o600)
        made.write_text(text)
        made.replace(directory / name)
