"""A certificate authority of our own, made with the openssl program."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from servers.missing import tool

# The system's openssl.cnf would add extensions of its own. Strict verification (the default from
# Python 3.13 on) wants critical basic constraints, key usage and key identifiers.
_CONFIGURATION = """
[req]
distinguished_name = dn
prompt = no
[dn]
CN = {name}
[ca]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = {hosts}
"""
_NEW_KEY = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, as PEM files."""

    chain: Path
    key: Path


class Authority:
    """A CA whose certificate is the PEM file `ca`; its files live in `directory`."""

    def __init__(self, directory: Path, *, name: str = "imgstore tests") -> None:
        self._directory = directory
        self.ca = directory / "ca.pem"
        self._configure("ca", name=name, hosts="DNS:localhost")
        files = ["-config", "ca.cnf", "-keyout", "ca.key", "-out", "ca.pem"]
        self._openssl(*_NEW_KEY, "-x509", "-days", "2", "-extensions", "ca", *files)

    def issue(self, name: str, hosts: list[str], *, days: int = 2) -> Certificate:
        """Issue a server certificate for `hosts`, each written ``IP:...`` or ``DNS:...``.

        It expires after so many `days`; -1 was yesterday.
        """
        made = Certificate(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        self._configure(name, name=name, hosts=",".join(hosts))
        files = ["-config", f"{name}.cnf", "-keyout", f"{name}.key", "-out", f"{name}.csr"]
        self._openssl(*_NEW_KEY, *files)
        signer = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", str(days)]
        files = ["-extfile", f"{name}.cnf", "-in", f"{name}.csr", "-out", f"{name}.pem"]
        self._openssl("x509", "-req", *signer, "-extensions", "server", *files)
        return made

    def _configure(self, file: str, *, name: str, hosts: str) -> None:
        text = _CONFIGURATION.format(name=name, hosts=hosts)
        (self._directory / f"{file}.cnf").write_text(text)

    def _openssl(self, *arguments: str) -> None:
        done = subprocess.run(
            [tool("openssl", what="openssl", package="openssl"), *arguments],
            cwd=self._directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"openssl {arguments[0]}: {done.stderr}")
