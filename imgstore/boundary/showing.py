"""Settings of a store, fit to be shown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import Any

from oslo_config import cfg

from imgstore.boundary.redaction import may_hold_userinfo, without_userinfo
from imgstore.boundary.settings import typed
from imgstore.errors import ConfigError
from imgstore.secret import Secret


def shown_settings(
    options: Mapping[str, cfg.Opt],
    given: Mapping[str, Any],
    alternatives: Iterable[AbstractSet[str]] = (),
    *,
    unread: Collection[str] = (),
) -> dict[str, Any]:
    """Return the effective values by the names of their options; ``given`` has some by keyword.

    Secret options, those that an alternative replaces and values that cannot be read are left out,
    of which ``unread`` has the keywords, and so are credentials in URLs, proxies and hosts.
    """
    chosen = {keyword for keyword, value in given.items() if value} | {*unread}
    replaced: set[str] = set()
    for each in alternatives:
        replaced |= each - chosen if each & chosen else set()
    shown = {}
    for keyword, opt in options.items():
        if opt.secret or keyword in replaced or keyword in unread:
            continue
        with suppress(ConfigError):
            value = typed(opt, given.get(keyword, opt.default))
            if not isinstance(value, Secret):
                shown[opt.name] = without_userinfo(keyword, value)
    return shown


def shown_of_refused(
    options: Mapping[str, cfg.Opt],
    given: Mapping[str, Any],
    alternatives: Iterable[AbstractSet[str]] = (),
    *,
    unread: Collection[str] = (),
) -> dict[str, Any]:
    """Return the same of a store that cannot be built, without values that may hold credentials.

    They need not have the form that credentials are found by.
    """
    doubtful = {each for each, value in given.items() if may_hold_userinfo(each, value)}
    return shown_settings(options, given, alternatives, unread={*unread, *doubtful})
