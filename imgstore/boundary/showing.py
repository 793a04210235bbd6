"""Settings of a store, fit to be shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import Any

from oslo_config import cfg

from imgstore.boundary.redaction import without_userinfo
from imgstore.boundary.settings import typed
from imgstore.errors import ConfigError
from imgstore.secret import Secret


def shown_settings(
    options: Mapping[str, cfg.Opt],
    given: Mapping[str, Any],
    alternatives: Iterable[AbstractSet[str]] = (),
) -> dict[str, Any]:
    """Return the effective values by the names of their options; ``given`` has some by keyword.

    Secret options, those that an alternative replaces and values that cannot be read are left out,
    and so are credentials in URLs, proxies and hosts.
    """
    replaced = {
        keyword
        for each in alternatives
        if any(given.get(keyword) for keyword in each)
        for keyword in each
        if not given.get(keyword)
    }
    shown = {}
    for keyword, opt in options.items():
        if opt.secret or keyword in replaced:
            continue
        with suppress(ConfigError):
            value = typed(opt, given.get(keyword, opt.default))
            if not isinstance(value, Secret):
                shown[opt.name] = without_userinfo(keyword, value)
    return shown
