"""Constructors' values, and the options that they come from."""

from __future__ import annotations

import ast
import inspect
import textwrap
from pathlib import Path

import pytest
from oslo_config import cfg

from imgstore.boundary.settings import read_options
from imgstore.config.loading import installed_drivers
from imgstore.errors import ConfigError
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
