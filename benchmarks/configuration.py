"""The operator's configuration file that both sides read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

STORE = "bench"


@contextmanager
def configuration_file(driver: str, options: Mapping[str, str]) -> Iterator[Path]:
    """Write a file with one store named `STORE`; it exists only inside the block."""
    lines = [
        f"[DEFAULT]\nenabled_backends = {STORE}:{driver}",
        f"[glance_store]\ndefault_backend = {STORE}",
        f"[{STORE}]",
        *(f"{name} = {value}" for name, value in options.items()),
    ]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "bench.conf")
        path.write_text("\n".join(lines) + "\n")
        yield path
