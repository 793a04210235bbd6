"""No text and no traceback shows a secret, in whatever form others give it back."""

from __future__ import annotations

import base64
import builtins
import gc
import html
import importlib
import json
import logging
import re
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oslo_config import cfg

from imgstore import Location, Store, errors
from imgstore.boundary.redaction import Redaction, without_userinfo
from imgstore.drivers.memory import MemoryStore
from imgstore.layers import ReadOnly
from imgstore.model import Capability, Ownership
from imgstore.process.committing import attempted
from imgstore.secret import Secret

KEY: Final = 'pa/ss+wo&rd "9"=<x>\\é'

# As Cinder answers it; nobody knew of these secrets before.
CONNECTION: Final = {
    "keyring": '[client.cinder]\n\tkey = "AQBx-of-a-keyring"\n',
    "auth_password": "chap-secret",
    "secret_uuid": "uuid-of-secret",
}

FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "percent": lambda text: quote(text, safe=""),
    "percent, slashes kept": quote,
    "percent, lower case": lambda text: re.sub("%..", lambda at: at[0].lower(), quote(text, "")),
    "percent, a path of urllib3": lambda text: quote(text, safe="/:@!$&'()*+,;="),
    "percent twice": lambda text: quote(quote(text, safe=""), safe=""),
    "form": quote_plus,
    "XML": html.escape,
    "XML, numbers": lambda text: html.escape(text).replace("/", "&#47;"),
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON, slashes escaped": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "JSON, UTF-8": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "repr": lambda text: repr(text)[1:-1],
    "bytes": lambda text: repr(text.encode())[2:-1],
    "bytes of JSON": lambda text: repr(json.dumps({"a": text}).encode())[9:-3],
    "repr among quotes": lambda text: repr(f"'{text}\"")[3:-2],
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_is_masked(form):
    """A secret is masked however it was quoted or escaped, also inside of words."""
    shown = Redaction([KEY]).text(f"the request said x{form(KEY)}y, and {form(KEY)}")
    assert shown == "the request said x***y, and ***"


@settings(max_examples=30)
@given(
    st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), min_size=8)
    .map(str.strip)
    .filter(lambda text: len(text) >= 8)
)
@example("a  b  c  d  e")
@example("%%25%2525")
@example("\\\\\\\\\\\\\\\\")
@example("aaaaaaaaa")
@example("a\xa0\xa0bcdefgh")
def test_any_text_may_be_a_secret(secret):
    """Whatever a secret consists of, no usual form of it is left."""
    redaction = Redaction([secret])
    for form in FORMS.values():
        assert redaction.text(f"<{form(secret)}>") in {"<***>", "<***;>"}, form(secret)
    assert redaction.text(" ".join(f"a {secret} b".split())).count("***") == 1


@settings(max_examples=30)
@given(st.binary(max_size=5), st.binary(max_size=5))
def test_base64_is_masked_wherever_it_stands(before, after):
    """A secret is masked in base64, at each of the three places that it may have there."""
    secret = "k3y-with~enough?characters"
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        shown = Redaction([secret]).text(
            f"Basic {encode(before + secret.encode() + after).decode()}."
        )
        assert "***" in shown
        left = shown.removeprefix("Basic ").rstrip(".").replace("***", "")
        assert len(left) <= 4 * -(-len(before) // 3) + 4 * -(-len(after) // 3) + 4


def test_short_secrets_are_masked_where_they_stand_alone():
    """A password that is a part of words leaves these as they are."""
    redaction = Redaction(["A", "hunter2", ""])
    text = "A name: hunter2, 'hunter2' %3Ahunter2 b'\\nhunter2' And hunter24 swift_hunter2"
    assert redaction.text(text) == (
        "*** name: ***, '***' %3A*** b'\\n***' And hunter24 swift_hunter2"
    )


@pytest.mark.parametrize("before", range(960, 1001, 5))
def test_long_texts_are_cut_once_they_are_masked(before):
    """Of a secret that lies across the end nothing is shown."""
    known = Redaction()
    known.keep("secret-of-several-words-and-signs")
    error = errors.StoreError("." * before + "secret-of-several-words-and-signs" + "." * 2000)
    known.chain(error)
    assert len(error.reason) <= 1001
    assert "secret" not in str(error)
    fault = errors.ConfigError("." * 3000)
    known.chain(fault)
    assert len(fault.reason) == 3000


def test_the_longest_secret_is_masked_first():
    """A secret within another leaves nothing of that."""
    assert Redaction(["password", "user:password"]).text("user:password") == "***"


def test_a_location_has_secrets():
    """Credentials of a location and its signature are masked once it is known."""
    at = Location.parse("https://me:p%40ss-word-1@host/x?sig=abc%2Bdefghi-jklmn&part=1")
    redaction = Redaction()
    said = "me:p%40ss-word-1 p@ss-word-1 sig=abc%2Bdefghi-jklmn&part=1 abc+defghi-jklmn host"
    assert redaction.text(said) == said
    redaction.note(at)
    assert redaction.text(said) == "*** *** *** *** host"


def test_words_of_a_location_are_no_secrets():
    """What may be a word or an image's id is left in errors: short values and parts of the path."""
    redaction = Redaction()
    image = "5d0a0a5e-7c4b-4c3a-9b1f-0a1b2c3d4e5f"
    for url in (
        f"http://host/{image}?i={image}",
        "http://host/x?not",
        "http://host/x?2",
        "http://host/x?a=store&b=negative",
        "http://not@host/x",
        "http://is:2@host/x",
    ):
        redaction.note(Location.parse(url))
    said = f"the store says: offset is -2, {image} is not negative"
    assert redaction.text(said) == said


def test_tokens_are_learnt():
    """What was got at run time is masked, the latest of it, whatever callers bring."""
    redaction = Redaction()
    for number in range(128):
        redaction.learn(f"token-number-{number:04}", None, "")
    assert redaction.text("token-number-0000 token-number-0127") == "*** ***"
    redaction.note(*(f"callers-token-{number:04}" for number in range(2000)))
    assert redaction.text("token-number-0000 callers-token-1999") == "*** ***"
    redaction.learn("token-number-0000")
    redaction.learn(*(f"later-token-{number:04}" for number in range(127)))
    assert redaction.text("token-number-0000 token-number-0001") == "*** token-number-0001"
    assert len(repr(redaction)) < 40


def test_no_location_makes_masking_slow():
    """Time grows with a text and with nothing that a caller can choose."""

    def seconds(times: int) -> float:
        path = "p" + "+" * 40 * times
        url = f"https://h/qqqqqqqq/{path}!?x=p{'+%2B' * 12 * times}+{'q' * 8 * times}"
        redaction = Redaction()
        redaction.note(Location.parse(url), "\\" * 24 * times, "a" * 40 * times)
        began = time.process_time()
        for _ in range(20):
            redaction.text(f"Max retries exceeded with url: {url} " + "\\" * 24 * times)
        return time.process_time() - began

    assert seconds(10) < 200 * seconds(1) + 1


def test_masking_costs_little_when_much_is_known():
    """An error is not dear because many callers came before."""
    redaction = Redaction()
    redaction.note(*(f"gAAAA{number:04}-_{'token' * 30}" for number in range(1000)))
    redaction.learn(*(f"gAAAA{number:04}-_{'other' * 30}" for number in range(1000)))
    text = "an error of two hundred characters " * 6
    began = time.process_time()
    for _ in range(100):
        redaction.text(text)
    assert time.process_time() - began < 1  # it takes a hundredth of this where nothing else runs


def test_nothing_in_it_is_shown():
    """What holds the secrets does not show them."""
    assert KEY not in repr(Redaction([KEY]))
    assert not hasattr(Redaction([KEY]), "__dict__")


def test_what_options_hold():
    """Secret options are known, and the credentials of URLs, proxies and hosts in any other."""
    options = {
        "key": cfg.StrOpt("my_key", secret=True),
        "proxies": cfg.DictOpt("my_proxies"),
        "host": cfg.StrOpt("my_host"),
        "server_host": cfg.StrOpt("my_server_host"),
    }
    redaction = Redaction.of(
        options,
        {
            "key": "the secret key",
            "proxies": {"http": "http://me:pass-of-proxy@proxy:8080"},
            "host": "user:pass/of@host-of@host",
            "server_host": "//me:pass-of-server@server",
            "also_owns": ["http://me:pass-of-former@former/", "me:pass-of-no-url@former/"],
            "other": "http://me:not-an-option@host",
        },
    )
    text = "the secret key, pass-of-proxy, pass/of@host-of, pass-of-server, pass-of-former"
    assert redaction.text(text) == "***, ***, ***, ***, ***"
    assert redaction.text("pass-of-no-url, not-an-option") == "***, not-an-option"


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("directory", "/srv/glance/@images"),
        ("directory", "srv/glance/@images"),
        ("host", "/srv/glance/@images"),
        ("also_owns", "file:///srv/glance/@images"),
        ("also_owns", ["filesystem:///srv/glance/:8/@images"]),
        ("also_owns", "http://host/srv/glance/@images"),
        ("server_username", "/srv/glance/administrator@domain"),
    ],
)
def test_a_path_is_no_secret(keyword, value):
    """An "@" may stand in paths and names."""
    options = {name: cfg.StrOpt(name) for name in ("directory", "host", "server_username")}
    redaction = Redaction.of(options, {keyword: value})
    text = "/srv/glance/, /srv/glance/:8/, host/srv/glance/ and administrator"
    assert redaction.text(text) == text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("https://u:p@h:8080/v1/AUTH_u@d", "https://d"),  # perhaps a password with "/"
        ("https://h:8080/v1/AUTH_u@d", "https://h:8080/v1/AUTH_u@d"),
        ("https://h:8080?user=u:x@d", "https://h:8080?user=u:x@d"),
        ("https://h/v1/AUTH_p:u@d", "https://h/v1/AUTH_p:u@d"),
        ("HTTP://[::1]:8080/a:b@d", "HTTP://[::1]:8080/a:b@d"),
        ("//h:8080/a@d", "//h:8080/a@d"),
        ("//u:p/w@h:8080/a", "//h:8080/a"),
        ("u:p/w@h", "h"),
        ("https://u:p/w@h", "https://h"),
        ("s3://AK:7/x@h/b", "s3://h/b"),
        ({"http": "u:p@h", "u:p@https": "h"}, {"http": "h", "https": "h"}),
        (["u@h", "/a@b"], ["h", "/a@b"]),
    ],
    ids=str,
)
def test_hosts_are_shown_without_credentials(value, shown):
    """Where a URL's host ends before its path, an "@" after it belongs to the path."""
    assert without_userinfo("endpoint", value) == shown


class Echo(Exception):
    """What an SDK raises that quotes requests; its text is none of its arguments."""

    def __init__(self, said: str) -> None:
        super().__init__()
        self.said = said

    def __str__(self) -> str:
        """Return what the server said."""
        return self.said

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse what is no field, as some SDKs' exceptions do."""
        if name != "said":
            raise AttributeError(name)
        super().__setattr__(name, value)


class EchoStore(Store):
    """A store whose server gives back what it was sent."""

    driver = "echo"
    schemes = ("echo",)
    capabilities = Capability.READ | Capability.WRITE | Capability.DELETE
    OPTIONS: dict[str, cfg.Opt] = {"key": cfg.StrOpt("echo_key", secret=True)}  # noqa: RUF012

    def __init__(self, name: str, *, key: str, **common: Any) -> None:
        """Keep the key."""
        super().__init__(name, **common)
        self.key = key

    def owns(self, location: Location) -> Ownership:
        return Ownership.YES

    def _fail(self, *args: Any, **kwargs: Any) -> Any:
        try:
            try:
                raise Echo(f"X-Auth-Key: {self.key}")
            except Echo:
                raise OSError(5, "Input/output error", f"/{self.key}")  # noqa: B904
        except OSError as exc:
            raise Echo(f"<p>{html.escape(self.key)}</p>") from exc

    _get = _size = _add = _delete = _leftovers = _check = _fail

    def _classify(self, exc: Exception) -> errors.ImgStoreError | None:
        return errors.Unavailable(f"the server says {exc}")


def shown_of(exc: BaseException) -> Iterator[str]:
    """Yield the texts of an exception and of all that it comes from, suppressed or not."""
    yield from traceback.format_exception(exc)
    while exc is not None:
        yield f"{exc} {exc!r} {exc.args}"
        exc = exc.__cause__ or exc.__context__


VERBS: dict[str, Callable[[Store], object]] = {
    "add": lambda store: store.add("image", b"data"),
    "get": lambda store: store.get("echo://image"),
    "size": lambda store: store.size("echo://image"),
    "delete": lambda store: store.delete("echo://image"),
    "copy": lambda store: store.copy("echo://image", "other"),
    "leftovers": lambda store: store.leftovers(older_than=0),
    "remove_leftovers": lambda store: store.remove_leftovers(older_than=0),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_no_error_shows_a_secret(verb):
    """Neither an error nor anything that it comes from shows what a server gave back."""
    store = EchoStore("echo", key=KEY)
    with pytest.raises(errors.Unavailable) as caught:
        verb(store)
    text = "".join(shown_of(caught.value))
    assert KEY not in text
    assert html.escape(KEY) not in text
    cause = caught.value.__cause__
    assert cause is not None
    assert type(cause).__name__ == "Echo"
    assert type(cause.__cause__).__name__ == "OSError"
    assert "in _fail" in "".join(traceback.format_exception(cause))
    assert caught.value.__context__ is cause


def test_what_check_says_shows_no_secret():
    """Problems are texts like errors."""
    assert KEY not in "".join(EchoStore("echo", key=KEY).check())


def test_an_error_of_the_caller_shows_no_secret():
    """What the source raised comes through as it is, without what the driver made of it."""

    class Wrapping(EchoStore):
        def _add(self, image_id: str, body: Any, *, context: Any) -> Any:
            try:
                body.read(1)
            except KeyError:
                raise Echo(f"the source failed for {self.key}")  # noqa: B904

    def source() -> Iterator[bytes]:
        raise KeyError("the caller's")
        yield b""

    with pytest.raises(KeyError) as caught:
        Wrapping("echo", key=KEY).add("image", source())
    assert KEY not in "".join(shown_of(caught.value))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\x00", "\x7f", "\x85"])
def test_control_characters_are_refused(end):
    """A key with a line end behind it, as files have it, is refused by name when it is given."""
    with pytest.raises(errors.ConfigError, match="echo_key") as caught:
        EchoStore("echo", key=KEY + end)
    assert KEY not in "".join(shown_of(caught.value))


def test_options_of_several_lines():
    """A driver may name keywords whose values have lines; other control characters it cannot."""

    class Pem(EchoStore):
        multiline = frozenset({"key"})

    key = "-----BEGIN KEY-----\r\nAAAA-of-key\n\tBBBB-of-key\n-----END KEY-----\n"
    with Pem("echo", key=key) as store, pytest.raises(errors.Unavailable) as caught:
        store.size("echo://image")
    assert "-of-key" not in "".join(shown_of(caught.value))
    with pytest.raises(errors.ConfigError, match="echo_key"):
        Pem("echo", key=f"{key}\x00")


def test_secrets_given_by_position_are_known():
    """A constructor of another package may take them so."""

    class Positional(EchoStore):
        def __init__(self, name: str, key: str, **common: Any) -> None:
            super().__init__(name, key=key, **common)

    with Positional("echo", KEY) as store, pytest.raises(errors.Unavailable) as caught:
        store.size("echo://image")
    assert KEY not in "".join(shown_of(caught.value))
    with pytest.raises(errors.ConfigError, match="echo_key"):
        Positional("echo", f"{KEY}\n")
    with pytest.raises(TypeError):
        Positional("echo", KEY, "one too many")  # type: ignore[call-arg]


@pytest.mark.parametrize("prefix", ["me:hunter2@host/x", "http://me:hunter2\uff0f@", "hunter2"])
def test_a_malformed_former_place_is_not_quoted(prefix):
    """What is no URL may hold a password all the same."""
    with pytest.raises(errors.InvalidArgument, match="store_also_owns: number 2") as caught:
        MemoryStore("memory", also_owns=["file:///ok", prefix])
    assert "hunter2" not in "".join(shown_of(caught.value))


def test_lines_of_an_sdks_logger_are_masked(caplog):
    """What another library logs is masked while the store is there, tracebacks too."""
    logger = logging.getLogger("imgstore-test.sdk")
    redaction = Redaction([KEY])
    redaction.watch(__name__, logger.name)
    with caplog.at_level(logging.DEBUG):
        logger.debug("sent %s", {"key": KEY})
        logger.debug("RESP BODY: %s", json.dumps({"connection_info": CONNECTION}))
        logger.debug("%r", CONNECTION)
        try:
            raise Echo(KEY)
        except Echo:
            logger.exception("it failed")
    assert KEY not in caplog.text
    assert "sent {'key': '***'}" in caplog.text
    assert caplog.text.count("AQBx-of-a-keyring") == caplog.text.count("chap-secret") == 0
    assert caplog.text.count("uuid-of-secret") == 2
    assert "Echo: ***" in caplog.text
    del redaction
    gc.collect()
    with caplog.at_level(logging.DEBUG):
        logger.debug("nobody minds %s", KEY)
    assert f"nobody minds {KEY}" in caplog.text


def test_loggers_may_come_later(tmp_path, monkeypatch, caplog):
    """A module of the driver's package that is imported after the store was made is masked, too."""
    package = tmp_path / "imgstore_test_later"
    (package / "deep").mkdir(parents=True)
    for place in (package / "__init__.py", package / "deep" / "__init__.py"):
        place.touch()
    (package / "deep" / "late.py").write_text("import logging\nLOG = logging.getLogger(__name__)\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module(package.name)
    redaction = Redaction([KEY]).watch(f"{package.name}.store")
    late = importlib.import_module(f"{package.name}.deep.late")
    late.LOG.warning("sent %s", KEY)
    assert caplog.messages == ["sent ***"]
    assert repr(redaction) == "<Redaction of 1>"


def test_what_callers_bring_stays_with_the_driver(caplog):
    """A caller's value is masked in lines of the driver and of its SDK, not in those of others."""
    gc.collect()  # stores of other tests mask what they know, too
    redaction = Redaction(["secret-of-the-store"]).watch("imgstore.drivers.http", "test.sdk")
    redaction.note("a-word-of-a-caller")
    others = ("imgstore.data.parts", "imgstore.drivers.filesystem")
    for name in ("imgstore.drivers.http", "test.sdk", *others):
        logging.getLogger(name).warning("a-word-of-a-caller secret-of-the-store")
    assert caplog.messages == ["*** ***", "*** ***", *["a-word-of-a-caller ***"] * 2]
    assert repr(redaction) == "<Redaction of 2>"


def test_what_callers_bring_is_masked_where_a_driver_is_undone(caplog):
    """A failure to undo is logged by the library, and says what the backend said."""
    gc.collect()
    redaction = Redaction(["secret-of-the-store"]).watch("imgstore.drivers.http")
    redaction.note("token-of-a-caller")

    def undo():
        raise OSError("token-of-a-caller, secret-of-the-store")

    assert not attempted(undo, "the removal of a draft")
    assert caplog.messages == ["the removal of a draft failed: OSError: ***, ***"]
    assert repr(redaction) == "<Redaction of 2>"


def test_a_layer_has_the_secrets_of_the_store_inside():
    """It masks what that knows, and watches nothing itself."""
    store = EchoStore("echo", key=KEY)
    with ReadOnly(store) as layer, pytest.raises(errors.Unavailable) as caught:
        layer.size("echo://image")
    assert layer._redaction is store._redaction
    assert KEY not in "".join(shown_of(caught.value))


def test_what_is_no_text_is_no_secret():
    """A context may hold anything as its token."""
    redaction = Redaction()
    redaction.learn(7, Secret(7), b"bytes", None, object(), ["in a list"])  # type: ignore[arg-type]
    assert redaction.text("7 bytes in a list") == "7 bytes ***"


if hasattr(builtins, "ExceptionGroup"):  # Python 3.10 has no groups

    def test_a_group_shows_no_secret():
        """What the exceptions of a group say is looked at like its own text."""
        group = builtins.ExceptionGroup("several", [OSError("harmless"), Echo(KEY)])  # type: ignore[attr-defined,unused-ignore]
        clean = Redaction([KEY]).chain(group)
        assert KEY not in "".join(traceback.format_exception(clean))
        assert "harmless" in str(clean)
        assert type(clean).__name__ == "ExceptionGroup"
