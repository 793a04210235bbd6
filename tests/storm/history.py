"""What clients did: written while they do it, read when all are dead."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["add", "copy", "read", "delete", "clean"]
Outcome = Literal["ok", "failed", "unknown"]

NEVER = float("inf")


@dataclass(frozen=True)
class Operation:
    """What one client did with one id; times are those of one monotonic clock of the machine.

    `ended` is `NEVER` where it did not come back. `outcome` "failed" is for certain: nothing was
    done. `digest` is what was to be added, or was read; "" is unknown. `url` is where: for an add
    or a copy "" unless it succeeded. `source` is the id that a copy is of.
    """

    kind: Kind
    image_id: str
    begun: float
    ended: float = NEVER
    outcome: Outcome = "unknown"
    error: str = ""
    retryable: bool = False
    digest: str = ""
    size: int = -1
    url: str = ""
    source: str = ""
    client: int = 0
    number: int = 0
    text: str = ""

    def __str__(self) -> str:
        """Return one line for a person."""
        end = "never" if self.ended == NEVER else f"{self.ended:.3f}"
        of = f" of {self.source[:8]}" if self.source else ""
        error = f" {self.error}{' (retryable)' if self.retryable else ''}" if self.error else ""
        where = f" {self.url.rpartition('?')[2][-40:]}" if self.url else ""
        return (
            f"{self.begun:.3f} to {end} client {self.client}.{self.number}: {self.kind}{of} "
            f"[{self.digest[:8]}, {self.size} B] {self.outcome}{error}{where} {self.text}".rstrip()
        )


class Recorder:
    """Appends to the history of one client, from all of its threads.

    A line is written before an operation begins, so one that is killed in it is known.
    """

    def __init__(self, path: Path, client: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._client = client
        self._count = 0
        self._lock = threading.Lock()

    def begin(self, kind: Kind, image_id: str, **about: Any) -> int:
        """Write that an operation begins; return its number."""
        with self._lock:
            self._count += 1
            number = self._count
        line = {"kind": kind, "image_id": image_id, "client": self._client, **about}
        self._write(number, {"begun": time.monotonic(), **line})
        return number

    def end(self, number: int, **about: Any) -> None:
        """Write what came of an operation."""
        self._write(number, {"ended": time.monotonic(), **about})

    def _write(self, number: int, about: dict[str, Any]) -> None:
        line = json.dumps({"number": number, **about}) + "\n"
        os.write(self._file, line.encode())  # in one piece, and in the kernel when this returns


def read(directory: Path) -> list[Operation]:
    """Return the operations of all clients, by the time at which they began."""
    found = [operation for path in directory.glob("*.jsonl") for operation in _read(path)]
    return sorted(found, key=lambda operation: operation.begun)


def _read(path: Path) -> Iterator[Operation]:
    known: dict[int, dict[str, Any]] = {}
    for line in path.read_bytes().splitlines():
        try:
            about = json.loads(line)
        except ValueError:  # its writer was killed
            continue
        known.setdefault(about["number"], {}).update(about)
    for about in known.values():
        yield Operation(**about)


def by_id(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    """Return the operations of each id."""
    found: dict[str, list[Operation]] = {}
    for operation in operations:
        found.setdefault(operation.image_id, []).append(operation)
    return found
