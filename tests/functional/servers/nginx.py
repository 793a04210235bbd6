"""nginx from the distribution's packages, serving a directory over http and https.

Paths, each over both schemes; PATH is any path of this server, FILE a file below `root`:

====================  ========================================================================
/files/FILE           ranges, ETag, Last-Modified
/auth/FILE            the same behind basic authentication (`USER`, `PASSWORD`)
/redirect/CODE/PATH   301, 302, 303, 307 or 308 to /PATH, absolute
/relative/CODE/PATH   the same with a Location that has neither scheme nor host (``/PATH``)
/dot/FILE             302 with Location ``../files/FILE``
/elsewhere/PATH       302 to the same scheme and port on 127.0.0.2
/unnamed/PATH         302 to the same scheme and port on 127.0.0.3, absent from the certificate
/downgrade/PATH       302 to http://127.0.0.1
/upgrade/PATH         302 to https://127.0.0.1
/chain/N/PATH         N redirects (1 to 9), then /PATH
/circle/1             /circle/1 and /circle/2 redirect to each other
/itself               redirects to itself
/gzip/FILE            gzip for every type where the client accepts it
/nohead/FILE          405 for HEAD
/norange/FILE         Range is ignored: 200 and the whole file
/noversion/FILE       neither ETag nor Last-Modified
/chunked/FILE         chunked, no Content-Length, no ranges
/cookie/FILE          sets the cookie ``kept=yes`` on all paths
/echo                 200, the request's Authorization, Cookie and Accept-Encoding, one a line
====================  ========================================================================
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from servers.certificates import Authority
from servers.missing import tool
from servers.process import Process, free_port, until
from servers.scratch import Scratch

USER = "reader"
PASSWORD = "open sesame"

Scheme = Literal["http", "https"]

_HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")

_CONFIGURATION = """
daemon off;
master_process off;
pid nginx.pid;
error_log stderr info;
events { worker_connections 256; }
http {
    log_format requests escape=json '{"method":"$request_method","target":"$request_uri",'
        '"scheme":"$scheme","host":"$server_addr","status":"$status","range":"$http_range",'
        '"if_range":"$http_if_range","accept_encoding":"$http_accept_encoding",'
        '"authorization":"$http_authorization","cookie":"$http_cookie",'
        '"connection":"$connection"}';
    access_log access.log requests;
    client_body_temp_path temporary/body;
    proxy_temp_path temporary/proxy;
    fastcgi_temp_path temporary/fastcgi;
    uwsgi_temp_path temporary/uwsgi;
    scgi_temp_path temporary/scgi;
    default_type application/octet-stream;
    sendfile on;
    server {
%(listen)s
        ssl_certificate %(certificate)s;
        ssl_certificate_key %(key)s;
        set $here $scheme://127.0.0.1:$server_port;
        location /files/ { alias %(root)s/; }
        location /auth/ {
            alias %(root)s/;
            auth_basic "images";
            auth_basic_user_file passwords;
        }
%(redirects)s
        location /gzip/ {
            alias %(root)s/;
            gzip on;
            gzip_types *;
            gzip_min_length 0;
            gzip_http_version 1.0;
        }
        location /nohead/ {
            alias %(root)s/;
            if ($request_method = HEAD) { return 405; }
        }
        location /norange/ { alias %(root)s/; max_ranges 0; }
        location /noversion/ { alias %(root)s/; etag off; add_header Last-Modified ""; }
        location /chunked/ { alias %(root)s/; ssi on; ssi_types *; }
        location /cookie/ { alias %(root)s/; add_header Set-Cookie "kept=yes; Path=/"; }
        location = /echo {
            default_type text/plain;
            return 200 "$http_authorization\\n$http_cookie\\n$http_accept_encoding\\n";
        }
    }
}
"""


@dataclass(frozen=True)
class Logged:
    """A request as nginx logged it; a header that was absent is ""."""

    method: str
    target: str
    scheme: str
    host: str
    status: int
    range: str
    if_range: str
    accept_encoding: str
    authorization: str
    cookie: str
    connection: int


class Nginx:
    """A running nginx: put files below `root`, read what was asked from `requests()`."""

    def __init__(self, scratch: Scratch) -> None:
        program = tool("nginx", what="nginx", package="nginx-light")
        directory = scratch.directory("nginx")
        self.root = directory / "files"
        self.ports: dict[Scheme, int] = {"http": free_port(), "https": free_port()}
        for name in ("files", "temporary"):
            (directory / name).mkdir()
        authority = Authority(directory)
        self.ca = authority.ca
        named = [f"IP:{host}" for host in _HOSTS[:2]] + ["DNS:localhost"]
        certificate = authority.issue("nginx", named)
        (directory / "passwords").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
        (directory / "nginx.conf").write_text(
            _CONFIGURATION
            % {
                "listen": self._listen(),
                "certificate": certificate.chain,
                "key": certificate.key,
                "root": self.root,
                "redirects": self._redirects(),
            }
        )
        self._access_log = directory / "access.log"
        self._seen = 0
        self._forgotten = 0
        command = [program, "-p", f"{directory}/", "-c", "nginx.conf"]
        self.process = Process("nginx", command, directory=directory, ready=self._answers)

    def url(self, path: str, *, scheme: Scheme = "http", host: str = "127.0.0.1") -> str:
        """Return the URL of `path` (without a leading slash)."""
        return f"{scheme}://{host}:{self.ports[scheme]}/{path}"

    def forget(self) -> None:
        """Leave out of `requests()` what was asked so far.

        An earlier answer may be logged only now: a request of our own, logged after it, marks
        the place.
        """
        self._forgotten += 1
        mark = f"/echo?forgotten={self._forgotten}"
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["http"], timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", mark)
            connection.getresponse().read()
        until(
            lambda: any(entry.target == mark for entry in self._read()),
            seconds=5,
            what="nginx logs the mark",
        )
        self._seen = self._access_log.stat().st_size

    def requests(self, *, at_least: int = 0, seconds: float = 5.0) -> list[Logged]:
        """Return the requests since `forget()`, in the order in which they ended.

        nginx logs a request after its answer was sent, and one that the client gave up later
        still: waits for `at_least` of them, for at most `seconds`.
        """
        until(lambda: len(self._read()) >= at_least, seconds=seconds, what=f"{at_least} requests")
        return self._read()

    def _read(self) -> list[Logged]:
        with self._access_log.open("rb") as log:
            log.seek(self._seen)
            lines = [line for line in log if line.endswith(b"\n")]
        found = []
        for line in lines:
            fields = json.loads(line)
            fields.update({name: int(fields[name]) for name in ("status", "connection")})
            found.append(Logged(**fields))
        return found

    def _answers(self) -> bool:
        context = ssl.create_default_context(cafile=str(self.ca))
        plain = http.client.HTTPConnection("127.0.0.1", self.ports["http"], timeout=2)
        secure = http.client.HTTPSConnection(
            "127.0.0.1", self.ports["https"], timeout=2, context=context
        )
        answers = []
        for connection in (plain, secure):
            with contextlib.closing(connection):
                connection.request("GET", "/echo")
                answers.append(connection.getresponse().read())
        return all(answers)

    def _listen(self) -> str:
        lines = []
        for host in _HOSTS:
            lines.append(f"        listen {host}:{self.ports['http']};")
            lines.append(f"        listen {host}:{self.ports['https']} ssl;")
        return "\n".join(lines)

    def _redirects(self) -> str:
        rules = [
            ("^/dot/(.*)$", 302, "../files/$1"),
            ("^/elsewhere/(.*)$", 302, "$scheme://127.0.0.2:$server_port/$1"),
            ("^/unnamed/(.*)$", 302, "$scheme://127.0.0.3:$server_port/$1"),
            ("^/downgrade/(.*)$", 302, f"http://127.0.0.1:{self.ports['http']}/$1"),
            ("^/upgrade/(.*)$", 302, f"https://127.0.0.1:{self.ports['https']}/$1"),
            ("^/chain/1/(.*)$", 302, "$here/$1"),
            ("^/circle/1$", 302, "$here/circle/2"),
            ("^/circle/2$", 302, "$here/circle/1"),
            ("^/itself$", 302, "$here/itself"),
        ]
        rules += [(f"^/chain/{n}/(.*)$", 302, f"$here/chain/{n - 1}/$1") for n in range(2, 10)]
        for code in (301, 302, 303, 307, 308):
            rules.append((f"^/redirect/{code}/(.*)$", code, "$here/$1"))
            rules.append((f"^/relative/{code}/(.*)$", code, "/$1"))
        # Off: a Location that starts with a slash is sent as it is.
        lines = ["        absolute_redirect off;"]
        lines += [
            f"        location ~ {what} {{ return {code} {to}; }}" for what, code, to in rules
        ]
        return "\n".join(lines)


@contextlib.contextmanager
def nginx(scratch: Scratch) -> Iterator[Nginx]:
    """Run nginx; raises Missing where it or openssl is not installed."""
    server = Nginx(scratch)
    with server.process:
        server.forget()
        yield server
