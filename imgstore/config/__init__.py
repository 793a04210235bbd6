"""Configuration files: from oslo.config options to stores."""

from imgstore.config.options import list_opts, register_opts
from imgstore.config.validating import problems

__all__ = ["list_opts", "problems", "register_opts"]
