"""SDKs on first use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from imgstore.errors import DriverUnavailable
from imgstore.process import lazy


def test_what_is_there_is_not_imported():
    """Asking whether a module is there imports nothing."""
    sys.modules.pop("wave", None)
    lazy.require("wave", "json", install="nothing")
    assert "wave" not in sys.modules


@pytest.mark.parametrize("module", ["no_such_module", "no_such.module", "json.no_such"])
def test_what_is_missing_says_what_to_install(module):
    """A missing module, or a missing parent, is DriverUnavailable with the remedy."""
    with pytest.raises(DriverUnavailable) as caught:
        lazy.require("json", module, install="imgstore[http]")
    assert module in str(caught.value)
    assert str(caught.value).endswith("install imgstore[http]")
    with pytest.raises(DriverUnavailable, match="install imgstore") as caught:
        lazy.load(module, install="imgstore[http]")
    assert isinstance(caught.value.__cause__, ImportError)


def test_load_imports():
    """A module that is there is returned, dotted ones too."""
    assert lazy.load("json.decoder", install="nothing") is sys.modules["json.decoder"]


def test_a_broken_module_keeps_its_reason(tmp_path, monkeypatch):
    """An SDK that fails while it is imported says so, instead of being called missing."""
    (tmp_path / "broken_sdk.py").write_text("from json import no_such_name")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DriverUnavailable, match="no_such_name"):
        lazy.load("broken_sdk", install="imgstore[http]")


def test_threads_that_import_eventlet_can_be_joined(tmp_path: Path) -> None:
    """What loads ``threading`` anew does not take the importing thread for the main one."""
    (tmp_path / "copying.py").write_text(
        "import sys\n"
        "kept = sys.modules.pop('threading')\n"
        "import threading\n"
        "sys.modules['threading'] = kept\n"
    )
    program = (
        "import sys, threading\n"
        "from imgstore.process import lazy\n"
        "sys.path.append(sys.argv[1])\n"
        "load = lambda: lazy.load_apart('copying', install='it')\n"
        "thread = threading.Thread(target=load)\n"
        "thread.start()\n"
        "thread.join(20)\n"
        "assert not thread.is_alive()\n"
        "assert load().kept is threading\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_what_an_import_apart_raises() -> None:
    with pytest.raises(DriverUnavailable, match="install it"):
        lazy.load_apart("imgstore_absent", install="it")
