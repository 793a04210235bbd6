"""Images on datastores of VMware vSphere."""

from imgstore.drivers.vmware.store import VmwareStore

__all__ = ["VmwareStore"]
