"""Families of functional tests: files that share servers run in one process.

Each file names its servers in ``pytestmark = pytest.mark.servers("swift", "keystone")``; the family
is the first one that has all of them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class NoFamily(Exception):
    """A file of tests does not say which servers it needs, or no family has them together."""


@dataclass(frozen=True)
class Family:
    """Tests that share ``servers``; ``budget`` is how many seconds they should take together.

    They run in the environment ``home``, or else in that of the tests.
    """

    name: str
    servers: frozenset[str]
    budget: int
    waits: bool = False
    home: str = ""

    @property
    def environments(self) -> tuple[str, ...]:
        """The environments that servers among them have of their own."""
        kinds = {"openstack": "keystone", "moto": "moto", "glance": "glance"}
        return tuple(kind for kind, server in kinds.items() if server in self.servers)


FAMILIES = (
    Family("files", frozenset({"filesystems", "nginx"}), 300),
    Family("ceph", frozenset({"ceph", "radosgw"}), 900),
    Family("moto", frozenset({"moto"}), 60),
    Family("swift", frozenset({"keystone", "swift"}), 600, waits=True),
    Family("cinder", frozenset({"keystone", "cinder"}), 900, waits=True),
    Family("vsphere", frozenset({"vsphere"}), 150),
    Family(
        "running Glance",
        frozenset({"glance", "moto", "ceph", "radosgw", "keystone", "swift", "cinder"}),
        100,
        home="glance",
    ),
    Family(
        "control",
        frozenset({"control", "nginx", "ceph", "keystone", "swift", "vsphere", "glance"}),
        200,
    ),
)
HOMES = frozenset(family.home for family in FAMILIES if family.home)


def grouped(paths: Iterable[Path]) -> dict[Family, list[Path]]:
    """Return the files of each family; raises NoFamily for a file that joins none."""
    groups: dict[Family, list[Path]] = {family: [] for family in FAMILIES}
    for path in paths:
        groups[_family(path, named(path))].append(path)
    return {family: files for family, files in groups.items() if files}


def named(path: Path) -> frozenset[str]:
    """Return the servers that a file of tests names."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            calls = [each for each in ast.walk(node.value) if isinstance(each, ast.Call)]
            found = [call for call in calls if ast.unparse(call.func) == "pytest.mark.servers"]
            if found:
                return frozenset(ast.literal_eval(name) for name in found[0].args)
    raise NoFamily(
        f"{path} joins no family of tests: write"
        ' pytestmark = pytest.mark.servers("…") with the servers that it needs'
    )


def _family(path: Path, servers: frozenset[str]) -> Family:
    for family in FAMILIES:
        if servers <= family.servers:
            return family
    raise NoFamily(f"{path}: no family has {', '.join(sorted(servers))} together")
