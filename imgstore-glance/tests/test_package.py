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


def test_a_driver_from_outside(tmp_path):
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
    installed(tmp_path, project)
    site = installed(tmp_path, HERE.parent)
    import imgstore  # noqa: PLC0415

    base = [str(site), os.path.dirname(os.path.dirname(imgstore.__file__))]
    told = run(tmp_path, "-m", "imgstore_glance", PYTHONPATH=os.pathsep.join(base))
    path = told.stdout.strip()
    assert path == str(site / "imgstore_glance" / "path"), told.stderr
    done = run(tmp_path, "-c", USE, PYTHONPATH=os.pathsep.join([path, *base]))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:2] == [f"{path}/glance_store/__init__.py", "shelf://x"]
    names = {str(each.relative_to(site)) for each in (site / "imgstore_glance").rglob("*.py")}
    assert names == {f"imgstore_glance/{each.relative_to(PACKAGE)}" for each in MODULES}
    assert not (site / "glance_store").exists()


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
