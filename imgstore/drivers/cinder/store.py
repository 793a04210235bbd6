"""The Cinder store: how the hooks use the other modules here."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from oslo_config import cfg

from imgstore.boundary.settings import read_options
from imgstore.context import RequestContext
from imgstore.data.opened import Opened
from imgstore.data.streams import Body
from imgstore.drivers._keystone import SDK_LOGGERS
from imgstore.drivers._librbd.errors import classify as classify_rbd
from imgstore.drivers.cinder import leftovers, secrecy
from imgstore.drivers.cinder.adding import Adding
from imgstore.drivers.cinder.attaching import Attachments
from imgstore.drivers.cinder.client import Clients
from imgstore.drivers.cinder.deleting import delete_image
from imgstore.drivers.cinder.errors import INSTALL, classify
from imgstore.drivers.cinder.locks import Locks, lock_path_in
from imgstore.drivers.cinder.options import OPTIONS
from imgstore.drivers.cinder.places import SCHEME, Place
from imgstore.drivers.cinder.reading import image_at, opened
from imgstore.drivers.cinder.settings import USER, read
from imgstore.errors import ConfigError, ImgStoreError, InvalidLocation, NotFound
from imgstore.location import Location
from imgstore.model import Added, Capability, Leftover, Ownership, Stat
from imgstore.process import lazy
from imgstore.process.per_process import PerProcess
from imgstore.store import Store


class CinderStore(Store):
    """Images as volumes of Cinder, one each, in the store's project or in the caller's.

    Keywords are those of ``OPTIONS``; see there for meaning, units and defaults. Raises
    ConfigError for what cannot be used and DriverUnavailable without the SDKs.
    """

    driver = "cinder"
    OPTIONS = OPTIONS
    schemes = (SCHEME,)
    sdk_loggers = (*SDK_LOGGERS, *secrecy.LOGGERS)
    read_retries = 1
    capabilities = Capability.READ | Capability.WRITE | Capability.DELETE | Capability.RANGES

    def __init__(
        self,
        name: str,
        *,
        catalog_info: str = "volumev3::publicURL",
        endpoint_template: str | None = None,
        os_region_name: str | None = None,
        ca_certificates_file: str | None = None,
        http_retries: int = 3,
        state_transition_timeout: int = 300,
        api_insecure: bool = False,
        auth_address: str | None = None,
        user_name: str | None = None,
        password: Any = None,
        project_name: str | None = None,
        user_domain_name: str = "Default",
        project_domain_name: str = "Default",
        application_credential_id: Any = None,
        application_credential_secret: Any = None,
        rootwrap_config: str = "/etc/glance/rootwrap.conf",
        volume_type: str | None = None,
        enforce_multipath: bool = False,
        use_multipath: bool = False,
        my_ip: str | None = None,
        mount_point_base: str = "/var/lib/glance/mnt",
        do_extend_attached: bool = False,
        attachment_retry_attempts: int = 5,
        initial_size: int = 1,
        extend_step: int = 50,
        poll_interval: float = 0.5,
        wait_for_delete: bool = False,
        lock_path: str | None = None,
        **common: Any,
    ) -> None:
        """Check the options; ``common`` are the keywords of Store.

        ``lock_path`` is a directory for locks between the processes of this host. By default it is
        what oslo.config's global configuration says under ``[oslo_concurrency]``, else the
        environment variable ``OSLO_LOCK_PATH``.
        """
        values = read_options(OPTIONS, locals(), check=read)
        super().__init__(name, **common)
        lazy.require("cinderclient", "keystoneauth1", "os_brick", "oslo_privsep", install=INSTALL)
        settings = read(values, lock_path=lock_path)
        self._settings = dataclasses.replace(settings, redaction=self._redaction)
        self._clients = PerProcess(functools.partial(Clients, self._settings), Clients.close)
        self._attachments = PerProcess(
            functools.partial(Attachments, self._settings), Attachments.close
        )

    @classmethod
    def settings_elsewhere(cls, conf: cfg.ConfigOpts) -> Mapping[str, Any]:
        """Return the directory for locks as the application has it."""
        return {"lock_path": lock_path_in(conf)}

    @classmethod
    def faults_together(cls, stores: Sequence[Store]) -> Iterator[tuple[Store, ConfigError]]:
        """Refuse stores without credentials beside others.

        Volumes in the projects of users say by no location which store they belong to, and their
        types can be compared with nobody's token.
        """
        for store in stores if len(stores) > 1 else ():
            inner = store.unwrapped
            assert isinstance(inner, CinderStore)  # noqa: S101  # they are grouped by class
            if inner._settings.credentials is None:
                user = (OPTIONS[keyword].name for keyword in USER)
                missing = ", ".join(inner._settings.incomplete or user)
                yield (
                    store,
                    ConfigError(
                        "several cinder stores need credentials of their own",
                        remedy=f"set {missing}; all of them need the same project as before, "
                        "where the volumes are",
                    ),
                )

    @property
    def url_prefix(self) -> str | None:
        """Return ``cinder://<name>``, or ``cinder://`` for a single store."""
        return f"{SCHEME}://" if self.single else f"{SCHEME}://{self.name}"

    def _url_prefixes(self) -> Iterable[str]:
        return () if self.single else (f"{self.url_prefix}/",)

    def owns(self, location: Location) -> Ownership:
        """Own what names the store; volumes that no store's name stands before may lie here."""
        place = Place.of(location)
        if place is None:
            raise InvalidLocation(f"{location} names no volume by its id")
        if place.store == ("" if self.single else self.name):
            return Ownership.YES
        return Ownership.MAYBE if self.single or not place.store else Ownership.NO

    def _get(
        self,
        location: Location,
        offset: int,
        length: int | None,
        *,
        if_version: str | None,
        context: RequestContext | None,
    ) -> Opened:
        api = self._clients.get().of(context)
        volume = image_at(api, location)
        attachments = self._attachments.get()
        return opened(api, attachments, volume, offset, length, if_version=if_version)

    def _stat(self, location: Location, *, context: RequestContext | None) -> Stat:
        volume = image_at(self._clients.get().of(context), location)
        return Stat(volume.image_size, volume.id, volume.created)

    def _add(self, image_id: str, body: Body, *, context: RequestContext | None) -> Added:
        api = self._clients.get().of(context)
        owner = (context.project_id if context else None) or api.project or ""
        adding = Adding(api, self._settings, self._attachments.get(), image_id, owner)
        volume = adding.add(body)
        return Added(Place(volume, "" if self.single else self.name).location)

    def _delete(self, location: Location, *, context: RequestContext | None) -> None:
        api = self._clients.get().of(context)
        volume = image_at(api, location)
        delete_image(api, volume, self._settings, self._attachments.get().remains)

    def _holds(self, location: Location, *, context: RequestContext | None) -> bool:
        """Return whether a volume has the store's type, or Cinder's default if it has none."""
        api = self._clients.get().of(context)
        try:
            volume = image_at(api, location)
        except NotFound:
            return False
        return volume.volume_type == (self._settings.volume_type or api.default_type())

    def _leftovers(self, older_than: timedelta) -> Iterator[Leftover]:
        api, remains = self._clients.get().of(None), self._attachments.get().remains
        return leftovers.find(api, self._settings, remains, self.name, older_than)

    def _remove_leftover(self, leftover: Leftover) -> None:
        api, remains = self._clients.get().of(None), self._attachments.get().remains
        leftovers.remove(api, self._settings, remains, leftover)

    def _classify(self, exc: Exception) -> ImgStoreError | None:
        return classify(exc) or classify_rbd(exc)

    def _check(self, *, write: bool = True) -> Iterable[str]:
        settings = self._settings
        if settings.incomplete:
            yield (
                f"{', '.join(settings.incomplete)} is missing, so the other credentials have no "
                "effect; set all of them, or none"
            )
        try:
            _ = Locks(settings.lock_path).directory
        except ConfigError as exc:
            yield str(exc)
        if settings.credentials is None:
            return
        api = self._clients.get().of(None)
        if settings.volume_type not in {None, *api.volume_types()}:
            yield (
                f"Cinder has no volume type {settings.volume_type!r}; create it, or correct "
                "cinder_volume_type"
            )

    def _close(self) -> None:
        self._attachments.close()
        self._clients.close()
