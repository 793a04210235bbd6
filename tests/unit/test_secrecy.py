"""What holds for the secrets of every driver, before any server is asked."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from oslo_config import cfg

from imgstore import RequestContext, Store, errors
from imgstore.config.loading import built, installed_drivers
from imgstore.drivers.cinder import CinderStore
from imgstore.drivers.http import HttpStore
from imgstore.drivers.memory import MemoryStore
from imgstore.drivers.s3 import S3Store
from imgstore.drivers.swift import SwiftStore
from imgstore.drivers.vmware import VmwareStore
from imgstore.secret import Secret

VALUE: Final = "value-of/the&option"
TEXTS: Final = (cfg.StrOpt, cfg.ListOpt, cfg.DictOpt, cfg.MultiStrOpt)


def text_options() -> Iterator[Any]:
    for driver in installed_drivers():
        for keyword, opt in driver.OPTIONS.items():
            if isinstance(opt, TEXTS):
                yield pytest.param(driver, keyword, id=f"{driver.driver}-{keyword}")


@pytest.mark.parametrize(("driver", "keyword"), list(text_options()))
def test_a_line_end_is_refused_in_every_option(driver: type[Store], keyword: str) -> None:
    """A line end behind a value, or a header within it, is refused by the option's name only."""
    for text in (f"{VALUE}\n", f"{VALUE}\r\nX-Other: header"):
        for value in (text, Secret(text), [VALUE, text], {"http": text}):
            with pytest.raises(errors.ConfigError) as caught:
                driver("store", **{keyword: value})  # type: ignore[arg-type]
            assert driver.OPTIONS[keyword].name in str(caught.value)
            assert VALUE not in "".join(traceback.format_exception(caught.value))


ID: Final = "5d0a0a5e-7c4b-4c3a-9b1f-0a1b2c3d4e5f"
HOST: Final = "host.example.org"
WITH_SECRETS: Final[dict[str, tuple[type[Store], dict[str, Any]]]] = {
    "cinder": (CinderStore, {"auth_address": f"http://{HOST}/v3", "project_name": "images"}),
    "s3": (S3Store, {"host": HOST, "bucket": "images"}),
    "swift": (SwiftStore, {"auth_address": f"http://{HOST}/v3"}),
    "vmware": (
        VmwareStore,
        {"server_host": HOST, "server_username": "images", "datastores": ["DC0:images"]},
    ),
}


@pytest.mark.parametrize(("driver", "given"), WITH_SECRETS.values(), ids=WITH_SECRETS)
def test_secrets_given_as_text_are_kept_as_secrets(
    driver: type[Store], given: dict[str, Any]
) -> None:
    """Whoever prints a store's settings sees no secret, given as text or not."""
    keywords = [keyword for keyword, opt in driver.OPTIONS.items() if opt.secret]
    secret = {keyword: f"project:{keyword}-{VALUE}" for keyword in keywords}
    assert secret
    store = driver("store", **given, **secret)
    settings: Any = vars(store)["_settings"]
    shown = f"{vars(store)} {settings} {vars(settings)}"
    for name in ("credentials", "accounts"):
        inside = vars(settings).get(name) or ()
        shown += f"{inside} {getattr(inside, '__dict__', '')}"
    assert VALUE not in shown
    assert store._redaction.text(f"x{VALUE}") == f"x{VALUE}"
    assert all(store._redaction.text(text) == "***" for text in secret.values())
    store.close()


class Careless(MemoryStore):
    """A driver whose constructor quotes what it does not like."""

    OPTIONS = {"key": cfg.StrOpt("careless_key", secret=True)}  # noqa: RUF012

    def __init__(self, name: str, *, key: str, **common: Any) -> None:
        """Refuse the key."""
        super().__init__(name, **common)
        try:
            int(Secret(key).reveal())
        except ValueError as exc:
            raise ValueError(f"{Secret(key).reveal()} is no number") from exc


def test_a_constructor_that_quotes_is_not_quoted() -> None:
    """What a driver's constructor raises is told without the secrets that it was given."""
    with pytest.raises(Exception, match=r"^\*\*\* is no number$") as caught:
        built(Careless, "store", single=False, values={"key": Secret(VALUE)})
    assert VALUE not in "".join(traceback.format_exception(caught.value))
    assert type(caught.value).__name__ == "ValueError"


def test_a_key_of_several_lines_in_a_reference_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A section of Swift's reference file with such a key is left out, and the key is not shown."""
    caplog.set_level(logging.DEBUG)
    section = f"user = a:b\nauth_address = http://{HOST}/v3\nkey = {VALUE}"
    path = tmp_path / "swift.conf"
    path.write_text(f"[ref1]\n{section}\n[ref2]\n{section}\n  X-Other: header\n")
    with SwiftStore("swift", config_file=str(path)) as store:
        assert store._redaction.text(VALUE) == "***"
    assert "'ref2' is left out: key has several lines" in caplog.text
    assert VALUE not in caplog.text


@pytest.mark.parametrize("token", [f"{VALUE}\n", f"{VALUE}\r\nX-Other: header", f" {VALUE}"])
def test_a_token_that_no_header_can_hold(token: str) -> None:
    """It is refused before a request is made, and not shown."""
    store = CinderStore("cinder", endpoint_template=f"http://{HOST}/v3/%(tenant)s")
    with store, pytest.raises(errors.PermissionDenied) as caught:
        store.size(f"cinder://{ID}", context=RequestContext(token, "project"))
    assert VALUE not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(("driver", "given"), WITH_SECRETS.values(), ids=WITH_SECRETS)
def test_lines_of_the_drivers_own_are_masked(
    driver: type[Store], given: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a module of the driver or of the library logs shows no secret of the store."""
    keywords = [keyword for keyword, opt in driver.OPTIONS.items() if opt.secret]
    store = driver("store", **given, **dict.fromkeys(keywords, f"project:{VALUE}"))
    store._redaction.learn("token-of-the-session")
    package = driver.__module__.rpartition(".")[0]
    names = [name for name in logging.root.manager.loggerDict if name.startswith(package)]
    assert names
    for name in (*names, "imgstore.data.parts", *driver.sdk_loggers):
        with caplog.at_level(logging.DEBUG, logger=name):
            logging.getLogger(name).warning("it said %s", f"project:{VALUE} token-of-the-session")
            shown = caplog.records.pop().getMessage()  # masked by stores of other tests, too
            assert shown.startswith("it said ")
            assert VALUE not in shown
            assert "token-of-the-session" not in shown
            caplog.clear()
    store.close()


@pytest.mark.parametrize("option", ["allowed_hosts", "denied_networks"])
def test_an_entry_with_a_password_is_not_quoted(option: str) -> None:
    """A URL or a host with credentials, where no credentials belong, is not quoted."""
    for entry in (f"http://me:{VALUE}@{HOST}", f"me:{VALUE}@{HOST}"):
        with pytest.raises(errors.ConfigError, match=f"http_{option}") as caught:
            HttpStore("web", **{option: [entry]})
        assert VALUE not in "".join(traceback.format_exception(caught.value))
