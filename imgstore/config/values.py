"""Values of options, from the first group that sets each, and what is wrong with them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

from oslo_config import cfg

from imgstore.boundary.settings import FileOpt, kind_of
from imgstore.boundary.translation import describe
from imgstore.errors import ConfigError, DriverUnavailable, ImgStoreError

LOG = logging.getLogger(__name__)
NOT_READABLE: Final = (ValueError, TypeError, cfg.Error, RecursionError)
EMPTY: Final[tuple[object, ...]] = (None, "", [], [""], {})
_COMMENT: Final = "' #' and what follows is part of the value; a comment needs a line of its own"


def value_of(conf: cfg.ConfigOpts, groups: Sequence[str], opt: cfg.Opt, own: Any) -> Any:
    """Return the value from the first group that sets it, else ``own``, else the default."""
    group = groups[0]
    value = fault = None
    try:
        for group in groups:
            if is_set(conf, group, opt):
                value = conf[group][opt.dest]
                break
        else:
            group = groups[0]
            value = conf[group][opt.dest] if own is None else own
    except NOT_READABLE as exc:
        fault = unreadable(group, opt, exc)
    if fault is not None:  # not from within the handler: oslo's own message may hold a secret
        raise fault
    if " #" in str(value):
        LOG.warning("[%s] %s: %s", group, opt.name, _COMMENT)
    if value in ("", [""]) and not opt.default:  # blanked; [""] if it may be repeated
        return opt.default
    if isinstance(opt, FileOpt) and value:
        return opt.find(conf, value)
    return opt.default if value is None else value


def is_set(conf: cfg.ConfigOpts, group: str, opt: cfg.Opt) -> bool:
    """Return whether a file, or the application, sets an option."""
    location = conf.get_location(opt.dest, group)
    return location is not None and location.location is not cfg.Locations.opt_default


def is_given(conf: cfg.ConfigOpts, group: str, opt: cfg.Opt) -> bool:
    """Return whether an option is set, and not blanked; one that cannot be read is given."""
    with suppress(*NOT_READABLE):
        return is_set(conf, group, opt) and conf[group][opt.dest] not in EMPTY
    return True


def fault_of(
    reason: str, remedy: str, *, kind: type[ConfigError] = ConfigError, text: str = ""
) -> ConfigError:
    """Return a fault; where the text seems to have a comment in it, its remedy says so."""
    if " #" in (text or reason):
        remedy = f"{remedy}; {_COMMENT}" if remedy else _COMMENT
    return kind(reason, remedy=remedy)


def one_of(choices: Iterable[object], otherwise: str) -> str:
    """Return the remedy that lists ``choices``, ``otherwise`` where there are none."""
    listed = ", ".join(map(str, choices))
    return f"choose one of: {listed}" if listed else otherwise


def passed_on(exc: Exception, subject: str) -> ConfigError:
    """Return the fault that another error stands for."""
    reason, remedy = describe(exc), ""
    if isinstance(exc, ImgStoreError):
        reason, remedy = exc.reason or reason, exc.remedy
    kind = DriverUnavailable if isinstance(exc, DriverUnavailable) else ConfigError
    fault = fault_of(f"{subject}: {reason}", remedy, kind=kind)
    fault.__cause__ = exc
    return fault


def unreadable(group: str, opt: cfg.Opt, exc: BaseException) -> ConfigError:
    """Return the fault for a value that oslo.config could not give; a secret is never shown."""
    text = str(exc)
    remedy = "write $$ where a dollar sign is meant"
    if isinstance(exc, cfg.NoSuchOptError):
        reason = f"its value refers to ${exc.opt_name}, which is no option"
    elif isinstance(exc, cfg.TemplateSubstitutionError | RecursionError):
        reason = "what its value refers to with $ cannot be put in"
    else:
        reason = text.partition(" is not valid: ")[2] or text
        remedy = f"write: {kind_of(opt)}"
        choices = [each for each in getattr(opt.type, "choices", None) or () if each]
        if choices:
            found = reason.rpartition("but found ")[2]
            reason = "it is empty" if found == "''" else f"it is {found}"
            remedy = f"{one_of(choices, remedy)}, or leave the option out"
    if opt.secret:
        reason = "its value cannot be used (it is a secret and not shown)"
    return fault_of(f"[{group}] {opt.name}: {reason}", remedy, text=text)


def merged(faults: Sequence[ConfigError]) -> ConfigError:
    """Return one error for all ``faults``, of which there is at least one."""
    if len(faults) == 1:
        return faults[0]
    unavailable = all(isinstance(fault, DriverUnavailable) for fault in faults)
    lines = "".join(f"\n  {' '.join(str(fault).split())}" for fault in faults)
    return (DriverUnavailable if unavailable else ConfigError)(
        f"{len(faults)} faults in the configuration:{lines}"
    )
