"""What a constructor is given: values of options, as their types have them."""

from __future__ import annotations

import math
import os
import re
import ssl
from collections.abc import Callable, Container, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final
from urllib.parse import urlsplit

from oslo_config import cfg

from imgstore import errors
from imgstore.secret import Secret

BESIDE: Final = " / "  # between the faults of one store
_WORD: Final = re.compile(r"\w+")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BINARY: Final = re.compile(r"[^\t\n\r\x20-\x7e\xa0-\U0010ffff]")


class FileOpt(cfg.StrOpt):
    """The path of a file, which may be relative to the directories of configuration files."""

    @staticmethod
    def find(conf: cfg.ConfigOpts, path: str) -> str:
        """Return where the file is; ``path`` itself if it is in none of them."""
        try:
            return str(conf.find_file(path) or path)
        except cfg.NotInitializedError:  # no files were read
            return path


def check_ca_file(option: str, path: str) -> None:
    """Raise ConfigError unless a file has certificates to verify servers by."""
    try:
        ssl.create_default_context(cafile=path)
    except OSError as exc:
        raise errors.ConfigError(
            f"{option} {path} cannot be used: {exc.strerror or exc}",
            remedy="give the path of a PEM file with certificates",
        ) from exc


def all_checked(*checks: Callable[[], Any]) -> list[Any]:
    """Return what each check returns; raises one ConfigError for all that fail."""
    results, faults = [], []
    for check in checks:
        try:
            results.append(check())
        except errors.ConfigError as exc:
            faults.append(exc)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise errors.ConfigError(BESIDE.join(map(str, faults)))
    return results


def typed(opt: cfg.Opt, value: object, *, needed: bool = False) -> Any:
    """Return a value as its option's type has it, as if it stood in a configuration file.

    None stays None where that is the default, unless ``needed``. Secrets become a Secret. Raises
    ConfigError.
    """
    if isinstance(value, Secret) or (value is None and opt.default is None and not needed):
        return value
    value = () if value is None and opt.multi else value
    try:
        read: Any = _read_all(opt, value) if opt.multi else _read(opt, value)
    except (AttributeError, TypeError, ValueError, OverflowError) as exc:
        reason = "it is a secret, and not text" if opt.secret else str(exc)
        raise errors.ConfigError(f"{opt.name}: {reason}", remedy=f"write: {kind_of(opt)}") from None
    is_missing = read is None and (needed or opt.default is not None)  # numbers of empty text are
    if value is None or is_missing or (isinstance(read, float) and not math.isfinite(read)):
        said = "empty" if is_missing and value is not None else value
        raise errors.ConfigError(f"{opt.name} is {said}", remedy="set it, or leave it out")
    return Secret(read) if opt.secret else read


def kind_of(opt: cfg.Opt) -> str:
    """Return what value an option takes, in oslo.config's words, with its choices or limits."""
    kind = opt.type
    choices = [str(each) for each in getattr(kind, "choices", None) or () if each]
    if choices:
        return f"one of {', '.join(choices)}"
    least, most = getattr(kind, "min", None), getattr(kind, "max", None)
    said = str(getattr(kind, "type_name", "another value"))
    if least is None and most is None:
        return said
    if most is None:
        return f"{said}, {least} or more"
    return f"{said}, {most} or less" if least is None else f"{said} from {least} to {most}"


def _read(opt: cfg.Opt, value: object) -> Any:
    if isinstance(value, Mapping):
        return opt.type(dict(value))
    return opt.type(os.fspath(value) if isinstance(value, os.PathLike) else value)


def _read_all(opt: cfg.Opt, values: Any) -> list[Any]:
    """Return the values of an option that may be given many times; a text alone is one of them."""
    listed = [values] if isinstance(values, str | os.PathLike) else values
    return [_read(opt, value) for value in listed]


def read_options(
    options: Mapping[str, cfg.Opt],
    given: Mapping[str, Any],
    *,
    needed: Container[str] = (),
    check: Callable[[dict[str, Any]], object] | None = None,
) -> dict[str, Any]:
    """Return the keywords of a constructor that are options, with values as their types have them.

    ``given`` is what the constructor was called with: its ``locals()``, in its first statement.
    Those ``needed`` may not be None. Raises one ConfigError for all that are wrong. ``check``
    raises ConfigError for what values mean; where types are wrong it is called here, with the
    defaults of these options, so that the error tells all faults.
    """
    values: dict[str, Any] = {}
    faults: dict[str, errors.ConfigError] = {}
    for keyword in filter(options.__contains__, given):
        opt = options[keyword]
        try:
            values[keyword] = typed(opt, given[keyword], needed=keyword in needed)
        except errors.ConfigError as exc:
            faults[keyword], values[keyword] = exc, opt.default
    if not faults:
        return values
    found = list(map(str, faults.values()))
    if check is not None and not any(keyword in needed for keyword in faults):
        try:
            check(values)
        except errors.ConfigError as exc:
            names = {options[keyword].name for keyword in faults}
            found += faults_without(str(exc), names | faults.keys())
    if len(found) == 1:
        raise next(iter(faults.values()))
    raise errors.ConfigError(BESIDE.join(found))


def faults_without(text: str, names: AbstractSet[str]) -> list[str]:
    """Return the faults of one store that ``text`` tells, but those that have a word of these."""
    return [each for each in text.split(BESIDE) if names.isdisjoint(_WORD.findall(each))]


def texts_in(value: object) -> Iterator[str]:
    """Yield the texts of an option's value, which may be a list or a mapping."""
    if isinstance(value, Secret):
        yield from texts_in(value.reveal())
    elif isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for each in value.values() for text in texts_in(each))
    elif isinstance(value, list | tuple | set | frozenset):
        yield from (text for each in value for text in texts_in(each))


def check_texts(
    options: Mapping[str, cfg.Opt], given: Mapping[str, Any], *, multiline: Container[str] = ()
) -> None:
    """Raise ConfigError for keywords of a constructor that hold control characters.

    Headers, URLs and messages are made of them; a line end would begin another header. Those in
    ``multiline`` may have lines and tabs.
    """
    found = [
        options[keyword].name
        for keyword, value in given.items()
        if keyword in options
        and any(map((_BINARY if keyword in multiline else _CONTROL).search, texts_in(value)))
    ]
    if found:
        raise errors.ConfigError(
            f"{', '.join(found)}: there is a control character in it (the value is not shown)",
            remedy="remove it; it may be the line end of a file that the value came from",
        )


def is_web_url(text: str) -> bool:
    """Return whether text is a URL of http or https with a host, and without credentials."""
    try:
        parts = urlsplit(text)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    is_plain = "@" not in parts.netloc and not _CONTROL.search(text)
    return is_whole and is_plain and parts.scheme in {"http", "https"}
