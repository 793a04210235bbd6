"""What to put into PYTHONPATH; ``check FILE…`` tells what would change, ``pth`` prints a file."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

import imgstore_glance
from imgstore_glance import checking

_PTH = "import sys; sys.path.insert(0, {path!r})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m imgstore_glance", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("path", help="print the directory for PYTHONPATH (without a command, too)")
    commands.add_parser("pth", help="print imgstore-glance.pth, for every program of a container")
    check = commands.add_parser("check", help="tell what would change; nothing is connected to")
    check.add_argument("config", nargs="+", help="a configuration file, or a directory of them")
    given = parser.parse_args(arguments)
    if given.command == "check":
        logging.getLogger().addHandler(logging.NullHandler())  # the report tells all of it
        return checking.report(given.config)
    text = imgstore_glance.path()
    sys.stdout.write(f"{_PTH.format(path=text) if given.command == 'pth' else text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
