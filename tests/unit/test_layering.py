"""Who may import whom: modules import from their own layer or from those below it."""

from __future__ import annotations

import ast
import enum
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import imgstore

pytestmark = pytest.mark.tree

PACKAGE = Path(imgstore.__file__).parent
LAYERS = (
    {"errors", "secret", "context", "location"},
    {"boundary"},
    {"process"},
    {"data", "model"},
    {"driver", "verbs", "store"},
    {"layers", "drivers"},
    {"config"},
    {"selection", "manager"},
    {"__init__"},
    {"testing"},  # for authors of drivers: it uses the public names, as they do
)
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}
# What may be imported together with a module, beside oslo.config. All else from outside is an
# SDK: process.lazy imports it.
OUTSIDE = {"config": {"stevedore"}, "testing": {"hypothesis", "pytest"}}

# Programs of their own, whose SDK starts them by the name of something in the module.
HELPERS = {"imgstore.drivers.cinder.privileged": {"oslo_privsep"}}


class When(enum.IntEnum):
    """When an import is carried out."""

    NEVER = 0  # for the type checker only
    CALLED = 1
    IMPORTED = 2


class Import(NamedTuple):
    module: str
    when: When


def module_name(path: Path) -> str:
    parts = ("imgstore", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


def imports(node: ast.AST, when: When = When.IMPORTED) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, when) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: imports are absolute"
            assert child.module
            yield from (Import(imported(child.module, alias.name), when) for alias in child.names)
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            yield from imports(ast.Module(child.body, []), When.NEVER)
            yield from imports(ast.Module(child.orelse, []), when)
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from imports(child, min(when, When.CALLED))
        else:
            yield from imports(child, when)


def imported(package: str, name: str) -> str:
    """Return the module that `from package import name` means: a submodule or the package."""
    inside = PACKAGE.parent.joinpath(*package.split("."), name)
    is_module = inside.is_dir() or inside.with_suffix(".py").is_file()
    return f"{package}.{name}" if is_module else package


MODULES = {
    module_name(path): sorted(set(imports(ast.parse(path.read_text()))))
    for path in sorted(PACKAGE.rglob("*.py"))
}
EACH_MODULE = pytest.mark.parametrize("module", MODULES)


def family(module: str) -> str:
    """Return the layer table's word for a module: `drivers` for `imgstore.drivers.s3`."""
    return module.split(".")[1] if "." in module else "__init__"


def inside(module: str) -> list[str]:
    """Return the modules of the package that a module really imports, now or later."""
    return [
        found.module
        for found in MODULES[module]
        if found.module.partition(".")[0] == "imgstore" and found.when is not When.NEVER
    ]


@EACH_MODULE
def test_imports_point_down(module: str) -> None:
    """A module imports nothing of a layer above its own, not even in a function."""
    assert family(module) in LAYER_OF, "a new room: give it its place in LAYERS"
    own = LAYER_OF[family(module)]
    assert [name for name in inside(module) if LAYER_OF[family(name)] > own] == []


@EACH_MODULE
def test_drivers_are_strangers_to_one_another(module: str) -> None:
    """A driver imports no other driver; modules with a leading underscore are shared."""
    own = module.split(".")[:3]
    others = [name.split(".")[:3] for name in inside(module) if family(name) == "drivers"]
    if family(module) == "drivers":
        assert [name for name in others if name != own and not name[-1].startswith("_")] == []


@EACH_MODULE
def test_no_sdk_is_imported_with_a_module(module: str) -> None:
    """Beside the standard library, a module's own import imports only what OUTSIDE allows."""
    tops = {f.module.partition(".")[0] for f in MODULES[module] if f.when is When.IMPORTED}
    allowed = {"imgstore", "oslo_config"} | OUTSIDE.get(family(module), set())
    allowed |= HELPERS.get(module, set())
    assert tops - allowed - sys.stdlib_module_names == set()


@EACH_MODULE
def test_one_module_knows_stevedore(module: str) -> None:
    """How drivers are found is the business of one, wherever the import stands."""
    tops = {found.module.partition(".")[0] for found in MODULES[module]}
    assert "stevedore" not in tops or module == "imgstore.config.loading"
