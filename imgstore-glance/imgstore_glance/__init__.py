"""Runs unmodified Glance on imgstore, by a package ``glance_store`` on a path of its own.

``path()`` is that path; nothing is imported from it unless a service puts it first, by
``PYTHONPATH=$(python -m imgstore_glance)``.
"""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"

__all__ = ["__version__", "path"]


def path() -> str:
    """Return the directory that holds the package ``glance_store`` and nothing else."""
    return str(Path(__file__).resolve().parent / "path")
