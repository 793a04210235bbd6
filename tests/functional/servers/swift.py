"""Swift from PyPI: account, container and object server behind one proxy, or several.

It knows the users of a Keystone, whose projects have the accounts ``AUTH_...``, and those of v1
authentication (`TESTER`, `OTHER` and `MANAGER`), whose accounts are ``TEMP_...``. The catalogue of
Keystone names it so that the host and the path of a request tell which endpoint was taken:

============  =========  =========  ==================================================
object-store  RegionOne  public     http://127.0.0.1:PORT/v1/AUTH_...
object-store  RegionOne  internal   http://localhost:PORT/v1/AUTH_...
object-store  RegionOne  admin      http://127.0.0.1:PORT/v1.0/AUTH_...
images        RegionOne  public     http://127.0.0.1:PORT/v1/AUTH_...
images        RegionTwo  public     http://localhost:PORT/v1.0/AUTH_...
images        RegionTLS  public     https://127.0.0.1:PORT/v1/AUTH_...: ``front(tls=True)``
============  =========  =========  ==================================================

Who names no region gets any of a type's endpoints, so the usual type has one region only.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import pwd
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from servers.keystone import Interface, Keystone, KeystoneUser
from servers.missing import Missing
from servers.openstack import Answer, Requests, ask, command, environment, run
from servers.process import Process, ServerFailed, free_port, until
from servers.radosgw import SwiftUser
from servers.scratch import Scratch
from servers.swift_files import COMMON, PLAIN, PROXY, SERVER

MIB = 1 << 20
LARGE = (5 << 30) + 2

TESTER = ("tests", "tester", "testing")
OTHER = ("others", "other", "te%st:i@ng/")
MANAGER = ("managers", "manager", "managing")

_GROUPS = {TESTER: ".admin", OTHER: ".admin", MANAGER: ".admin .reseller_admin"}
_ENDPOINTS: tuple[tuple[str, str, Interface, str], ...] = (
    ("object-store", "RegionOne", "public", "http://127.0.0.1:{http}/v1"),
    ("object-store", "RegionOne", "internal", "http://localhost:{http}/v1"),
    ("object-store", "RegionOne", "admin", "http://127.0.0.1:{http}/v1.0"),
    ("images", "RegionOne", "public", "http://127.0.0.1:{http}/v1"),
    ("images", "RegionTwo", "public", "http://localhost:{http}/v1.0"),
    ("images", "RegionTLS", "public", "https://127.0.0.1:{https}/v1"),
)
_STORAGE = ("account", "container", "object")


@dataclass(frozen=True)
class Front:
    """A proxy server: `process` may be killed and comes back at the same `url`."""

    url: str
    process: Process
    requests: Requests
    ca: Path

    def info(self) -> dict[str, Any]:
        """Return what the proxy says of itself to everyone."""
        found: dict[str, Any] = json.loads(ask("GET", f"{self.url}/info", ca=self.ca).body)
        return found


class Swift:
    """Servers of Swift; `account`, `container`, `object` and `proxy` are their processes.

    `url` is the proxy's, without a slash at its end, and `requests` are those to it.
    """

    def __init__(
        self,
        scratch: Scratch,
        keystone: Keystone,
        *,
        max_file_size: int,
        listing_limit: int,
        node_timeout: float,
        token_cache_seconds: int,
        cache: bool,
        devices: Path | None,
        in_catalogue: bool,
    ) -> None:
        self.keystone = keystone
        self._in_catalogue = in_catalogue
        self._scratch = scratch
        self._home = scratch.directory("swift-data")
        self._changes = self._home / "changes"
        self._devices = devices or scratch.directory("swift-devices")
        (self._devices / "disk").mkdir()
        _check_attributes(self._devices / "disk")
        certificate = keystone.authority.issue("swift", ["IP:127.0.0.1", "DNS:localhost"])
        self._ca = keystone.ca
        self._tls = f"cert_file = {certificate.chain}\nkey_file = {certificate.key}"
        self._settings = {
            "cache": "cache" if cache else "memory",
            "changes": self._changes,
            "changes_of_tokens": keystone.changes,
            "node_timeout": node_timeout,
            "tokens": _tokens(token_cache_seconds),
            "fernet": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        }
        self._ports = {kind: free_port() for kind in (*_STORAGE, "http", "https")}
        self._fronts: dict[object, Front] = {}
        limits = {"max_file_size": max_file_size, "listing_limit": listing_limit}
        (self._home / "swift.conf").write_text(COMMON.format(**limits))
        self._storage = {kind: self._storage_server(kind) for kind in _STORAGE}
        self.account, self.container, self.object = self._storage.values()

    def start(self) -> None:
        """Start all servers and enter them in Keystone's catalogue; raises ServerFailed."""
        ports = {kind: self._ports[kind] for kind in _STORAGE}
        # At once: each spends its time on imports.
        with ThreadPoolExecutor() as pool:
            started = [pool.submit(process.start) for process in self._storage.values()]
            run("swift", "rings", {"directory": self._home, "ports": ports})
            self._enter()
            self.main = self.front()
            for future in started:
                future.result()

    def kill(self) -> None:
        """End all servers at once. Idempotent."""
        for process in self.processes:
            process.kill()

    def heal(self) -> None:
        """Bring Keystone and all servers back, and wait until they store objects and list them."""
        self.keystone.heal()
        hurt = [process for process in self.processes if not process.untouched]
        for process in hurt:
            process.revive()
        if any(self._devices.glob("disk/async_pending*/*/*")):
            self.update()
        if hurt:
            until(self._stores, seconds=30, what="Swift stores and returns an object")

    def update(self) -> None:
        """Tell containers of objects, and accounts of containers, what has not reached them yet.

        No daemon does that here. Of the size of a container its account learns in no other way.
        """
        for kind in ("object", "container"):
            options = {"conf": self._home / f"{kind}.conf", "arguments": ["once"]}
            run("swift", f"{kind}-updater", options)

    def front(
        self,
        *,
        tls: bool = False,
        slo: bool = True,
        max_manifest_segments: int = 1000,
        token_cache_seconds: int | None = None,
    ) -> Front:
        """Return a proxy server like this; it starts when it is asked for the first time.

        Without `slo` it knows no static large objects. There is at most one with `tls`.
        """
        asked = ("https",) if tls else (slo, max_manifest_segments, token_cache_seconds)
        if asked not in self._fronts:
            settings = self._settings | {
                "slo": "slo" if slo else "",
                "max_manifest_segments": max_manifest_segments,
                "tls": self._tls if tls else "",
            }
            if token_cache_seconds is not None:
                settings["tokens"] = _tokens(token_cache_seconds)
            scheme = "https" if tls else "http"
            known = tls or not self._fronts  # from the catalogue
            port = self._ports[scheme] if known else free_port()
            self._fronts[asked] = self._proxy_server(scheme, port, settings)
        made = self._fronts[asked]
        if not made.process.pid:
            made.process.start()
        return made

    @property
    def processes(self) -> list[Process]:
        """All servers, whether they run or not."""
        return [*self._storage.values(), *(front.process for front in self._fronts.values())]

    @property
    def url(self) -> str:
        """The address of the first proxy, without a slash at its end."""
        return self.main.url

    @property
    def proxy(self) -> Process:
        """The first proxy."""
        return self.main.process

    @property
    def requests(self) -> Requests:
        """What clients asked of the first proxy."""
        return self.main.requests

    def info(self) -> dict[str, Any]:
        """Return what the first proxy says of itself to everyone."""
        return self.main.info()

    def v1_user(self, who: tuple[str, str, str] = TESTER) -> SwiftUser:
        """Return one of the users of v1 authentication."""
        account, name, key = who
        return SwiftUser(f"{account}:{name}", key, f"{self.url}/auth/v1.0")

    def account_url(self, user: KeystoneUser | SwiftUser) -> str:
        """Return where a user's containers are."""
        if isinstance(user, SwiftUser):
            return f"{self.url}/v1/TEMP_{user.name.partition(':')[0]}"
        return f"{self.url}/v1/AUTH_{user.project_id}"

    def quota(
        self, user: KeystoneUser | SwiftUser, max_bytes: int | None, *, container: str = ""
    ) -> None:
        """Let a user's account, or one container of it, hold at most `max_bytes`; None lifts that.

        An account's is checked against what `update()` brought to it last.
        """
        what, path = ("Container", f"/{container}") if container else ("Account", "")
        limit = {f"X-{what}-Meta-Quota-Bytes": "" if max_bytes is None else str(max_bytes)}
        token = self._manager_token(user)
        self._must("POST", self.account_url(user) + path, {"X-Auth-Token": token, **limit})

    def _manager_token(self, user: KeystoneUser | SwiftUser) -> str:
        if isinstance(user, KeystoneUser):
            return self.keystone.token(self._manager)
        manager = self.v1_user(MANAGER)
        login = {"X-Auth-User": manager.name, "X-Auth-Key": manager.key}
        return self._must("GET", manager.url, login).headers["x-auth-token"]

    def _stores(self) -> bool:
        manager = self.v1_user(MANAGER)
        place = f"{self.account_url(manager)}/heal"
        headers = {"X-Auth-Token": self._manager_token(manager)}
        stored = secrets.token_bytes(8)
        answers = [
            ask("PUT", place, headers, b""),
            ask("PUT", f"{place}/object", headers, stored),
            ask("GET", f"{place}/object", headers),
        ]
        return answers[-1].status == 200 and answers[-1].body == stored

    def _must(self, method: str, url: str, headers: dict[str, str]) -> Answer:
        answer = ask(method, url, headers)
        if answer.status >= 300:
            raise ServerFailed(f"{method} {url}: {answer.status} {answer.body!r}")
        return answer

    def _enter(self) -> None:
        name = f"manager-{secrets.token_hex(4)}"
        roles = ("ResellerAdmin",)
        self._manager = self.keystone.user(name, project="service", roles=roles)
        if self._in_catalogue:
            for kind, region, interface, url in _ENDPOINTS:
                place = url.format(**self._ports) + "/AUTH_%(project_id)s"
                self.keystone.endpoint(kind, region, interface, place)

    def _storage_server(self, kind: str) -> Process:
        port = self._ports[kind]
        text = SERVER.format(kind=kind, port=port, devices=self._devices, **self._places())
        return self._server(kind, kind, text, f"http://127.0.0.1:{port}")

    def _proxy_server(self, scheme: str, port: int, settings: dict[str, Any]) -> Front:
        name = f"proxy-{len(self._fronts) + 1}"
        url = f"{scheme}://127.0.0.1:{port}"
        requests = Requests(self._scratch.directory(f"swift-{name}-access") / "access.log")
        users = [
            f"user_{account}_{user} = {key} {groups}"
            for (account, user, key), groups in _GROUPS.items()
        ]
        service = self.keystone.service
        text = PROXY.format(
            port=port,
            log=requests.path,
            users="\n".join(users),
            keystone=self.keystone.url,
            service=service.name,
            password=service.password,
            **self._places(),
            **settings,
        )
        plain = "".join(f"[filter:{each}]\nuse = egg:swift#{each}\n" for each in PLAIN)
        return Front(url, self._server("proxy", name, text + plain, url), requests, self._ca)

    def _places(self) -> dict[str, object]:
        return {"home": self._home, "user": pwd.getpwuid(os.geteuid()).pw_name}

    def _server(self, kind: str, name: str, text: str, url: str) -> Process:
        conf = self._home / f"{name}.conf"
        conf.touch(mode=0o600)
        conf.write_text(text)
        make = partial(_Storage, changes=self._changes) if kind in _STORAGE else Process
        return make(
            f"swift-{name}",
            command("swift", kind, {"conf": conf}),
            directory=self._scratch.directory(f"swift-{name}"),
            ready=lambda: ask("GET", f"{url}/healthcheck", ca=self._ca, seconds=5).status == 200,
            environment=environment(),
            start_seconds=60.0,
        )


class _Storage(Process):
    """A server behind the proxies, which know no more of it than if they had never asked."""

    def __init__(self, *arguments: Any, changes: Path, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._changes = changes

    def _signal(self, number: int) -> None:
        super()._signal(number)
        with self._changes.open("ab") as file:
            file.write(b".")


def _tokens(cache_seconds: int) -> str:
    """Return how keystonemiddleware caches tokens."""
    if cache_seconds < 0:
        return "cache = tests.tokens"
    return f"token_cache_time = {cache_seconds}"


@contextlib.contextmanager
def swift(
    scratch: Scratch,
    keystone: Keystone,
    *,
    max_file_size: int = 5 * MIB,
    listing_limit: int = 10_000,
    node_timeout: float = 10.0,
    token_cache_seconds: int = -1,
    cache: bool = False,
    devices: Path | None = None,
    in_catalogue: bool = True,
) -> Iterator[Swift]:
    """Run Swift; raises Missing where it is not installed.

    An object holds at most `max_file_size` bytes (`LARGE` is Swift's own limit), one page of a
    listing `listing_limit` names. A proxy waits `node_timeout` seconds for a server that does not
    answer. It trusts a token without asking Keystone again for `token_cache_seconds`; with -1 as
    long as nothing changed there. With `cache` it remembers accounts and containers for a minute,
    as in production; without, it sees at once what another proxy did and that a server is away, and
    quotas hold to the byte. Objects are kept in `devices`.
    Of several on one Keystone, only one may be in the catalogue.
    """
    servers = Swift(
        scratch,
        keystone,
        max_file_size=max_file_size,
        listing_limit=listing_limit,
        node_timeout=node_timeout,
        token_cache_seconds=token_cache_seconds,
        cache=cache,
        devices=devices,
        in_catalogue=in_catalogue,
    )
    try:
        servers.start()
        yield servers
    finally:
        servers.kill()


def _check_attributes(directory: Path) -> None:
    try:
        os.setxattr(directory, "user.swift", b"")
    except OSError as exc:
        if exc.errno not in (errno.ENOTSUP, errno.EPERM):
            raise
        reason = f"the file system of {directory} has no extended attributes for users"
        raise Missing("swift", reason) from None
