"""Images in Ceph's block devices (RBD)."""

from imgstore.drivers.rbd.store import RbdStore

__all__ = ["RbdStore"]
