"""What is secret of how a host connects to a volume, wherever it stands in Cinder's answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from imgstore.secret import MASK

# Names of what nobody else may know: https://docs.openstack.org/api-ref/block-storage/v3/#attachments
# Of RBD's, libvirt's secret has a type and a UUID, which are none.
_SECRET: Final = re.compile(
    r"password|secret(?!_type$|_uuid$)|token|keyring|dhchap|_key$", re.IGNORECASE
)
_KEY: Final = re.compile(r"key\s*=\s*(\S+)")  # of a keyring
# What os-brick says of connections, and of the commands that make them. Filters of a logger do not
# see what its children log, so that each connector is named.
_CONNECTORS: Final = (
    "base base_iscsi base_rbd fibre_channel fibre_channel_ppc64 fibre_channel_s390x gpfs huawei "
    "iscsi lightos local nvmeof rbd remotefs scaleio storpool vmware"
)
LOGGERS: Final = (
    "oslo.privsep.daemon",
    "oslo_concurrency.processutils",
    "os_brick",
    "os_brick.exception",
    "os_brick.executor",
    "os_brick.utils",
    "os_brick.privileged.nvmeof",
    "os_brick.privileged.rootwrap",
    "os_brick.remotefs.remotefs",
    "os_brick.initiator.connector",
    "os_brick.initiator.linuxfc",
    "os_brick.initiator.linuxrbd",
    "os_brick.initiator.linuxscsi",
    "os_brick.initiator.storpool_utils",
    *(f"os_brick.initiator.connectors.{name}" for name in _CONNECTORS.split()),
)


class Hidden(str):
    """A secret that os-brick can use, and that is not shown where it logs all that it was given."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return what stands for it."""
        return repr(MASK)


def hidden(found: Any, name: str = "") -> Any:
    """Return what Cinder said with its secrets hidden."""
    if isinstance(found, dict):
        return {key: hidden(value, str(key)) for key, value in found.items()}
    if isinstance(found, list):
        return [hidden(each, name) for each in found]
    return Hidden(found) if isinstance(found, str) and _SECRET.search(name) else found


def secrets_in(found: Any) -> Iterator[str]:
    """Yield what is hidden there, and of a keyring the key as well."""
    if isinstance(found, dict | list):
        for each in found.values() if isinstance(found, dict) else found:
            yield from secrets_in(each)
    elif isinstance(found, Hidden):
        yield found
        yield from _KEY.findall(found)
