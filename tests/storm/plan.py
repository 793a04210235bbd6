"""What the processes of a storm agree on."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_CLIENTS = 256  # of one storm, each of which has sizes of its own


@dataclass(frozen=True)
class Plan:
    """A storm, as its clients know it; all of it can be written as JSON.

    `store` names the class, "module:Class", which is made with `options`. `places` are URLs with
    "{id}" for the id, where images of it may be; where there are none, clients tell each other.
    They are `distinct` where an image lies at one of them only. `varied` are options that clients
    have differently, by turns. `sizes` are ranges in bytes, of which each add takes one. At any
    time `ids` ids are used, for `period` seconds from `began` on, and then others. `cleans` says
    that clients clean up also what is not old; otherwise they ask for what is a day old.
    """

    store: str
    options: Mapping[str, Any]
    directory: str
    places: Sequence[str] = ()
    distinct: bool = False
    varied: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    sizes: Sequence[tuple[int, int]] = ((1, 200_000),)
    ids: int = 3
    period: float = 5.0
    began: float = 0.0
    threads: int = 3
    cleans: bool = False
    weights: Mapping[str, int] = field(
        default_factory=lambda: {"add": 40, "read": 28, "delete": 20, "copy": 8, "clean": 2}
    )

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read a plan."""
        return cls(**json.loads(path.read_text()))

    def save(self, path: Path) -> None:
        """Write a plan."""
        path.touch(mode=0o600)
        path.write_text(json.dumps(dataclasses.asdict(self)))

    def kind(self) -> Any:
        """Return the class of its stores."""
        module, _, name = self.store.partition(":")
        return getattr(importlib.import_module(module), name)

    def make(self, client: int = 0) -> Any:
        """Make a store, as one of the clients has it."""
        own = {name: values[client % len(values)] for name, values in self.varied.items()}
        return self.kind()("storm", **{**self.options, **own})

    def image_id(self, now: float, number: int) -> str:
        """Return one of the ids that are used now."""
        turn = int((now - self.began) // self.period)
        return f"{turn:08x}-0000-4000-8000-{number % self.ids:012x}"

    def size(self, wanted: int, client: int) -> int:
        """Return a size near the one that is wanted which no other client takes."""
        return max(1, wanted // _CLIENTS) * _CLIENTS + client % _CLIENTS
