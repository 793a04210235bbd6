"""Files of datastores over HTTPS, as /folder of the server has them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

from imgstore.boundary.settings import check_ca_file
from imgstore.data.opened import Opened
from imgstore.data.streams import Body
from imgstore.data.units import MIB
from imgstore.drivers._http.connections import Transport
from imgstore.drivers._http.errors import status_error
from imgstore.drivers._http.guard import AddressGuard
from imgstore.drivers._http.reading import Client, redirected, settle
from imgstore.drivers._http.urls import Url
from imgstore.drivers.vmware.client import Api
from imgstore.drivers.vmware.errors import may_pass
from imgstore.drivers.vmware.places import Place
from imgstore.drivers.vmware.sessions import Session
from imgstore.drivers.vmware.settings import Settings
from imgstore.errors import NotFound, PermissionDenied, StorageFull, StoreError, Unavailable
from imgstore.location import Location
from imgstore.model import Stat
from imgstore.process.patience import noted

if TYPE_CHECKING:
    import requests

LOG = logging.getLogger(__name__)

_REDIRECTS: Final = 5
_REDIRECT_CODES: Final = frozenset({301, 302, 307, 308})
_STORED: Final = frozenset({HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.NO_CONTENT})
_PASSING: Final = frozenset({429, 502, 503, 504})


class Stamp(NamedTuple):
    """What tells files of one name apart, as far as the server states it."""

    size: str | None = None
    modified: str | None = None


class Upload:
    """The bytes of one image, which can be sent again as long as the first block is all of them."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._first = body.read(MIB)
        self.size = len(self._first) if len(self._first) < MIB else body.size
        self.is_small = self.size == len(self._first)
        self.is_begun = False  # a second block was read
        self.is_sent = False

    def __iter__(self) -> Iterator[bytes]:
        yield self._first
        if not self.is_small:
            self.is_begun = True
            while block := self._read():
                yield block
        self.is_sent = True

    def _read(self) -> bytes:
        try:
            return self._body.read(MIB)
        except OSError as exc:
            # urllib3 takes a broken pipe for one to the server, and waits for its answer.
            raise RuntimeError("the source failed") from exc

    @property
    def headers(self) -> dict[str, str]:
        """Return how it is framed; a server that will refuse it had better say so in advance."""
        headers = {"Content-Type": "application/octet-stream"}
        if self.size is not None:
            headers["Content-Length"] = str(self.size)
        return headers if self.is_small else {**headers, "Expect": "100-continue"}


class Files:
    """Files as the session of an API may read and write them."""

    def __init__(self, settings: Settings) -> None:
        if isinstance(settings.verify, str):
            check_ca_file("vmware_ca_file", settings.verify)
        self._service = settings.service
        self._origin = self._at("/").origin
        self._patience = settings.patience
        self._transport = Transport(
            guard=AddressGuard(),
            verify=settings.verify,
            proxies={},
            connect_timeout=settings.connect_timeout,
            read_timeout=settings.read_timeout,
        )
        # Images are replaced by others, never changed: any date tells them apart.
        self._client = Client(self, strong_age=timedelta.min, trusts_head=True)
        self.api = Api(settings, self._versions)

    def close(self) -> None:
        """Log out and close the connections."""
        self.api.close()
        self._transport.close()

    def open(self, place: Place, offset: int, length: int | None, if_version: str | None) -> Opened:
        """Open a file; the contract of ``Store._get``."""
        return self._client.open(self._at(place.target), offset, length, if_version=if_version)

    def stat(self, place: Place) -> Stat:
        """Return what is told of a file; raises NotFound."""
        return self._client.stat(self._at(place.target))

    def size(self, place: Place) -> int:
        """Return the size of a file; raises NotFound."""
        return self.stat(place).size

    def exists(self, place: Place) -> bool:
        """Return whether there is a file."""
        try:
            self.size(place)
        except NotFound:
            return False
        return True

    def stamp(self, place: Place) -> Stamp:
        """Return what tells a file from later ones of its name; raises NotFound."""
        response = self.send("HEAD", self._at(place.target), {})
        settle(response)
        if response.status_code == HTTPStatus.OK:
            headers = response.headers
            return Stamp(headers.get("Content-Length"), headers.get("Last-Modified"))
        self.size(place)  # some servers refuse HEAD
        return Stamp()

    def put(self, place: Place, upload: Upload) -> None:
        """Write a file; raises NotFound where its directory is missing."""
        url, headers = self._at(place.target), upload.headers
        for _ in range(_REDIRECTS + 1):
            response = self._patience.repeat(
                functools.partial(self._authorised, "PUT", url, headers, upload),
                lambda exc: not upload.is_begun and may_pass(exc),
                noted(LOG, "an upload that has not begun"),
            )
            status = response.status_code
            settle(response)
            if status in _STORED:
                if not upload.is_sent:
                    raise StoreError("the server was content before it had all data")
                return
            if status == HTTPStatus.INSUFFICIENT_STORAGE:
                raise StorageFull("the datastore has no room for the image")
            if upload.is_begun:
                raise _lost(status)
            if status == HTTPStatus.EXPECTATION_FAILED and "Expect" in headers:
                headers = {name: text for name, text in headers.items() if name != "Expect"}
            elif status in _REDIRECT_CODES:
                url = redirected(url, response.headers.get("Location"))
            else:
                raise status_error(status)
        raise StoreError(f"the server redirects more than {_REDIRECTS} times")

    def send(self, method: str, url: Url, headers: Mapping[str, str]) -> requests.Response:
        """Send a request for a file and return the answer to it, redirects included."""
        once = functools.partial(self._authorised, method, url, headers)
        response = self._patience.repeat(once, may_pass, noted(LOG, f"{method} of a file"))
        is_page = response.headers.get("Content-Type", "").startswith("text/html")
        is_named_so = url.target.partition("?")[0].endswith((".html", ".htm"))
        if response.status_code == HTTPStatus.OK and is_page and not is_named_so:
            settle(response)
            raise NotFound("the server shows a page or a directory there, no image")
        return response

    def _authorised(
        self, method: str, url: Url, headers: Mapping[str, str], upload: Upload | None = None
    ) -> requests.Response:
        """Send a request in the session, again if the server does not accept it at first."""
        session = self.api.session()
        response = self._ask(session, method, url, headers, upload)
        if response.status_code != HTTPStatus.UNAUTHORIZED:
            return response
        settle(response)
        if upload is not None and upload.is_begun:
            raise Unavailable("the server ended the session while the image was sent")
        session = self.api.living(session)
        response = self._ask(session, method, url, headers, upload)
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            settle(response)
            raise PermissionDenied(
                "the server does not accept its own session for files",
                remedy="give the user the privileges Datastore.Browse and "
                "Datastore.FileManagement, on the datacenter too",
            )
        return response

    def _ask(
        self,
        session: Session,
        method: str,
        url: Url,
        headers: Mapping[str, str],
        upload: Upload | None,
    ) -> requests.Response:
        is_elsewhere = url.origin != self._origin  # the session is nothing for other hosts
        cookie = self._ticket(method, url) if is_elsewhere else session.cookie
        return _checked(self._transport.send(method, url, {**headers, "Cookie": cookie}, upload))

    def _ticket(self, method: str, url: Url) -> str:
        """Return a cookie that is good for one request."""
        manager = self.api.vim.SessionManager
        wanted = manager.HttpServiceRequestSpec(method=f"http{method.title()}", url=url.text)
        ticket = self.api.call(
            lambda session: session.content.sessionManager.AcquireGenericServiceTicket(wanted)
        )
        return f"vmware_cgi_ticket={ticket.id}"

    def _versions(self) -> str:
        url = self._at("/sdk/vimServiceVersions.xml")
        response = _checked(self._transport.send("GET", url, {}))
        try:
            return response.text if response.status_code == HTTPStatus.OK else ""
        finally:
            response.close()

    def _at(self, target: str) -> Url:
        return Url.of(Location("https", f"{self._service}{target}"))


def _checked(response: requests.Response) -> requests.Response:
    """Return an answer unless another one may come soon."""
    if response.status_code in _PASSING:
        settle(response)
        raise status_error(response.status_code)
    return response


def _lost(status: int) -> StoreError:
    """Return the error for data that is gone, whatever the server wants done with it."""
    error = status_error(status)
    if status == HTTPStatus.NOT_FOUND:
        return StoreError("the directory for images, or its datastore, is gone")
    if isinstance(error, StoreError) and status not in _REDIRECT_CODES:
        return error
    return StoreError(
        "the server redirects the upload after it has taken data",
        remedy="name the host that it redirects to in vmware_server_host",
    )
