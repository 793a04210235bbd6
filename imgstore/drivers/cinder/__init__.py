"""Images as volumes of OpenStack Block Storage (Cinder)."""

from imgstore.drivers.cinder.store import CinderStore

__all__ = ["CinderStore"]
