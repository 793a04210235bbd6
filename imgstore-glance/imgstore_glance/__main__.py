"""What to put into PYTHONPATH; with ``check``, what would change for a service."""

from __future__ import annotations

import sys

import imgstore_glance

if __name__ == "__main__":
    print(imgstore_glance.path())  # noqa: T201
    sys.exit(0)
