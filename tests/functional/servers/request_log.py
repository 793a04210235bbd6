"""A log of requests, one JSON object a line, that a server writes before each answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class RequestLog:
    """What was asked of a server since the log was made, or `forget()` was called."""

    def __init__(self, log: Path) -> None:
        self.path = log
        self.path.touch()
        self._seen = 0

    def forget(self) -> None:
        """Leave out of `read()` what was asked so far."""
        self._seen = self.path.stat().st_size

    def _lines(self) -> list[dict[str, Any]]:
        with self.path.open("rb") as log:
            log.seek(self._seen)
            return [json.loads(line) for line in log if line.endswith(b"\n")]
