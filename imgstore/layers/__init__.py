"""Stores that wrap a store and change what it permits."""

from imgstore.layers.layer import Layer
from imgstore.layers.limited import Limited
from imgstore.layers.read_only import ReadOnly

__all__ = ["Layer", "Limited", "ReadOnly"]
