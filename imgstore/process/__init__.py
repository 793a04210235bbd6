"""What a driver needs because of processes, threads and interrupts."""

from imgstore.process.interrupts import uninterrupted
from imgstore.process.lazy import load, load_apart, require
from imgstore.process.per_process import PerProcess

__all__ = ["PerProcess", "load", "load_apart", "require", "uninterrupted"]
