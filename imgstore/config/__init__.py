"""Configuration files: from oslo.config options to stores."""

from imgstore.config.options import list_opts, register_opts
from imgstore.config.single import build_store, driver_options, register_store_opts
from imgstore.config.validating import problems

__all__ = [
    "build_store",
    "driver_options",
    "list_opts",
    "problems",
    "register_opts",
    "register_store_opts",
]
