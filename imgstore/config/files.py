"""Configuration files, read as oslo.config reads them."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from oslo_config import cfg

from imgstore.boundary.translation import describe
from imgstore.errors import ConfigError


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
        raise ConfigError(f"{exc.config_file}, line {line}: {said}") from None
    except (cfg.Error, OSError, ValueError) as exc:
        reason = str(exc) if isinstance(exc, cfg.Error) else describe(exc)
        raise ConfigError(f"{', '.join(files)}: {reason}") from exc
    return conf
