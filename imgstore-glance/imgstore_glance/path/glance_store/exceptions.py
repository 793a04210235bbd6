"""What glance_store raises, by the same names."""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar
from urllib.parse import urlparse


class BackendException(Exception):
    """A backend failed; no GlanceStoreException, and never was one."""


class UnsupportedBackend(BackendException):
    """A location of a backend that is not known."""


class RedirectException(Exception):
    """A server leads elsewhere; ``url`` is the parsed URL."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = urlparse(url)


class GlanceStoreException(Exception):
    """The base of all others.

    ``message`` of a class is a template for keywords; a message that is passed takes its place.
    ``msg``, ``message`` and ``str`` of an instance are its text.
    """

    message: ClassVar[str] = "An unknown exception occurred"
    msg: str

    def __init__(self, message: str | None = None, **kwargs: Any) -> None:
        self.msg = str(message or self.message)
        if kwargs:
            with contextlib.suppress(Exception):  # the template will do
                self.msg = self.msg % kwargs
        self.__dict__["message"] = self.msg
        super().__init__(self.msg)


class NotFound(GlanceStoreException):
    """There is no such image."""

    message = "Image %(image)s not found"


class Duplicate(GlanceStoreException):
    """There is an image of that id."""

    message = "Image %(image)s already exists"


class UnknownScheme(GlanceStoreException):
    """No store reads such locations, or there is no store of that name."""

    message = "Unknown scheme '%(scheme)s' found in URI"


class BadStoreUri(GlanceStoreException):
    """A location that means nothing to its store."""

    message = "The URI of the store is malformed: %(uri)s"


class Invalid(GlanceStoreException):
    """Data or arguments that are wrong."""

    message = "Data supplied was not valid."


class UnknownHashingAlgo(GlanceStoreException):
    """This Python has no such algorithm."""

    message = "Unknown hashing algorithm '%(algo)s'"


class StorageFull(GlanceStoreException):
    """The backend has no room."""

    message = "The image storage has no room."


class StorageWriteDenied(GlanceStoreException):
    """The backend refuses to write."""

    message = "The image storage refuses to write."


class Forbidden(GlanceStoreException):
    """The backend refuses."""

    message = "Access to this image is refused."


class StoreAddDisabled(GlanceStoreException):
    """The store takes no images."""

    message = "This store takes no images: it cannot, or its configuration is faulty."


class StoreDeleteNotSupported(GlanceStoreException):
    """The store deletes no images."""

    message = "This store deletes no images."


class StoreGetNotSupported(GlanceStoreException):
    """The store gives no images."""

    message = "This store gives no images."


class StoreRandomGetNotSupported(StoreGetNotSupported):
    """The store gives whole images only."""

    message = "This store gives whole images only, not %(chunk_size)s bytes from %(offset)s on."


class RemoteServiceUnavailable(GlanceStoreException):
    """The backend does not answer."""

    message = "The remote service does not answer."


class HasSnapshot(GlanceStoreException):
    """The image has snapshots."""

    message = "The image has snapshots, so it cannot be deleted."


class InUseByStore(GlanceStoreException):
    """The image is in use at the backend."""

    message = "The image is in use at the backend, so it cannot be deleted."


class TimeoutError(GlanceStoreException):  # noqa: A001  # its name, in glance_store too
    """The backend did not answer in time; not Python's own TimeoutError."""

    message = "The operation timed out after %(timeout)s seconds."


class BadStoreConfiguration(GlanceStoreException):
    """A store cannot be used as it is configured."""

    message = "Store %(store_name)s cannot be used as it is configured: %(reason)s"


class DriverLoadFailure(GlanceStoreException):
    """A driver cannot be loaded."""

    message = "Driver %(driver_name)s cannot be loaded."


class MaxRedirectsExceeded(GlanceStoreException):
    """Too many servers lead elsewhere."""

    message = "More than %(redirects)s redirects."


class HostNotInitialized(GlanceStoreException):
    """A host is not ready."""

    message = "The host %(host)s is not initialized."


class NotAuthenticated(GlanceStoreException):
    """Nobody is logged in."""

    message = "Nobody is authenticated."


class AuthorizationFailure(GlanceStoreException):
    """The login failed."""

    message = "The authorization failed."


class AuthBadRequest(GlanceStoreException):
    """The login was not understood."""

    message = "The authentication service does not understand the request: %(url)s"


class AuthUrlNotFound(GlanceStoreException):
    """There is no such authentication service."""

    message = "There is no authentication service at %(url)s"


class BadAuthStrategy(GlanceStoreException):
    """Another kind of login was expected."""

    message = "The authentication strategy is %(received)s, expected was %(expected)s"


class MissingCredentialError(GlanceStoreException):
    """A credential is missing."""

    message = "The credential %(required)s is missing."


class AuthorizationRedirect(GlanceStoreException):
    """The authentication service leads elsewhere."""

    message = "The authentication service leads to %(uri)s"


class NoServiceEndpoint(GlanceStoreException):
    """The catalogue has no endpoint."""

    message = "The catalogue of services has no endpoint."


class RegionAmbiguity(GlanceStoreException):
    """Several endpoints fit."""

    message = "Several endpoints of the service fit the region '%(region)s'."
