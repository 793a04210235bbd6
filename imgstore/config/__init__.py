"""Configuration files: from oslo.config options to stores."""

from imgstore.config.options import list_opts, register_opts

__all__ = ["list_opts", "register_opts"]
