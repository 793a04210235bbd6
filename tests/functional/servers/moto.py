"""moto's server, in an environment of its own: what AWS has and Ceph does not have yet.

It keeps everything in memory. It knows conditions on the completion of an upload in parts, Object
Lock, checksums, and bucket names in the host. It looks neither at signatures nor at policies, so
nothing about rights can be learnt here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from servers.certificates import Authority
from servers.missing import Missing
from servers.openstack import environment
from servers.process import Process, accepts, free_port
from servers.radosgw import User
from servers.scratch import Scratch

NAME = "s3.test"
ENVIRONMENT = Path(__file__).resolve().parents[3] / ".venv" / "moto"

Scheme = Literal["http", "https"]


class Moto:
    """The server, over `scheme`; `process` may be killed and forgets everything then."""

    def __init__(self, scratch: Scratch, scheme: Scheme = "http") -> None:
        program = ENVIRONMENT / "bin" / "moto_server"
        # Written last: before that an installation is under way, or failed.
        if not (ENVIRONMENT / ".made.stamp").exists():
            remedy = "python -m tools.environments moto"
            raise Missing("moto", f"moto's server is not installed in {ENVIRONMENT} ({remedy})")
        self.scheme = scheme
        self.port = free_port()
        directory = scratch.directory(f"moto-{scheme}")
        authority = Authority(directory)
        self.ca = authority.ca
        command: list[str | Path] = [program, "-H", "127.0.0.1", "-p", str(self.port)]
        if scheme == "https":
            hosts = ["IP:127.0.0.1", f"DNS:{NAME}", f"DNS:*.{NAME}"]
            certificate = authority.issue("moto", hosts)
            command += ["--ssl-cert", certificate.chain, "--ssl-key", certificate.key]
        self.process = Process(
            "moto",
            command,
            directory=directory,
            ready=lambda: accepts(("127.0.0.1", self.port)),
            environment=environment() | {"HOME": os.fspath(directory)},
        )

    def url(self, *, host: str = "127.0.0.1") -> str:
        """Return the endpoint, without a slash at its end."""
        return f"{self.scheme}://{host}:{self.port}"

    def heal(self) -> None:
        """Bring the server back, whatever a test did to it."""
        if not self.process.untouched:
            self.process.revive()


def any_user() -> User:
    """Return a user: the server believes any keys."""
    return User("tests", "AKIAEXAMPLEEXAMPLE00", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")


@contextmanager
def moto(scratch: Scratch, scheme: Scheme = "http") -> Iterator[Moto]:
    """Run the server while the context lasts."""
    server = Moto(scratch, scheme)
    with server.process:
        yield server
