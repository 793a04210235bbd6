"""What vSphere's faults mean, and which of them may pass."""

from __future__ import annotations

import http.client
import re
from http import HTTPStatus
from typing import Any, Final
from xml.parsers.expat import ExpatError, errors

from imgstore.boundary.translation import describe
from imgstore.drivers._http.errors import classify as classify_transport
from imgstore.drivers._http.errors import explain, status_error
from imgstore.errors import (
    AlreadyExists,
    ImgStoreError,
    InUse,
    NotFound,
    PermissionDenied,
    StorageFull,
    StoreError,
    TimedOut,
    Unavailable,
    Unsupported,
)
from imgstore.process import lazy

INSTALL: Final = "imgstore[vmware]"

SERVICE: Final = "vSphere"
_CA: Final = "vmware_ca_file"
_STATUS: Final = re.compile(r"(\d{3})\b.*")  # pyVmomi: "503 Service Unavailable"
_PROTOCOL: Final = "HTTP/1."
# What the parser says at the end of a document that is not whole.
_ENDED: Final = frozenset(
    errors.codes[text]
    for text in (
        errors.XML_ERROR_NO_ELEMENTS,
        errors.XML_ERROR_UNCLOSED_TOKEN,
        errors.XML_ERROR_PARTIAL_CHAR,
        errors.XML_ERROR_UNCLOSED_CDATA_SECTION,
    )
)
_MEANINGS: Final[dict[str, type[StoreError]]] = {
    "FileNotFound": NotFound,
    "FileAlreadyExists": AlreadyExists,
    "FileLocked": InUse,
    "ResourceInUse": InUse,
    "NoDiskSpace": StorageFull,
    "FileTooLarge": StorageFull,
    "NoPermission": PermissionDenied,
    "NotAuthenticated": PermissionDenied,
    "InvalidDatastore": NotFound,
    "InvalidDatastorePath": NotFound,
    "InaccessibleDatastore": Unavailable,
    "DatastoreNotWritableOnHost": PermissionDenied,
    "HostNotConnected": Unavailable,
    "HostCommunication": Unavailable,
    "NoHost": Unavailable,
    "TaskInProgress": InUse,
    "RequestCanceled": Unavailable,
    "Timedout": TimedOut,
    "ManagedObjectNotFound": Unavailable,  # it was made anew, or a restart has ended the task
    "NotSupported": Unsupported,
    "MethodNotFound": Unsupported,
}
# Faults that come from the way to a host.
_UNSURE: Final = frozenset(
    {
        "HostCommunication",
        "HostConnectFault",
        "Timedout",
        "RequestCanceled",
        "ManagedObjectNotFound",
    }
)


class DoubtfulError(Exception):
    """What the server was asked to do may be done, or become done later, in spite of a failure."""

    def __init__(self, failure: Exception) -> None:
        """``failure`` is what is known."""
        super().__init__(failure)
        self.failure = failure


def classify(exc: Exception) -> ImgStoreError | None:
    """Map what pyVmomi, requests and connections raise to one of our errors."""
    vmodl = lazy.load("pyVmomi", install=INSTALL).vmodl
    if isinstance(exc, vmodl.MethodFault | vmodl.RuntimeFault):
        return _meaning(exc)
    if _is_cut(exc):
        return Unavailable("the server's answer ended early")
    if isinstance(exc, ExpatError):
        return _not_the_api()
    if isinstance(exc, http.client.HTTPException) and (match := _STATUS.fullmatch(str(exc))):
        status = int(match[1])
        if status == HTTPStatus.OK:
            return _not_the_api()
        error = status_error(status)
        # What is not found is the API, not an image: while vCenter starts, for example.
        return Unavailable(error.reason) if isinstance(error, NotFound) else error
    known = classify_transport(exc, ca_option=_CA)
    # Those of ssl have an errno that is not the system's.
    if known is None and isinstance(exc, http.client.HTTPException | OSError):
        known = explain(exc, ca_option=_CA)
        if peer := getattr(exc, "peer", ""):  # of a session's connection
            known.reason = f"{peer}: {known.reason}"
    return known


def _not_the_api() -> Unavailable:
    """Return the error for a page, or garbage, in place of an answer of the API.

    A proxy answers so while the server does not; so does any server that is none of vSphere.
    """
    return Unavailable(
        "the server's answer is not that of the vSphere API",
        remedy="check vmware_server_host, and what stands between here and there",
    )


def _is_cut(exc: Exception) -> bool:
    """Return whether the connection ended inside an answer of the API."""
    if isinstance(exc, ExpatError):
        return getattr(exc, "code", None) in _ENDED
    if isinstance(exc, http.client.BadStatusLine):
        line = str(exc.args[0]) if exc.args else ""
        return bool(line) and _PROTOCOL.startswith(line[: len(_PROTOCOL)])
    return isinstance(exc, http.client.IncompleteRead)


def _meaning(fault: Any) -> ImgStoreError:
    name = name_of(fault)
    if name == "InvalidLogin":
        return PermissionDenied(
            "the server refuses the login",
            remedy="check vmware_server_username and vmware_server_password",
        )
    text = " ".join(str(fault.msg or "").split())
    reason = f"the server answers {name}: {text}" if text else f"the server answers {name}"
    for kind in type(fault).__mro__:
        meaning = _MEANINGS.get(kind.__name__.rpartition(".")[2])
        if meaning is not None:
            return meaning(reason)
    return StoreError(reason)


def name_of(exc: BaseException) -> str:
    """Return the name of a fault as vSphere has it."""
    return type(exc).__name__.rpartition(".")[2]


def error_of(exc: Exception) -> ImgStoreError:
    """Return an exception as one of our errors."""
    return exc if isinstance(exc, ImgStoreError) else classify(exc) or StoreError(describe(exc))


def means(exc: Exception, *kinds: type[ImgStoreError]) -> bool:
    """Return whether an exception is, or is mapped to, one of these errors."""
    return isinstance(exc if isinstance(exc, ImgStoreError) else classify(exc), kinds)


def is_answer(exc: BaseException) -> bool:
    """Return whether the server has said that it did not do something.

    What it says of a host that it did not reach says nothing of what that host did.
    """
    names = {kind.__name__.rpartition(".")[2] for kind in type(exc).__mro__}
    return "MethodFault" in names and not names & _UNSURE


def may_pass(exc: Exception) -> bool:
    """Return whether the same request may succeed soon; a server that said nothing will not."""
    return means(exc, Unavailable) and not means(exc, TimedOut)
