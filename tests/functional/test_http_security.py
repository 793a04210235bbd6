"""Whom the http store talks to, and what it tells about it."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import traceback
from urllib.parse import quote, unquote

import pytest
from servers.hostile import DENIED
from servers.nginx import PASSWORD, USER
from servers.process import free_port

from imgstore import errors
from imgstore.drivers.http import HttpStore

pytestmark = pytest.mark.servers("nginx")

DATA = os.urandom(70001)
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
SECRET = "signature-of-the-query"


@pytest.fixture
def make():
    """Make stores that are closed at the end of the test; time-outs in seconds are short."""
    with contextlib.ExitStack() as stack:

        def store(**options) -> HttpStore:
            options = {"connect_timeout": 2.0, "read_timeout": 2.0, **options}
            return stack.enter_context(HttpStore("web", **options))

        yield store


@pytest.fixture
def store(make):
    return make()


@pytest.fixture
def file(nginx):
    """An image on nginx, reached as files/image."""
    path = nginx.root / "image"
    path.write_bytes(DATA)
    return path


def with_credentials(url: str) -> str:
    return url.replace("://", f"://{USER}:{quote(PASSWORD)}@")


def address_of(server) -> str:
    return f"{server.address[0]}:{server.address[1]}"


def read(store: HttpStore, url: str, **arguments) -> bytes:
    with store.get(url, **arguments) as reader:
        return reader.read()


class TestGuard:
    @pytest.mark.parametrize("path", ["good", "redirect?to=%2Fgood"])
    @pytest.mark.parametrize(
        "host", ["127.0.0.1", "localhost", "0x7f.1", "2130706433", "0.0.0.0", "[::ffff:127.0.0.1]"]
    )
    def test_denied_networks_are_not_connected_to(self, make, hostile, host, path):
        """Whatever stands for a denied address is refused before a byte is sent."""
        store = make(denied_networks=["127.0.0.0/8", "::1/128"])
        url = hostile.url(path).replace("127.0.0.1", host)
        for call in (store.get, store.size):
            with pytest.raises(errors.PermissionDenied, match="http_denied_networks"):
                call(url)
        assert hostile.requests == []

    def test_link_local_addresses_are_denied_by_default(self, store, hostile):
        """The metadata service of a cloud cannot be reached, neither directly nor by redirect."""
        urls = [DENIED, "http://[fe80::1%25lo]/", "http://[::ffff:169.254.169.254]/"]
        urls.append("http://[64:ff9b::a9fe:a9fe]/")
        urls.append(hostile.url(f"redirect?to={quote(DENIED, safe='')}"))
        for url in urls:
            with pytest.raises(errors.PermissionDenied, match=r"169\.254\.0\.0/16|fe80::/10"):
                store.get(url)

    def test_the_address_checked_is_the_one_connected_to(self, make, hostile, monkeypatch):
        """A name that resolves differently the second time gains nothing (DNS rebinding)."""
        real, answers = socket.getaddrinfo, iter(["127.0.0.1", "127.0.0.66", "127.0.0.66"])
        asked = []

        def resolver(host, port, *args, **kwargs):
            if host == "rebinding.example":
                asked.append(host)
                host = next(answers)
            return real(host, port, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", resolver)
        store = make(denied_networks=["127.0.0.66/32"])
        url = hostile.url("good").replace("127.0.0.1", "rebinding.example")
        assert read(store, url) == hostile.content
        assert len(asked) == 1
        other = make(denied_networks=["127.0.0.66/32"])
        with pytest.raises(errors.PermissionDenied, match="rebinding"):
            other.get(url)

    def test_one_denied_address_of_many_is_enough(self, make, hostile, monkeypatch):
        """A host is refused when any of its addresses is denied, whatever their order."""
        real = socket.getaddrinfo

        def resolver(host, port, *args, **kwargs):
            if host != "two.example":
                return real(host, port, *args, **kwargs)
            return [*real("127.0.0.1", port, **kwargs), *real("169.254.0.9", port, **kwargs)]

        monkeypatch.setattr(socket, "getaddrinfo", resolver)
        with pytest.raises(errors.PermissionDenied):
            make().get(hostile.url("good").replace("127.0.0.1", "two.example"))
        assert hostile.requests == []

    def test_allowed_hosts_hold_on_every_hop(self, make, nginx, file):
        """Only hosts that a glob matches are asked, redirects included."""
        store = make(allowed_hosts=["127.0.0.1", "LOCAL*"])
        assert read(store, nginx.url("redirect/302/files/image")) == DATA
        assert read(store, nginx.url("files/image", host="localhost")) == DATA
        assert read(store, nginx.url("files/image", host="LocalHost")) == DATA
        nginx.forget()
        for url in (nginx.url("files/image", host="127.0.0.2"), nginx.url("elsewhere/files/image")):
            with pytest.raises(errors.PermissionDenied, match="http_allowed_hosts"):
                store.get(url)
        assert {asked.host for asked in nginx.requests(at_least=1)} == {"127.0.0.1"}

    @pytest.mark.parametrize("proxied", [False, True], ids=["direct", "proxy"])
    @pytest.mark.parametrize("by_redirect", [False, True], ids=["location", "redirect"])
    def test_a_zone_smuggles_no_host(self, make, hostile, proxied, by_redirect):
        """What another parser could take for the real host, or for a header, is no zone."""
        options = {"proxy_information": {"http": address_of(hostile)}} if proxied else {}
        store = make(allowed_hosts=["*.example.org", "127.0.0.1"], **options)
        if not by_redirect:
            store = make(allowed_hosts=["*.example.org"], **options)
        port = hostile.address[1]
        for zone in (
            f"%5d%40127.0.0.1%3a{port}%3f.example.org",
            f"%5d@127.0.0.1:{port}?.example.org",
            "x%0d%0aX-More:%20yes%0d%0a.example.org",
            "lo.example.org",
        ):
            hostile.forget()
            url = f"http://[::1%25{zone}]/good"
            if by_redirect:
                url = hostile.url(f"redirect?to={quote(url, safe='')}")
            for call in (store.get, store.size):
                with pytest.raises((errors.InvalidLocation, errors.StoreError)):
                    call(url)
            targets = {asked.target.partition("?")[0] for asked in hostile.requests}
            assert all(target.endswith("/redirect") for target in targets)
            assert not any("x-more" in asked.headers for asked in hostile.requests)

    def test_a_proxy_gets_no_denied_address_in_disguise(self, make, hostile):
        """Neither as a number, nor with a zone that only this host does not know."""
        proxies = {"http": address_of(hostile)}
        store = make(proxy_information=proxies, denied_networks=["127.0.0.0/8", "::1/128"])
        for host in ("0x7f.1", "127.1.", "[::1]", "[::1%25nowhere]", "[::ffff:7f00:1%25nowhere]"):
            with pytest.raises((errors.PermissionDenied, errors.InvalidLocation)):
                store.get(f"http://{host}/good")
        assert hostile.requests == []
        assert read(make(proxy_information=proxies), "http://0x7f.1/good") == hostile.content
        (asked,) = hostile.requests
        assert asked.target == "http://127.0.0.1/good"
        assert asked.headers["host"] == "127.0.0.1"


class TestCredentials:
    def test_credentials_stay_with_scheme_host_and_port(self, make, nginx, file):
        """Another host or scheme gets no credentials, nor does the first one after that."""
        store = make(ca_certificates_file=str(nginx.ca))
        same = with_credentials(nginx.url("redirect/302/auth/image"))
        assert read(store, same) == DATA
        assert [asked.authorization for asked in nginx.requests(at_least=2)] == [BASIC, BASIC]
        for path in ("elsewhere/auth/image", "upgrade/auth/image"):
            nginx.forget()
            with pytest.raises(errors.PermissionDenied):
                store.get(with_credentials(nginx.url(path)))
            assert [asked.authorization for asked in nginx.requests(at_least=2)] == [BASIC, ""]
        nginx.forget()
        with pytest.raises(errors.PermissionDenied):
            store.get(with_credentials(nginx.url("elsewhere/redirect/302/auth/image")))
        there_and_back = nginx.requests(at_least=3)
        assert [asked.host for asked in there_and_back] == ["127.0.0.1", "127.0.0.2", "127.0.0.1"]
        assert [asked.authorization for asked in there_and_back] == [BASIC, "", ""]

    def test_credentials_in_a_redirect_are_not_used(self, store, nginx, hostile, file):
        """A server cannot make the store use credentials of the server's choice."""
        to = quote(with_credentials(nginx.url("auth/image")), safe="")
        with pytest.raises(errors.PermissionDenied):
            store.get(hostile.url(f"redirect?to={to}"))
        assert [asked.authorization for asked in nginx.requests(at_least=1)] == [""]

    def test_https_never_leads_to_http(self, make, nginx, file):
        """A redirect from https to http is refused, the other way round it is followed."""
        store = make(ca_certificates_file=str(nginx.ca))
        assert read(store, nginx.url("upgrade/files/image")) == DATA
        nginx.forget()
        with pytest.raises(errors.PermissionDenied, match="from https to http"):
            store.get(nginx.url("downgrade/files/image", scheme="https"))
        assert len(nginx.requests(at_least=1)) == 1


class TestTls:
    def test_the_environment_does_not_add_authorities(self, make, nginx, file, monkeypatch):
        """REQUESTS_CA_BUNDLE and its kin neither grant nor take away trust."""
        url = nginx.url("files/image", scheme="https")
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.setenv(name, str(nginx.ca))
        with pytest.raises(errors.PermissionDenied, match="https_ca_certificates_file") as caught:
            make().get(url)
        assert not caught.value.retryable
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
        assert read(make(ca_certificates_file=str(nginx.ca)), url) == DATA

    def test_names_are_verified(self, make, nginx, file):
        """A trusted certificate for another host is refused, insecure or not: a CA file is set."""
        url = nginx.url("files/image", scheme="https", host="127.0.0.3")
        for insecure in (False, True):
            with pytest.raises(errors.PermissionDenied, match="certificate"):
                make(ca_certificates_file=str(nginx.ca), insecure=insecure).get(url)

    @pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
    def test_insecure_reads_from_anyone(self, make, nginx, file):
        """With https_insecure and no CA file, any certificate will do."""
        url = nginx.url("files/image", scheme="https", host="127.0.0.3")
        assert read(make(insecure=True), url) == DATA

    def test_a_server_that_speaks_no_tls_is_an_error(self, make, hostile):
        """TLS with a plain port fails clearly."""
        with pytest.raises(errors.StoreError, match=r"TLS|connection|in time"):
            make().get(hostile.url("good").replace("http:", "https:"))

    def test_a_bundle_without_certificates(self, make, nginx, tmp_path):
        """A CA file that holds none is refused, by name, and a good one is not."""
        empty = tmp_path / "empty.pem"
        empty.write_text("nothing\n")
        with pytest.raises(errors.ConfigError, match="https_ca_certificates_file"):
            make(ca_certificates_file=str(empty))
        assert make(ca_certificates_file=str(nginx.ca)).check() == make().check() == []


class TestProxy:
    def test_the_environment_names_no_proxy(self, store, nginx, file, monkeypatch):
        """http_proxy and all_proxy of the environment are not looked at."""
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
        assert read(store, nginx.url("files/image")) == DATA

    def test_a_proxy_is_asked_for_the_whole_url(self, make, hostile, monkeypatch):
        """A configured proxy gets the URL, its query and its own credentials, whatever no_proxy."""
        monkeypatch.setenv("no_proxy", "*")
        proxy = f"http://me:hidden@{address_of(hostile)}"
        store = make(proxy_information={"http": proxy})
        assert read(store, "http://images.invalid/good?a=1&b=%7E") == hostile.content
        (asked,) = hostile.requests
        assert asked.target == "http://images.invalid/good?a=1&b=%7E"
        assert asked.headers["host"] == "images.invalid"
        me = base64.b64encode(b"me:hidden").decode()
        assert asked.headers["proxy-authorization"] == f"Basic {me}"
        assert "imgstore-target" not in asked.headers

    def test_the_guard_holds_for_what_is_known_here(self, make, hostile):
        """Behind a proxy, denied literals and hosts are refused; the proxy itself never is."""
        proxies = {"http": address_of(hostile)}
        store = make(proxy_information=proxies, denied_networks=["169.254.0.0/16", "127.0.0.0/8"])
        for url in (DENIED, "http://localhost/good"):
            with pytest.raises(errors.PermissionDenied):
                store.get(url)
        assert hostile.requests == []
        assert read(store, "http://images.invalid/good") == hostile.content

    def test_a_proxy_that_fails_is_unavailable(self, make, hostile):
        """A proxy that is down, or refuses a tunnel, is Unavailable and shows no password."""
        down = {"http": f"http://me:hidden@127.0.0.1:{free_port()}"}
        refusing = {"https": f"http://me:hidden@{address_of(hostile)}"}
        for proxies, url in ((down, "http://a.invalid/"), (refusing, "https://a.invalid/")):
            with pytest.raises(errors.Unavailable, match="proxy") as caught:
                make(proxy_information=proxies).get(url)
            assert "hidden" not in "".join(traceback.format_exception(caught.value))


class TestSecrets:
    @pytest.mark.parametrize(
        "target",
        [
            "good",
            "status?code=404",
            "circle",
            "longer",
            "truncate?at=5",
            "close",
            "garbage",
            "compress",
            "stall-head",
            "long-header",
            "ignores-range",
            "redirect?to=%2Fgood",
            f"redirect?to=http%3A%2F%2Fu%3Ahidden%40169.254.1.1%2F%3Fsig%3D{SECRET}",
        ],
    )
    def test_nothing_shows_credentials_or_queries(self, make, hostile, caplog, target):
        """No log line, message, repr or chained traceback shows a password or a query."""
        caplog.set_level("DEBUG", logger="")
        store = make(read_timeout=0.3)
        target = f"{target}{'&' if '?' in target else '?'}sig={SECRET}"
        url = hostile.url(target).replace("://", "://me:hidden@")
        shown = [repr(store)]
        for call in (lambda: read(store, url), lambda: read(store, url, offset=3)):
            try:
                call()
            except errors.ImgStoreError as exc:
                shown += [repr(exc), "".join(traceback.format_exception(exc))]
        with contextlib.suppress(errors.ImgStoreError):
            store.size(url)
        me = base64.b64encode(b"me:hidden").decode()
        for text in (*shown, caplog.text):
            assert not any(secret in text for secret in ("hidden", SECRET, me)), text
        assert caplog.text, "urllib3 logs something at least"

    def test_half_a_password_is_not_shown(self, store, hostile, caplog):
        """A password of digits and an unescaped slash looks like a port and a path."""
        caplog.set_level("DEBUG", logger="")
        for port in (hostile.address[1], free_port()):
            url = f"http://127.0.0.1:{port}/{SECRET}@images.example/good"
            with pytest.raises(errors.StoreError) as caught:
                store.get(url)
            assert SECRET not in "".join(traceback.format_exception(caught.value))
        assert SECRET not in caplog.text
        assert hostile.requests[0].path == f"/{SECRET}@images.example/good"

    def test_a_host_that_is_down_shows_neither(self, store, caplog):
        """The same holds where no server answers."""
        caplog.set_level("DEBUG", logger="")
        for host in (f"127.0.0.1:{free_port()}", "there-is-none.invalid"):
            with pytest.raises(errors.Unavailable) as caught:
                store.get(f"http://me:{PASSWORD}@{host}/image?sig={SECRET}".replace(" ", "%20"))
            text = caplog.text + "".join(traceback.format_exception(caught.value))
            assert PASSWORD not in unquote(text)
            assert SECRET not in text
