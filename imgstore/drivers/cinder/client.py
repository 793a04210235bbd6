"""Cinder's API as one asker sees it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any, Final, TypeVar

from imgstore.boundary.redaction import Redaction
from imgstore.boundary.settings import check_ca_file, is_web_url
from imgstore.context import RequestContext
from imgstore.drivers import _keystone
from imgstore.drivers._told import told
from imgstore.drivers.cinder.errors import CA, INSTALL
from imgstore.drivers.cinder.secrecy import hidden, secrets_in
from imgstore.drivers.cinder.settings import Settings
from imgstore.drivers.cinder.volumes import ALIVE, IMAGE, SERVICE, Volume
from imgstore.errors import (
    ConfigError,
    InvalidArgument,
    PermissionDenied,
    Unavailable,
    Unsupported,
)
from imgstore.process import lazy
from imgstore.process.patience import Patience, noted
from imgstore.process.shared import Shared
from imgstore.secret import Secret

LOG = logging.getLogger(__name__)

T = TypeVar("T")

# Attachments with a mode: https://docs.openstack.org/cinder/latest/contributor/api_microversion_history.html
_VERSION: Final = "3.54"
# Seconds to connect, and to wait for an answer. Cinder's API waits for its services for 60 s
# (rpc_response_timeout), where nothing else is configured.
_TIMEOUTS: Final = (20.0, 150.0)
_PAUSE: Final = 0.5  # seconds until an answer that was cut is asked for again, as the SDK has it


class Api:
    """The requests of one asker. They raise what python-cinderclient and keystoneauth1 raise.

    What changes something is sent once: an answer that was lost is asked after, not the request
    repeated. What only asks is repeated as configured. An answer that is none of Cinder's raises
    Unavailable, a volume, an attachment or a type that lacks something Unsupported.
    """

    def __init__(
        self,
        asking: Any,
        changing: Any,
        project: str | None,
        *,
        patience: Patience,
        redaction: Redaction,
    ) -> None:
        self._patience = patience
        self._redaction = redaction
        self._asking = asking
        self._changing = changing
        self._project = project

    @property
    def project(self) -> str | None:
        """Return the project that volumes belong to."""
        return self._project or self._changing.client.get_project_id()

    @property
    def endpoint(self) -> str:
        """Return the URL of Cinder."""
        return str(self._changing.client.get_endpoint())

    def _ask(self, call: Callable[[Any], T]) -> T:
        """Return what the server tells; asks again where its answer was not whole."""

        def once() -> T:
            with _readable():
                return call(self._asking)

        return self._patience.repeat(once, _is_unread, noted(LOG, "a request of Cinder"))

    def _change(self, call: Callable[[Any], T]) -> T:
        with _readable():
            return call(self._changing)

    def volume(self, volume_id: str) -> Volume:
        """Return a volume; raises the SDK's NotFound."""
        return Volume.of(self._ask(lambda sdk: sdk.volumes.get(volume_id).to_dict()))

    def volumes_of(self, image_id: str) -> list[Volume]:
        """Return the volumes that say that they are an image, complete or not."""
        return self._volumes(search_opts={"metadata": {IMAGE: image_id}})

    def volumes(self) -> list[Volume]:
        """Return all volumes of the project."""
        return self._volumes()

    def _volumes(self, **asked: Any) -> list[Volume]:
        found = self._ask(lambda sdk: _dicts(sdk.volumes.list(detailed=True, **asked)))
        return [Volume.of(each) for each in found]

    def create(
        self, size: int, *, name: str, volume_type: str | None, metadata: Mapping[str, str]
    ) -> Volume:
        """Begin to make a volume."""
        about: dict[str, Any] = {"volume_type": volume_type, "metadata": dict(metadata)}
        made = self._change(lambda sdk: sdk.volumes.create(size, name=name, **about).to_dict())
        return Volume.of(made)

    def extend(self, volume_id: str, size: int) -> None:
        """Begin to extend a volume."""
        self._change(lambda sdk: sdk.volumes.extend(volume_id, size))

    def delete(self, volume_id: str) -> None:
        """Begin to delete a volume."""
        self._change(lambda sdk: sdk.volumes.delete(volume_id))

    def reset(self, volume_id: str) -> None:
        """Say of a volume that it failed and is not attached; for administrators."""
        self._change(lambda sdk: sdk.volumes.reset_state(volume_id, "error", "detached"))

    def describe(self, volume_id: str, metadata: Mapping[str, str]) -> None:
        """Replace the metadata."""
        self._change(lambda sdk: sdk.volumes.update_all_metadata(volume_id, dict(metadata)))

    def note_alive(self, volume_id: str) -> None:
        """Say that the add of a volume goes on."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._change(lambda sdk: sdk.volumes.set_metadata(volume_id, {ALIVE: now}))

    def set_read_only(self, volume_id: str) -> None:
        """Let nobody attach the volume for writing any more."""
        self._change(lambda sdk: sdk.volumes.update_readonly_flag(volume_id, True))

    def attach(self, volume_id: str, mode: str) -> str:
        """Reserve a volume; return the attachment's id."""
        made = self._change(lambda sdk: sdk.attachments.create(volume_id, None, None, mode))
        return str(told(made, "id", service=SERVICE))

    def connect(self, attachment_id: str, connector: Mapping[str, Any]) -> dict[str, Any]:
        """Let a host connect to a reserved volume; return how."""
        host = dict(connector)
        made = self._change(lambda sdk: sdk.attachments.update(attachment_id, host))
        found = made if isinstance(made, dict) else made.to_dict()
        return self._hushed(told(found, "connection_info", service=SERVICE))

    def complete(self, attachment_id: str) -> None:
        """Say that the host is connected."""
        self._change(lambda sdk: sdk.attachments.complete(attachment_id))

    def attachments_of(self, volume_id: str) -> list[str]:
        """Return the ids of all attachments of a volume, also of those that only reserve it."""
        found = self._attachments(volume_id)
        return [str(told(each, "id", service=SERVICE)) for each in found]

    def reservations_of(self, volume_id: str) -> list[str]:
        """Return the ids of attachments that no host is connected by, and that are no server's."""
        return [
            str(told(each, "id", service=SERVICE))
            for each in self._attachments(volume_id)
            if (each.get("status"), each.get("instance", "")) == ("reserved", None)
        ]

    def _attachments(self, volume_id: str) -> list[dict[str, Any]]:
        asked = {"volume_id": volume_id}
        return self._ask(lambda sdk: _dicts(sdk.attachments.list(search_opts=asked)))

    def connection_of(self, attachment_id: str) -> dict[str, Any]:
        """Return how a host connects by an attachment, nothing for a mere reservation."""
        found = self._ask(lambda sdk: sdk.attachments.show(attachment_id).to_dict())
        return self._hushed(found.get("connection_info") or {})

    def _hushed(self, connection: Mapping[str, Any]) -> dict[str, Any]:
        """Return how a host connects; os-brick is not to log what is secret of it."""
        self._redaction.learn(*secrets_in(hidden(dict(connection))))
        return dict(connection)

    def detach(self, attachment_id: str) -> None:
        """End an attachment."""
        self._change(lambda sdk: sdk.attachments.delete(attachment_id))

    def volume_types(self) -> list[str]:
        """Return the names of the volume types."""
        found = self._ask(lambda sdk: _dicts(sdk.volume_types.list()))
        return [str(told(each, "name", service=SERVICE)) for each in found]

    def default_type(self) -> str:
        """Return the name of the type that volumes have where none is asked for."""
        found = self._ask(lambda sdk: sdk.volume_types.default().to_dict())
        return str(told(found, "name", service=SERVICE))


def _dicts(found: Iterable[Any]) -> list[dict[str, Any]]:
    """Return what python-cinderclient listed; its objects ask again for what they lack."""
    return [each.to_dict() for each in found]


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Raise Unavailable for an answer that is not as python-cinderclient reads it."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as exc:
        raise Unavailable(
            "the server's answer is not that of Cinder's API",
            remedy="check Cinder's URL in the catalog, and what stands between here and there",
        ) from exc


def _is_unread(exc: Exception) -> bool:
    """Return whether an answer was cut, or another one's; the SDK repeats all else that passes."""
    exceptions = lazy.load_apart("keystoneauth1.exceptions", install=INSTALL)
    return isinstance(exc, Unavailable | exceptions.UnknownConnectionError)


class Clients:
    """What one process has of Cinder: connections, and the token of the store's own user."""

    def __init__(self, settings: Settings) -> None:
        if isinstance(settings.verify, str):
            check_ca_file(CA, settings.verify)
        self._settings = settings
        self._client = lazy.load_apart("cinderclient.v3.client", install=INSTALL).Client
        self._version = lazy.load_apart("cinderclient.api_versions", install=INSTALL).APIVersion
        # How to connect to a volume stands in an answer, with keys and passwords of the storage
        # (OSSN-0085), so that no answer is logged. urllib3 logs the requests.
        self._session: Any = _keystone.session(
            verify=settings.verify,
            timeouts=_TIMEOUTS,
            redaction=settings.redaction,
            install=INSTALL,
            is_logged=False,
        )
        self._own = Shared(self._of_service)

    def of(self, context: RequestContext | None) -> Api:
        """Return the API for the store's own user if it has one, else for the caller."""
        if self._settings.credentials is None:
            return self._of_caller(context)
        return self._own.get()

    def close(self) -> None:
        """Close the connections."""
        self._session.session.close()

    def _of_service(self) -> Api:
        credentials, catalog = self._settings.credentials, self._settings.catalog
        assert credentials is not None  # noqa: S101  # its caller looked
        return self._api(
            _keystone.plugin(credentials.auth_address, credentials.options, install=INSTALL),
            None,
            service_type=catalog.service_type,
            service_name=catalog.name,
            interface=catalog.interface,
            region_name=catalog.region,
        )

    def _of_caller(self, context: RequestContext | None) -> Api:
        if context is None or context.token is None:
            raise PermissionDenied(
                "the store has no credentials of its own, and there is no context with a token",
                remedy="set cinder_store_auth_address and its fellows, or pass context=…",
            )
        token = Secret(context.token).reveal()
        _keystone.check_sendable(token)
        endpoint = _endpoint(self._settings, context)
        fixed = lazy.load_apart("keystoneauth1.token_endpoint", install=INSTALL)
        return self._api(fixed.Token(endpoint, token), context.project_id)

    def _api(self, auth: Any, project: str | None, **catalog: Any) -> Api:
        version = self._version(_VERSION)

        def client(retries: int) -> Any:
            return self._client(
                session=self._session,
                auth=auth,
                api_version=version,
                connect_retries=retries,
                status_code_retries=retries,
                retriable_status_codes=sorted(_keystone.PASSING),
                **catalog,
            )

        settings = self._settings
        return Api(
            client(settings.retries),
            client(0),
            project,
            patience=Patience(_PAUSE, times=settings.retries),
            redaction=settings.redaction,
        )


def _endpoint(settings: Settings, context: RequestContext) -> str:
    if settings.endpoint_template is not None:
        project = context.project_id or ""
        names = {"tenant": project, "tenant_id": project, "project_id": project}
        url = settings.endpoint_template % (names | {"user_id": context.user_id or ""})
        return _sound(url, "cinder_endpoint_template with the context's project")
    catalog = settings.catalog
    try:
        found = _keystone.endpoint_in(
            context.service_catalog or (),
            catalog.service_type,
            catalog.interface,
            region=catalog.region,
            name=catalog.name,
            install=INSTALL,
        )
    except (AttributeError, TypeError, Unsupported):
        raise InvalidArgument(
            "the context's service catalog is none of Keystone's",
            remedy="pass the catalog that came with the token",
        ) from None
    if found is None:
        raise ConfigError(
            f"the context's catalog has no {catalog.interface} endpoint of {catalog.service_type}",
            remedy="pass the service catalog in the context, correct cinder_catalog_info and "
            "cinder_os_region_name, or set cinder_endpoint_template",
        )
    return _sound(found, f"the {catalog.interface} endpoint in the context's catalog")


def _sound(url: str, what: str) -> str:
    """Return a URL; raises InvalidArgument for what is none, which is not quoted."""
    if not is_web_url(url):
        raise InvalidArgument(f"{what} is no URL of a service", remedy="pass another context")
    return url
