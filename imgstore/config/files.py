"""Configuration files, read as oslo.config reads them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any, Final

from oslo_config import cfg

from imgstore.boundary.translation import describe
from imgstore.errors import ConfigError

_BOM: Final = b"\xef\xbb\xbf"
_VARIABLE: Final = re.compile(r"OS_(.+?)__(.+)")  # as oslo.config has it


def read_files(paths: Iterable[str | PathLike[str]]) -> cfg.ConfigOpts:
    """Parse configuration files, later ones first; a directory stands for its sorted ``*.conf``.

    Nothing else is read: no command line, no default files or directories. Raises ConfigError.
    """
    files: list[str] = []
    for path in (Path(path).expanduser() for path in paths):
        files += map(str, sorted(path.glob("*.conf")) if path.is_dir() else [path])
    if not files:
        raise ConfigError("there is no configuration file", remedy="pass a file, or a directory")
    conf = cfg.ConfigOpts()
    try:
        conf([], prog="imgstore", default_config_files=files, default_config_dirs=[])
    except cfg.ConfigFileParseError as exc:
        # Only its position: the line itself may hold a password.
        at = exc.__context__
        line, said = getattr(at, "lineno", "?"), getattr(at, "msg", "not understood")
        remedy = _remedy(exc.config_file)
        raise ConfigError(f"{exc.config_file}, line {line}: {said}", remedy=remedy) from None
    except UnicodeDecodeError as exc:
        refused = next(filter(_is_binary, files), files[0])
        raise ConfigError(f"{refused}: not text in {exc.encoding}", remedy="save it so") from None
    except (cfg.Error, OSError, ValueError) as exc:
        reason = str(exc) if isinstance(exc, cfg.Error) else describe(exc)
        raise ConfigError(f"{', '.join(files)}: {reason}") from exc
    return conf


def _is_binary(path: str) -> bool:
    try:
        Path(path).read_text()  # as oslo.config reads it
    except (OSError, UnicodeDecodeError) as exc:
        return isinstance(exc, UnicodeDecodeError)
    return False


def _remedy(path: str) -> str:
    """Return what to do about a file that is not understood, if that can be told."""
    with suppress(OSError), open(path, "rb") as file:
        if file.read(len(_BOM)) == _BOM:
            return "save the file without the byte order mark (BOM) that it begins with"
    return ""


def names_in_files(conf: cfg.ConfigOpts) -> dict[str, dict[str, str]] | None:
    """Return the names that were read, by groups in lower case (but DEFAULT); None without a file.

    Behind each name is how the environment has it, "" where a file does. Nothing public tells
    them: a ConfigOpts answers for options that are registered, and reading its files again would
    tell what is in them now.
    """
    namespace: Any = getattr(conf, "_namespace", None)
    files = getattr(namespace, "_normalized", None)
    if not files:
        return None
    names: dict[str, dict[str, str]] = {}
    for variable in os.environ if getattr(conf, "_use_env", True) else ():
        if match := _VARIABLE.fullmatch(variable):
            group = match[1] if match[1] == "DEFAULT" else match[1].lower()
            names.setdefault(group, {})[match[2].lower()] = variable
    for groups in reversed(files):  # the last one comes first there
        for group, options in groups.items():
            names.setdefault(group, {}).update(dict.fromkeys(options, ""))
    return names
