"""Which of glance_store's exceptions each error becomes, by verb."""

from __future__ import annotations

import hashlib
import http.server
import inspect
import io
import socket
import threading

import glance_store
import pytest
import told_driver
from glance_store import _translation, exceptions

from imgstore import Capability, errors

KINDS = [
    kind
    for kind in vars(errors).values()
    if inspect.isclass(kind) and issubclass(kind, errors.ImgStoreError)
]
# add, get, get_size, delete; "-" stands for what the table does not say.
TABLE = {
    errors.NotFound: "- NotFound NotFound NotFound",
    errors.AlreadyExists: "Duplicate - - -",
    errors.StorageFull: "StorageFull - - -",
    errors.TooLarge: "StorageFull - - -",
    errors.PermissionDenied: "StorageWriteDenied Forbidden Forbidden Forbidden",
    errors.InUse: "Duplicate - - InUseByStore",
    errors.TimedOut: "TimeoutError TimeoutError TimeoutError TimeoutError",
    errors.Unavailable: (
        "TimeoutError RemoteServiceUnavailable RemoteServiceUnavailable TimeoutError"
    ),
    errors.Throttled: (
        "TimeoutError RemoteServiceUnavailable RemoteServiceUnavailable TimeoutError"
    ),
    errors.SizeMismatch: "Invalid - - -",
    errors.IntegrityError: "BackendException BackendException BackendException -",
    errors.DigestMismatch: "BackendException BackendException BackendException -",
    errors.Unsupported: "StoreAddDisabled StoreGetNotSupported BadStoreUri StoreDeleteNotSupported",
    errors.InvalidArgument: "Invalid Invalid Invalid Invalid",
    errors.InvalidLocation: "- BadStoreUri BadStoreUri BadStoreUri",
    errors.OutsideStore: "- NotFound NotFound Forbidden",
    errors.InvalidRange: "- Invalid - -",
    errors.ConfigError: (
        "StoreAddDisabled BadStoreConfiguration BadStoreConfiguration BadStoreConfiguration"
    ),
    errors.DriverUnavailable: (
        "StoreAddDisabled BadStoreConfiguration BadStoreConfiguration BadStoreConfiguration"
    ),
    errors.StoreError: "BackendException BackendException BackendException BackendException",
}
CASES = [
    (kind, verb, expected)
    for kind, row in TABLE.items()
    for verb, expected in zip(("add", "get", "get_size", "delete"), row.split(), strict=True)
    if expected != "-"
]
MEMORY = "memory://told/image"


def add(data=b"data", **given):
    source = io.BytesIO(data) if isinstance(data, bytes) else data
    return glance_store.add_with_multihash(None, "image", source, 0, "told", "sha256", **given)


CALLS = {
    "add": add,
    "get": lambda: glance_store.get(MEMORY, "told"),
    "get_size": lambda: glance_store.get_size_from_uri_and_backend(MEMORY, "told"),
    "delete": lambda: glance_store.delete(MEMORY, "told"),
}


@pytest.fixture
def told(service):
    service.multi(told="told")
    return told_driver.ToldStore


@pytest.mark.parametrize(("kind", "verb", "expected"), CASES)
def test_each_row(told, caplog, kind, verb, expected):
    """The class follows from error and verb; the error is the cause, and its text is logged."""
    told.raises = kind("it broke at 100%s", remedy="mend it")
    with pytest.raises(getattr(exceptions, expected)) as caught:
        CALLS[verb]()
    assert type(caught.value) is getattr(exceptions, expected)
    assert caught.value.__cause__ is told.raises
    assert caplog.messages.count(str(told.raises)) == 1
    assert "it broke at 100%s; mend it" in str(told.raises)
    assert str(caught.value).startswith("store 'told': ")
    if isinstance(caught.value, exceptions.GlanceStoreException):
        assert caught.value.msg == caught.value.message == str(caught.value)


PLACES = (
    "s3+http://10.1.2.3:9000/internal-bucket/x",
    "/srv/internal/images",
    "nas1.internal.example:2049",
    "[fd00::1]:443",
    "internal.example",
    "fd00:5::7",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", CALLS)
def test_no_place_is_told(told, kind, verb):
    """Texts go to users of the API: no URL, path or host is in them, nor where the image lies."""
    for place in PLACES:
        told.raises = kind(f"{place} refused", remedy=f"repair {place}")
        known = (exceptions.GlanceStoreException, exceptions.BackendException)
        with pytest.raises(known) as caught:
            CALLS[verb]()
        text = str(caught.value)
        assert text.startswith("store 'told': ")
        for hidden in (place, "internal", "fd00", MEMORY, "memory:", "refused"):
            assert hidden not in text


def test_words_for_users(told):
    """What the request itself has wrong is told, and the option that lets former places be used."""
    told.raises = errors.Unavailable("host nas1 is away")
    with pytest.raises(exceptions.TimeoutError) as caught:
        add()
    assert caught.value.msg == (
        "store 'told': image image: the backend is not available; try again later"
    )
    told.raises = errors.OutsideStore("x", remedy="name /srv/former in store_also_owns")
    with pytest.raises(exceptions.Forbidden, match="store_also_owns") as caught:
        CALLS["delete"]()
    assert "/srv" not in caught.value.msg
    told.raises = None
    with pytest.raises(exceptions.Invalid, match="bytes"):
        glance_store.add_with_multihash(None, "x", io.BytesIO(b"data"), 5, "told", "md5")
    add()
    with pytest.raises(exceptions.Invalid, match="beyond"):
        glance_store.get(MEMORY, "told", offset=9)


def test_texts_of_a_store_that_failed(service, caplog):
    """The fault, which names places, is in the log of the start; users learn that there is one."""
    service.multi(bad="file", options={"bad": {"filesystem_store_metadata_file": "/no/such.json"}})
    assert caplog.text.count("/no/such.json") == 1
    for call in (
        lambda: glance_store.add(None, "x", io.BytesIO(), 0, "bad"),
        lambda: glance_store.get("file:///no/x", "bad"),
    ):
        with pytest.raises(exceptions.GlanceStoreException, match="'bad'") as caught:
            call()
        assert "/no" not in caught.value.msg
    assert caplog.text.count("/no/such.json") == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", CALLS)
def test_nothing_leaks(told, kind, verb):
    """No error of imgstore comes through: some are ValueErrors, which mean something to Glance."""
    told.raises = kind("it broke")
    with pytest.raises((exceptions.GlanceStoreException, exceptions.BackendException)) as caught:
        CALLS[verb]()
    assert not isinstance(caught.value, errors.ImgStoreError | ValueError)


def test_the_table_is_whole():
    """Where a row says nothing of a verb, a base's does."""
    for kind in KINDS:
        for verb in _translation.Row._fields:
            assert isinstance(_translation.translated(kind("x"), verb), Exception)


@pytest.mark.parametrize("given", [{"offset": 1}, {"chunk_size": 2}])
def test_ranges(told, given):
    """A store that reads whole images only says so of a range."""
    add()
    told.raises = errors.Unsupported("whole images only")
    with pytest.raises(exceptions.StoreRandomGetNotSupported):
        glance_store.get(MEMORY, "told", **given)
    told.raises = None
    with pytest.raises(exceptions.Invalid):
        glance_store.get(MEMORY, "told", offset=5)


@pytest.mark.parametrize("kind", KINDS)
def test_midway(told, kind):
    """What breaks while data are iterated, or read, is what it is for get."""
    add()
    expected = type(_translation.translated(kind("x"), "get"))
    for take in (list, lambda data: data.read()):
        told.raises_midway = kind("it broke")
        data, size = glance_store.get(MEMORY, "told")
        assert size == 4
        with pytest.raises(expected) as caught:
            take(data)
        assert type(caught.value) is expected
        data.close()


@pytest.mark.parametrize(
    ("missing", "call", "expected"),
    [
        (Capability.WRITE, "add", exceptions.StoreAddDisabled),
        (Capability.DELETE, "delete", exceptions.StoreDeleteNotSupported),
        (Capability.READ, "get", exceptions.StoreGetNotSupported),
    ],
)
def test_a_missing_capability(told, monkeypatch, missing, call, expected):
    """A store that cannot, at all, says so without asking its backend."""
    monkeypatch.setattr(told, "capabilities", told.capabilities & ~missing)
    with pytest.raises(expected):
        CALLS[call]()
    assert told.calls == 0


def test_bits_that_were_taken_away(told):
    """A store that somebody took the bit from takes no images."""
    store = glance_store.get_store_from_store_identifier("told")
    store.unset_capabilities(glance_store.capabilities.BitMasks.WRITE_ACCESS)
    with pytest.raises(exceptions.StoreAddDisabled):
        add()


class TestCallers:
    """What the objects of callers raise is theirs, the very object."""

    @pytest.mark.parametrize("error", [ValueError("x"), KeyError("y"), exceptions.Invalid("z")])
    def test_sources(self, told, error):
        class Source:
            def read(self, n):
                raise error

        def chunks():
            yield b"x"
            raise error

        for source in (Source(), chunks()):
            with pytest.raises(type(error)) as caught:
                add(source)
            assert caught.value is error
        assert glance_store.get_store_from_store_identifier("told")._store._images == {}

    def test_verifiers(self, told):
        error = RuntimeError("the signature is not of this century")

        class Verifier:
            def update(self, data):
                raise error

        with pytest.raises(RuntimeError) as caught:
            add(verifier=Verifier())
        assert caught.value is error

    def test_a_verifier_is_not_asked_for_its_verdict(self, told):
        """Glance does that itself, and deletes the image then."""

        class Verifier:
            data = b""

            def update(self, data):
                self.data += data

            def finish(self):
                raise AssertionError

        verifier = Verifier()
        add(io.BytesIO(b"abc" * 1000), verifier=verifier)
        assert verifier.data == b"abc" * 1000

    @pytest.mark.parametrize("name", ["sha0", "", None, "SHA-256"])
    def test_unknown_algorithms(self, told, name):
        """They are found out before anything is read."""

        def chunks():
            raise AssertionError
            yield

        with pytest.raises(exceptions.UnknownHashingAlgo):
            glance_store.add_with_multihash(None, "image", chunks(), 0, "told", name)

    def test_ids_that_no_store_takes(self, told):
        with pytest.raises(exceptions.Invalid):
            glance_store.add_with_multihash(None, "../x", io.BytesIO(), 0, "told", "md5")

    def test_sizes(self, told):
        """0 and None are unknown; any other one is compared."""
        for size in (0, None, 4):
            result = glance_store.add_with_multihash(
                None, f"image{size}", io.BytesIO(b"data"), size, "told", "sha512"
            )
            assert result == (
                f"memory://told/image{size}",
                4,
                hashlib.md5(b"data").hexdigest(),
                hashlib.sha512(b"data").hexdigest(),
                {"store": "told"},
            )
        with pytest.raises(exceptions.Invalid):
            glance_store.add_with_multihash(None, "x", io.BytesIO(b"data"), 5, "told", "md5")


class Answers(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(int(self.path.strip("/")))
        self.end_headers()

    do_GET = do_HEAD  # noqa: N815  # as the standard library has it

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = http.server.HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class TestHttp:
    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("/404", exceptions.NotFound),
            ("/403", exceptions.BadStoreUri),
            ("/500", exceptions.BadStoreUri),
            ("/501", exceptions.BadStoreUri),
            ("/418", exceptions.BadStoreUri),
        ],
    )
    def test_sizes_that_a_server_does_not_tell(self, service, server, path, expected):
        """Glance takes the URL for wrong in all cases but one."""
        service.multi(web="http", options={"web": {"http_read_timeout": 5}})
        with pytest.raises(expected) as caught:
            glance_store.get_size_from_uri_and_backend(server + path, "web")
        assert type(caught.value) is expected

    def test_addresses_that_are_not_asked(self, service):
        """Neither the metadata service of a cloud nor a port that nobody listens at."""
        service.multi(web="http")
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        for at in ("169.254.169.254", f"127.0.0.1:{port}", "127.0.0.1:0"):
            url = f"http://{at}/x"
            with pytest.raises(exceptions.BadStoreUri):
                glance_store.get_size_from_uri_and_backend(url, "web")

    def test_a_store_that_failed(self, service):
        service.multi(web="http", options={"web": {"http_denied_networks": ["nonsense"]}})
        with pytest.raises(exceptions.BadStoreUri):
            glance_store.get_size_from_uri_and_backend("http://h/x", "web")

    def test_nothing_is_added(self, service):
        service.multi(web="http")
        with pytest.raises(exceptions.StoreAddDisabled):
            glance_store.add(None, "x", io.BytesIO(), 0, "web")
        with pytest.raises(exceptions.StoreDeleteNotSupported):
            glance_store.delete("http://127.0.0.1/x", "web")


class TestExceptions:
    def test_texts(self):
        """A message wins over the template; a template that does not fit stays."""
        assert "Image None not found" in str(exceptions.NotFound(image=None))
        assert "Image 1 already exists" in exceptions.Duplicate(image=1).msg
        assert exceptions.UnknownScheme(scheme="x").msg == "Unknown scheme 'x' found in URI"
        assert str(exceptions.StorageFull("full")) == "full"
        assert exceptions.StorageFull(message="%(a)s", a=1).msg == "1"
        assert exceptions.NotFound("100%").msg == "100%"
        assert exceptions.NotFound(other=1).msg == exceptions.NotFound.message
        assert "30" in exceptions.TimeoutError(timeout=30).msg
        found = exceptions.StoreRandomGetNotSupported(offset=7, chunk_size=9).msg
        assert "7" in found
        assert "9" in found

    def test_the_tree(self):
        """Those that are no GlanceStoreException, and the one that has a parent."""
        kinds = {
            kind
            for kind in vars(exceptions).values()
            if inspect.isclass(kind) and issubclass(kind, Exception)
        }
        apart = {exceptions.BackendException, exceptions.UnsupportedBackend}
        apart.add(exceptions.RedirectException)
        nested = {exceptions.StoreRandomGetNotSupported, exceptions.GlanceStoreException}
        for kind in kinds - apart - nested:
            assert kind.__bases__ == (exceptions.GlanceStoreException,)
            assert str(kind())
        assert exceptions.StoreRandomGetNotSupported.__bases__ == (exceptions.StoreGetNotSupported,)
        assert exceptions.UnsupportedBackend.__bases__ == (exceptions.BackendException,)
        assert exceptions.RedirectException("http://h/x").url.netloc == "h"
        assert exceptions.TimeoutError is not TimeoutError
        for name in (kind.__name__ for kind in kinds):
            assert getattr(glance_store, name) is getattr(exceptions, name)
