"""SDKs on first use."""

from __future__ import annotations

import sys

import pytest

from imgstore import _lazy
from imgstore.errors import DriverUnavailable


def test_what_is_there_is_not_imported():
    """Asking whether a module is there imports nothing."""
    sys.modules.pop("wave", None)
    _lazy.require("wave", "json", install="nothing")
    assert "wave" not in sys.modules


@pytest.mark.parametrize("module", ["no_such_module", "no_such.module", "json.no_such"])
def test_what_is_missing_says_what_to_install(module):
    """A missing module, or a missing parent, is DriverUnavailable with the remedy."""
    with pytest.raises(DriverUnavailable) as caught:
        _lazy.require("json", module, install="imgstore[http]")
    assert module in str(caught.value)
    assert str(caught.value).endswith("install imgstore[http]")
    with pytest.raises(DriverUnavailable, match="install imgstore") as caught:
        _lazy.load(module, install="imgstore[http]")
    assert isinstance(caught.value.__cause__, ImportError)


def test_load_imports():
    """A module that is there is returned, dotted ones too."""
    assert _lazy.load("json.decoder", install="nothing") is sys.modules["json.decoder"]


def test_a_broken_module_keeps_its_reason(tmp_path, monkeypatch):
    """An SDK that fails while it is imported says so, instead of being called missing."""
    (tmp_path / "broken_sdk.py").write_text("from json import no_such_name")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DriverUnavailable, match="no_such_name"):
        _lazy.load("broken_sdk", install="imgstore[http]")
