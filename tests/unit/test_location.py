"""Location URLs: parsing, printing, comparing, travelling."""

from __future__ import annotations

import copy
import pickle
import string
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imgstore.errors import InvalidLocation
from imgstore.location import Location, same_service
from imgstore.secret import Secret

GREEDY = ("s3", "s3+http", "s3+https", "swift", "swift+http", "swift+https")
SCHEMES = (
    *GREEDY,
    *("file", "filesystem", "http", "https", "rbd", "swift+config", "cinder", "vsphere", "other"),
)
SECRET = "0S3cr3t0"
TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs")))
# As a user or password may be written: anything but what ends it.
USER = st.text(st.sampled_from(string.ascii_letters + string.digits + "-._~%+=!$&'()*,;")).map(
    lambda text: f"{SECRET}{text}"
)
HOST = st.text(st.sampled_from(string.ascii_lowercase + string.digits + "-."), min_size=1)
PATH = st.text(st.sampled_from(string.ascii_letters + string.digits + "-._~%/")).map(
    lambda text: f"/{text}"
)


@st.composite
def urls(draw):
    """URLs with credentials, as operators and other services write them."""
    scheme, host, path = draw(st.sampled_from(SCHEMES)), draw(HOST), draw(PATH)
    credentials = draw(USER) + draw(st.sampled_from(["", ":"])) + draw(USER)
    if scheme in GREEDY:
        credentials += draw(st.sampled_from(["", "/slash", "@at", "/x@y", "?q", "#f"])) + SECRET
    return f"{scheme}://{credentials}@{host}{path}"


@given(TEXT | st.text() | st.sampled_from(SCHEMES).flatmap(lambda s: TEXT.map(f"{s}://".__add__)))
@example("file://")
@example("://x")
@example("s3://@")
@example("http://[::1/")
@example("http://user:pa/ss@host/")
@example("http://host:port/")
@example("x://a\x00b")
@example("x://\ud800")
@example("x://a\n")
def test_parsing_raises_nothing_but_invalid_location(text):
    """Whatever the text, it is a location that survives the round trip, or InvalidLocation."""
    try:
        location = Location.parse(text)
    except InvalidLocation:
        return
    again = Location.parse(location.reveal_url())
    assert again == location
    assert again.reveal_url() == location.reveal_url()
    assert location.reveal_url().lower() == text.lower()


@given(
    st.none() | st.integers() | st.binary() | st.lists(st.text()) | st.dates() | st.builds(object)
)
def test_only_text_is_a_location(thing):
    """Whatever else is given is InvalidLocation."""
    with pytest.raises(InvalidLocation):
        Location.parse(thing)


class Detached:
    """A row whose attributes cannot be read any more, as those of an ORM may be."""

    @property
    def location(self):
        raise RuntimeError("the session is closed")


def test_what_has_a_location():
    """An object with a location stands for that, credentials included, one step deep."""
    at = Location.parse("s3://user:key@host/bucket/image")
    for location in (at, at.reveal_url()):
        assert Location.parse(SimpleNamespace(location=location)).reveal_url() == at.reveal_url()
    deeper = SimpleNamespace(location=SimpleNamespace(location=at))
    for thing in (deeper, SimpleNamespace(location=None), SimpleNamespace(location=b"a://b")):
        with pytest.raises(InvalidLocation, match="not SimpleNamespace; pass a URL"):
            Location.parse(thing)
    with pytest.raises(InvalidLocation, match="the location of Detached cannot be read"):
        Location.parse(Detached())


@given(urls())
def test_credentials_are_kept_and_never_shown(url):
    """No text form shows a credential, ``reveal_url`` gives all of it back."""
    location = Location.parse(url)
    assert location.reveal_url() == url
    assert Location.parse(url).reveal_url() == url
    shown = f"{location} {location!r} {[location]} {location.url} {location.rest}"
    assert SECRET not in shown
    assert SECRET not in str(location.credentials)
    assert str(location).startswith(f"{location.scheme}://***@")
    assert SECRET.encode() not in pickle.dumps(location)
    assert Location.parse(location.url) == location
    assert Location.parse(location.url).credentials is None


@given(urls())
def test_credentials_do_not_count_in_comparisons(url):
    """Locations are equal, with equal hashes, when scheme and text without credentials are."""
    location = Location.parse(url)
    bare = Location.parse(location.url)
    assert location == bare
    assert hash(location) == hash(bare)
    assert len({location, bare}) == 1
    assert location != Location.parse(f"{location.url}x")
    assert location != url
    assert pickle.loads(pickle.dumps(location)) == location
    assert pickle.loads(pickle.dumps(location)).credentials is None


@given(urls())
def test_copies_in_one_process_keep_credentials(url):
    """Copying is no travelling: a copy, and a location parsed again, reveals the same."""
    location = Location.parse(url)
    for same in (copy.copy(location), copy.deepcopy(location), Location.parse(location)):
        assert same.reveal_url() == url


@given(TEXT, st.sampled_from(SCHEMES))
def test_errors_show_no_credentials(text, scheme):
    """What cannot be parsed is not repeated in the error."""
    for url in (f"{scheme}://u:{SECRET}@{text}\x00", f"u:{SECRET}@{text}\x00", f"{SECRET}"):
        with pytest.raises(InvalidLocation) as caught:
            Location.parse(url)
        assert SECRET not in f"{caught.value} {caught.value!r}"


@pytest.mark.parametrize(
    ("url", "scheme", "credentials", "rest"),
    [
        ("file:///var/lib/images/8c9f", "file", None, "/var/lib/images/8c9f"),
        ("file:///dir@home/8c9f", "file", None, "/dir@home/8c9f"),
        ("FILE:///x", "file", None, "/x"),
        ("filesystem:///x", "filesystem", None, "/x"),
        ("http://host/a?b=c@d", "http", None, "host/a?b=c@d"),
        ("https://u:p@host:8443/a", "https", "u:p", "host:8443/a"),
        ("https://u@e.org:p@host/a", "https", "u@e.org:p", "host/a"),
        ("http://[::1]:80/a", "http", None, "[::1]:80/a"),
        ("rbd://fsid/pool/image/snap", "rbd", None, "fsid/pool/image/snap"),
        ("rbd://image", "rbd", None, "image"),
        ("s3://key:sec/ret@host/bucket/8c9f", "s3", "key:sec/ret", "host/bucket/8c9f"),
        ("s3+https://k@y:s@host/b/8c9f", "s3+https", "k@y:s", "host/b/8c9f"),
        ("s3+http://host/bucket/8c9f", "s3+http", None, "host/bucket/8c9f"),
        ("swift://acct:usr:p/w@host/c/8c9f", "swift", "acct:usr:p/w", "host/c/8c9f"),
        ("swift+https://a%3Au:p@host/v1/c/o", "swift+https", "a%3Au:p", "host/v1/c/o"),
        ("swift+config://ref1/container/8c9f", "swift+config", None, "ref1/container/8c9f"),
        ("cinder://store/8c9f", "cinder", None, "store/8c9f"),
        (
            "vsphere://host/folder/ds/8c9f?dcPath=a/b&dsName=d",
            "vsphere",
            None,
            "host/folder/ds/8c9f?dcPath=a/b&dsName=d",
        ),
    ],
)
def test_urls_are_split_at_the_right_places(url, scheme, credentials, rest):
    """The scheme is lower-case, credentials are split off undecoded, the rest stays as it is."""
    location = Location.parse(url)
    assert (location.scheme, location.rest) == (scheme, rest)
    assert location.credentials == (None if credentials is None else Secret(credentials))
    assert location.url == f"{scheme}://{rest}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h/a?X-Amz-Signature=sig", "https://h/a?***"),
        ("s3://h/b/k?versionId=1", "s3://h/b/k?***"),
        ("vsphere://h/folder/x?dcPath=a", "vsphere://h/folder/x?dcPath=a"),
        ("vsphere://u:p@h/folder/x?dcPath=a", "vsphere://***@h/folder/x?dcPath=a"),
    ],
)
def test_queries_that_may_be_signatures_are_not_shown(url, shown):
    """A query is persisted but not printed, unless its scheme uses it to name a place."""
    location = Location.parse(url)
    assert str(location) == shown
    assert repr(location) == f"<Location {shown}>"
    assert location.reveal_url() == url


@pytest.mark.parametrize(
    "url",
    [
        *("", "x", "/path", "file:", "file:/x", "file://", "1x://y", "-://y", "a b://y"),
        *(" file:///x", "http://", "http:///path", "http://host:port/x", "http://u:a/b@host/x"),
        *("https://[::1/x", "file:///a\tb", "file:///a\x7f", "file:///a\x9f", "file:///\ud800"),
        "s3://k:s@",
    ],
)
def test_what_is_no_location(url):
    """No scheme, nothing after it, control characters, or no host where there must be one."""
    with pytest.raises(InvalidLocation):
        Location.parse(url)


def test_a_location_does_not_change():
    """Attributes are neither set nor deleted, nor added."""
    location = Location.parse("file:///x")
    for name in ("rest", "scheme", "_credentials", "other"):
        with pytest.raises(AttributeError):
            setattr(location, name, "y")
        with pytest.raises(AttributeError):
            delattr(location, name)
    assert location.url == "file:///x"


@pytest.mark.parametrize("scheme", ["sftp", "vsphere", "http", "rbd"])
def test_an_unescaped_password_is_not_shown(scheme):
    """A password that a "/" tears from its authority is masked all the same."""
    location = Location.parse(f"{scheme}://user:12/SECRET@host/path")
    assert "SECRET" not in f"{location} {location!r}"
    assert Location.parse("file:///a:b/c@d").url in str(Location.parse("file:///a:b/c@d"))


def test_services_are_compared_without_default_ports() -> None:
    """Services move from http to https; their locations stay."""
    assert same_service("Host:80/a", "host/a/")
    assert not same_service("host/a", "host/b")
