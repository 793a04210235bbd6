"""The harness itself: nginx and the hostile HTTP server."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import ssl
import threading
from base64 import b64encode
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from servers.hostile import MARKER, Hostile, full_backlog
from servers.nginx import PASSWORD, USER, Nginx
from servers.process import until

pytestmark = [pytest.mark.servers("nginx"), pytest.mark.lab]


class Answer:
    """A response that was read to its end."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()


def ask(url: str, method: str = "GET", *, ca: Path | None = None, **headers: str) -> Answer:
    """Send one request; an underscore in a header's name stands for a dash."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
        connection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=10, context=context
        )
    with contextlib.closing(connection):
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, f"{parts.path}?{parts.query}".rstrip("?"), headers=sent)
        return Answer(connection.getresponse())


@pytest.fixture
def image(nginx: Nginx) -> bytes:
    """The content of the file ``image`` below nginx's root."""
    content = random.Random(3).randbytes(100_000)
    (nginx.root / "image").write_bytes(content)
    return content


def test_nginx_serves_both_schemes_with_ranges(nginx: Nginx, image: bytes) -> None:
    """Whole and in part, with validators, over http and https; every request is logged."""
    for scheme in ("http", "https"):
        url = nginx.url("files/image", scheme=scheme)
        whole = ask(url, ca=nginx.ca)
        assert whole.body == image
        assert whole.headers["ETag"]
        assert whole.headers["Last-Modified"]
        part = ask(url, ca=nginx.ca, Range="bytes=10-19", If_Range=whole.headers["ETag"])
        assert (part.status, part.body) == (206, image[10:20])
    logged = nginx.requests(at_least=4)
    assert [entry.range for entry in logged] == ["", "bytes=10-19"] * 2
    assert [entry.scheme for entry in logged] == ["http", "http", "https", "https"]


def test_nginx_certificate_is_ours_and_names_two_hosts(nginx: Nginx, image: bytes) -> None:
    """The certificate is trusted with our CA alone, and not for 127.0.0.3."""
    assert ask(nginx.url("files/image", scheme="https", host="127.0.0.2"), ca=nginx.ca).body
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        ask(nginx.url("files/image", scheme="https"))
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        ask(nginx.url("files/image", scheme="https", host="127.0.0.3"), ca=nginx.ca)


def test_nginx_asks_for_a_password(nginx: Nginx, image: bytes) -> None:
    """Basic authentication guards /auth; what was sent is logged and echoed."""
    assert ask(nginx.url("auth/image")).status == 401
    token = "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    assert ask(nginx.url("auth/image"), Authorization=token).body == image
    assert nginx.requests(at_least=2)[1].authorization == token
    answer = ask(nginx.url("echo"), Authorization=token, Cookie="a=b", Accept_Encoding="br")
    assert answer.body.decode().splitlines() == [token, "a=b", "br"]
    assert ask(nginx.url("cookie/image")).headers["Set-Cookie"] == "kept=yes; Path=/"


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_nginx_redirects(nginx: Nginx, code: int) -> None:
    """Each code, absolute and relative."""
    absolute = ask(nginx.url(f"redirect/{code}/files/image"))
    assert (absolute.status, absolute.headers["Location"]) == (code, nginx.url("files/image"))
    relative = ask(nginx.url(f"relative/{code}/files/image"))
    assert (relative.status, relative.headers["Location"]) == (code, "/files/image")


def test_nginx_redirects_elsewhere(nginx: Nginx, image: bytes) -> None:
    """To a relative path, another host, another scheme, in chains and in circles."""

    def location(url: str) -> str:
        return str(ask(url, ca=nginx.ca).headers["Location"])

    files = "files/image"
    assert location(nginx.url("dot/image")) == "../files/image"
    assert location(nginx.url(f"elsewhere/{files}")) == nginx.url(files, host="127.0.0.2")
    assert location(nginx.url(f"unnamed/{files}")) == nginx.url(files, host="127.0.0.3")
    secure = nginx.url(f"downgrade/{files}", scheme="https")
    assert location(secure) == nginx.url(files)
    assert location(nginx.url(f"upgrade/{files}")) == nginx.url(files, scheme="https")
    assert location(nginx.url("circle/1")) == nginx.url("circle/2")
    assert location(nginx.url("circle/2")) == nginx.url("circle/1")
    assert location(nginx.url("itself")) == nginx.url("itself")
    for length in (5, 6):
        url, followed = nginx.url(f"chain/{length}/{files}"), 0
        while (answer := ask(url)).status == 302:
            url, followed = answer.headers["Location"], followed + 1
        assert (followed, answer.body) == (length, image)


def test_nginx_misses_what_clients_count_on(nginx: Nginx, image: bytes) -> None:
    """Compression, no HEAD, no ranges, no validators, no length: a location for each."""
    assert ask(nginx.url("gzip/image"), Accept_Encoding="gzip").headers["Content-Encoding"]
    assert ask(nginx.url("gzip/image"), Accept_Encoding="identity").body == image
    assert ask(nginx.url("nohead/image"), "HEAD").status == 405
    assert ask(nginx.url("nohead/image")).body == image
    assert ask(nginx.url("norange/image"), Range="bytes=0-0").status == 200
    plain = ask(nginx.url("noversion/image"), Range="bytes=1-2")
    assert plain.body == image[1:3]
    assert (plain.headers["ETag"], plain.headers["Last-Modified"]) == (None, None)
    chunked = ask(nginx.url("chunked/image"), Range="bytes=1-2")
    assert chunked.headers["Transfer-Encoding"] == "chunked"
    assert (chunked.headers["Content-Length"], chunked.body) == (None, image)


def test_hostile_is_good_where_asked(hostile: Hostile) -> None:
    """Ranges, If-Range and HEAD work, and requests are recorded."""
    whole = ask(hostile.url("good"))
    assert whole.body == hostile.content
    part = ask(hostile.url("good"), Range="bytes=5-9", If_Range=hostile.etag)
    assert (part.status, part.body) == (206, hostile.content[5:10])
    assert part.headers["Content-Range"] == f"bytes 5-9/{len(hostile.content)}"
    assert ask(hostile.url("good"), Range="bytes=5-", If_Range='"other"').status == 200
    assert ask(hostile.url("good"), Range=f"bytes={len(hostile.content)}-").status == 416
    head = ask(hostile.url("good"), "HEAD")
    assert (head.headers["Content-Length"], head.body) == (str(len(hostile.content)), b"")
    assert [request.method for request in hostile.requests] == ["GET"] * 4 + ["HEAD"]
    assert hostile.requests[1].headers["range"] == "bytes=5-9"


@pytest.mark.parametrize(
    ("then", "status", "etag"),
    [
        ("honour", 206, '"first"'),
        ("ignore", 200, '"first"'),
        ("changed", 200, '"second"'),
        ("lying", 206, '"second"'),
    ],
)
@pytest.mark.parametrize("end", ["fin", "reset"])
def test_hostile_truncates_once(
    hostile: Hostile, then: str, status: int, etag: str, end: str
) -> None:
    """The first body breaks off; a later request meets what was chosen."""
    url = hostile.url(f"truncate?at=1000&times=1&then={then}&end={end}")
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        ask(url)
    again = ask(url, Range="bytes=1000-", If_Range=hostile.etag)
    assert (again.status, again.headers["ETag"]) == (status, etag)
    content = hostile.content if etag == '"first"' else hostile.changed
    assert again.body == (content[1000:] if status == 206 else content)


def test_hostile_lies_about_ranges(hostile: Hostile) -> None:
    """Every kind of false answer to a range request."""
    size = len(hostile.content)

    def described(target: str) -> tuple[int, str | None, int]:
        answer = ask(hostile.url(target), Range="bytes=10-19")
        return answer.status, answer.headers["Content-Range"], len(answer.body)

    assert described("wrong-start?by=2") == (206, f"bytes 12-21/{size}", 10)
    assert described("wrong-total?by=5") == (206, f"bytes 10-19/{size + 5}", 10)
    assert described("star-total") == (206, "bytes 10-19/*", 10)
    assert described("other-range?by=7") == (206, f"bytes 17-26/{size}", 10)
    assert described("no-content-range") == (206, None, 10)
    assert described("bad-content-range") == (206, "bytes some-of/them", 10)
    assert described("ignores-range") == (200, None, size)
    assert (
        ask(hostile.url("multipart"), Range="bytes=0-3")
        .headers["Content-Type"]
        .startswith("multipart/byteranges")
    )


def test_hostile_lies_about_length_and_version(hostile: Hostile) -> None:
    """Longer bodies, changing content, no or weak validators, unasked compression, HEAD."""
    size = len(hostile.content)
    with socket.create_connection(hostile.address, timeout=10) as client:
        client.sendall(b"GET /longer?by=3 HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1\r\n\r\n")
        until(lambda: client.recv(4096).endswith(b"+++"), seconds=5, what="three bytes more")
    first, second = ask(hostile.url("changing")), ask(hostile.url("changing"))
    assert first.headers["ETag"] != second.headers["ETag"]
    assert first.body != second.body
    assert ask(hostile.url("no-etag")).headers["ETag"] is None
    assert ask(hostile.url("weak-etag")).headers["ETag"].startswith("W/")
    for coding in ("gzip", "deflate"):
        answer = ask(hostile.url(f"compress?coding={coding}"), Accept_Encoding="identity")
        assert answer.headers["Content-Encoding"] == coding
    assert ask(hostile.url("head-size?by=1"), "HEAD").headers["Content-Length"] == str(size + 1)
    assert ask(hostile.url("head-status?code=403"), "HEAD").status == 403
    assert ask(hostile.url("head-no-length"), "HEAD").headers["Content-Length"] is None
    assert ask(hostile.url("chunked")).body == hostile.content
    with pytest.raises(http.client.IncompleteRead):
        ask(hostile.url("chunked?cut=10"))
    assert ask(hostile.url("no-length")).body == hostile.content


@pytest.mark.parametrize("target", ["stall?at=10", "stall-head"])
def test_hostile_stalls_until_released(hostile: Hostile, target: str) -> None:
    """Nothing comes until release(); then the answer is whole."""
    got: list[bytes] = []
    client = threading.Thread(target=lambda: got.append(ask(hostile.url(target)).body))
    client.start()
    client.join(timeout=0.3)
    assert client.is_alive()
    hostile.release()
    client.join(timeout=10)
    assert got == [hostile.content]


def test_full_backlog_hangs_connections() -> None:
    """connect() is neither accepted nor refused."""
    with full_backlog() as address, pytest.raises(TimeoutError):
        socket.create_connection(address, timeout=0.3)


def test_hostile_statuses_and_redirects(hostile: Hostile) -> None:
    """Chosen status, Retry-After, a huge error body, and redirects to anywhere or nowhere."""
    url = hostile.url("status?code=429&times=1&retry_after=7")
    answer = ask(url)
    assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
    assert ask(url).body == hostile.content
    error = ask(hostile.url("error"))
    assert (error.status, len(error.body)) == (500, 1 << 20)
    assert MARKER.encode() in error.body[-100:]
    for target in ("http://169.254.169.254/", "file:///etc/passwd"):
        moved = ask(hostile.url(f"redirect?to={quote(target, safe='')}&code=307"))
        assert (moved.status, moved.headers["Location"]) == (307, target)
    assert ask(hostile.url("redirect-nowhere?code=301")).headers["Location"] is None
    assert ask(hostile.url("circle")).headers["Location"] == hostile.url("circle")
    assert ask(hostile.url("cookie")).headers["Set-Cookie"] == "kept=yes; Path=/"
    assert ask(hostile.url("unheard-of")).status == 404


def test_hostile_breaks_http(hostile: Hostile) -> None:
    """No answer, a reset, no HTTP, endless headers."""
    for target, error in [
        ("close", http.client.RemoteDisconnected),
        ("reset", ConnectionResetError),
        ("garbage", http.client.BadStatusLine),
        ("endless-headers", http.client.HTTPException),
        ("long-header", http.client.LineTooLong),
    ]:
        with pytest.raises(error):
            ask(hostile.url(target))
