"""The Swift store: how the hooks use the other modules here."""

from __future__ import annotations

import functools
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Final

from imgstore import _lazy
from imgstore._process import PerProcess
from imgstore.context import RequestContext
from imgstore.drivers.swift import leftovers
from imgstore.drivers.swift.accounts import Account, account_in
from imgstore.drivers.swift.adding import MARK, Adding
from imgstore.drivers.swift.client import Caller, Client, classify, status_of
from imgstore.drivers.swift.deleting import acl_headers, delete, delete_containers
from imgstore.drivers.swift.identity import INSTALL, Identity, Keystone, Tempauth, Tokens
from imgstore.drivers.swift.options import OPTIONS
from imgstore.drivers.swift.places import CONFIG, Place
from imgstore.drivers.swift.reading import Reading, check_size
from imgstore.drivers.swift.settings import SEGMENTS, Settings, read
from imgstore.drivers.swift.tenants import Tenants
from imgstore.errors import (
    ImgStoreError,
    InvalidArgument,
    InvalidLocation,
    NotFound,
)
from imgstore.location import Location, same_service
from imgstore.ranges import open_ranges
from imgstore.secret import Secret
from imgstore.store import Added, Capability, Leftover, Ownership, Store
from imgstore.streams import Body, Opened

_PROBE: Final = f"{MARK}check-"


class SwiftStore(Store):
    """Images as objects of the store's own account, or of the accounts of those who add them.

    Keywords are those of ``OPTIONS``; see there for meaning, units and defaults. Raises
    ConfigError for what cannot be used and DriverUnavailable without python-swiftclient.
    """

    driver = "swift"
    OPTIONS = OPTIONS
    schemes = ("swift", "swift+http", "swift+https", CONFIG)
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
        given = {keyword: value for keyword, value in locals().items() if keyword in OPTIONS}
        super().__init__(name, **common)
        _lazy.require("swiftclient", "keystoneauth1", install=INSTALL)
        self._settings = read(given)
        if multi_tenant:  # otherwise images are in one container, which has one ACL
            self.capabilities |= Capability.ACLS
        self.read_retries = retry_get_count
        self._session = PerProcess(functools.partial(_Session, self._settings), _Session.close)
        # Adds of this process that are under way, whose segments leftovers() must not list.
        self._live: set[str] = set()

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

    def owns(self, location: Location) -> Ownership:
        """Own the containers of the store's account; others of its services may be readable."""
        place, settings = Place.of(location), self._settings
        if place is None:
            return Ownership.NO
        if settings.multi_tenant:
            return self._may_be_tenants(location, place)
        if location.scheme == CONFIG:
            if place.base not in settings.accounts or not settings.has_references:
                return Ownership.NO
            is_own = place.base == settings.default
        else:
            account = account_in(location, place.base, settings.accounts)
            if account is None:
                return Ownership.NO
            is_own = account == settings.account
        expected = settings.container_of(place.name)
        return Ownership.YES if is_own and place.container == expected else Ownership.MAYBE

    def _may_be_tenants(self, location: Location, place: Place) -> Ownership:
        if location.scheme == CONFIG or "/" not in place.base:
            return Ownership.NO
        if self._settings.endpoint is not None:
            host = self._settings.endpoint.partition("://")[2].partition("/")[0]
            if not same_service(host, place.base.partition("/")[0]):
                return Ownership.NO
        is_own = place.container == self._settings.container_of(place.name)
        return Ownership.YES if is_own else Ownership.MAYBE

    # Who asks.

    def _at(self, location: Location, context: RequestContext | None) -> tuple[Caller, str, str]:
        place = Place.of(location)
        if place is None:
            raise InvalidLocation("a location of Swift ends with container and object")
        session = self._session.get()
        if self._settings.multi_tenant:
            caller = session.tenants.caller(context, base=place.base)
        else:
            caller = session.caller(self._account(location, place))
        return caller, place.container, place.name

    def _account(self, location: Location, place: Place) -> Account:
        accounts = self._settings.accounts
        if location.scheme == CONFIG:
            found = accounts.get(place.base) if self._settings.has_references else None
        else:
            found = account_in(location, place.base, accounts)
        if found is None:
            raise InvalidLocation("the location is of an account that this store does not know")
        return found

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
        workers = self._settings.get_workers
        reading = Reading(caller, container, name)
        return open_ranges(reading, offset, length, if_version, workers=workers)

    def _size(self, location: Location, *, context: RequestContext | None) -> int:
        caller, container, name = self._at(location, context)
        found = caller.head(container, name)
        if found is None:
            raise NotFound("there is no such image")
        size = int(found["Content-Length"])
        check_size(found, size)
        return size

    def _add(self, image_id: str, body: Body, *, context: RequestContext | None) -> Added:
        if "@" in image_id or image_id.startswith(MARK):
            raise InvalidArgument(
                f"the image id {image_id!a} cannot be stored in Swift",
                remedy=f"use an id without '@' that does not begin with {MARK!r}",
            )
        session, container = self._session.get(), self._settings.container_of(image_id)
        if self._settings.multi_tenant:
            return self._add_for_tenant(session, container, image_id, body, context)
        account = self._settings.account
        assert account is not None  # noqa: S101  # checked by the settings
        self._adding(session, session.caller(account), container, image_id, body)
        return Added(Location.parse(f"{self._base(account)}/{container}/{image_id}"))

    def _add_for_tenant(
        self,
        session: _Session,
        container: str,
        image_id: str,
        body: Body,
        context: RequestContext | None,
    ) -> Added:
        caller, end = session.tenants.trusted(context)
        try:
            self._adding(session, caller, container, image_id, body)
        except BaseException:
            delete_containers(caller, container)
            raise
        finally:
            end()
        scheme, _, rest = caller.account_url.partition("://")
        return Added(Location.parse(f"swift+{scheme}://{rest}/{container}/{image_id}"))

    def _adding(
        self, session: _Session, caller: Caller, container: str, image_id: str, body: Body
    ) -> None:
        adding = Adding(caller, self._settings, container, image_id, live=self._live)
        adding.add(body, is_exclusive=session.is_exclusive(caller, adding))

    def _delete(self, location: Location, *, context: RequestContext | None) -> None:
        caller, container, name = self._at(location, context)
        delete(caller, container, name)
        if self._settings.multi_tenant and container == self._settings.container_of(name):
            delete_containers(caller, container)

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
        headers = acl_headers(
            public=public, read=list(read), write=list(write), admins=self._settings.admins
        )
        caller.ask("POST", container, headers=headers).close()
        try:
            caller.ask("POST", f"{container}{SEGMENTS}", headers=headers).close()
        except Exception as exc:
            if status_of(exc) != HTTPStatus.NOT_FOUND:
                raise

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
        leftovers.discard(self._session.get().caller(account), leftover)

    def _classify(self, exc: Exception) -> ImgStoreError | None:
        return classify(exc)

    def _check(self) -> Iterable[str]:
        """Log in, and put and delete an object of no importance."""
        account, settings = self._settings.account, self._settings
        if account is None or not account.has_credentials:
            return
        caller = self._session.get().caller(account)
        caller.ask("HEAD").close()
        if settings.multi_tenant:
            return
        if not settings.seed and caller.head(settings.container) is None:
            if not settings.creates_container:
                yield (
                    f"the container {settings.container!r} does not exist; create it, or set "
                    "swift_store_create_container_on_put"
                )
            return
        if not settings.seed:
            _honours_conditions(caller, settings.container)

    def _close(self) -> None:
        self._session.close()


class _Session:
    """What one process has of the service: connections, tokens, and what it found out."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = Client(settings)
        self._lock = threading.Lock()
        self._callers: list[tuple[Account, Caller]] = []  # secrets are not hashable
        self._exclusive: dict[str, bool] = {}

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def caller(self, account: Account) -> Caller:
        """Return who acts as an account."""
        with self._lock:
            for known, caller in self._callers:
                if known == account:
                    return caller
            made = Caller(self._client, self._tokens(account))
            self._callers.append((account, made))
            return made

    def _tokens(self, account: Account) -> Tokens:
        settings = self._settings
        if account.version == "1":
            tempauth = Tempauth(settings, account)
            return Tokens(lambda: tempauth.log_in(self._send), settings.expires_soon)
        return Tokens(Keystone(settings, account).log_in, settings.expires_soon)

    def _send(self, method: str, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        answer = self._client.send(method, url, headers)
        if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            raise self._client.failure(answer)
        answer.close()
        return answer.headers

    @functools.cached_property
    def tenants(self) -> Tenants:
        """Return who makes callers of contexts."""
        account = self._settings.account
        if account is None:
            return Tenants(self._client, None, None)
        service: Identity | None = None
        if account.has_credentials:
            service = self.caller(account).identity
        return Tenants(self._client, Keystone(self._settings, account), service)

    def is_exclusive(self, caller: Caller, adding: Adding) -> bool:
        """Return whether the server heeds If-None-Match, which is tried once."""
        container, _ = adding.place
        root = caller.account_url.partition("/v1")[0]
        if root not in self._exclusive:
            try:
                self._exclusive[root] = _honours_conditions(caller, container)
            except Exception as exc:
                if status_of(exc) != HTTPStatus.NOT_FOUND:
                    raise
                adding.make_container()
                self._exclusive[root] = _honours_conditions(caller, container)
        return self._exclusive[root]


def _honours_conditions(caller: Caller, container: str) -> bool:
    """Return whether a second put of an object with If-None-Match is refused."""
    name = f"{_PROBE}{secrets.token_hex(16)}"
    headers = {"If-None-Match": "*"}
    try:
        caller.put(container, name, headers=headers)
        try:
            caller.put(container, name, headers=headers)
        except Exception as exc:
            if status_of(exc) != HTTPStatus.PRECONDITION_FAILED:
                raise
            return True
        return False
    finally:
        caller.delete(container, name)
