"""How this host connects to an attached volume: os-brick, exports, and what needs no device."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import ipaddress
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from imgstore.boundary.translation import describe
from imgstore.data.units import GIB
from imgstore.drivers._told import not_told, told
from imgstore.drivers.cinder import rights, steps
from imgstore.drivers.cinder.devices import Clusters, Device, FileDevice, Opener
from imgstore.drivers.cinder.errors import INSTALL, is_of
from imgstore.drivers.cinder.locks import Locks
from imgstore.drivers.cinder.secrecy import hidden, secrets_in
from imgstore.drivers.cinder.settings import Settings
from imgstore.drivers.cinder.volumes import SERVICE, Volume
from imgstore.errors import ConfigError, Unavailable, Unsupported
from imgstore.process import lazy
from imgstore.process.patience import Patience
from imgstore.process.shared import Shared

LOG = logging.getLogger(__name__)

_SECONDS: Final = 600.0  # that another process may take to connect or disconnect the same volume
_MOUNTING: Final = 150.0  # that one may take to mount what others wait for
# PowerFlex shows a volume before it has its size: 20 s in all.
_UNTIL_SIZED: Final = Patience(0.32, times=6)
# Seen from the host, all of these are files of a mounted file system.
FILE_SYSTEMS: Final = frozenset({"nfs", "glusterfs", "quobyte", "vzstorage", "scality"})
_FILES: Final = FILE_SYSTEMS | {"gpfs"}


class StillConnected(Unavailable):
    """A device is left on this host, or may be, of no use to anybody."""

    def __init__(self) -> None:
        """Say so: the attachment has to stay as long as the device does."""
        super().__init__("the device cannot be used, and disconnecting it failed as well")


class Connectors:
    """What one process needs to connect to volumes."""

    def __init__(self, settings: Settings, locks: Locks) -> None:
        self._settings = settings
        self._locks = locks
        self._clusters = Clusters()
        self._properties = Shared(self._find_properties)

    def properties(self, endpoint: str) -> Mapping[str, Any]:
        """Return what Cinder, which has this URL, has to know of this host.

        os-brick finds it, once, but for the address.
        """
        address = self._settings.own_address or _address_towards(endpoint)
        return {**self._properties.get(), "ip": address}

    def _find_properties(self) -> Mapping[str, Any]:
        brick = _brick(self._locks)
        settings = self._settings
        try:
            found: dict[str, Any] = brick.get_connector_properties(
                "sudo",
                None,  # the address
                settings.multipath,
                settings.enforces_multipath,
                host=socket.gethostname(),
            )
        except Exception as exc:
            if settings.multipath and settings.enforces_multipath:
                raise ConfigError(
                    f"os-brick cannot tell about this host: {describe(exc)}",
                    remedy="start multipathd, or set cinder_enforce_multipath to false",
                ) from exc
            raise
        return found

    def connect(self, volume: Volume, connection: Mapping[str, Any]) -> Device:
        """Connect to a reserved volume, as Cinder's answer says; raises Unsupported.

        Whatever else it raises, nothing is left, but for StillConnected.
        """
        protocol, data = _read(connection)
        if protocol in FILE_SYSTEMS:
            _refuse_formats(volume, protocol, data)
            _refuse_names(data)
        if protocol == "nfs":
            return self._by_mount(data)
        if _needs_device(protocol, data):
            return self._by_brick(volume, protocol, data)
        return self._clusters.device(data)

    def _by_mount(self, data: Mapping[str, Any]) -> FileDevice:
        """Mount an export of nfs while any process of this host uses it.

        Raises Unavailable, Unsupported and ConfigError.
        """
        share = str(told(data, "export", service=SERVICE))
        options = str(data.get("options") or "").split()
        point = rights.place_of(os.path.join(self._settings.mounts, "nfs"), share)
        # Stores with directories of their own mount an export more than once.
        counted = hashlib.sha256(os.fsencode(point)).hexdigest()
        use = self._locks.use(f"mount-{counted}", seconds=_MOUNTING)
        use.begin(functools.partial(_mount, point, share, options))
        return FileDevice(
            functools.partial(rights.open_volume, point, share, str(data["name"])),
            functools.partial(use.end, functools.partial(_unmount, point, share)),
        )

    def _by_brick(self, volume: Volume, protocol: str, data: dict[str, Any]) -> Device:
        """Let os-brick connect a device, or mount what is no export of nfs."""
        connector = self._connector(protocol, data)
        # Its path is the same one for all processes of this host.
        use = self._locks.use(volume.id, seconds=_SECONDS)
        undo = functools.partial(_undo, connector, data)
        try:
            found, path = use.begin(functools.partial(_connect, connector, data), undo)
        except KeyError as exc:  # of what os-brick looks for in the answer
            raise not_told(" ".join(map(str, exc.args)) or "field", service=SERVICE) from exc
        let_go = functools.partial(use.end, lambda: _disconnect(connector, data, found))
        try:
            if not isinstance(path, str | bytes):
                raise Unsupported(f"os-brick connects {protocol} without a device")
            data["device_path"] = path  # some connectors find the device by that
            grow = None if protocol in FILE_SYSTEMS else lambda: connector.extend_volume(data)
            device = FileDevice(_opener(protocol, os.fsdecode(path)), let_go, grow)
            if protocol == "scaleio":
                _await_size(device, volume)
        except BaseException:
            try:
                let_go()
            except Exception as exc:
                raise StillConnected from exc
            raise
        return device

    def disconnect(self, volume_id: str, connection: Mapping[str, Any]) -> None:
        """Disconnect a volume whose process died, unless another one of this host uses it."""
        protocol, data = _read(connection)
        if not connection or protocol == "nfs" or not _needs_device(protocol, data):
            return
        use = self._locks.use(volume_id, seconds=_SECONDS)
        use.begin(lambda: None)
        use.end(lambda: _disconnect(self._connector(protocol, data), data, None))

    def _connector(self, protocol: str, data: Mapping[str, Any]) -> Any:
        more: dict[str, Any] = {}
        if protocol in FILE_SYSTEMS:
            more[f"{protocol}_mount_point_base"] = os.path.join(self._settings.mounts, protocol)
        return _brick(self._locks).InitiatorConnector.factory(
            protocol.upper(),
            "sudo",
            use_multipath=self._settings.multipath,
            conn={"data": data, **data},
            **more,
        )

    def close(self) -> None:
        """Disconnect from Ceph."""
        self._clusters.close()


def _read(connection: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the protocol and the data of a connection."""
    # Older versions of the API have the data beside the protocol.
    data: dict[str, Any] = hidden(dict(connection.get("data") or connection))
    return str(connection.get("driver_volume_type") or data.get("driver_volume_type")), data


def _needs_device(protocol: str, data: Mapping[str, Any]) -> bool:
    return protocol != "rbd" or bool(data.get("do_local_attach"))


def _mount(point: str, share: str, options: Sequence[str]) -> None:
    try:
        if rights.is_capable():
            os.makedirs(point, exist_ok=True)
    except OSError as exc:
        raise ConfigError(
            f"the directory {point} cannot be made: {exc.strerror}",
            remedy="let the service write to cinder_mount_point_base",
        ) from exc
    try:
        rights.mount(point, share, options)
    except steps.Refused as exc:
        raise Unsupported(
            f"an export of Cinder's is not mounted: {exc.strerror}",
            remedy="correct the shares and nfs_mount_options of Cinder's backend",
        ) from exc
    except OSError as exc:
        raise Unavailable(f"the export {share} cannot be mounted: {exc.strerror}") from exc


def _unmount(point: str, share: str) -> None:
    try:
        rights.unmount(point, share)
    except OSError as exc:
        LOG.warning("%s stays mounted: %s", point, exc.strerror)


def _refuse_formats(volume: Volume, protocol: str, data: Mapping[str, Any]) -> None:
    """Raise Unsupported for a file that holds anything but the image's bytes."""
    how = str(data.get("format") or "raw")
    if how != "raw":
        raise Unsupported(
            f"the volume is a {how} file, of which a reader would get the {how} format",
            remedy=f"set {protocol}_qcow2_volumes to false at Cinder's backend",
        )
    if volume.encrypted or data.get("encrypted"):
        raise Unsupported(
            f"the volume is encrypted, which cannot be undone on {protocol}",
            remedy="use a volume type without encryption",
        )


def _refuse_names(data: Mapping[str, Any]) -> None:
    """Raise Unsupported for a file that need not be a volume's: Cinder says which one to open."""
    name = str(data.get("name"))
    if not steps.is_volume(name):
        raise Unsupported(
            f"Cinder names the file {name!a}, in which there is no volume's id",
            remedy="let volume_name_template of Cinder have the id in it",
        )


def _opener(protocol: str, path: str) -> Opener:
    """Return what opens what os-brick found, and nothing but a device or a volume's file."""
    if protocol in _FILES:
        directory, name = os.path.split(path)
        return functools.partial(steps.open_volume, directory, name, is_mount=False)
    return functools.partial(rights.open_device, path)


def _connect(connector: Any, data: Mapping[str, Any]) -> tuple[Mapping[str, Any], Any]:
    """Return what os-brick says of the device, and its path."""
    try:
        found = connector.connect_volume(data)
        return found, found["path"]
    except BaseException as exc:
        shown = _shown(exc, data)
        if shown is exc:
            raise
        raise shown from None


def _undo(connector: Any, data: Mapping[str, Any], failed: BaseException) -> None:
    """Disconnect what failed to connect; raises StillConnected if a device may be left.

    os-brick may have connected some of it, and have failed only later.
    """
    try:
        _disconnect(connector, data, None)
    except Exception as exc:
        if not _never_began(failed, exc):
            LOG.warning("disconnecting what could not be connected: %s", type(exc).__name__)
            raise StillConnected from failed


def _never_began(failed: BaseException, undoing: Exception) -> bool:
    """Return whether neither of both got as far as the storage.

    There is no directory for os-brick's locks, its helper does not start, or Cinder's answer lacks
    what both look for first.
    """
    if is_of(undoing, "oslo_config") or type(undoing).__name__ == "FailedToDropPrivileges":
        return True
    return isinstance(undoing, KeyError) and repr(undoing) == repr(failed)


def _shown(exc: BaseException, data: Mapping[str, Any]) -> BaseException:
    """Return Unavailable in place of what shows a secret: a program may have named it."""
    words = {word for each in secrets_in(data) for word in each.split() if len(word) > 5}
    if any(word in str(exc) for word in words):
        return Unavailable(f"os-brick: {type(exc).__name__}, whose text is not shown")
    return exc


def _disconnect(connector: Any, data: Mapping[str, Any], found: Mapping[str, Any] | None) -> None:
    # With force, a device that lingers cannot come to name another volume (CVE-2023-2088). Where
    # one stays all the same, the attachment has to.
    connector.disconnect_volume(data, found, force=True, ignore_errors=False)


def _await_size(device: FileDevice, volume: Volume) -> None:
    for _ in _UNTIL_SIZED.attempts():
        if device.size() >= volume.size * GIB:
            return
    raise Unavailable(f"the device has not the volume's {volume.size} GiB")


def _address_towards(url: str) -> str:
    """Return this host's address from which packets go to the host of a URL.

    Where they do not leave this host, or there is no way, it is the one that this host's name
    stands for, unless nobody else can use that either.
    """
    found = _source_towards(urlsplit(url).hostname or "")
    if found is not None and not ipaddress.ip_address(found).is_loopback:
        return found
    own = _source_towards(socket.gethostname())
    is_usable = own is not None and not ipaddress.ip_address(own).is_loopback
    return (own if is_usable else found or own) or "127.0.0.1"


def _source_towards(host: str) -> str | None:
    try:
        for family, kind, _, _, address in socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM):
            with contextlib.suppress(OSError), socket.socket(family, kind) as asked:
                asked.connect(address)  # nothing is sent: it is UDP
                return str(asked.getsockname()[0])
    except (OSError, UnicodeError) as exc:
        LOG.debug("the address towards %s: %s", host, describe(exc))
    return None


def _brick(locks: Locks) -> Any:
    """Return os-brick's connectors, which lock where the store does unless they are told."""
    brick, conf = _prepared()
    # It knows the global configuration alone. What stands there goes before this default.
    if not conf.os_brick.lock_path:
        conf.set_default("lock_path", os.fspath(locks.directory), group="os_brick")
    return brick


@functools.cache
def _prepared() -> tuple[Any, Any]:
    """Return os-brick's connectors, which as root do without a helper, and its configuration."""
    brick = lazy.load_apart("os_brick.initiator.connector", install=INSTALL)
    own = lazy.load_apart("os_brick.privileged", install=INSTALL)
    conf = lazy.load_apart("oslo_config.cfg", install=INSTALL).CONF
    try:
        lazy.load_apart("os_brick", install=INSTALL).setup(conf)
    except Exception as exc:  # its options are the service's business
        LOG.debug("os_brick.setup: %s", type(exc).__name__)
    if rights.is_capable():
        for context in (own.default, own.brick_privsep_hide_output):
            if context.channel is None:
                context.set_client_mode(False)
    return brick, conf
