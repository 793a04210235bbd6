"""Constructors' values, and the options that they come from."""

from __future__ import annotations

import ast
import inspect
import textwrap
from pathlib import Path

import pytest
from oslo_config import cfg

from imgstore import StoreManager
from imgstore.boundary.settings import read_options
from imgstore.config.loading import installed_drivers, load_driver
from imgstore.errors import ConfigError, DriverUnavailable
from imgstore.secret import Secret

OPTIONS = {
    "size": cfg.IntOpt("test_store_size", default=1, min=1, help="A size."),
    "name": cfg.StrOpt("test_store_name", help="A name."),
    "key": cfg.StrOpt("test_store_key", secret=True, help="A key."),
}


def test_values_have_their_options_types():
    """What is no option is left out; secrets are wrapped, and None stays None."""
    given = {"self": object(), "size": "7", "name": None, "key": "secret"}
    values = read_options(OPTIONS, given)
    assert list(values) == ["size", "name", "key"]
    assert (values["size"], values["name"], values["key"]) == (7, None, Secret("secret"))


def test_all_faults_are_told():
    """One error names each option that is wrong, and shows no secret."""
    given = {"size": 0, "name": None, "key": ["secret"]}
    with pytest.raises(ConfigError) as caught:
        read_options(OPTIONS, given, needed={"name"})
    assert "test_store_size" in str(caught.value)
    assert "test_store_name" in str(caught.value)
    assert "secret" not in str(caught.value).replace("it is a secret", "")


@pytest.mark.parametrize(
    ("given", "values"),
    [(None, []), ((), []), ("a:b", ["a:b"]), (Path("/a"), ["/a"]), (["a", Path("b")], ["a", "b"])],
)
def test_options_that_are_given_many_times(given, values):
    """Each value is of the type, and one alone need not be in a list."""
    options = {"paths": cfg.MultiStrOpt("test_store_path", default=[])}
    assert read_options(options, {"paths": given}) == {"paths": values}


def test_no_list_of_values():
    """The option is named."""
    options = {"paths": cfg.MultiStrOpt("test_store_path", default=[])}
    with pytest.raises(ConfigError, match="test_store_path"):
        read_options(options, {"paths": 7})


def plain(value):
    """Return a default as what it means: a list or a tuple, nothing or an empty one."""
    value = tuple(value) if isinstance(value, list) else value
    return None if value in ((), {}, "") else value


@pytest.mark.parametrize("driver", installed_drivers(), ids=lambda driver: driver.driver)
def test_options_and_constructors_agree(driver):
    """A constructor's defaults are those of its options, and nothing else becomes a value."""
    constructor = driver.__init__
    parameters = inspect.signature(constructor).parameters
    alternatives = {keyword for keywords in driver.alternatives for keyword in keywords}
    for keyword in driver.OPTIONS.keys() - alternatives:
        default = parameters[keyword].default
        if default is not inspect.Parameter.empty:
            assert plain(default) == plain(driver.OPTIONS[keyword].default), keyword
    body = ast.parse(textwrap.dedent(inspect.getsource(constructor))).body[0].body
    uses = [number for number, step in enumerate(body) if "locals()" in ast.unparse(step)]
    is_documented = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
    assert uses in ([], [int(is_documented)]), "a local variable could be taken for an option"


SOUND = {
    "s3": {"host": "https://s3.example.org", "bucket": "images"},
    "swift": {"auth_address": "https://keys.example.org", "user": "p:u", "key": "k"},
    "vmware": {
        "server_host": "vcenter.example.org",
        "server_username": "u",
        "server_password": "p",
        "datastores": ["dc:one"],
    },
}
# Of each driver an option with a value of another type, and others whose values mean nothing.
FAULTY = {
    "cinder": ({"http_retries": "x"}, {"catalog_info": "x", "endpoint_template": "x"}),
    "file": ({"chunk_size": 0}, {"datadir": "relative", "file_perm": 688}),
    "http": ({"connect_timeout": "x"}, {"allowed_hosts": ["a b"], "denied_networks": ["x"]}),
    "rbd": ({"chunk_size": 0}, {"pool": "a/b", "features": ["x"]}),
    "s3": ({"thread_pools": "x"}, {"bucket": "..", "key_prefix": "a/b"}),
    "swift": ({"upload_workers": 0}, {"auth_version": "9", "container": "a/b", "endpoint": "x"}),
    "vmware": ({"read_timeout": "x"}, {"datastores": ["one"], "store_image_dir": ".."}),
}


@pytest.mark.parametrize("name", FAULTY)
def test_faults_of_types_and_of_meaning_are_told_together(name):
    """A constructor tells all, each once; so does a file, also beside an option of all stores."""
    driver = load_driver(name)
    typed, meant = FAULTY[name]
    with pytest.raises(ConfigError) as caught:
        driver("one", **{**SOUND.get(name, {}), **typed, **meant})
    for keyword in (*typed, *meant):
        assert str(caught.value).count(driver.OPTIONS[keyword].name) >= 1, keyword
    assert len(str(caught.value).split(" / ")) == len(typed) + len(meant)


@pytest.mark.parametrize("driver", installed_drivers(), ids=lambda driver: driver.driver)
def test_one_bad_value_is_one_fault(driver):
    """What else is looked at has the default in its place, and no fault comes of that."""
    sound, told = SOUND.get(driver.driver, {}), {}
    for keyword in driver.OPTIONS:
        for value in (None, object(), ""):
            try:
                driver("one", **{**sound, keyword: value}).close()
            except DriverUnavailable:  # after the options were read
                pass
            except ConfigError as exc:
                told[keyword] = str(exc)
    assert told or not driver.OPTIONS
    assert [text for text in told.values() if " / " in text] == []
    names = {keyword: driver.OPTIONS[keyword].name.partition("_store_")[2] for keyword in told}
    assert [text for keyword, text in told.items() if names[keyword] not in text] == []


def test_a_file_has_faults_of_three_kinds(tmp_path):
    """Of types, of an option of all stores, and of meaning: one error has them all."""
    path = tmp_path / "images.conf"
    path.write_text(
        "[DEFAULT]\nenabled_backends = one:file\n[one]\nfilesystem_store_chunk_size = x\n"
        "store_also_owns = nothing\nfilesystem_store_file_perm = 688\n"
    )
    with pytest.raises(ConfigError, match="3 faults") as caught:
        StoreManager.from_file(path)
    for name in ("filesystem_store_chunk_size", "store_also_owns", "filesystem_store_file_perm"):
        assert f" {name}" in str(caught.value)
