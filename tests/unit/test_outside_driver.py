"""A driver from outside: installed as a package, found by its entry point, held to the contract."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import imgstore

pytestmark = pytest.mark.tree

OUTSIDE = Path(__file__).parent / "outside"
INSTALL = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--no-cache-dir")

USE = """
import sys
from pathlib import Path
from imgstore import StoreManager, errors

with StoreManager.from_file(sys.argv[1]) as stores:
    info = stores.info("mine")
    assert (info.driver, info.default, info.weight) == ("shelf", True, 5), info
    image = stores.add("8c9f", b"data")
    assert image.location.url == "shelf://mine/8c9f", image
    with stores.get(image.location.url, offset=1) as reader:
        assert reader.read() == b"ata"
    assert "sesame" not in repr(stores["mine"].__dict__)
    stores.delete(image.location)
    try:
        stores.size(image.location)
    except errors.NotFound as exc:
        print(exc)
"""

LIST = """
from imgstore.config import list_opts
print(*(option.name for _, options in list_opts() for option in options))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A directory in which the outside package is installed."""
    source = tmp_path_factory.mktemp("source") / "imgstore-shelf"
    shutil.copytree(OUTSIDE, source)
    target = tmp_path_factory.mktemp("installed")
    run("-m", "pip", "install", *INSTALL, "--target", str(target), str(source), cwd=source)
    return target


def run(*arguments, cwd, path=()):
    """Run Python away from the checkout and return what it printed."""
    # Where imgstore itself comes from: nothing new for an installed one.
    places = [*map(str, path), str(Path(imgstore.__file__).parents[1])]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(places), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,  # what it printed says more
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_its_entry_point_makes_it_a_driver(installed, tmp_path):
    """Configuration names an outside driver like any other, and its options are bound."""
    shelf, conf = tmp_path / "shelf", tmp_path / "images.conf"
    shelf.mkdir()
    conf.write_text(
        "[DEFAULT]\nenabled_backends = mine:shelf\n"
        "[glance_store]\ndefault_backend = mine\n"
        f"[mine]\nshelf_store_directory = {shelf}\nshelf_store_password = open sesame\nweight = 5\n"
    )
    shown = run("-W", "error", "-c", USE, str(conf), cwd=tmp_path, path=[installed])
    assert shown.startswith("store 'mine': size shelf://mine/8c9f: No such file")
    assert list(shelf.iterdir()) == []


def test_its_options_are_in_the_sample(installed, tmp_path):
    """The sample configuration lists an outside driver's options."""
    shown = run("-W", "error", "-c", LIST, cwd=tmp_path, path=[installed])
    assert "shelf_store_directory" in shown.split()


@pytest.mark.tree  # the drivers inside pass it on every interpreter
def test_it_passes_the_contract(installed, tmp_path):
    """The contract is used from outside the way its documentation says, and skips nothing."""
    shutil.copy(OUTSIDE / "contract_of_shelf.py", tmp_path / "test_shelf.py")
    options = ("-q", "-W", "error", "-p", "no:cacheprovider", "--strict-markers", "--rootdir", ".")
    command = ("-m", "pytest", *options, "--import-mode=importlib", "test_shelf.py")
    shown = run(*command, cwd=tmp_path, path=[installed])
    summary = re.search(r"^(\d+) passed in ", shown, re.MULTILINE)
    assert summary is not None, shown
    assert int(summary[1]) > 250
