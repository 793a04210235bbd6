"""The VMware store: how the hooks use the other modules here."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

from imgstore.boundary.arguments import check_storable
from imgstore.boundary.settings import read_options
from imgstore.context import RequestContext
from imgstore.data.opened import Opened
from imgstore.data.streams import Body
from imgstore.drivers.vmware import leftovers
from imgstore.drivers.vmware.adding import Adding
from imgstore.drivers.vmware.datastores import Datastores
from imgstore.drivers.vmware.deleting import delete
from imgstore.drivers.vmware.errors import INSTALL, classify
from imgstore.drivers.vmware.files import Upload
from imgstore.drivers.vmware.options import OPTIONS
from imgstore.drivers.vmware.places import DRAFT_PREFIX, SCHEME, Place, image_at, place_of
from imgstore.drivers.vmware.settings import Settings, read
from imgstore.errors import ImgStoreError
from imgstore.location import Location, same_service
from imgstore.model import Added, Capability, Leftover, Ownership, Stat
from imgstore.process import lazy
from imgstore.process.per_process import PerProcess
from imgstore.secret import Secret
from imgstore.store import Store


class VmwareStore(Store):
    """Images as files of the datastores of a vCenter Server, or of a host without one.

    Keywords are those of ``OPTIONS``; see there for meaning, units and defaults. Raises
    ConfigError for what cannot be used and DriverUnavailable without pyVmomi and requests.
    """

    driver = "vmware"
    OPTIONS = OPTIONS
    schemes = (SCHEME,)
    capabilities = (
        Capability.READ | Capability.WRITE | Capability.DELETE | Capability.RANGES | Capability.COPY
    )

    def __init__(
        self,
        name: str,
        *,
        server_host: str | None = None,
        server_port: int | None = None,
        server_username: str | None = None,
        server_password: str | Secret | None = None,
        datastores: Sequence[str] = (),
        datacenter_path: str = "ha-datacenter",
        datastore_name: str | None = None,
        store_image_dir: str = "/openstack_glance",
        insecure: bool = False,
        ca_file: str | None = None,
        api_retry_count: int = 10,
        task_poll_interval: int = 5,
        connect_timeout: float = 10.0,
        read_timeout: float = 60.0,
        **common: Any,
    ) -> None:
        """Check the options; ``common`` are the keywords of Store."""
        values = read_options(OPTIONS, locals(), check=read)
        super().__init__(name, **common)
        lazy.require("pyVmomi", "requests", "urllib3", install=INSTALL)
        self._settings: Settings = dataclasses.replace(read(values), redaction=self._redaction)
        self._datastores = PerProcess(
            functools.partial(Datastores, self._settings), Datastores.close
        )
        # Drafts of adds of this process that are under way, which leftovers() must not list.
        self._live: set[str] = set()

    @property
    def url_prefix(self) -> str:
        """Return what locations begin with, up to the directory for images."""
        return f"{SCHEME}://{self._settings.service}/folder/{self._settings.directory}"

    def owns(self, location: Location) -> Ownership:
        """Own the directory for images in the datastores of the store, maybe in others."""
        place, settings = place_of(location), self._settings
        if not same_service(place.service, settings.service):
            return Ownership.NO
        if place.directory != settings.directory or place.is_draft:
            return Ownership.NO
        known = [datastore.key for datastore, _ in settings.datastores]
        return Ownership.YES if place.datastore.key in known else Ownership.MAYBE

    def _place(self, location: Location) -> Place:
        return image_at(location, (datastore for datastore, _ in self._settings.datastores))

    def _get(
        self,
        location: Location,
        offset: int,
        length: int | None,
        *,
        if_version: str | None,
        context: RequestContext | None,
    ) -> Opened:
        place = self._place(location)
        return self._datastores.get().files.open(place, offset, length, if_version)

    def _stat(self, location: Location, *, context: RequestContext | None) -> Stat:
        return self._datastores.get().files.stat(self._place(location))

    def _add(self, image_id: str, body: Body, *, context: RequestContext | None) -> Added:
        check_storable(image_id, "vSphere", own=DRAFT_PREFIX)
        with leftovers.new_draft(self._live) as draft:
            adding = Adding(self._datastores.get(), image_id, draft)
            return Added(adding.add(body).location)

    def _copy(
        self, location: Location, origin: Store, image_id: str, *, context: RequestContext | None
    ) -> Added | None:
        if not isinstance(origin, VmwareStore) or not origin._is_beside(self):
            return None
        check_storable(image_id, "vSphere", own=DRAFT_PREFIX)
        with leftovers.new_draft(self._live) as draft:
            adding = Adding(self._datastores.get(), image_id, draft)
            place = adding.copy(origin._place(location))
            return Added(place.location, size=adding.size)

    def _is_beside(self, other: VmwareStore) -> bool:
        """Tell whether another store has the same server and user."""
        mine, others = self._settings, other._settings
        return (mine.service, mine.username) == (others.service, others.username)

    def _delete(self, location: Location, *, context: RequestContext | None) -> None:
        place, datastores = self._place(location), self._datastores.get()
        # The task deletes directories as well; this raises NotFound for them.
        delete(datastores, place, datastores.files.stamp(place))

    def _leftovers(self, older_than: timedelta) -> Iterator[Leftover]:
        datastores = self._datastores.get()
        yield from leftovers.find(datastores, self.name, older_than=older_than, live=self._live)

    def _remove_leftover(self, leftover: Leftover) -> None:
        leftovers.remove(self._datastores.get(), leftover)

    def _classify(self, exc: Exception) -> ImgStoreError | None:
        return classify(exc)

    def _check(self, *, write: bool = True) -> Iterable[str]:
        """Log in and, to ``write``, write and delete a small file in each datastore."""
        datastores = self._datastores.get()
        for datastore, fault in datastores.faults():
            if fault:
                yield f"datastore {datastore}: {fault}; mend that, or correct vmware_datastores"
                continue
            if not write:
                continue
            with leftovers.new_draft(self._live) as draft:
                place = datastores.place(datastore, draft)
                datastores.make_directory(datastore)
                with Body(b"") as body:
                    datastores.files.put(place, Upload(body))
                delete(datastores, place)

    def _close(self) -> None:
        self._datastores.close()
