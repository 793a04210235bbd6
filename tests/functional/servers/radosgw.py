"""radosgw, Ceph's gateway for S3 (with STS) and Swift, over http and https.

Requests to 127.0.0.1 or ``s3.test`` name their bucket in the path; ``BUCKET.s3.test`` is the
bucket's own host. Where these names lead to is up to `servers.names`; the certificate holds for
all of them. Any other name, localhost too, would be taken for that of a bucket. What is deleted is
gone from the cluster within seconds.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import http.client
import json
import secrets
import ssl
import string
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import formatdate
from typing import Literal
from urllib.parse import urlencode
from xml.etree import ElementTree

from servers.ceph import Ceph, environment
from servers.certificates import Authority
from servers.missing import tool
from servers.process import Process, ServerFailed, free_port
from servers.scratch import Scratch

Scheme = Literal["http", "https"]

NAME = "s3.test"
PART = 5 << 20

_HOSTS = ["IP:127.0.0.1", "DNS:localhost", f"DNS:{NAME}", f"DNS:*.{NAME}"]

# tcp_nodelay: without it many an answer waits 40 ms for the client's delayed acknowledgement.
# rgw_cache_enabled: a gateway tells the others of its changes, and would wait half a minute for one
# that was killed.
# rgw_gc_*: by default what was deleted takes up its room for two more hours.
# rgw_sts_key: 16 characters. rgw_sts_min_session_duration: 900 s, too long for a test.
_CONFIGURATION = """
[client.rgw]
keyring = {keyring}
log_to_stderr = true
rgw_data = {home}
rgw_frontends = beast tcp_nodelay=1 endpoint=127.0.0.1:{http} ssl_endpoint=127.0.0.1:{https} \
ssl_certificate={certificate} ssl_private_key={key} tcp_nodelay=1
rgw_dns_name = {name}
rgw_thread_pool_size = 64
rgw_enable_usage_log = false
rgw_cache_enabled = {cache}
rgw_gc_obj_min_wait = 1
rgw_gc_processor_period = 2
rgw_gc_processor_max_time = 2
rgw_gc_max_concurrent_io = 20
rgw_multipart_min_part_size = {part}
rgw_s3_auth_use_sts = true
rgw_sts_key = {sts}
rgw_sts_min_session_duration = 1
"""


@dataclass(frozen=True)
class User:
    """A user of S3, with its keys."""

    name: str
    access_key: str
    secret_key: str


@dataclass(frozen=True)
class Session:
    """Temporary credentials for S3."""

    access_key: str
    secret_key: str
    token: str


@dataclass(frozen=True)
class SwiftUser:
    """A user of the Swift API: `name` is ``ACCOUNT:SUBUSER``, `url` is where it logs in."""

    name: str
    key: str
    url: str


class RadosGateway:
    """A gateway to `cluster`: `process` may be killed and comes back on the same `ports`."""

    def __init__(
        self, scratch: Scratch, cluster: Ceph, *, part: int = PART, cache: bool = False
    ) -> None:
        program = tool("radosgw", what="radosgw", package="radosgw")
        self._admin = tool("radosgw-admin", what="radosgw", package="ceph-common")
        self.cluster = cluster
        self.ports: dict[Scheme, int] = {"http": free_port(), "https": free_port()}
        directory = scratch.directory("radosgw")
        authority = Authority(directory)
        self.ca = authority.ca
        certificate = authority.issue("radosgw", _HOSTS)
        user = cluster.user("rgw", mon="allow rwx", osd="allow rwx")
        self.conf = directory / "ceph.conf"
        self._roles: set[str] = set()
        section = _CONFIGURATION.format(
            cache=str(cache).lower(),
            home=directory,
            keyring=user.keyring,
            certificate=certificate.chain,
            key=certificate.key,
            name=NAME,
            part=part,
            sts=secrets.token_hex(8),
            **self.ports,
        )
        self.conf.write_text(cluster.conf.read_text() + section)
        self.process = Process(
            "radosgw",
            [program, "--conf", self.conf, "-f", "-n", "client.rgw"],
            directory=directory,
            ready=self._answers,
            environment=environment(),
            start_seconds=60.0,
        )

    def url(self, scheme: Scheme = "http", *, host: str = "127.0.0.1") -> str:
        """Return the endpoint, without a slash at its end."""
        return f"{scheme}://{host}:{self.ports[scheme]}"

    def heal(self) -> None:
        """Bring the cluster and the gateway back, whatever a test did to them."""
        self.cluster.heal()
        if not self.process.untouched:
            self.process.revive()

    def user(self, name: str, *, max_size: int | None = None) -> User:
        """Create a user with random keys and, where `max_size` is given, with `quota()`.

        The secret has "/" and "+", which a client must not take for a path or a blank.
        """
        alphabet = string.ascii_letters + string.digits
        access_key = "".join(secrets.choice(alphabet) for _ in range(20)).upper()
        secret_key = "".join(secrets.choice(alphabet) for _ in range(34)) + "/k+a/b"
        keys = [f"--access-key={access_key}", f"--secret-key={secret_key}"]
        self.admin("user", "create", f"--uid={name}", f"--display-name={name}", *keys)
        made = User(name, access_key, secret_key)
        if max_size is not None:
            self.quota(made, max_size)
        return made

    def quota(self, user: User, max_bytes: int | None) -> None:
        """Let all buckets of a user hold at most `max_bytes` together; None lifts the quota."""
        scope = ["--quota-scope=user", f"--uid={user.name}"]
        if max_bytes is not None:
            self.admin("quota", "set", *scope, f"--max-size={max_bytes}")
        self.admin("quota", "disable" if max_bytes is None else "enable", *scope)

    def bucket(self, user: User, name: str) -> None:
        """Create a bucket, for those who have no S3 client at hand."""
        self._ask(user, "PUT", f"/{name}", {})

    def swift_user(self, user: User) -> SwiftUser:
        """Let a user in at the Swift API too, with all rights."""
        name, key = f"{user.name}:swift", secrets.token_hex(16)
        subuser = [f"--uid={user.name}", f"--subuser={name}", "--access=full"]
        self.admin("subuser", "create", *subuser, "--key-type=swift", f"--secret-key={key}")
        return SwiftUser(name, key, f"{self.url()}/auth/v1.0")

    def session(self, user: User, *, seconds: int) -> Session:
        """Return credentials for all that the user has, which end after `seconds`.

        By AssumeRole: a session of GetSessionToken lasts 900 s at least, whatever is configured.
        """
        role = f"everything-of-{user.name}"
        if role not in self._roles:
            trust = _policy(
                "sts:AssumeRole", Principal={"AWS": [f"arn:aws:iam:::user/{user.name}"]}
            )
            rights = _policy("s3:*", Resource="*")
            named = f"--role-name={role}"
            self.admin("role", "create", named, f"--assume-role-policy-doc={trust}")
            self.admin("role-policy", "put", named, "--policy-name=all", f"--policy-doc={rights}")
            self._roles.add(role)
        form = {
            "Action": "AssumeRole",
            "DurationSeconds": str(seconds),
            "RoleArn": f"arn:aws:iam:::role/{role}",
            "RoleSessionName": "session",
            "Version": "2011-06-15",
        }
        answer = ElementTree.fromstring(self._ask(user, "POST", "/", form))
        names = ("AccessKeyId", "SecretAccessKey", "SessionToken")
        return Session(*(answer.findtext(f".//{{*}}{name}") or "" for name in names))

    def admin(self, *arguments: str, seconds: float = 60.0) -> str:
        """Run ``radosgw-admin`` and return its output; raises ServerFailed."""
        command = [self._admin, "-n", "client.rgw", "--log-to-stderr=false", *arguments]
        return self.cluster.run(command, conf=self.conf, seconds=seconds)

    def _ask(self, user: User, method: str, path: str, form: dict[str, str]) -> bytes:
        """Send a request, signed as of version 2, for which an HMAC is all it takes."""
        kind, date = "application/x-www-form-urlencoded", formatdate(usegmt=True)
        signed = f"{method}\n\n{kind}\n{date}\n{path}".encode()
        digest = hmac.digest(user.secret_key.encode(), signed, "sha1")
        authorization = f"AWS {user.access_key}:{base64.b64encode(digest).decode()}"
        headers = {"Authorization": authorization, "Content-Type": kind, "Date": date}
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["http"], timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, urlencode(form), headers)
            response = connection.getresponse()
            body = response.read()
        if response.status != 200:
            raise ServerFailed(f"{method} {path} {form}: {response.status} {body!r}")
        return body

    def _answers(self) -> bool:
        context = ssl.create_default_context(cafile=str(self.ca))
        plain = http.client.HTTPConnection("127.0.0.1", self.ports["http"], timeout=5)
        secure = http.client.HTTPSConnection(
            "127.0.0.1", self.ports["https"], timeout=5, context=context
        )
        answers = []
        for connection in (plain, secure):
            with contextlib.closing(connection):
                connection.request("GET", "/")
                answers.append(connection.getresponse().status)
        return answers == [200, 200]


@contextlib.contextmanager
def radosgw(
    scratch: Scratch, cluster: Ceph, *, part: int = PART, cache: bool = False
) -> Iterator[RadosGateway]:
    """Run a gateway; `part` is the smallest size of a part that is not the last, in bytes.

    With its `cache` a request is some ms faster, as in production. But a killed gateway is missed
    then: making a user or a bucket waits 30 s for its word that it dropped what it remembers.
    """
    gateway = RadosGateway(scratch, cluster, part=part, cache=cache)
    try:
        gateway.process.start()
        yield gateway
    finally:
        gateway.process.kill()


def _policy(action: str, **more: object) -> str:
    statement = {"Effect": "Allow", "Action": [action], **more}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
