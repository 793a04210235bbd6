"""What `import imgstore` costs, beside the two libraries that it cannot do without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from model import Bench, Case, Task, duration

INCUMBENT = ("glance-store==5.7.0",)


@contextmanager
def cases(bench: Bench) -> Iterator[list[Case]]:
    """Yield the one case; every run is a fresh interpreter with bytecode at hand."""
    ours, floor = "import imgstore", "import oslo_config.cfg, stevedore"
    yield [
        Case(
            name="import",
            title="import, as -X importtime shows it",
            runs={
                ours: Task(operation="imports", arguments=("imgstore",)),
                floor: Task(operation="imports", arguments=("oslo_config.cfg", "stevedore")),
                "import glance_store": Task(
                    operation="imports", side="incumbent", arguments=("glance_store",)
                ),
            },
            targets=(duration(ours, floor, 1.5),),
            least_runs=9,
        )
    ]
