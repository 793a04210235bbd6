"""Requests to Swift."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

from imgstore.boundary.settings import check_ca_file
from imgstore.drivers._http.connections import pool_classes
from imgstore.drivers._keystone import PASSING
from imgstore.drivers._numbers import whole_number
from imgstore.drivers.swift.errors import INSTALL, AnswerError, CutError, may_pass, missing_ok
from imgstore.drivers.swift.identity import Asker, Login, Shown
from imgstore.drivers.swift.settings import LONGEST_PAUSE, Settings
from imgstore.process import lazy
from imgstore.process.patience import Patience, noted

LOG = logging.getLogger(__name__)

T = TypeVar("T")

_IDLE: Final = 64  # connections kept
_FORGETTING: Final = 60.0  # seconds until a cluster that said nothing is asked again
_TEXT: Final = 64 * 1024  # bytes of an answer that is not an image
_VERSION: Final = re.compile(r"/v1(?:\.0)?(?=/|$)")
_SHOWN: Final = ("X-Auth-Token", "X-Service-Token", "X-Auth-User", "X-Auth-Key")
_TAG: Final = re.compile(r"<[^<>]*>")  # from one "<" to the next at most: linear


class Answer:
    """What Swift answered; the body is read to its end, or closed."""

    def __init__(self, response: Any) -> None:
        self.status: int = response.status_code
        self.is_success = HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES
        self.headers: Mapping[str, str] = response.headers
        self._response = response

    def read(self, n: int | None = None, /) -> bytes:
        """Return at most ``n`` bytes, none at the end."""
        data: bytes = self._response.raw.read(n)
        return data

    def whole(self) -> bytes:
        """Return the whole body of an answer that is not an image; raises CutError."""
        try:
            data = self.read()
        except Exception as exc:
            raise CutError("Swift's answer broke off") from exc
        finally:
            self.close()
        # Not all versions of urllib3 look at it.
        if whole_number(self.headers.get("Content-Length")) not in {None, len(data)}:
            raise CutError("Swift's answer broke off")
        return data

    def close(self) -> None:
        """Give up the rest of the body; the connection is of use only if nothing is left."""
        if self._response.raw.length_remaining == 0:
            self._response.raw.release_conn()  # closing would end it
        self._response.close()


class Client:
    """The connections of one store and process, for all of its threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        if isinstance(settings.verify, str):
            check_ca_file("swift_store_cacert", settings.verify)
        self._http = lazy.load("swiftclient.client", install=INSTALL)
        # For all connections, which have one each: it keeps those that are idle.
        self._session: Any = self._http.HTTPConnection("http://localhost").request_session
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, _adapter(settings.read_timeout))
        self._timeouts = (settings.connect_timeout, settings.read_timeout)
        self._long_timeouts = (settings.read_timeout, settings.read_timeout)
        # At once first: a server may have closed a connection that was idle.
        self._patience = Patience(
            1.0, longest=LONGEST_PAUSE, times=settings.attempts - 1, at_once=True
        )
        # What clusters say of themselves, and since when.
        self.known: dict[str, tuple[dict[str, Any], float]] = {}

    def close(self) -> None:
        """Close the idle connections."""
        self._session.close()

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: object = None
    ) -> Answer:
        """Send one request; raises what requests raises."""
        self.settings.redaction.learn(*(headers.get(name) for name in _SHOWN))
        # The first of the two bounds each wait of a body's sending, too.
        timeouts = self._timeouts if isinstance(body, bytes | None) else self._long_timeouts
        verify, parts = self.settings.verify, urlsplit(url)
        connection = self._http.HTTPConnection(
            f"{parts.scheme}://{parts.netloc}",
            cacert=verify if isinstance(verify, str) else None,
            insecure=verify is False,
        )
        connection.request_session = self._session
        # A redirect would take the token to another host.
        connection.requests_args |= {"timeout": timeouts, "allow_redirects": False}
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        return Answer(connection.request(method, target, body, dict(headers)))

    def repeated(
        self,
        call: Callable[[], T],
        *,
        is_cancelled: Callable[[], bool] = lambda: False,
        on_failure: Callable[[Exception], object] = lambda _: None,
    ) -> T:
        """Call until it succeeds, or fails for good or for the last time.

        ``on_failure`` is called with each failure, also with those after which it is called again.
        """

        def is_repeated(exc: Exception) -> bool:
            on_failure(exc)
            return not is_cancelled() and may_pass(exc)

        return self._patience.repeat(call, is_repeated, noted(LOG, "a request to Swift"))

    def failure(self, answer: Answer) -> AnswerError:
        """Return an answer that is no success as an exception."""
        data = b""
        with contextlib.suppress(Exception), contextlib.closing(answer):  # its status says enough
            data = answer.read(_TEXT)
        text = " ".join(_TAG.sub(" ", data.decode("utf-8", "replace")).split())
        # In this order: of a token that is cut nobody would know that it is one.
        return AnswerError(answer.status, self.settings.redaction.text(text)[:200])


class Caller:
    """Swift as one asker sees it; ``url`` is that of the account, the asker's by default."""

    def __init__(
        self,
        client: Client,
        asker: Asker,
        *,
        url: str | None = None,
        service: Asker | None = None,
    ) -> None:
        self.client = client
        self.asker = asker
        self._url = url
        self._service = service

    @property
    def account_url(self) -> str:
        """Return the URL of the account."""
        return self._url or self.asker.login().url

    def ask(
        self,
        method: str,
        container: str = "",
        name: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        body: Callable[[], object] | None = None,
        query: str = "",
        is_cancelled: Callable[[], bool] = lambda: False,
        on_failure: Callable[[Exception], object] = lambda _: None,
    ) -> Answer:
        """Send a request until it succeeds or fails for good, and return the answer to it.

        ``body`` is called for each attempt, and raises where there cannot be another;
        ``on_failure`` with what each attempt that failed raised.
        """
        send = self._sending(method, container, name, headers=headers, body=body, query=query)
        return self.client.repeated(send, is_cancelled=is_cancelled, on_failure=on_failure)

    def _sending(
        self,
        method: str,
        container: str,
        name: str,
        *,
        headers: Mapping[str, str] | None,
        body: Callable[[], object] | None = None,
        query: str,
    ) -> Callable[[], Answer]:
        """Return what sends a request once, or with other tokens once more."""
        shown = Shown(self.asker, self._service)

        def send() -> Answer:
            failure: AnswerError | None = None
            while True:
                user, tokens = shown.get()
                try:
                    data = body() if body is not None else None
                except Exception:
                    if failure is not None and failure.status == HTTPStatus.FORBIDDEN:
                        raise failure from None
                    raise
                target = self._target(user, container, name, query)
                answer = self.client.send(method, target, {**tokens, **(headers or {})}, data)
                if answer.is_success:
                    return answer
                failure = self.client.failure(answer)
                if failure.status not in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
                    raise failure
                shown.refuse(failure)

        return send

    def ask_json(
        self,
        container: str,
        name: str = "",
        *,
        query: str,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[list[dict[str, Any]], Mapping[str, str]]:
        """Return a list that Swift has as JSON, and the headers of the answer, which is whole."""
        send = self._sending("GET", container, name, headers=headers, query=query)

        def read() -> tuple[list[dict[str, Any]], Mapping[str, str]]:
            answer = send()
            try:
                found = json.loads(answer.whole() or b"[]")
            except (ValueError, RecursionError):
                found = None
            if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
                raise CutError("Swift's answer is no list of JSON")
            return found, answer.headers

        return self.client.repeated(read)

    def _target(self, user: Login, container: str, name: str, query: str) -> str:
        parts = [self._url or user.url, *(quote(part) for part in (container, name) if part)]
        return "/".join(parts) + (f"?{query}" if query else "")

    def about(self) -> Mapping[str, Any]:
        """Return what the cluster says of itself; nothing where it does not."""
        root = _VERSION.split(self.account_url, maxsplit=1)[0]
        known = self.client.known
        found, since = known.get(root, ({}, -_FORGETTING))
        if not found and time.monotonic() - since >= _FORGETTING:
            found = self.client.repeated(lambda: self._ask_about(root))
            known[root] = found, time.monotonic()
        return found

    def _ask_about(self, root: str) -> dict[str, Any]:
        answer = self.client.send("GET", f"{root}/info", {})
        if answer.status in PASSING:
            raise self.client.failure(answer)
        if answer.status != HTTPStatus.OK:
            answer.close()
            return {}
        try:
            found = json.loads(answer.whole())
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    # The verbs that need no more than a request.

    def head(self, container: str, name: str = "", **more: Any) -> Mapping[str, str] | None:
        """Return the headers of an object or a container, None if there is none."""
        with missing_ok():
            answer = self.ask("HEAD", container, name, **more)
            answer.close()
            return answer.headers
        return None

    def put(self, container: str, name: str = "", **more: Any) -> Answer:
        """Create an object or a container; return the answer, of which nothing is to be read."""
        answer = self.ask("PUT", container, name, **more)
        answer.close()
        return answer

    def delete(self, container: str, name: str = "", **more: Any) -> bool:
        """Delete an object or an empty container; return whether there was any."""
        with missing_ok():
            self.ask("DELETE", container, name, **more).close()
            return True
        return False

    def entries(self, container: str = "", prefix: str = "") -> Iterator[dict[str, Any]]:
        """Yield what lies in a container, or the account's containers, page by page."""
        page, _ = self.page(container, prefix)
        while page:
            yield from page
            page, _ = self.page(container, prefix, after=page[-1].get("name") or "")

    def page(
        self, container: str, prefix: str, *, after: str = "", is_newest: bool = False
    ) -> tuple[list[dict[str, Any]], Mapping[str, str]]:
        """Return entries of a listing that follow ``after``, and the headers of the answer.

        With ``is_newest`` the latest of all replicas, not the first that answers.
        """
        query = f"format=json&prefix={quote(prefix)}&marker={quote(after)}"
        headers = {"X-Newest": "true"} if is_newest else {}
        return self.ask_json(container, query=query, headers=headers)


def _adapter(read_timeout: float) -> Any:
    """Return an adapter of requests that reads heads of answers in bounded time, the final ones."""
    base: Any = lazy.load("requests.adapters", install=INSTALL).HTTPAdapter
    pools = pool_classes(read_timeout)

    class Adapter(base):  # type: ignore[misc]
        def init_poolmanager(self, *args: Any, **named: Any) -> None:
            super().init_poolmanager(*args, **named)
            self.poolmanager.pool_classes_by_scheme = pools

        def proxy_manager_for(self, *args: Any, **named: Any) -> Any:
            found = super().proxy_manager_for(*args, **named)
            found.pool_classes_by_scheme = pools
            return found

    return Adapter(pool_maxsize=_IDLE)


def date_of(headers: Mapping[str, str]) -> datetime:
    """Return when an answer was sent, by the server's clock; now where it does not say."""
    try:
        return parsedate_to_datetime(headers.get("Date", ""))
    except ValueError:
        return datetime.now(timezone.utc)
