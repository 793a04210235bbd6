"""What the errors of Cinder, of Keystone, of os-brick and of their SDKs mean."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Final, TypeVar

from imgstore.boundary.translation import describe, status_class
from imgstore.drivers import _keystone
from imgstore.drivers._http.errors import classify as classify_transport
from imgstore.drivers.cinder import steps
from imgstore.errors import (
    ConfigError,
    ImgStoreError,
    NotFound,
    PermissionDenied,
    StorageFull,
    Throttled,
    Unavailable,
    Unsupported,
)
from imgstore.process import lazy

T = TypeVar("T")

INSTALL: Final = "imgstore[cinder]"
CA: Final = "cinder_ca_certificates_file"
_ADDRESS: Final = "correct cinder_store_auth_address"
# What Cinder says of a volume that is attached, or being read by Cinder itself, and so refuses to
# reserve.
_BUSY: Final = ("must be available", "downloading to reserve", "is in use", "already attached")


def classify(exc: Exception) -> ImgStoreError | None:
    """Map what Cinder, Keystone and os-brick raise to our errors; None for all else."""
    if is_of(exc, "cinderclient"):
        return _answered(exc)
    if is_of(exc, "keystoneauth1"):
        exceptions = lazy.load_apart("keystoneauth1.exceptions", install=INSTALL)
        if isinstance(exc, exceptions.CatalogException):
            return ConfigError(
                "the service catalog has no such endpoint of Cinder",
                remedy="correct cinder_catalog_info and cinder_os_region_name",
            )
        return _keystone.explain(exc, ca_option=CA, remedy=_ADDRESS, install=INSTALL)
    return _of_this_host(exc) or classify_transport(exc, ca_option=CA)


def _answered(exc: Exception) -> ImgStoreError:
    status = status_of(exc)
    if not status:
        return status_class(status)(f"python-cinderclient: {describe(exc)}")
    # The text is Cinder's own and tells what is wrong; what was sent is taken out of it.
    said = str(getattr(exc, "message", "") or "").strip()
    is_quota = "quota" in said.lower() or "exceed" in said.lower()
    too_large = StorageFull if is_quota else Throttled
    known = status_class(status, {HTTPStatus.REQUEST_ENTITY_TOO_LARGE: too_large})
    return known(f"Cinder answers {status}" + (f": {said}" if said else ""))


def _of_this_host(exc: Exception) -> ImgStoreError | None:
    if isinstance(exc, steps.Refused):
        return Unsupported(
            f"what Cinder names is not opened: {exc.strerror}",
            remedy="look at the volume's connection at Cinder",
        )
    if is_of(exc, "oslo_privsep"):
        return PermissionDenied(
            f"the helper for privileged steps did not start: {describe(exc)}",
            remedy="let the service's user run privsep-helper with sudo, as the page about "
            "this driver shows",
        )
    if is_of(exc, "os_brick") or is_of(exc, "oslo_concurrency"):
        return Unavailable(f"os-brick: {describe(exc)}")
    return None


def is_of(exc: BaseException, package: str) -> bool:
    """Return whether an exception is one of a package."""
    return type(exc).__module__.partition(".")[0] == package


def status_of(exc: BaseException) -> int:
    """Return the HTTP status of an answer of Cinder, 0 for other exceptions."""
    return int(getattr(exc, "code", 0) or 0) if is_of(exc, "cinderclient") else 0


def is_refusal(exc: BaseException) -> bool:
    """Return whether Cinder said no, so that nothing was done."""
    return HTTPStatus.BAD_REQUEST <= status_of(exc) < HTTPStatus.INTERNAL_SERVER_ERROR


def is_gone(exc: BaseException) -> bool:
    """Return whether Cinder said that there is no such volume or attachment."""
    return status_of(exc) == HTTPStatus.NOT_FOUND


def is_busy(exc: BaseException) -> bool:
    """Return whether Cinder said that a volume is not free to be attached."""
    is_conflict = status_of(exc) in {HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT}
    return is_conflict and any(words in said_of(exc) for words in _BUSY)


def said_of(exc: BaseException) -> str:
    """Return what an exception says, in lower case."""
    return str(getattr(exc, "message", "") or exc).strip().lower()


def present(call: Callable[[], T]) -> T:
    """Call; raises NotFound where Cinder says that the volume is gone."""
    try:
        return call()
    except Exception as exc:
        if is_gone(exc):
            raise NotFound("the volume is gone") from exc
        raise
