"""The distribution: what it installs, how it reads, and a driver that is built outside of it."""

from __future__ import annotations

import ast
import importlib
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import textwrap
import zipfile

import pytest
from services import HERE

pytestmark = pytest.mark.tree

PACKAGE = HERE.parent / "imgstore_glance"
MODULES = sorted(PACKAGE.rglob("*.py"))


def run(tmp_path, *arguments, **env):
    command = [sys.executable, *map(str, arguments)]
    environ = {**os.environ, **env}
    return subprocess.run(
        command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )


BUILD = """
import sys
from setuptools import build_meta
into = sys.argv[1]  # each build has its own arguments there
for build in (build_meta.build_wheel, build_meta.build_sdist):
    build(into)
"""


def built(tmp_path, project):
    """Build a project; return its wheel, its source distribution and what setuptools said."""
    copy, into = tmp_path / f"copy-{project.name}", tmp_path / f"built-{project.name}"
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(into)],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return *into.glob("*.whl"), *into.glob("*.tar.gz"), done.stderr


def unpacked(wheel, site):
    """Put a wheel of pure Python where a path of modules leads to it; return that path."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Return this distribution's wheel and source distribution, and what building them said."""
    return built(tmp_path_factory.mktemp("built"), HERE.parent)


@pytest.fixture(scope="module")
def site(distributions, tmp_path_factory):
    """Return a directory that this distribution is installed in."""
    return unpacked(distributions[0], tmp_path_factory.mktemp("installed"))


def test_what_is_built(distributions, tmp_path, site):
    """One package is in the wheel, every file is in the sources, and no warning is given."""
    _, sources, said = distributions
    assert "Warning:" not in said  # so setuptools says it; its steps say "warning:" of less
    ((top, *more),) = [each.read_text().split() for each in site.glob("*.dist-info/top_level.txt")]
    assert (top, more) == ("imgstore_glance", [])
    assert sorted(path.name for path in site.iterdir() if path.suffix != ".dist-info") == [top]
    with tarfile.open(sources) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    files = [path for path in HERE.parent.rglob("*") if path.is_file()]
    names = {str(path.relative_to(HERE.parent)) for path in files}
    assert {name for name in names if "__pycache__" not in name} <= inside


DRIVER = """
from glance_store import driver, location

class StoreLocation(location.StoreLocation):
    def parse_uri(self, uri):
        self.uri = uri
    def get_uri(self):
        return self.uri

class Store(driver.Store):
    _CAPABILITIES = 9
    def get_schemes(self):
        return ("shelf",)
    @driver.back_compat_add
    def add(self, image_id, image_file, image_size, hashing_algo, context=None, verifier=None):
        data = image_file.read()
        return f"shelf://{image_id}", len(data), "md5", "multihash", {}
    def get(self, location, offset=0, chunk_size=None, context=None):
        return [location.get_store_uri().encode()], 1
"""

USE = """
import io
import glance_store
from oslo_config import cfg

conf = cfg.CONF
conf([], default_config_files=[], default_config_dirs=[])
conf.register_opt(cfg.DictOpt("enabled_backends", default={"mine": "shelf"}))
glance_store.register_store_opts(conf)
assert glance_store.create_multi_stores(conf) == 1
url = glance_store.add(conf, "x", io.BytesIO(b"data"), 4, "mine")[0]
print(glance_store.__file__, url, glance_store.get(url, "mine"))
"""


def test_a_driver_from_outside(tmp_path, site):
    """Both are installed; the driver is found by its entry point, in a process of its own."""
    project = tmp_path / "shelf"
    project.mkdir()
    (project / "shelf.py").write_text(DRIVER)
    (project / "pyproject.toml").write_text(
        textwrap.dedent(
            """
            [build-system]
            requires = ["setuptools"]
            build-backend = "setuptools.build_meta"
            [project]
            name = "shelf"
            version = "1"
            [project.entry-points."glance_store.drivers"]
            shelf = "shelf:Store"
            [tool.setuptools]
            py-modules = ["shelf"]
            """
        )
    )
    import imgstore  # noqa: PLC0415

    shelf = unpacked(built(tmp_path, project)[0], tmp_path / "site")
    base = [str(shelf), str(site)]
    base.append(os.path.dirname(os.path.dirname(imgstore.__file__)))
    told = run(tmp_path, "-m", "imgstore_glance", PYTHONPATH=os.pathsep.join(base))
    path = told.stdout.strip()
    assert path == str(site / "imgstore_glance" / "path"), told.stderr
    done = run(tmp_path, "-c", USE, PYTHONPATH=os.pathsep.join([path, *base]))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:2] == [f"{path}/glance_store/__init__.py", "shelf://x"]
    names = {str(each.relative_to(site)) for each in (site / "imgstore_glance").rglob("*.py")}
    assert names == {f"imgstore_glance/{each.relative_to(PACKAGE)}" for each in MODULES}
    assert not (site / "glance_store").exists()


GENERATE = """
import sys
from oslo_config import generator
generator.main([f"--namespace={name}" for name in ("glance.store", "glance.multi_store")])
"""


@pytest.mark.parametrize("has_glance_store", [False, True])
def test_a_sample_of_a_configuration(tmp_path, site, has_glance_store):
    """Each option is listed once, by whichever distribution has the entry point."""
    import imgstore  # noqa: PLC0415

    if has_glance_store:
        metadata = tmp_path / "other" / "glance_store-5.7.0.dist-info"
        metadata.mkdir(parents=True)
        head = "Metadata-Version: 2.1\nName: glance-store\nVersion: 5.7.0\n"
        (metadata / "METADATA").write_text(head)
        (metadata / "entry_points.txt").write_text(
            "[oslo.config.opts]\n"
            "glance.store = glance_store.backend:_list_opts\n"
            "glance.multi_store = glance_store.multi_backend:_list_config_opts\n"
        )
    path = [site / "imgstore_glance" / "path", site, tmp_path / "other"]
    path.append(os.path.dirname(os.path.dirname(imgstore.__file__)))
    done = run(tmp_path, "-c", GENERATE, PYTHONPATH=os.pathsep.join(map(str, path)))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for line in ("#default_store = file", "#default_backend = <None>"):
        assert lines.count(line) == 1
    assert lines.count("#s3_store_bucket = <None>") == 2  # in each form
    assert "[glance_store]" in lines
    assert "[rbd]" in lines


def test_versions_agree():
    """Both distributions are released together."""
    import imgstore_glance  # noqa: PLC0415

    import imgstore  # noqa: PLC0415

    text = (HERE.parent / "pyproject.toml").read_text()
    assert f'\nversion = "{imgstore_glance.__version__}"\n' in text
    assert f'"imgstore=={imgstore.__version__}"' in text


def test_functions_are_short():
    """Half of them have at most ten lines, docstrings and signatures included; none has forty."""
    lengths = [
        node.end_lineno - node.lineno + 1
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]
    assert statistics.median(lengths) <= 10
    assert max(lengths) <= 40
    assert max(len(path.read_text().splitlines()) for path in MODULES) <= 500


PUBLIC = {
    "imgstore",
    "imgstore.config",
    "imgstore.errors",
    *(f"imgstore.drivers.{name}" for name in ("cinder", "filesystem", "http", "rbd")),
    *(f"imgstore.drivers.{name}" for name in ("s3", "swift", "vmware")),
}


def used_of_imgstore(tree):
    """Yield each module of imgstore that a module imports, with a name that is used of it."""
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                if each.name.split(".")[0] == "imgstore":
                    modules[each.asname or "imgstore"] = "imgstore"
                    yield each.name, ""
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "imgstore":
            for each in node.names:
                if f"{node.module}.{each.name}" in PUBLIC:
                    modules[each.asname or each.name] = f"{node.module}.{each.name}"
                yield node.module, each.name
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in modules:
            yield modules[ast.unparse(node.value)], node.attr


def private_attributes(tree):
    """Yield each attribute that begins with ``_``, but of the object or class itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            own = ast.unparse(node.value) in {"self", "cls", "super()"}
            if not own and not node.attr.endswith("__"):
                yield ast.unparse(node)


@pytest.mark.parametrize(
    ("text", "used", "private"),
    [
        ("import imgstore.driver", [("imgstore.driver", "")], []),
        ("import imgstore as i\ni._x.y", [("imgstore", ""), ("imgstore", "_x")], ["i._x"]),
        ("from imgstore import Store", [("imgstore", "Store")], []),
        ("import imgstore_glance\nself._store.add(super()._x)", [], []),
        (
            "from imgstore import config\nconfig.build_store()",
            [("imgstore", "config"), ("imgstore.config", "build_store")],
            [],
        ),
        ("store._add('x')\ntype(store).__name__", [], ["store._add"]),
    ],
)
def test_what_the_next_rule_sees(text, used, private):
    assert list(used_of_imgstore(ast.parse(text))) == used
    assert list(private_attributes(ast.parse(text))) == private


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_what_is_public_is_used(path):
    """Imgstore exports what is used of it, and no attribute of others begins with ``_``."""
    tree = ast.parse(path.read_text())
    assert list(private_attributes(tree)) == []
    for module, name in used_of_imgstore(tree):
        assert module in PUBLIC, f"{module}: {name}"
        has = vars(importlib.import_module(module))
        exported = has.get("__all__", [each for each in has if not each.startswith("_")])
        assert not name or name in exported or f"{module}.{name}" in PUBLIC, f"{module}: {name}"
