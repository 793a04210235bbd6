"""One host: what is checked is what is connected to and what is said to servers and proxies."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

import pytest
import requests
import urllib3.util.connection
from hypothesis import given, settings
from hypothesis import strategies as st

from imgstore.drivers._http.connections import Transport
from imgstore.drivers._http.guard import AddressGuard
from imgstore.drivers._http.reading import redirected
from imgstore.drivers._http.urls import Url
from imgstore.errors import InvalidLocation, PermissionDenied, StoreError
from imgstore.location import Location

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
# Of these an attacker makes hosts that one parser takes for another's path, zone or password.
PIECES = re.split(
    " ",
    r"a b example.org EXAMPLE.ORG . .. - _ ~ 1 0 0x7f 0x 017 08 127 127.0.0.1 2130706433 256 ::1 "
    r":: fe80::1 ::ffff:127.0.0.1 : :80 :8080 [ ] [::1] @ u:p@ / // \ ? # ; & = % %25 %2525 %5b "
    "%5d %40 %3a %3f %23 %2f %5c %0d%0a %00 eth0 xn--bcher-kva xn-- \u00fc \u00df \u017f \u212a "
    # Full-width . % @ : / ? # and digits, what else becomes them, Arabic digits, what vanishes.
    "\u0280 \uff0e \u3002 \uff05 \uff20 \uff1a \uff0f \uff1f \uff03 \u2100 \u2488 \u2460 "
    "\uff11\uff12\uff17 :\u0668\u0660 \u00ad \u200d \u202e",
)
WORDS = st.lists(st.sampled_from([*PIECES, " ", "\t", "\r\n"]), max_size=4).map("".join)
AUTHORITIES = st.tuples(
    st.sampled_from(["", "u:p@", "@", "a%40"]),
    st.one_of(
        WORDS,
        st.tuples(st.just("[::1%25"), WORDS, st.just("]")).map("".join),
        st.tuples(WORDS, st.sampled_from(["127.0.0.1", ".example.org"])).map("".join),
        st.tuples(st.just("127.0.0.1"), WORDS).map("".join),
    ),
    st.sampled_from(["", ":", ":80", ":8080", ":0", ":99999"]),
).map("".join)
TARGETS = st.lists(st.sampled_from(["", "/", "?", *PIECES]), max_size=4).map("".join)


class Line:
    """Stands in for the network below the transport: what is resolved, connected to and sent."""

    def __init__(self) -> None:
        self.resolved: list[str] = []
        self.connected: list[tuple[str, int]] = []
        self.sent = b""
        self._far: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))

    def getaddrinfo(self, host: str, port: int, *_: object, **__: object) -> list[tuple[object]]:
        self.resolved.append(host)
        with contextlib.suppress(OSError):
            socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
            return [(socket.AF_INET6, 1, 6, "", (host.partition("%")[0], port, 0, 0))]
        with contextlib.suppress(OSError):
            return [(socket.AF_INET, 1, 6, "", (socket.inet_ntoa(socket.inet_aton(host)), port))]
        return [(socket.AF_INET, 1, 6, "", ("192.0.2.7", port))]

    def create_connection(self, where: tuple[str, int], *_: object, **__: object) -> socket.socket:
        self.connected.append(where)
        near = socket.socket()
        near.connect(self._listening.getsockname())
        far, _ = self._listening.accept()
        far.sendall(ANSWER)
        far.shutdown(socket.SHUT_WR)
        self._far.append(far)
        return near

    def hang_up(self) -> None:
        while self._far:
            far = self._far.pop()
            far.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                self.sent += far.recv(1 << 20)
            far.close()
        self._listening.close()


@contextlib.contextmanager
def line() -> Iterator[Line]:
    made = Line()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", made.getaddrinfo)
        for connecting in (socket, urllib3.util.connection):
            patch.setattr(connecting, "create_connection", made.create_connection)
        yield made
    made.hang_up()


def url(text: str) -> Url:
    return Url.of(Location.parse(text))


def sent(line: Line, where: Url, proxy: str | None = None) -> tuple[list[bytes], dict[str, str]]:
    """Send one request; return the words of its first line, and its fields in lower case."""
    transport = Transport(
        guard=AddressGuard(),
        verify=True,
        proxies={} if proxy is None else {"http": url(proxy)},
        connect_timeout=5,
        read_timeout=5,
    )
    transport.send("GET", where, {}).close()
    transport.close()
    line.hang_up()
    head, end, rest = line.sent.partition(b"\r\n\r\n")
    assert (end, rest) == (b"\r\n\r\n", b"")
    first, *fields = head.split(b"\r\n")
    assert not any(piece in head.replace(b"\r\n", b"") for piece in (b"\r", b"\n"))
    found = dict(field.decode("ascii").lower().split(": ", 1) for field in fields)
    assert len(found) == len(fields) <= 5  # no field but those that the library sends
    return first.split(b" "), found


class TestOneParse:
    @settings(max_examples=150, deadline=None)
    @given(AUTHORITIES, TARGETS, st.booleans())
    def test_the_host_that_is_checked_is_the_one_that_is_asked(self, where, target, by_redirect):
        """Resolver, socket, Host field, a proxy and any other parser are told the same host."""
        text = f"http://{where}{target}"
        try:
            where = redirected(url("http://first.example/"), text) if by_redirect else url(text)
        except (InvalidLocation, StoreError):
            return
        plain = where.host.partition("%")[0]
        assert re.fullmatch(r"[a-z0-9._:-]+(%[A-Za-z0-9._~-]+)?", where.host)
        assert (urlsplit(where.text).hostname or "").partition("%")[0] == plain
        assert (urllib3.util.parse_url(where.text).host or "").strip("[]").partition("%")[
            0
        ] == plain
        with line() as direct:
            (method, asked, _), fields = sent(direct, where)
            assert (method, asked) == (b"GET", where.target.encode())
            assert direct.resolved == [where.host]
            assert len(direct.connected) == 1
            assert direct.connected[0][1] == where.port
            shown = http.client.HTTPConnection(fields["host"])
            assert (shown.host, shown.port) == (plain.rstrip("."), where.port)
        if "%" in where.host:
            return
        with line() as proxied:
            (_, asked, _), fields = sent(proxied, where, "http://proxy.example:3128")
            assert asked == where.text.encode()
            assert proxied.resolved == [where.host]
            assert proxied.connected == [("proxy.example", 3128)]
            assert http.client.HTTPConnection(fields["host"]).host == plain.rstrip(".")

    @pytest.mark.parametrize(
        "zone",
        [
            "%5d%40127.0.0.1%3a8080%3f.example.org",
            "%0d%0aX-More:%20yes",
            "a%20b",
            "a%2fb",
            "%00",
            "",
            "ü",
            "a@b",
        ],
    )
    def test_a_zone_is_a_plain_word(self, zone):
        """What another parser could take for the end of a host is no zone, by redirect neither."""
        with pytest.raises(InvalidLocation):
            url(f"http://[::1%25{zone}]/y")
        with pytest.raises(StoreError):
            redirected(url("http://a/"), f"http://[::1%25{zone}]/y")
        with pytest.raises(InvalidLocation):
            Url.of(Location("http", f"[::1%25{zone}]/y"))

    def test_a_zone_keeps_its_case_and_is_told_to_nobody(self):
        """Names of interfaces are what the resolver gets; to others they mean nothing."""
        for zone in ("br-lan", "Eth0.7", "25", "~_"):
            where = url(f"http://[fe80::1%25{zone}]:8080/")
            with line() as direct:
                _, fields = sent(direct, where)
            assert direct.resolved == [f"fe80::1%{zone}"]
            assert fields["host"] == "[fe80::1]:8080"

    def test_a_zone_opens_no_allowed_host(self):
        """A zone that ends like an allowed host does not make the address that host."""
        guard = AddressGuard(allowed_hosts=["*.example.org"])
        with pytest.raises(PermissionDenied, match="http_allowed_hosts"):
            guard.check_host(url("http://[::1%25a.example.org]/").host)
        AddressGuard(allowed_hosts=["fe80::1"]).check_host("fe80::1%eth0")

    @pytest.mark.parametrize(
        ("text", "host"),
        [
            ("0x7f.1", "127.0.0.1"),
            ("2130706433", "127.0.0.1"),
            ("0177.0.0.1", "127.0.0.1"),
            ("0127.0.0.1", "87.0.0.1"),
            ("127.1.", "127.0.0.1"),
            ("\uff11\uff12\uff17\u3002\uff10.0.1", "127.0.0.1"),
            ("node.1", "node.1"),
            ("1.a", "1.a"),
        ],
    )
    def test_numbers_are_addresses(self, text, host):
        """Every form of an IPv4 address is written as one, so that a proxy reads the same."""
        assert url(f"http://{text}/").host == host

    @pytest.mark.parametrize("text", ["256.1.1.1", "08.1.1.1", "1.2.3.4.5", "4294967297"])
    def test_other_numbers_are_refused(self, text):
        """They are no names, and resolvers that take them for addresses disagree on which."""
        with pytest.raises(InvalidLocation, match="no IPv4 address"):
            url(f"http://{text}/")

    def test_a_redirect_with_line_breaks_makes_no_header(self):
        """What a server puts into Location is escaped, or refused."""
        for where in ("/a\r\nX: y", "http://a/\r\n\r\nGET /b", "//a/%0d%0a\n"):
            try:
                found = redirected(url("http://a/"), where)
            except StoreError:
                continue
            with line() as direct:
                assert len(sent(direct, found)[0]) == 3


class TestBehindAProxy:
    @pytest.mark.parametrize("host", ["::1", "::1%25lo", "::1%25nowhere", "::ffff:127.0.0.1"])
    def test_an_address_is_checked_whatever_the_resolver_says(self, host):
        """A literal that cannot be used on this host is not left to a proxy that can."""
        guard = AddressGuard(denied_networks=["127.0.0.0/8", "::1/128"])
        where = url(f"http://[{host}]/")
        with pytest.raises((PermissionDenied, InvalidLocation)):
            guard.check_proxied(where)
        with pytest.raises(PermissionDenied):
            guard.addresses(where.host, 80)

    def test_a_zone_is_refused(self):
        """The interfaces of this host mean nothing to a proxy, which may leave the zone out."""
        with line() as proxied, pytest.raises(InvalidLocation, match="zone"):
            sent(proxied, url("http://[fe80::1%25lo]/"), "http://proxy.example:3128")
        assert proxied.connected == []


class TestProxies:
    @pytest.mark.parametrize(
        ("host", "shown"),
        [
            ("Images.Example.", b"images.example."),
            ("[2001:DB8::1]", b"[2001:db8::1]"),
            ("0x7f.1", b"127.0.0.1"),
            ("b\u00fccher.example", b"xn--bcher-kva.example"),
        ],
    )
    def test_a_tunnel_leads_to_the_host_that_was_checked(self, host, shown):
        """CONNECT has the same host and port, and credentials for the proxy only."""
        transport = Transport(
            guard=AddressGuard(),
            verify=True,
            proxies={"https": url("http://me:hidden@proxy.example:3128")},
            connect_timeout=5,
            read_timeout=5,
        )
        with line() as proxied:
            with pytest.raises(requests.ConnectionError):
                transport.send("GET", url(f"https://{host}/x"), {"Authorization": "mine"})
            transport.close()
            proxied.hang_up()
        head = proxied.sent.partition(b"\r\n\r\n")[0]
        assert head.startswith(b"CONNECT " + shown + b":443 HTTP/1.")
        assert b"Proxy-Authorization: Basic" in head
        assert b"mine" not in proxied.sent

    def test_credentials_of_a_proxy_are_sent_in_utf_8(self):
        """As those of a location, percent-decoded; each scheme has its own."""
        with line() as proxied:
            _, fields = sent(proxied, url("http://a/"), f"http://me:{quote('€:x')}@[::1]:3128")
        assert proxied.connected == [("::1", 3128)]
        assert fields["proxy-authorization"] == "basic bwu64oksong="
