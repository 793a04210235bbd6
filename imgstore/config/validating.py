"""A configuration, looked through without building a store."""

from __future__ import annotations

from itertools import chain
from os import PathLike

from imgstore.config.building import examine
from imgstore.config.files import read_files
from imgstore.config.loading import load_driver
from imgstore.errors import ConfigError


def problems(*paths: str | PathLike[str]) -> list[str]:
    """Return what is wrong with configuration files, one line each; nothing is raised for it.

    Told are faults, such as values that cannot be read and drivers that are missing, and after
    them what nothing reads: misspelt options and groups, and options in another group. Groups and
    options of others are left alone. The files are those that ``StoreManager.from_file`` takes. No
    store is built: what a driver refuses beyond the types of its options is not found.
    """
    try:
        done = examine(read_files(paths), load=load_driver)
    except ConfigError as exc:
        found = [exc]
    else:
        found = [*done.whole, *chain(*done.failures.values()), *chain(*done.unread.values())]
    return [" ".join(str(each).split()) for each in found]
