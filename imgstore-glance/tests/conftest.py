"""glance_store is imgstore's here, and the doubles are installed drivers.

That holds for the whole process: imgstore's own tests need another one. The façade is the one that
is installed, or that PYTHONPATH names.
"""

from __future__ import annotations

import sys
from pathlib import Path

import imgstore_glance
import pytest
from oslo_config import cfg

sys.path[:0] = [imgstore_glance.path(), str(Path(__file__).with_name("doubles"))]

import told_driver  # noqa: E402
from glance_store import location, multi_backend  # noqa: E402
from services import Service  # noqa: E402


@pytest.fixture(autouse=True)
def registry():
    """Give each test an empty registry, and tell the double nothing."""
    maps = location.SCHEME_TO_CLS_MAP, location.SCHEME_TO_CLS_BACKEND_MAP
    location.SCHEME_TO_CLS_MAP, location.SCHEME_TO_CLS_BACKEND_MAP = {}, {}
    multi_backend._RESERVED_STORES.clear()
    told = told_driver.ToldStore
    told.raises = told.raises_midway = None
    told.calls = 0
    yield
    location.SCHEME_TO_CLS_MAP, location.SCHEME_TO_CLS_BACKEND_MAP = maps
    multi_backend._RESERVED_STORES.clear()


@pytest.fixture
def conf(tmp_path):
    """Return the global configuration as Glance registers it; it is what it was afterwards."""
    conf = cfg.CONF
    conf.reset()
    conf([], project="glance", default_config_files=[], default_config_dirs=[])
    if "enabled_backends" not in conf:
        conf.register_opt(cfg.Opt("enabled_backends", type=cfg.types.Dict(cfg.types.String())))
    yield conf
    conf.reset()
    for group in conf._groups.values():  # oslo.config keeps where values came from
        for known in group._opts.values():
            known.pop("location", None)


@pytest.fixture
def service(conf, tmp_path):
    return Service(conf, tmp_path)
