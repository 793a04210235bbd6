"""Keystone from PyPI over http and https, on a database of its own in a file.

Users, projects and roles are made as its admin, by plain requests. The domain is Keystone's first,
"Default", unless another is named. A second Keystone on the same database gives tokens that live
for some seconds; it starts when it is asked for.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlencode

from servers.certificates import Authority
from servers.openstack import Answer, Requests, ask, command, environment
from servers.process import Process, ServerFailed, free_port
from servers.scratch import Scratch

Scheme = Literal["http", "https"]
Interface = Literal["public", "internal", "admin"]

REGION = "RegionOne"
DOMAIN = "Default"

# cache: without it each request takes some 0.1 s more. It is the process's own, so a Keystone must
# not keep for long what may be changed through another.
# password_hash_rounds: as few as there may be; it is for the tests' time, not for secrecy.
# insecure_debug: a refused login says why.
# default_log_levels: requests are in the access log.
_CONFIGURATION = """\
[DEFAULT]
use_stderr = true
insecure_debug = true
default_log_levels = werkzeug=WARNING
max_token_size = 512
[database]
connection = sqlite:///{home}/keystone.db
sqlite_synchronous = false
[token]
expiration = {expiration}
[fernet_tokens]
key_repository = {home}/keys
[fernet_receipts]
key_repository = {home}/keys
[credential]
key_repository = {home}/keys
[cache]
enabled = true
backend = dogpile.cache.memory
expiration_time = {cached}
[revoke]
cache_time = {cached}
[identity]
cache_time = {cached}
password_hash_rounds = 4
"""


@dataclass(frozen=True)
class KeystoneUser:
    """A user, and the project for which it gets tokens at `url`."""

    url: str
    id: str
    name: str
    password: str
    project: str
    project_id: str
    domain: str = DOMAIN


@dataclass(frozen=True)
class ApplicationCredential:
    """What stands for a user and one of its projects at `url`."""

    url: str
    id: str
    name: str
    secret: str
    project_id: str


class Keystone:
    """A running Keystone: `process` may be killed and comes back on the same `ports`.

    `admin` may do everything; `service` is a user for service tokens. `requests` are those to
    either Keystone; the file `changes` grows with those that may end a token.
    """

    def __init__(self, scratch: Scratch, *, short_seconds: int = 5) -> None:
        self._scratch = scratch
        self._home = scratch.directory("keystone-data")
        authority = Authority(self._home)
        self.authority = authority
        self.ca = authority.ca
        self._certificate = authority.issue("keystone", ["IP:127.0.0.1", "DNS:localhost"])
        self.requests = Requests(self._home / "access.log")
        self.changes = self._home / "changes"
        (self._home / "keys").mkdir(mode=0o700)
        for name in "01":
            key = base64.urlsafe_b64encode(secrets.token_bytes(32))
            (self._home / "keys" / name).write_bytes(key)
        self.ports: dict[Scheme, int] = {"http": free_port(), "https": free_port()}
        self.url = f"http://127.0.0.1:{self.ports['http']}/v3"
        self.secure_url = f"https://127.0.0.1:{self.ports['https']}/v3"
        self._password = secrets.token_hex(8)
        self.process = self._server("keystone", self.ports, expiration=3600, cached=600)
        ports: dict[Scheme, int] = {"http": free_port(), "https": free_port()}
        self._short_url = f"http://127.0.0.1:{ports['http']}/v3"
        self._short = self._server("keystone-short", ports, expiration=short_seconds, cached=1)
        self._token = ""
        self._known: dict[tuple[str, str], str] = {}

    def start(self) -> None:
        """Start it, and make the users that everyone needs; raises ServerFailed."""
        self.process.start()
        project = self._id("projects", "admin")
        (user,) = self.call("GET", "users?name=admin")["users"]
        self.admin = KeystoneUser(self.url, user["id"], "admin", self._password, "admin", project)
        self.service = self.user("service", project="service", roles=("service",))

    def kill(self) -> None:
        """End it at once. Idempotent."""
        self._short.kill()
        self.process.kill()

    def heal(self) -> None:
        """Bring it back, whatever a test did to it."""
        for process in (self.process, self._short):
            # The second one need not have been started.
            if not process.untouched and (process is self.process or process.pid):
                process.revive()

    @property
    def short_url(self) -> str:
        """Where tokens live for `short_seconds`."""
        if not self._short.pid:
            self._short.start()
        return self._short_url

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Send a request as the admin, and return what it answers; raises ServerFailed."""
        for _ in range(2):
            self._token = self._token or self._login()
            answer = self._ask(method, path, body, self._token)
            if answer.status != 401:
                break
            self._token = ""  # it may have expired
        return _json(answer, f"{method} {path}")

    def domain(self, name: str) -> str:
        """Return a domain's id; it is made unless it is there."""
        return self._id("domains", name)

    def project(self, name: str, *, domain: str = DOMAIN) -> str:
        """Return a project's id; it is made unless it is there."""
        return self._id("projects", name, domain_id=self.domain(domain))

    def user(
        self,
        name: str,
        *,
        project: str = "",
        roles: tuple[str, ...] = ("member",),
        password: str = "",
        domain: str = DOMAIN,
    ) -> KeystoneUser:
        """Make a user with these roles in a project, by default one of the user's name."""
        password = password or secrets.token_hex(8)
        about = {"name": name, "password": password, "domain_id": self.domain(domain)}
        made = self.call("POST", "users", {"user": about})["user"]
        project = project or name
        project_id = self.project(project, domain=domain)
        user = KeystoneUser(self.url, made["id"], name, password, project, project_id, domain)
        for role in roles:
            self.grant(user, role)
        return user

    def grant(self, user: KeystoneUser, role: str) -> None:
        """Give a user a role in its project; the role is made unless it is there."""
        self.call("PUT", self._assignment(user, role))

    def withdraw(self, user: KeystoneUser, role: str) -> None:
        """Take a role from a user."""
        self.call("DELETE", self._assignment(user, role))

    def change(self, user: KeystoneUser, **about: object) -> None:
        """Change a user: its `password`, whether it is `enabled`."""
        self.call("PATCH", f"users/{user.id}", {"user": about})

    def token(self, user: KeystoneUser, *, url: str = "") -> str:
        """Log in, at `url` where that is given, and return the token."""
        answer = _log_in(user, url or user.url)
        _json(answer, f"{user.name} logs in")
        return answer.headers["x-subject-token"]

    def revoke(self, token: str) -> None:
        """End a token before its time."""
        headers = {"X-Auth-Token": self._token or self._login(), "X-Subject-Token": token}
        _json(ask("DELETE", f"{self.url}/auth/tokens", headers), "revoke")

    def application_credential(self, user: KeystoneUser) -> ApplicationCredential:
        """Make a credential that has the user's roles in its project."""
        about = {"name": secrets.token_hex(4), "secret": secrets.token_hex(16)}
        path = f"users/{user.id}/application_credentials"
        answer = self._ask("POST", path, {"application_credential": about}, self.token(user))
        made = _json(answer, f"POST {path}")["application_credential"]
        return ApplicationCredential(user.url, made["id"], **about, project_id=user.project_id)

    def trusts(self) -> list[dict[str, Any]]:
        """Return all trusts that were not deleted."""
        found: list[dict[str, Any]] = self.call("GET", "OS-TRUST/trusts")["trusts"]
        return found

    def endpoint(self, kind: str, region: str, interface: Interface, url: str) -> str:
        """Add to the catalogue an endpoint of the service of type `kind`, made where it is not.

        Returns its id, which `call("DELETE", "endpoints/<id>")` takes.
        """
        where = self._id("services", kind, type=kind)
        if ("regions", region) not in self._known:
            # An answer of 409 says that it is there.
            self._ask("POST", "regions", {"region": {"id": region}}, self._token)
            self._known["regions", region] = region
        about = {"service_id": where, "region_id": region, "interface": interface, "url": url}
        made: str = self.call("POST", "endpoints", {"endpoint": about})["endpoint"]["id"]
        return made

    def _assignment(self, user: KeystoneUser, role: str) -> str:
        return f"projects/{user.project_id}/users/{user.id}/roles/{self._id('roles', role)}"

    def _id(self, kind: str, name: str, **about: str) -> str:
        """Return the id of what has a name; it is made unless it is there."""
        key = (kind, json.dumps([name, about], sort_keys=True))
        if key not in self._known:
            asked = {"name": name, **about}
            found = self.call("GET", f"{kind}?{urlencode(asked)}")[kind]
            if not found:
                one = kind.removesuffix("s")
                found = [self.call("POST", kind, {one: asked})[one]]
            self._known[key] = found[0]["id"]
        return self._known[key]

    def _ask(self, method: str, path: str, body: object, token: str) -> Answer:
        headers = {"X-Auth-Token": token, "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        return ask(method, f"{self.url}/{path}", headers, data)

    def _login(self) -> str:
        admin = KeystoneUser(self.url, "", "admin", self._password, "admin", "")
        return self.token(admin)

    def _server(self, name: str, ports: dict[Scheme, int], **seconds: int) -> Process:
        directory = self._scratch.directory(name)
        conf = directory / "keystone.conf"
        conf.write_text(_CONFIGURATION.format(home=self._home, **seconds))
        public = {f"{interface}_url": self.url for interface in ("public", "internal", "admin")}
        options: dict[str, Any] = {
            "conf": conf,
            "database": self._home / "keystone.db",
            "log": self.requests.path,
            "changes": self.changes,
            "certificate": self._certificate.chain,
            "key": self._certificate.key,
            "bootstrap": {
                "admin_username": "admin",
                "admin_password": self._password,
                "project_name": "admin",
                "admin_role_name": "admin",
                "service_name": "keystone",
                "region_id": REGION,
                **public,
            },
            "http": ports["http"],
            "https": ports["https"],
        }
        return Process(
            name,
            command("keystone", "keystone", options),
            directory=directory,
            ready=lambda: _answers(ports["http"]),
            environment=environment() | {"OS_KEYSTONE_CONFIG_DIR": os.fspath(directory)},
            start_seconds=60.0,
        )


@contextlib.contextmanager
def keystone(scratch: Scratch, *, short_seconds: int = 5) -> Iterator[Keystone]:
    """Run Keystone; raises Missing where it is not installed."""
    server = Keystone(scratch, short_seconds=short_seconds)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def _log_in(user: KeystoneUser, url: str) -> Answer:
    who = {"name": user.name, "password": user.password, "domain": {"name": user.domain}}
    project = {"name": user.project, "domain": {"name": user.domain}}
    about = {
        "identity": {"methods": ["password"], "password": {"user": who}},
        "scope": {"project": project},
    }
    headers = {"Content-Type": "application/json"}
    return ask("POST", f"{url}/auth/tokens", headers, json.dumps({"auth": about}).encode())


def _json(answer: Answer, what: str) -> Any:
    if answer.status >= 300:
        raise ServerFailed(f"{what}: {answer.status} {answer.body!r}")
    return json.loads(answer.body) if answer.body else None


def _answers(port: int) -> bool:
    return ask("GET", f"http://127.0.0.1:{port}/v3", seconds=5).status == 200
