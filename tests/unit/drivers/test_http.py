"""What the http store decides without a server."""

from __future__ import annotations

import base64
import socket
import subprocess
import sys
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstore import Location
from imgstore.drivers._http import errors as http_errors
from imgstore.drivers._http import reading
from imgstore.drivers._http.guard import AddressGuard
from imgstore.drivers._http.urls import Url
from imgstore.drivers.http import HttpStore
from imgstore.errors import (
    ConfigError,
    DriverUnavailable,
    IntegrityError,
    InvalidLocation,
    InvalidRange,
    NotFound,
    PermissionDenied,
    StoreError,
    Throttled,
    Unavailable,
    Unsupported,
)
from imgstore.model import Ownership

OLD = "Wed, 21 Oct 2015 07:28:00 GMT"
MINUTE_LATER = "Wed, 21 Oct 2015 07:29:00 GMT"
SOON = "Wed, 21 Oct 2015 07:28:59 GMT"


def url(text: str) -> Url:
    return Url.of(Location.parse(text))


class TestUrl:
    @pytest.mark.parametrize(
        ("text", "host", "port", "target"),
        [
            ("http://a", "a", 80, "/"),
            ("https://a", "a", 443, "/"),
            ("http://A.Example./x", "a.example.", 80, "/x"),
            ("http://a:8080/x?y=%2f#z", "a", 8080, "/x?y=%2f"),
            ("http://a:/x", "a", 80, "/x"),
            ("http://a?b", "a", 80, "/?b"),
            ("http://a//b/../c", "a", 80, "//b/../c"),
            ("http://a/ü b", "a", 80, "/%C3%BC%20b"),
            ("http://bücher.example/", "xn--bcher-kva.example", 80, "/"),
            ("http://[2001:DB8::0:1]:81/x", "2001:db8::1", 81, "/x"),
            ("http://[fe80::1%25eth0]/x", "fe80::1%eth0", 80, "/x"),
        ],
    )
    def test_parts(self, text, host, port, target):
        """Host, port and target are found; the host is normal, the target as it was written."""
        found = url(text)
        assert (found.host, found.port, found.target) == (host, port, target)

    @pytest.mark.parametrize(
        "text",
        [
            "http://a:0/",
            "http://a:65536/",
            "http://a..b/",
            "http://.a/",
            "http://a%41/",
            "http://a\\b/",
            "http://*/",
            f"http://{'a' * 64}/",
            "http://" + "ü." * 30000,
            "http://ü..a/",
            "http://[::g]/",
            "http://[1.2.3.4]/",
            "http://u:%ff@a/",
            "http://u%3Av:p@a/",
            "http://u:p%0a@a/",
        ],
    )
    def test_bad_ones_are_refused(self, text):
        """What names no host or port, or holds unusable credentials, is InvalidLocation."""
        with pytest.raises(InvalidLocation):
            url(text)

    @pytest.mark.parametrize(
        ("credentials", "meaning"),
        [
            ("user:pass", "user:pass"),
            ("user", "user:"),
            ("u%40x:a%3Ab:c%2F", "u@x:a:b:c/"),
            ("%C3%BC:%E2%82%AC", "ü:€"),
        ],
    )
    def test_credentials_become_basic_authentication(self, credentials, meaning):
        """User and password are percent-decoded and sent in UTF-8; repr shows neither."""
        found = url(f"http://{credentials}@a/")
        expected = "Basic " + base64.b64encode(meaning.encode()).decode()
        assert found.authorization is not None
        assert found.authorization.reveal() == expected
        assert expected not in repr(found)

    def test_no_credentials_no_authentication(self):
        """Without user and password there is no header."""
        assert url("http://a/").authorization is url("http://@a/").authorization is None

    def test_the_origin_is_what_credentials_belong_to(self):
        """Scheme, host and port make the origin; a default port and a final dot do not matter."""
        assert url("http://a/x").origin == url("http://A.:80/y").origin
        origins = {
            url(text).origin for text in ("http://a", "https://a", "http://b", "http://a:81")
        }
        assert len(origins) == 4

    @given(st.text())
    def test_any_text_is_a_url_or_an_invalid_location(self, text):
        """Nothing but InvalidLocation is raised, and targets fit into a request line."""
        for prefix in ("http://", "http://a/", "https://a@"):
            try:
                found = url(prefix + text)
            except InvalidLocation:
                continue
            assert found.target.startswith("/")
            assert found.target.isascii()
            assert not any(character <= " " for character in found.target)


class TestGuard:
    @pytest.mark.parametrize(
        ("glob", "host", "matches"),
        [
            ("images.example", "images.example", True),
            ("Images.Example.", "images.example.", True),
            ("*.example", "a.b.example", True),
            ("*.example", "example", False),
            ("*.example", "a.example.org", False),
            ("bücher.*", "xn--bcher-kva.example", True),
            ("10.0.?.1", "10.0.7.1", True),
            ("[::1]", "::1", True),
            ("a[12]", "a2", True),
        ],
    )
    def test_globs_match_hosts(self, glob, host, matches):
        """Globs match the whole host, without regard to case and a final dot."""
        guard = AddressGuard(allowed_hosts=["other", glob])
        if matches:
            guard.check_host(host)
        else:
            with pytest.raises(PermissionDenied, match="http_allowed_hosts"):
                guard.check_host(host)

    def test_no_glob_allows_every_host(self):
        """An empty list is no limit."""
        AddressGuard().check_host("anything")

    @pytest.mark.parametrize(
        ("network", "address"),
        [
            ("169.254.0.0/16", "169.254.169.254"),
            ("169.254.0.0/16", "::ffff:169.254.169.254"),
            ("169.254.0.0/16", "64:ff9b::a9fe:a9fe"),
            ("169.254.0.0/16", "2002:a9fe:a9fe::1"),
            ("fe80::/10", "fe80::1"),
            ("fe80::/10", "fe80::1%1"),
            ("127.0.0.0/8", "0.0.0.0"),
            ("127.0.0.0/8", "::ffff:0.0.0.0"),
            ("::1/128", "::"),
            ("::ffff:0:0/96", "::ffff:8.8.8.8"),
        ],
    )
    def test_an_address_is_denied_in_every_guise(self, network, address):
        """Embedded IPv4 addresses and unspecified ones count as what they lead to."""
        with pytest.raises(PermissionDenied, match="http_denied_networks"):
            AddressGuard(denied_networks=[network]).addresses(address, 80)

    @pytest.mark.parametrize(
        "host",
        [
            "169.254.169.254",
            "[fe80::a9fe:a9fe%251]",
            "[fd00:ec2::254]",
            "100.100.100.200",
            "[::ffff:100.100.100.200]",
            "1684301000",
        ],
    )
    def test_metadata_services_are_denied_by_default(self, host):
        """Those of the clouds that have theirs elsewhere than at a link-local address too."""
        url = Url.of(Location.parse(f"http://{host}/latest/meta-data/"))
        guard = AddressGuard(denied_networks=HttpStore.OPTIONS["denied_networks"].default)
        with pytest.raises(PermissionDenied, match="http_denied_networks"):
            guard.addresses(url.host, url.port)  # and nothing is connected to, whatever it says

    def test_other_addresses_are_returned_once(self):
        """What is not denied can be connected to, zone included."""
        guard = AddressGuard(denied_networks=["10.0.0.0/8", "fe80::/10"])
        assert guard.addresses("11.0.0.1", 80) == ["11.0.0.1"]
        assert guard.addresses("::1", 80) == ["::1"]
        assert AddressGuard().addresses("fe80::1%1", 80) == ["fe80::1%1"]
        with pytest.raises(socket.gaierror):
            guard.addresses("there-is-none.invalid", 80)


class TestOptions:
    @pytest.mark.parametrize(
        ("option", "keywords"),
        [
            ("http_denied_networks", {"denied_networks": ["10.0.0.1/8"]}),
            ("http_denied_networks", {"denied_networks": ["localhost"]}),
            ("http_allowed_hosts", {"allowed_hosts": ["http://a/"]}),
            ("http_allowed_hosts", {"allowed_hosts": [" "]}),
            ("http_allowed_hosts", {"allowed_hosts": ["ü" * 300]}),
            ("http_read_timeout", {"read_timeout": float("nan")}),
            ("https_ca_certificates_file", {"ca_certificates_file": "/nowhere/ca.pem"}),
            ("https_ca_certificates_file", {"ca_certificates_file": "/"}),
            ("http_proxy_information", {"proxy_information": {"ftp": "a:1"}}),
            ("http_proxy_information", {"proxy_information": {"http": "socks5://a:1"}}),
            ("http_proxy_information", {"proxy_information": {"http": "u:hidden@a:port"}}),
            ("http_proxy_information", {"proxy_information": {"https": ""}}),
            ("http_proxy_information", {"proxy_information": {"hidden@a": "1"}}),
            ("http_proxy_information", {"proxy_information": {"http": "//u:hidden@a:1"}}),
            ("http_proxy_information", {"proxy_information": {"http": "u:hidden@a:1\n"}}),
            ("http_proxy_information", {"proxy_information": {"http": "u:hidden\r\nX: y@a:1"}}),
            ("http_proxy_information", {"proxy_information": {"http": "u:hidden%0d%0a@a:1"}}),
            ("http_proxy_information", {"proxy_information": {"http": "u:hidden%ff@a:1"}}),
            ("http_proxy_information", {"proxy_information": {"http": "u:hi/dden@a:1"}}),
            ("http_allowed_hosts", {"allowed_hosts": ["a\n.b"]}),
            ("https_ca_certificates_file", {"ca_certificates_file": "/a\0b"}),
        ],
    )
    def test_a_bad_value_is_named(self, option, keywords):
        """A value that cannot work is refused by the constructor, which names the option."""
        with pytest.raises(ConfigError, match=option) as caught:
            HttpStore("web", **keywords)
        assert caught.value.remedy
        assert "hidden" not in "".join(traceback.format_exception(caught.value))

    def test_certificates_are_verified_by_default(self):
        """Only who says so trusts any server."""
        assert HttpStore.OPTIONS["insecure"].default is False

    @pytest.mark.parametrize("seconds", [0, -1.0, "sixty", None])
    @pytest.mark.parametrize("keyword", ["connect_timeout", "read_timeout"])
    def test_times_are_numbers_of_seconds(self, keyword, seconds):
        """They are more than 0; what is longer than any wait is as long as one may be."""
        with pytest.raises(ConfigError, match=f"http_{keyword}"):
            HttpStore("web", **{keyword: seconds})
        HttpStore("web", **{keyword: "60"})
        HttpStore("web", **{keyword: 1e30})

    def test_nothing_is_owned_for_certain(self):
        """Every http URL may be read, and none is the store's own."""
        with HttpStore("web") as store:
            assert store.ownership(Location.parse("http://a/")) is Ownership.MAYBE
            assert store.ownership(Location.parse("https://a/")) is Ownership.MAYBE
            assert store.ownership(Location.parse("file:///a")) is Ownership.NO
            with pytest.raises(Unsupported):
                store.add("id", b"")
            with pytest.raises(Unsupported):
                store.delete("http://a/")

    def test_requests_is_imported_late(self):
        """Neither the module nor the constructor imports requests or urllib3."""
        code = (
            "import sys; from imgstore.drivers.http import HttpStore; HttpStore('web');"
            "assert not {'requests', 'urllib3'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

    def test_without_requests_the_driver_is_unavailable(self, monkeypatch):
        """The constructor says what to install."""
        monkeypatch.setitem(sys.modules, "requests", None)
        with pytest.raises(DriverUnavailable, match=r"imgstore\[http\]"):
            HttpStore("web")


class TestHeaders:
    @pytest.mark.parametrize(
        ("headers", "version"),
        [
            ({"ETag": '"a"', "Last-Modified": OLD}, '"a"'),
            ({"ETag": '""'}, '""'),
            ({"ETag": '"\xfc"'}, '"\xfc"'),
            ({"ETag": 'W/"a"', "Last-Modified": OLD, "Date": MINUTE_LATER}, None),
            ({"ETag": "a"}, None),
            ({"ETag": '"a", "b"'}, None),
            ({"Last-Modified": OLD, "Date": MINUTE_LATER}, OLD),
            ({"Last-Modified": OLD, "Date": SOON}, None),
            ({"Last-Modified": OLD}, None),
            ({"Last-Modified": "yesterday", "Date": MINUTE_LATER}, None),
            ({"Last-Modified": f"x{OLD}\n GMT", "Date": MINUTE_LATER}, None),
            ({}, None),
        ],
    )
    def test_only_strong_validators_are_versions(self, headers, version):
        """A strong ETag or, without any ETag, a date a minute older than the answer."""
        assert reading._version(headers, None) == version

    def test_an_answer_confirms_or_denies_a_version(self):
        """What a resumed answer does not say is as If-Range wanted it."""
        assert reading._version({}, '"a"') == reading._version({"ETag": '"a"'}, '"a"') == '"a"'
        assert reading._version({"ETag": '"a"'}, OLD) == OLD
        for headers, wanted in (({"ETag": '"b"'}, '"a"'), ({"Last-Modified": SOON}, OLD)):
            with pytest.raises(IntegrityError, match="changed"):
                reading._version(headers, wanted)

    @pytest.mark.parametrize("text", ["", "-1", "+1", "1_0", "1, 1", "x", "1" * 19])
    def test_a_length_is_one_number(self, text):
        """What is not a plain number is an error, not a guess."""
        with pytest.raises(StoreError, match="Content-Length"):
            reading._declared({"Content-Length": text})

    def test_a_length_beside_a_transfer_coding_is_ignored(self):
        """As RFC 9112 6.3 wants it; no header is an unknown length."""
        headers = {"Content-Length": "5"}
        assert reading._declared(headers) == 5
        assert reading._declared({**headers, "Transfer-Encoding": "chunked"}) is None
        assert reading._declared({}) is None

    @pytest.mark.parametrize(
        "headers",
        [
            {"Content-Encoding": "gzip"},
            {"Content-Encoding": "identity, GZIP"},
            {"Transfer-Encoding": "gzip, chunked"},
            {"Content-Encoding": "GZIP", "Transfer-Encoding": "chunked, chunked"},
        ],
    )
    def test_codings_are_refused(self, headers):
        """Only identity and chunked leave the bytes as they are."""
        with pytest.raises(Unsupported, match="gzip"):
            reading._refuse_codings(headers)
        reading._refuse_codings({"Content-Encoding": "Identity", "Transfer-Encoding": "Chunked"})

    @pytest.mark.parametrize("text", ["chunked, chunked", "identity", "chunked;q=1", "", "xyz"])
    def test_other_framings_are_refused_and_not_quoted(self, text):
        """What http.client does not take for chunked would come out as the image's bytes."""
        for headers in ({"Transfer-Encoding": text}, {"Content-Encoding": text or "chunked"}):
            if headers == {"Content-Encoding": "identity"}:
                continue
            with pytest.raises(Unsupported, match=r"an unknown (?:framing|coding)"):
                reading._refuse_codings(headers)

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (203, StoreError),
            (304, StoreError),
            (401, PermissionDenied),
            (404, NotFound),
            (416, InvalidRange),
            (429, Throttled),
            (501, Unsupported),
            (502, Unavailable),
            (599, Unavailable),
            (999, Unavailable),
        ],
    )
    def test_a_status_has_its_class(self, status, kind):
        """Whoever calls can tell what to do."""
        error = http_errors.status_error(status)
        assert type(error) is kind
        assert str(status) in str(error)
