"""The Swift store: how the hooks use the other modules here."""

from __future__ import annotations

import dataclasses
import secrets
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from imgstore.boundary.arguments import check_storable, is_below
from imgstore.boundary.settings import read_options
from imgstore.context import RequestContext
from imgstore.data.opened import Opened
from imgstore.data.ranges import RANGE, open_ranges
from imgstore.data.streams import Body
from imgstore.drivers._keystone import SDK_LOGGERS
from imgstore.drivers.swift import leftovers
from imgstore.drivers.swift.accounts import Account, account_in, account_named, unread_in
from imgstore.drivers.swift.adding import Adding
from imgstore.drivers.swift.claims import Claim
from imgstore.drivers.swift.client import Caller
from imgstore.drivers.swift.containers import Containers
from imgstore.drivers.swift.deleting import delete
from imgstore.drivers.swift.errors import INSTALL, classify
from imgstore.drivers.swift.manifests import is_like_segment
from imgstore.drivers.swift.options import OPTIONS
from imgstore.drivers.swift.places import CONFIG, Place
from imgstore.drivers.swift.reading import Reading, stat_of
from imgstore.drivers.swift.session import Session
from imgstore.drivers.swift.settings import CHECK, MAX_CONTAINER, SEGMENTS, read
from imgstore.errors import (
    ConfigError,
    ImgStoreError,
    InvalidArgument,
    InvalidLocation,
    OutsideStore,
)
from imgstore.location import Location, same_service
from imgstore.model import Added, Capability, Leftover, Ownership, Stat
from imgstore.process import lazy
from imgstore.process.committing import undone
from imgstore.process.per_process import PerProcess
from imgstore.secret import Secret
from imgstore.store import Store


class SwiftStore(Store):
    """Images as objects of the store's own account, or of the accounts of those who add them.

    Keywords are those of ``OPTIONS``; see there for meaning, units and defaults. Raises
    ConfigError for what cannot be used and DriverUnavailable without python-swiftclient.
    """

    driver = "swift"
    OPTIONS = OPTIONS
    schemes = ("swift", "swift+http", "swift+https", CONFIG)
    sdk_loggers = ("swiftclient", *SDK_LOGGERS)
    capabilities = Capability.READ | Capability.WRITE | Capability.DELETE | Capability.RANGES

    def __init__(
        self,
        name: str,
        *,
        config_file: str | None = None,
        default_swift_reference: str = "ref1",
        auth_version: str = "3",
        auth_address: str | None = None,
        user: str | Secret | None = None,
        key: str | Secret | None = None,
        user_domain_id: str | None = None,
        user_domain_name: str | None = None,
        project_domain_id: str | None = None,
        project_domain_name: str | None = None,
        application_credential_id: str | Secret | None = None,
        application_credential_secret: str | Secret | None = None,
        project_name: str | None = None,
        project_id: str | None = None,
        container: str = "glance",
        create_container_on_put: bool = False,
        multiple_containers_seed: int = 0,
        multi_tenant: bool = False,
        admin_tenants: Sequence[str] = (),
        use_trusts: bool = True,
        send_service_token: bool = False,
        region: str | None = None,
        endpoint: str | None = None,
        endpoint_type: str = "publicURL",
        service_type: str = "object-store",
        auth_insecure: bool = False,
        cacert: str | None = None,
        large_object_size: int = 5120,
        large_object_chunk_size: int = 200,
        large_object_type: str = "slo",
        upload_workers: int = 4,
        upload_memory: int = 224,
        get_workers: int = 1,
        retry_get_count: int = 3,
        max_attempts: int = 7,
        connect_timeout: float = 10.0,
        read_timeout: float = 60.0,
        expire_soon_interval: int = 60,
        ssl_compression: bool = True,
        buffer_on_upload: bool = False,
        upload_buffer_dir: str | None = None,
        **common: Any,
    ) -> None:
        """Check the options; ``common`` are the keywords of Store."""
        values = read_options(OPTIONS, locals(), check=read)
        super().__init__(name, **common)
        lazy.require("swiftclient", "keystoneauth1", install=INSTALL)
        self._settings = dataclasses.replace(read(values), redaction=self._redaction)
        for account in self._settings.accounts.values():
            self._redaction.keep(account.user, account.key, *(account.credential or ()))
        if self._settings.multi_tenant:  # otherwise images are in one container, which has one ACL
            self.capabilities |= Capability.ACLS
        self.read_retries = values["retry_get_count"]
        self._session = PerProcess(partial(Session, self._settings), Session.close)
        # Adds of this process that are under way, whose segments leftovers() must not list.
        self._live: set[str] = set()

    @classmethod
    def unread_in_files(cls, values: Mapping[str, Any]) -> Iterable[ConfigError]:
        """Yield the keys of the reference file that no account has."""
        path = values.get("config_file")
        return unread_in(path) if path else ()

    @property
    def url_prefix(self) -> str | None:
        """Return what locations begin with, up to the container; None where users' differ."""
        settings, account = self._settings, self._settings.account
        if settings.multi_tenant or account is None:
            return None
        container = f"{settings.container}_" if settings.seed else settings.container
        return f"{self._base(account)}/{container}"

    def _base(self, account: Account) -> str:
        if self._settings.has_references:
            return f"{CONFIG}://{self._settings.default}"
        return f"{account.scheme}://{account.service}"

    def _url_prefixes(self) -> Iterable[str]:
        """Yield the container, where it is one for all images, by each scheme of such locations."""
        scheme, _, place = (self.url_prefix or "").partition("://")
        if self._settings.seed or not place:
            return ()
        others = () if scheme == CONFIG else [each for each in self.schemes if each != CONFIG]
        return (f"{each}://{place}/" for each in dict.fromkeys((scheme, *others)))

    def owns(self, location: Location) -> Ownership:
        """Own the containers of the store's account; others of its services may be readable."""
        place, settings = _named(location), self._settings
        if settings.multi_tenant:
            return self._may_be_tenants(location, place)
        if location.scheme == CONFIG:
            if place.base not in settings.accounts or not settings.has_references:
                return Ownership.NO
            is_own = place.base == settings.default
        else:
            account = account_in(location, place.base, settings.accounts, settings.default)
            if account is None:
                return Ownership.NO
            is_own = account == settings.account
        expected = settings.container_of(place.name)
        return Ownership.YES if is_own and place.container == expected else Ownership.MAYBE

    def _may_be_tenants(self, location: Location, place: Place) -> Ownership:
        if location.scheme == CONFIG or "/" not in place.base.rstrip("/"):
            return Ownership.NO
        if self._settings.endpoint is not None:
            host = self._settings.endpoint.partition("://")[2].partition("/")[0]
            if not same_service(host, place.base.partition("/")[0]):
                return Ownership.NO
        is_own = place.container == self._settings.container_of(place.name)
        return Ownership.YES if is_own else Ownership.MAYBE

    # Who asks.

    def _at(self, location: Location, context: RequestContext | None) -> tuple[Caller, str, str]:
        place = _named(location)
        session = self._session.get()
        if self._settings.multi_tenant:
            caller = session.tenants.caller(
                context, base=place.base, is_former=self._is_former(location)
            )
        else:
            caller = session.caller(self._account(location, place))
        return caller, place.container, place.name

    def _account(self, location: Location, place: Place) -> Account:
        settings, found = self._settings, None
        if location.scheme != CONFIG:
            found = account_in(location, place.base, settings.accounts, settings.default)
        elif settings.has_references:
            found = settings.accounts.get(place.base)
        if found is None and self._is_former(location) and settings.account is not None:
            found = account_named(location, [settings.account])
        if found is None:
            raise OutsideStore("the location is of an account that this store does not know")
        if not found.is_complete:
            raise InvalidLocation("the location's credentials are not project:user:key")
        return found

    def _is_former(self, location: Location) -> bool:
        return any(is_below(location, prefix) for prefix in self.also_owns)

    # The hooks.

    def _get(
        self,
        location: Location,
        offset: int,
        length: int | None,
        *,
        if_version: str | None,
        context: RequestContext | None,
    ) -> Opened:
        caller, container, name = self._at(location, context)
        settings, asker = self._settings, caller.asker
        # Each range is a request: a transfer in ranges survives the end of a user's token.
        workers = max(settings.get_workers, 2 if settings.multi_tenant else 1)
        reading = Reading(caller, container, name)
        opened = open_ranges(reading, offset, length, if_version, workers=workers)
        if workers == 1 or min(opened.image_size - offset, length or sys.maxsize) <= RANGE:
            return opened
        asker.prolong()

        def close() -> None:
            opened.close()
            asker.end()

        return dataclasses.replace(opened, close=close)

    def _stat(self, location: Location, *, context: RequestContext | None) -> Stat:
        return stat_of(*self._at(location, context))

    def _add(self, image_id: str, body: Body, *, context: RequestContext | None) -> Added:
        settings, session = self._settings, self._session.get()
        container = settings.container_of(image_id)
        _check_id(image_id, container)
        account = settings.account
        if settings.multi_tenant:
            caller = session.tenants.caller(context)
            base = "swift+" + caller.account_url
        else:
            assert account is not None  # noqa: S101  # checked by the settings
            caller, base = session.caller(account), self._base(account)
        containers = Containers(caller, settings, container)
        adding = Adding(caller, settings, containers, image_id)
        self._live.add(adding.token)
        try:
            with undone(containers.remove_made, "removing the containers of no image"):
                if body.size is None or body.size > RANGE:
                    caller.asker.prolong()
                adding.add(body)
        finally:
            self._live.discard(adding.token)
            caller.asker.end()
        return Added(Location.parse(f"{base}/{container}/{image_id}"))

    def _delete(self, location: Location, *, context: RequestContext | None) -> None:
        caller, container, name = self._at(location, context)
        settings = self._settings
        containers = Containers(caller, settings, container)
        claim = Claim(caller, settings, containers, name, uuid.uuid4().hex)
        alone = partial(claim.take, within=settings.read_timeout)
        try:
            delete(caller, container, name, alone=alone)
        finally:
            claim.give_up()
        if settings.multi_tenant and container == settings.container_of(name):
            containers.remove()

    def _set_acls(
        self,
        location: Location,
        *,
        public: bool,
        read: Sequence[str],
        write: Sequence[str],
        context: RequestContext | None,
    ) -> None:
        caller, container, name = self._at(location, context)
        if container != self._settings.container_of(name):
            raise InvalidLocation("the image is not in a container of its own")
        containers = Containers(caller, self._settings, container)
        containers.set_acls(public=public, read=read, write=write)

    def _leftovers(self, older_than: timedelta) -> Iterator[Leftover]:
        account = self._settings.account
        if self._settings.multi_tenant or account is None:
            return
        caller = self._session.get().caller(account)
        yield from leftovers.find(
            caller, self._settings, self.name, live=self._live, older_than=older_than
        )

    def _remove_leftover(self, leftover: Leftover) -> None:
        account = self._settings.account
        assert account is not None  # noqa: S101  # it was found with it
        leftovers.remove(self._session.get().caller(account), leftover)

    def _classify(self, exc: Exception) -> ImgStoreError | None:
        return classify(exc)

    def _check(self, *, write: bool = True) -> Iterable[str]:
        """Log in and, to ``write``, put and delete an object of no importance."""
        account, settings = self._settings.account, self._settings
        if account is None or not account.has_credentials:
            return
        caller = self._session.get().caller(account)
        if settings.multi_tenant:
            caller.asker.login()
            return
        caller.ask("HEAD").close()
        if not settings.seed and caller.head(settings.container) is None:
            if not settings.creates_container:
                yield (
                    f"the container {settings.container!r} does not exist; create it, or set "
                    "swift_store_create_container_on_put"
                )
            return
        if write and not settings.seed:
            name = f"{CHECK}{secrets.token_hex(16)}"
            caller.put(settings.container, name)
            caller.delete(settings.container, name)

    def _close(self) -> None:
        self._session.close()


def _check_id(image_id: str, container: str) -> None:
    check_storable(image_id, "Swift", without="@")
    if is_like_segment(image_id):
        raise InvalidArgument(
            f"the image id {image_id!a} is what a segment of another image is called",
            remedy="use a UUID",
        )
    if len(f"{container}{SEGMENTS}".encode()) > MAX_CONTAINER:
        raise InvalidArgument(
            f"the image id {image_id!a} makes the container's name too long",
            remedy=f"use a UUID: Swift takes names of {MAX_CONTAINER} bytes",
        )


def _named(location: Location) -> Place:
    place = Place.of(location)
    if place is None:
        raise InvalidLocation("a location of Swift ends with container and object")
    return place
