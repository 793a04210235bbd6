"""What Ceph's daemons are asked and told without a program for each time.

The ``ceph`` program takes 0.3 s of a core, nearly all of it to start Python and load itself.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import socket
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

_LIMITS = ("client_mount_timeout", "rados_mon_op_timeout")


class NotTaken(Exception):
    """The monitors cannot be asked this from here: it is left to the ``ceph`` program."""


class Refused(Exception):
    """A monitor said no, in the words of the message."""


class Monitors:
    """The monitors of a cluster, asked as its admin over a connection for each question.

    None is kept: it would have to find a monitor again that was killed meanwhile.
    """

    def __init__(self, conf: Path) -> None:
        self._conf = conf
        self._signatures: dict[str, dict[str, Any]] = {}
        self._commands: dict[tuple[str, ...], dict[str, Any]] = {}

    def ask(self, words: Sequence[str], *, seconds: float) -> str:
        """Return the answer to the words of a command.

        Raises NotTaken, Refused, and TimeoutError after `seconds`, which are rounded up.
        """
        try:
            rados = importlib.import_module("rados")
            argparse = _argparse(rados)
        except ImportError as exc:
            raise NotTaken(f"Ceph's Python modules cannot be imported: {exc}") from None
        limit = str(math.ceil(seconds))
        client = rados.Rados(conffile=os.fspath(self._conf), conf=dict.fromkeys(_LIMITS, limit))
        try:
            client.connect()
            return self._ask(client, argparse, tuple(words))
        except rados.TimedOut as exc:
            raise TimeoutError from exc
        finally:
            client.shutdown()

    def _ask(self, client: Any, argparse: Any, words: tuple[str, ...]) -> str:
        if words not in self._commands:
            self._commands[words] = self._understood(client, argparse, list(words))
        return _send(client, self._commands[words])

    def _understood(self, client: Any, argparse: Any, words: list[str]) -> dict[str, Any]:
        if not self._signatures:
            known = _send(client, {"prefix": "get_command_descriptions"})
            self._signatures = argparse.parse_json_funcsigs(known, "cli")
        form = {}
        if "--format" in words:
            at = words.index("--format")
            form["format"] = words[at + 1]
            del words[at : at + 2]
        if words[0] == "tell":
            raise NotTaken("it is for a daemon")
        command: dict[str, Any] = argparse.validate_command(self._signatures, words)
        if not command:
            raise NotTaken("it is no command of the monitors")
        return command | form


def _send(client: Any, command: dict[str, Any]) -> str:
    status, answer, words = client.mon_command(json.dumps(command), b"")
    if status in (-110, -4):
        raise TimeoutError
    if status:
        raise Refused(words or os.strerror(-status))
    text: str = answer.decode()
    return text


@cache  # what it has parsed is of its own classes
def _argparse(rados: ModuleType) -> ModuleType:
    """Load what the ``ceph`` program reads its arguments with; it lies beside the module rados."""
    place = Path(rados.__file__ or "").resolve().with_name("ceph_argparse.py")
    specification = importlib.util.spec_from_file_location("ceph_argparse", place)
    if specification is None or specification.loader is None or not place.exists():
        raise ImportError(f"there is no {place}")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def ask_daemon(place: Path, question: str, **arguments: str) -> str:
    """Ask a daemon itself, over its admin socket: JSON and NUL out, length and JSON back.

    Raises OSError where it is not there yet.
    """
    directory = os.open(place.parent, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(f"/proc/self/fd/{directory}/{place.name}")
            connection.sendall(json.dumps({"prefix": question, **arguments}).encode() + b"\0")
            with connection.makefile("rb") as stream:
                (length,) = struct.unpack(">I", stream.read(4))
                answer = stream.read(length)
    finally:
        os.close(directory)
    return answer.decode()
