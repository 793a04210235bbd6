"""Images as objects of OpenStack Swift, or of what speaks its API."""

from imgstore.drivers.swift.store import SwiftStore

__all__ = ["SwiftStore"]
