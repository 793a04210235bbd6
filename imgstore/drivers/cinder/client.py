"""Cinder's API as one asker sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any, Final

from imgstore.boundary.redaction import Redaction
from imgstore.boundary.settings import check_ca_file, is_web_url
from imgstore.context import RequestContext
from imgstore.drivers import _keystone
from imgstore.drivers.cinder.errors import CA, INSTALL
from imgstore.drivers.cinder.secrecy import hidden, secrets_in
from imgstore.drivers.cinder.settings import Settings
from imgstore.drivers.cinder.volumes import ALIVE, IMAGE, Volume
from imgstore.errors import ConfigError, InvalidArgument, PermissionDenied
from imgstore.process import lazy
from imgstore.process.shared import Shared
from imgstore.secret import Secret

# Attachments with a mode: https://docs.openstack.org/cinder/latest/contributor/api_microversion_history.html
_VERSION: Final = "3.54"
# Seconds to connect, and to wait for an answer. Cinder's API waits for its services for 60 s
# (rpc_response_timeout), where nothing else is configured.
_TIMEOUTS: Final = (20.0, 150.0)


class Api:
    """The requests of one asker. They raise what python-cinderclient and keystoneauth1 raise.

    What changes something is sent once: an answer that was lost is asked after, not the request
    repeated. What only asks is repeated as configured.
    """

    def __init__(
        self, asking: Any, changing: Any, project: str | None, redaction: Redaction
    ) -> None:
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

    def volume(self, volume_id: str) -> Volume:
        """Return a volume; raises the SDK's NotFound."""
        return Volume.of(self._asking.volumes.get(volume_id))

    def volumes_of(self, image_id: str) -> list[Volume]:
        """Return the volumes that say that they are an image, complete or not."""
        asked = {"metadata": {IMAGE: image_id}}
        found = self._asking.volumes.list(detailed=True, search_opts=asked)
        return [Volume.of(each) for each in found]

    def volumes(self) -> Iterator[Volume]:
        """Yield all volumes of the project."""
        for each in self._asking.volumes.list(detailed=True):
            yield Volume.of(each)

    def create(
        self, size: int, *, name: str, volume_type: str | None, metadata: Mapping[str, str]
    ) -> Volume:
        """Begin to make a volume."""
        made = self._changing.volumes.create(
            size, name=name, volume_type=volume_type, metadata=dict(metadata)
        )
        return Volume.of(made)

    def extend(self, volume_id: str, size: int) -> None:
        """Begin to extend a volume."""
        self._changing.volumes.extend(volume_id, size)

    def delete(self, volume_id: str) -> None:
        """Begin to delete a volume."""
        self._changing.volumes.delete(volume_id)

    def reset(self, volume_id: str) -> None:
        """Say of a volume that it failed and is not attached; for administrators."""
        self._changing.volumes.reset_state(volume_id, "error", "detached")

    def describe(self, volume_id: str, metadata: Mapping[str, str]) -> None:
        """Replace the metadata."""
        self._changing.volumes.update_all_metadata(volume_id, dict(metadata))

    def note_alive(self, volume_id: str) -> None:
        """Say that the add of a volume goes on."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._changing.volumes.set_metadata(volume_id, {ALIVE: now})

    def set_read_only(self, volume_id: str) -> None:
        """Let nobody attach the volume for writing any more."""
        self._changing.volumes.update_readonly_flag(volume_id, True)

    def attach(self, volume_id: str, mode: str) -> str:
        """Reserve a volume; return the attachment's id."""
        made = self._changing.attachments.create(volume_id, None, None, mode)
        return str(made["id"])

    def connect(self, attachment_id: str, connector: Mapping[str, Any]) -> dict[str, Any]:
        """Let a host connect to a reserved volume; return how."""
        made = self._changing.attachments.update(attachment_id, dict(connector))
        found = made if isinstance(made, dict) else made.to_dict()
        return self._noted(found["connection_info"])

    def complete(self, attachment_id: str) -> None:
        """Say that the host is connected."""
        self._changing.attachments.complete(attachment_id)

    def attachments_of(self, volume_id: str) -> list[str]:
        """Return the ids of all attachments of a volume, also of those that only reserve it."""
        asked = {"volume_id": volume_id}
        return [str(each.id) for each in self._asking.attachments.list(search_opts=asked)]

    def reservations_of(self, volume_id: str) -> list[str]:
        """Return the ids of attachments that no host is connected by, and that are no server's."""
        asked = {"volume_id": volume_id}
        return [
            str(each.id)
            for each in self._asking.attachments.list(search_opts=asked)
            if (each.status, each.instance) == ("reserved", None)
        ]

    def connection_of(self, attachment_id: str) -> dict[str, Any]:
        """Return how a host connects by an attachment, nothing for a mere reservation."""
        found = self._asking.attachments.show(attachment_id)
        return self._noted(found.connection_info or {})

    def _noted(self, connection: Mapping[str, Any]) -> dict[str, Any]:
        """Return how a host connects; os-brick is not to log what is secret of it."""
        self._redaction.learn(*secrets_in(hidden(dict(connection))))
        return dict(connection)

    def detach(self, attachment_id: str) -> None:
        """End an attachment."""
        self._changing.attachments.delete(attachment_id)

    def volume_types(self) -> list[str]:
        """Return the names of the volume types."""
        return [str(each.name) for each in self._asking.volume_types.list()]

    def default_type(self) -> str | None:
        """Return the name of the type that volumes have where none is asked for."""
        return str(self._asking.volume_types.default().name)


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

        redaction = self._settings.redaction
        return Api(client(self._settings.retries), client(0), project, redaction)


def _endpoint(settings: Settings, context: RequestContext) -> str:
    if settings.endpoint_template is not None:
        project = context.project_id or ""
        names = {"tenant": project, "tenant_id": project, "project_id": project}
        url = settings.endpoint_template % (names | {"user_id": context.user_id or ""})
        return _sound(url, "cinder_endpoint_template with the context's project")
    catalog = settings.catalog
    found = _keystone.endpoint_in(
        context.service_catalog or (),
        catalog.service_type,
        catalog.interface,
        region=catalog.region,
        name=catalog.name,
        install=INSTALL,
    )
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
