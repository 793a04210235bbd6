"""The http store against nginx, and against servers that lie, stall and break off."""

from __future__ import annotations

import contextlib
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
from servers.nginx import PASSWORD, USER

from imgstore import Capability, Location, errors
from imgstore.drivers.http import HttpStore
from imgstore.testing import StoreContract
from imgstore.testing.verifying import flip

pytestmark = pytest.mark.servers("nginx")

MIB = 1 << 20
DATA = os.urandom(3 * MIB + 7)
CREDENTIALS = f"{USER}:{quote(PASSWORD)}@"
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
    return url.replace("://", f"://{CREDENTIALS}")


def read(store: HttpStore, url: str, **arguments) -> bytes:
    with store.get(url, **arguments) as reader:
        return reader.read()


class TestContract(StoreContract):
    capabilities = Capability.READ | Capability.RANGES
    memory_limit = 40 * MIB

    @pytest.fixture
    def store(self):
        with HttpStore("web") as store:
            yield store

    @pytest.fixture
    def place(self, nginx):
        numbers = itertools.count()

        def place(data: bytes) -> Location:
            name = f"placed-{os.urandom(4).hex()}-{next(numbers)}"
            (nginx.root / name).write_bytes(data)
            return Location.parse(nginx.url(f"files/{name}"))

        return place

    @pytest.fixture
    def missing(self, nginx):
        return Location.parse(nginx.url("files/there-is-none"))

    @pytest.fixture
    def rot(self, nginx):
        return lambda location: flip(nginx.root / location.url.rpartition("/")[2])


class TestRedirects:
    @pytest.mark.parametrize("form", ["redirect", "relative"])
    @pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
    def test_every_kind_is_followed(self, store, nginx, file, form, code):
        """All five codes, absolute or relative, lead to the image, its size and its ranges."""
        url = nginx.url(f"{form}/{code}/files/image")
        assert read(store, url) == DATA
        assert read(store, url, offset=5, length=MIB) == DATA[5 : 5 + MIB]
        assert store.size(url) == len(DATA)

    def test_a_relative_path_is_resolved(self, store, nginx, file):
        """A Location with .. is resolved against the URL that was asked."""
        assert read(store, nginx.url("dot/image")) == DATA

    def test_five_are_followed_and_no_more(self, store, nginx, file):
        """Five redirects lead to the image, six and circles are an error."""
        assert read(store, nginx.url("chain/5/files/image")) == DATA
        for path in ("chain/6/files/image", "circle/1", "itself"):
            with pytest.raises(errors.StoreError, match="more than 5 times") as caught:
                store.get(nginx.url(path))
            assert not caught.value.retryable

    @pytest.mark.parametrize(
        "target",
        ["redirect-nowhere", "redirect?to=ftp%3A%2F%2Fa%2Fb"]
        + [f"redirect?to={quote(to)}" for to in ("http://", "http://a:99999/", "file:///etc/x")],
    )
    def test_a_redirect_to_nowhere_is_an_error(self, store, hostile, target):
        """A redirect without a usable http URL says so."""
        with pytest.raises(errors.StoreError, match="redirects"):
            store.get(hostile.url(target))


class TestRequests:
    def test_what_is_asked_for(self, store, nginx, file):
        """A whole image is asked for without Range, a part by one; nothing may be encoded."""
        url = nginx.url("gzip/image")
        assert read(store, url) == DATA
        assert read(store, url, offset=3) == DATA[3:]
        assert read(store, url, offset=3, length=4) == DATA[3:7]
        asked = nginx.requests(at_least=3)
        assert [one.range for one in asked] == ["", "bytes=3-", "bytes=3-6"]
        assert {one.accept_encoding for one in asked} == {"identity"}
        assert {one.if_range for one in asked} == {""}

    def test_an_image_is_described_by_one_request(self, store, nginx, file):
        """Size, version and time are in one answer."""
        store.size(nginx.url("files/image"))
        store.stat(nginx.url("files/image?stat"))
        store.size(nginx.url("files/image?size"))
        asked = [one.target.rpartition("/")[2] for one in nginx.requests(at_least=3)]
        assert asked == ["image", "image?stat", "image?size"]

    def test_the_target_is_sent_as_it_was_written(self, store, hostile):
        """Escapes stay as they are, for signatures cover them; only illegal text is escaped."""
        store.size(hostile.url("good?a=%7e%2f&b=c d&e=ü#fragment"))
        assert hostile.requests[0].target == "/good?a=%7e%2f&b=c%20d&e=%C3%BC"
        assert "imgstore-target" not in hostile.requests[0].headers

    def test_cookies_are_not_kept(self, store, nginx, file):
        """What one answer sets is not sent with the next request."""
        for _ in range(2):
            assert read(store, nginx.url("cookie/image")) == DATA
        assert {asked.cookie for asked in nginx.requests(at_least=2)} == {""}

    def test_credentials_are_sent_decoded(self, store, nginx, file):
        """User and password of the URL become basic authentication; wrong ones are refused."""
        assert read(store, with_credentials(nginx.url("auth/image"))) == DATA
        for url in (nginx.url("auth/image"), nginx.url("auth/image").replace("//", "//a:b@")):
            with pytest.raises(errors.PermissionDenied):
                store.get(url)

    def test_connections_are_reused_when_clean(self, store, nginx, file):
        """A connection serves again after a whole read, never after one that was given up."""
        url = nginx.url("files/image")
        for _ in range(3):
            assert read(store, url) == DATA
            assert store.size(url) == len(DATA)
            with pytest.raises(errors.NotFound):
                store.get(nginx.url("files/none"))
        assert len({asked.connection for asked in nginx.requests(at_least=9)}) == 1
        store.get(url).close()
        assert read(store, url) == DATA
        assert len({asked.connection for asked in nginx.requests(at_least=11)}) == 2

    def test_readers_given_up_leak_nothing(self, store, nginx, file):
        """Closed and dropped readers leave no socket behind."""
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(20):
            store.get(nginx.url("files/image")).close()
            store.get(nginx.url("files/image")).read(10)
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1

    def test_a_connection_that_went_stale_is_replaced(self, store, nginx, file):
        """A server that was restarted in between is asked over a new connection."""
        assert read(store, nginx.url("files/image")) == DATA
        nginx.process.restart()
        assert read(store, nginx.url("files/image")) == DATA

    def test_threads_share_a_store(self, store, nginx, file):
        """Many threads read different ranges at once."""

        def part(start: int) -> bool:
            got = read(store, nginx.url("files/image"), offset=start, length=70001)
            return got == DATA[start : start + 70001]

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(part, range(0, 3 * MIB, 30011)))


class TestSize:
    @pytest.mark.parametrize("code", [200, 403, 404, 501])
    def test_head_is_not_asked(self, store, hostile, code):
        """The total of a one-byte range is the size, whatever HEAD would say."""
        assert store.size(hostile.url(f"head-status?code={code}")) == len(hostile.content)
        (asked,) = hostile.requests
        assert (asked.method, asked.headers["range"]) == ("GET", "bytes=0-0")

    @pytest.mark.parametrize("target", ["head-no-length", "ignores-range", "star-total"])
    def test_there_is_more_than_one_way(self, store, hostile, target):
        """A size is found where any answer to GET tells it, also for get."""
        assert store.size(hostile.url(target)) == len(hostile.content)
        assert read(store, hostile.url(target)) == hostile.content

    @pytest.mark.parametrize("says", [0, 5])
    def test_what_head_alone_says_is_no_size(self, store, hostile, says):
        """All bytes are read, or none: never as many as a HEAD without a body made of it."""
        behaviours = ("head-says?then=good", "head-says?then=ignores-range")
        for target in behaviours:
            url = hostile.url(f"{target}&length={says}")
            assert store.size(url) == len(hostile.content)
            assert read(store, url) == hostile.content
        url = hostile.url(f"head-says?then=chunked-part&length={says}")
        assert store.size(url) == len(hostile.content)
        assert read(store, url) == hostile.content
        for then in ("chunked", "no-length"):
            for call in (store.size, store.get):
                with pytest.raises(errors.Unsupported, match="does not tell"):
                    call(hostile.url(f"head-says?then={then}&length={says}"))

    def test_an_image_that_is_not_as_empty_as_stated_is_an_error(self, store, hostile):
        """A chunked body with bytes in it is not read as an empty image."""
        with pytest.raises(errors.IntegrityError, match="says is empty"):
            store.get(hostile.url("chunked-part?total=0"))

    def test_an_unknown_size_is_an_error(self, store, hostile, nginx, file):
        """An answer that tells no length is Unsupported, never 0."""
        for url in (hostile.url("chunked"), hostile.url("no-length"), nginx.url("chunked/image")):
            for call in (store.size, store.get):
                with pytest.raises(errors.Unsupported, match="does not tell"):
                    call(url)

    def test_empty_images(self, store, nginx, hostile):
        """An empty image has size 0, is read as nothing, and has nothing beyond its end."""
        (nginx.root / "empty").write_bytes(b"")
        hostile.content = b""
        for url in (nginx.url("files/empty"), nginx.url("nohead/empty"), hostile.url("good")):
            assert store.size(url) == 0
            assert read(store, url) == read(store, url, length=5) == b""
            with pytest.raises(errors.InvalidRange):
                store.get(url, offset=1)


class TestRanges:
    @pytest.mark.parametrize("target", ["ignores-range", "multipart", "no-content-range"])
    def test_a_server_without_ranges_is_unsupported(self, store, hostile, target):
        """A part is never cut from, or taken for, something that was not asked for."""
        for arguments in ({"offset": 1}, {"length": 10}, {"offset": 70000, "length": 10}):
            with pytest.raises(errors.Unsupported):
                store.get(hostile.url(target), **arguments)

    @pytest.mark.parametrize("target", ["other-range", "wrong-start"])
    def test_another_range_is_an_integrity_error(self, store, hostile, target):
        """Content-Range must be the range that was asked for."""
        with pytest.raises(errors.IntegrityError, match="asked for bytes 5-14"):
            store.get(hostile.url(target), offset=5, length=10)

    def test_a_total_that_does_not_fit_is_an_integrity_error(self, store, hostile):
        """An open range must end where the stated total does; nonsense is Unsupported."""
        with pytest.raises(errors.IntegrityError):
            store.get(hostile.url("wrong-total"), offset=5)
        with pytest.raises(errors.Unsupported):
            store.get(hostile.url("bad-content-range"), offset=5)

    def test_a_total_that_is_not_told_is_asked_for(self, store, hostile):
        """An asterisk in place of the total is legal."""
        url = hostile.url("star-total")
        assert read(store, url, offset=5, length=10) == hostile.content[5:15]
        assert read(store, url, offset=MIB - 3, length=10) == hostile.content[-3:]

    def test_the_body_of_an_ignored_range_is_not_read(self, store, nginx, file):
        """The connection on which a server sends everything is closed at once."""
        with pytest.raises(errors.Unsupported, match="ignores Range"):
            store.get(nginx.url("norange/image"), offset=1)
        read(store, nginx.url("files/image"))
        assert len({asked.connection for asked in nginx.requests(at_least=2)}) == 2


class TestResuming:
    def test_a_broken_read_goes_on_where_it_stopped(self, make, nginx, file, proxies):
        """The rest is asked for with If-Range and the bytes come out as if nothing happened."""
        through = proxies(("127.0.0.1", nginx.ports["http"]))
        url = nginx.url("files/image").replace(str(nginx.ports["http"]), str(through.port))
        through.cut(MIB + 100_000, times=2)
        assert read(make(), url, offset=7) == DATA[7:]
        asked = nginx.requests(at_least=3)
        assert asked[0].if_range == ""
        assert asked[1].if_range == asked[2].if_range != ""
        assert asked[1].range.startswith("bytes=")
        assert asked[1].range != asked[0].range

    def test_a_change_in_between_is_an_integrity_error(self, make, nginx, file, proxies):
        """Parts of two versions are never put together."""
        through = proxies(("127.0.0.1", nginx.ports["http"]))
        url = nginx.url("files/image").replace(str(nginx.ports["http"]), str(through.port))
        through.cut(2 * MIB + 100_000, reset=False)
        with make().get(url) as reader:
            assert reader.read(10) == DATA[:10]
            file.with_suffix(".new").write_bytes(bytes(len(DATA)))
            os.utime(file.with_suffix(".new"), (1, 1))  # nginx makes ETags of seconds
            file.with_suffix(".new").rename(file)
            with pytest.raises(errors.IntegrityError, match="changed"):
                reader.read()

    @pytest.mark.parametrize("end", ["fin", "reset"])
    @pytest.mark.parametrize("then", ["changed", "lying"])
    def test_a_server_that_changes_is_found_out(self, store, hostile, then, end):
        """Neither 200 nor 206 with other content is taken for the rest."""
        url = hostile.url(f"truncate?at=70000&times=1&end={end}&then={then}")
        with pytest.raises(errors.IntegrityError, match="changed"), store.get(url) as reader:
            reader.read()

    def test_a_server_that_stops_doing_ranges(self, store, hostile):
        """The same version without ranges is Unsupported: nothing changed."""
        with pytest.raises(errors.Unsupported):
            read(store, hostile.url("truncate?at=70000&times=1&then=ignore"))

    @pytest.mark.parametrize("target", ["no-etag", "weak-etag"])
    def test_without_a_strong_validator_nothing_is_resumed(self, store, hostile, target):
        """Such an answer has no version."""
        with store.get(hostile.url(target)) as reader:
            assert reader.opened.version is None

    def test_dates_do_where_they_are_strong(self, store, nginx, file, hostile):
        """Last-Modified is a version when it is old, and nothing is with neither."""
        with store.get(nginx.url("noversion/image")) as reader:
            assert reader.opened.version is None
        with store.get(hostile.url("good"), offset=5) as reader:
            assert reader.opened.version == hostile.etag

    def test_the_end_is_a_retryable_integrity_error(self, store, hostile):
        """A body that always stops short is reported, never passed off as the image."""
        with pytest.raises(errors.IntegrityError, match="early") as caught:
            read(store, hostile.url("truncate?at=70000"))
        assert caught.value.retryable
