"""The package as it is installed: public names, contents of the wheel, entry points, cost."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import imgstore

REPOSITORY = Path(__file__).resolve().parents[2]
SDKS = {
    "boto3",
    "botocore",
    "cinderclient",
    "keystoneauth1",
    "os_brick",
    "pyVmomi",
    "rados",
    "rbd",
    "requests",
    "swiftclient",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel under test, or one built from a copy of the checkout."""
    if built := os.environ.get("IMGSTORE_WHEEL"):
        return Path(built)
    directory = tmp_path_factory.mktemp("wheel")
    copy = directory / "copy"
    shutil.copytree(REPOSITORY / "imgstore", copy / "imgstore")
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy)
    command = ["pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(directory), str(copy)]
    run(*command)
    return next(directory.glob("imgstore-*.whl"))


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that holds the wheel's contents; on `sys.path` it counts as installed."""
    directory = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    return directory


def run(*arguments: str, **environ: str) -> str:
    """Run a module of this interpreter and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def evaluate(expression: str, path: Path) -> object:
    """Evaluate in a fresh interpreter that has imported the unpacked wheel's imgstore."""
    code = f"import json, sys, imgstore; print(json.dumps({expression}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(path), "PYTHONSAFEPATH": "1"},
        cwd=path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout)


def entry_points(unpacked: Path) -> list[EntryPoint]:
    (path,) = unpacked.glob("imgstore-*.dist-info/entry_points.txt")
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.read(path)
    return [EntryPoint(*item, group) for group in parser.sections() for item in parser.items(group)]


def test_public_names() -> None:
    """`imgstore` exports these names, sorted, and nothing else."""
    assert imgstore.__all__ == [
        "Capability",
        "ImageReader",
        "Leftover",
        "Location",
        "Progress",
        "RequestContext",
        "Secret",
        "Sink",
        "Source",
        "Stat",
        "Store",
        "StoreInfo",
        "StoreManager",
        "StoredImage",
        "__version__",
        "errors",
    ]
    assert [name for name in imgstore.__all__ if not hasattr(imgstore, name)] == []


@pytest.mark.tree
def test_the_version_is_the_packages() -> None:
    """What ``__version__`` says is the version that is published."""
    assert f'\nversion = "{imgstore.__version__}"\n' in (REPOSITORY / "pyproject.toml").read_text()


def test_the_wheel_is_what_is_tested() -> None:
    """Where a wheel was installed for the tests, they import that and not the checkout."""
    if "IMGSTORE_WHEEL" in os.environ:
        assert Path(imgstore.__file__).parent.parent.name == "site-packages"
        assert not Path(imgstore.__file__).is_relative_to(REPOSITORY / "imgstore")


def test_importing_imports_no_sdk(unpacked: Path) -> None:
    """`import imgstore` is for everybody: it loads no backend's SDK, installed or not."""
    assert evaluate("imgstore.__file__", unpacked) == str(unpacked / "imgstore" / "__init__.py")
    modules = evaluate("sorted(sys.modules)", unpacked)
    assert isinstance(modules, list)
    assert SDKS.intersection(modules) == set()


def test_contents_of_the_wheel(wheel: Path) -> None:
    """The wheel has the types' marker, the licence and the contract suite, and no tests."""
    names = zipfile.ZipFile(wheel).namelist()
    assert {"imgstore/py.typed", "imgstore/testing/__init__.py"} <= set(names)
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    outside = [
        name for name in names if not re.match(r"imgstore/|imgstore-[^/]+\.dist-info/", name)
    ]
    assert outside == []


def test_entry_points_resolve(unpacked: Path) -> None:
    """Every driver's entry point names a Store, every option one a callable."""
    found = entry_points(unpacked)
    drivers = {point.name: point.load() for point in found if point.group == "imgstore.drivers"}
    assert {"file", "filesystem", "http", "memory"} <= set(drivers)
    assert all(issubclass(driver, imgstore.Store) for driver in drivers.values())
    assert drivers["file"] is drivers["filesystem"]
    options = [point.load() for point in found if point.group == "oslo.config.opts"]
    assert [callable(listing) for listing in options] == [True]


def test_sample_configuration_lists_every_driver(unpacked: Path) -> None:
    """`oslo-config-generator --namespace imgstore` prints every option of every driver."""
    sample = run("oslo_config.generator", "--namespace", "imgstore", PYTHONPATH=str(unpacked))
    printed = set(re.findall(r"^#(\w+) =", sample, flags=re.MULTILINE))
    for point in entry_points(unpacked):
        if point.group == "imgstore.drivers":
            options = {option.name for option in point.load().OPTIONS.values()}
            assert options - printed == set(), point.name


def test_versions_agree() -> None:
    """The classifiers promise exactly the interpreters that `requires-python` allows."""
    text = (REPOSITORY / "pyproject.toml").read_text()
    minors = re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', text)
    assert re.findall(r'requires-python = ">=3\.(\d+)"', text) == minors[:1]
    assert [int(minor) for minor in minors] == list(range(int(minors[0]), int(minors[-1]) + 1))


@pytest.mark.tree
@pytest.mark.parametrize(
    ("body", "in_ci"),
    [
        ("import pytest\ndef test(): pytest.skip('why')", "1 failed"),
        ("import pytest\n@pytest.mark.xfail(reason='why')\ndef test(): assert False", "1 failed"),
        ("import pytest\npytest.skip('why', allow_module_level=True)", "1 error"),
    ],
    ids=["skip", "xfail", "module"],
)
def test_ci_skips_nothing(body: str, in_ci: str, tmp_path: Path) -> None:
    """With CI=true what pytest would skip, or expects to fail, fails and says why."""
    shutil.copy(REPOSITORY / "tests" / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_it.py").write_text(body)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    for ci, status, expected in (("true", {1, 2}, in_ci), ("", {0, 5}, "")):
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=os.environ | {"CI": ci},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode in status, done.stdout + done.stderr
        assert expected in done.stdout
        if ci:
            assert re.search(r"nothing may be skipped\n(Skipped: )?why$", done.stdout, re.MULTILINE)
