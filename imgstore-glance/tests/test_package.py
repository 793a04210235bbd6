"""The distribution: what it installs, how it reads, and a driver that is built outside of it."""

from __future__ import annotations

import ast
import os
import statistics
import subprocess
import sys
import textwrap

import pytest
from services import HERE

pytestmark = pytest.mark.tree

PACKAGE = HERE.parent / "imgstore_glance"
INSTALL = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--no-cache-dir")
MODULES = sorted(PACKAGE.rglob("*.py"))


def run(tmp_path, *arguments, **env):
    command = [sys.executable, *map(str, arguments)]
    environ = {**os.environ, **env}
    return subprocess.run(
        command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )


def installed(tmp_path, project):
    """Build a project, and return the directory that it is installed in."""
    import shutil  # noqa: PLC0415

    copy, site = tmp_path / f"copy-{project.name}", tmp_path / "site"
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns("tests", "__pycache__"))
    done = run(tmp_path, "-m", "pip", "install", *INSTALL, "--target", site, copy)
    assert done.returncode == 0, done.stderr
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Return a directory that this distribution is installed in."""
    return installed(tmp_path_factory.mktemp("installed"), HERE.parent)


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

    base = [str(installed(tmp_path, project)), str(site)]
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


def test_only_what_is_public_is_used():
    """Imgstore's pages list what is imported of it, and no attribute of it begins with ``_``."""
    public = {
        "imgstore",
        "imgstore.config",
        "imgstore.errors",
        *(f"imgstore.drivers.{name}" for name in ("cinder", "filesystem", "http", "rbd")),
        *(f"imgstore.drivers.{name}" for name in ("s3", "swift", "vmware")),
    }
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("imgstore"):
                own = (node.module or "").startswith("imgstore_glance")
                assert own or node.module in public, f"{path}: {node.module}"
                assert not any(
                    each.name.startswith("_") and each.name != "__version__" for each in node.names
                )
