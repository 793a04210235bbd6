"""How an image becomes an object: in one request or in segments, and never over another one."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from imgstore.boundary.arguments import OWN
from imgstore.data.parts import Part, PartedUpload, read_part
from imgstore.data.segments import Segment, upload_in_segments
from imgstore.data.streams import Body
from imgstore.drivers._numbers import whole_number
from imgstore.drivers.swift.claims import Claim
from imgstore.drivers.swift.client import Caller
from imgstore.drivers.swift.containers import Containers
from imgstore.drivers.swift.deleting import delete_many, delete_seen
from imgstore.drivers.swift.errors import classify, may_be_done, status_of
from imgstore.drivers.swift.manifests import MANIFEST, SIZE, Sent, most_segments, written
from imgstore.drivers.swift.sending import HEAD, EndedError, Sending, sending_of
from imgstore.drivers.swift.settings import TOKEN, Settings
from imgstore.errors import (
    AlreadyExists,
    ConfigError,
    ImgStoreError,
    IntegrityError,
    NotFound,
    Unavailable,
)
from imgstore.process.committing import in_doubt, is_in_doubt, settled
from imgstore.process.patience import Patience, noted

LOG = logging.getLogger(__name__)

_FEW: Final = 4  # segments
_CHANCES: Final = Patience(0, times=2)  # for a segment that arrives damaged
_EXCLUSIVE: Final = {"If-None-Match": "*"}
_DATA: Final = {"Content-Type": "application/octet-stream"}
# What says that there is an object already, or one that was put later.
_TAKEN: Final = frozenset({HTTPStatus.PRECONDITION_FAILED, HTTPStatus.CONFLICT})


class Adding:
    """One add of one object.

    The object's metadata hold a token, which is in the names of its segments too: it tells what
    belongs together, and a success whose answer was lost from an object that somebody else put.
    """

    def __init__(
        self, caller: Caller, settings: Settings, containers: Containers, name: str
    ) -> None:
        self.caller = caller
        self.containers = containers
        self.token = uuid.uuid4().hex
        self.settings = settings
        self._name = name
        self._claim = Claim(caller, settings, containers, name, self.token)
        self._is_cancelled = False
        self.is_committing = False
        self._is_refused = False
        self._may_be_stored = False

    def add(self, body: Body) -> None:
        """Store ``body``."""
        head, size = self._look_ahead(body)
        settings = self.settings
        is_whole = size is not None and size < settings.large

        def start() -> PartedUpload[Segment, Any, Any]:
            return _Whole(self) if is_whole else _Large(self)

        try:
            if size is None or size > HEAD or not is_whole:
                self.containers.make_ready(with_segments=not is_whole)
                self._refuse_existing()
            upload_in_segments(
                body,
                start=start,
                segment_size=max(1, size or 0) if is_whole else settings.segment,
                workers=1 if is_whole else settings.workers,
                head=head,
                budget=settings.memory,
            )
        except BaseException as exc:
            if not self._may_go_on(exc):
                self._claim.give_up()
            raise
        self._claim.give_up()

    def _look_ahead(self, body: Body) -> tuple[Part | None, int | None]:
        """Return the image's size if it can be told, and what was read to tell it."""
        if body.size is not None:
            return None, body.size
        most = min(HEAD, self.settings.segment)
        head = read_part(body, most)
        return head, len(head) if len(head) < most else None

    def _may_go_on(self, exc: BaseException) -> bool:
        """Return whether the server may be at it still; the claim keeps others away then."""
        if not isinstance(exc, Exception) and self.is_committing:
            return True
        # A request that was refused is refused again if it comes late.
        return is_in_doubt(exc) and not self._is_refused

    def _refuse_existing(self) -> None:
        found = self.caller.head(*self.place)
        if found is not None and found.get(TOKEN) != self.token:
            raise AlreadyExists("there is an image of this id")

    @property
    def place(self) -> tuple[str, str]:
        """Return container and name of the image."""
        return self.containers.images, self._name

    @property
    def prefix(self) -> str:
        """Return what the names of this add's segments begin with."""
        return f"{self._name}/{OWN}{self.token}/"

    def cancel(self) -> None:
        """Send nothing again that fails from now on."""
        self._is_cancelled = True

    def claim(self, within: float) -> None:
        """Have the right to commit, in so many seconds; raises AlreadyExists, Unavailable."""
        self._claim.take(self._refuse_existing, within=within)

    def put_data(
        self,
        container: str,
        name: str,
        sending: Sending,
        headers: Mapping[str, str],
        on_failure: Callable[[Exception], object] = lambda _: None,
    ) -> Sent:
        """Send a segment, again if need be, and see that it arrived as it was sent."""
        put = partial(
            self.caller.put,
            container,
            name,
            headers={**_DATA, **headers, **sending.headers()},
            body=sending.blocks,
            is_cancelled=lambda: self._is_cancelled,
            on_failure=on_failure,
        )
        try:
            answer = put()
        except EndedError:
            answer = put()
        etag = answer.headers.get("Etag", "").strip('"')
        if etag and etag != sending.md5.hexdigest():
            raise IntegrityError("the server stored other bytes than it was sent", retryable=True)
        return Sent(name, sending.md5.hexdigest(), sending.size)

    def commit(
        self,
        put: Callable[[Callable[[Exception], object]], Any],
        *,
        was_complete: Callable[[], bool] = lambda: True,
    ) -> None:
        """Put the image's own object with ``put``; one's own success is success.

        ``put`` calls what it is given with the failure of each attempt; ``was_complete`` says
        whether that one was sent to its end. Raises AlreadyExists, which is indeterminate if the
        image may have been there before; Unavailable, as indeterminate, where it cannot be told.
        """

        def note(exc: Exception) -> None:
            self._may_be_stored |= was_complete() and may_be_done(exc)

        def send() -> bool:
            self.containers.inside(lambda: put(note))
            return True

        def is_refused(exc: Exception) -> bool:
            return status_of(exc) not in _TAKEN and not self._may_be_stored

        self.is_committing = True
        settled(send, self._outcome, is_refused=is_refused)

    def _outcome(self, exc: Exception) -> bool | ImgStoreError | None:
        """Return what became of a commit that failed: True if it is done after all."""
        found = self.caller.head(*self.place)
        if found is not None and found.get(TOKEN) == self.token:
            return True
        if found is None and status_of(exc) != HTTPStatus.PRECONDITION_FAILED:
            # A server that did not answer may have the request still.
            return in_doubt() if self._may_be_stored else None
        self._is_refused = status_of(exc) in _TAKEN
        if found is not None:
            return AlreadyExists("there is an image of this id", indeterminate=self._may_be_stored)
        return Unavailable(
            "another request removed an image of this id at that moment",
            remedy="add the image again",
            indeterminate=self._may_be_stored,
        )

    def check_manifest(self, total: int) -> None:
        """Raise ConfigError unless the manifest was taken for one."""
        try:
            found = self.caller.head(*self.place)
        except Exception as exc:
            raise in_doubt() from exc
        if found is None:
            raise in_doubt()
        if found.get(TOKEN) != self.token:
            # A reader may have had this one before.
            raise AlreadyExists("another add of this id won", indeterminate=True)
        size = whole_number(found.get("Content-Length"))
        if size not in {None, total} and self.settings.static:
            raise ConfigError(
                f"the cluster made {size} bytes of segments with {total} bytes: it has no static "
                "large objects",
                remedy="set swift_store_large_object_type to dlo",
            )

    def remove_own(self) -> None:
        """Remove the image's own object, if it is this add's."""
        delete_seen(self.caller, *self.place, lambda found: found.get(TOKEN) == self.token)


class _Whole:
    """An image that is one object, as an upload of one segment."""

    def __init__(self, adding: Adding) -> None:
        self._adding = adding
        self.cancel = adding.cancel

    def put(self, number: int, data: Segment) -> None:
        """Send the image."""
        adding = self._adding
        sending = sending_of(data, adding.settings, adding.claim)
        headers = {**_EXCLUSIVE, TOKEN: adding.token}
        adding.commit(
            lambda note: adding.put_data(*adding.place, sending, headers, note),
            was_complete=lambda: sending.was_complete,
        )

    def finish(self, parts: list[None]) -> None:
        """Do nothing: the image is stored."""

    def abort(self) -> None:
        """Remove an image that arrived damaged."""
        self._adding.remove_own()


class _Large:
    """An image in segments; static, in manifests of as many entries as the cluster takes."""

    def __init__(self, adding: Adding) -> None:
        self._adding = adding
        self.cancel = adding.cancel
        self._segments = adding.containers.segments
        self._limit = most_segments(adding.caller) if adding.settings.static else 0
        self._names: list[str] = []

    def put(self, number: int, data: Segment) -> Sent:
        """Send a segment."""
        adding = self._adding
        name = f"{adding.prefix}{number:08d}"
        self._names.append(name)
        # Where there are few segments, to send the last one twice would cost much.
        sending = sending_of(data, adding.settings, is_full=number > _FEW)

        def is_damaged(exc: Exception) -> bool:
            return isinstance(classify(exc) or exc, IntegrityError) and data.may_restart

        try:
            put = partial(adding.put_data, self._segments, name, sending, {})
            return _CHANCES.repeat(put, is_damaged, noted(LOG, "a segment that arrived damaged"))
        except Exception as exc:
            if status_of(exc) != HTTPStatus.NOT_FOUND:
                raise
            raise NotFound(
                "the container for segments was deleted while they were sent",
                remedy="find out who deletes containers, and add the image again",
            ) from exc

    def finish(self, parts: list[Sent]) -> None:
        """Make the segments an image."""
        adding = self._adding
        total = sum(part.size for part in parts)
        if adding.settings.static:
            while len(parts) > self._limit:
                parts = self._nested(parts)
            body, headers = written(self._segments, parts), {}
            query = "multipart-manifest=put"
        else:
            prefix = f"{quote(self._segments)}/{quote(adding.prefix)}"
            body, headers, query = b"", {MANIFEST: prefix}, ""
        marks = {TOKEN: adding.token, SIZE: str(total)}
        sent = {**_EXCLUSIVE, **_DATA, **marks, **headers}
        try:
            adding.claim(adding.settings.read_timeout)
        except BaseException as exc:
            if not isinstance(exc, Exception):  # nothing is committed yet, which others cannot tell
                self.abort()
            raise
        adding.commit(
            lambda note: adding.caller.put(
                *adding.place, headers=sent, body=lambda: body, query=query, on_failure=note
            )
        )
        adding.check_manifest(total)

    def _nested(self, parts: list[Sent]) -> list[Sent]:
        """Put manifests of as many parts as one may have; return them as parts."""
        step = self._limit
        nested = []
        for start in range(0, len(parts), step):
            name = f"{self._adding.prefix}manifest-{len(self._names):08d}"
            self._names.append(name)
            nested.append(self._put_nested(name, parts[start : start + step]))
        return nested

    def _put_nested(self, name: str, parts: list[Sent]) -> Sent:
        body = written(self._segments, parts)
        answer = self._adding.caller.put(
            self._segments, name, body=lambda: body, query="multipart-manifest=put"
        )
        size = sum(part.size for part in parts)
        return Sent(name, answer.headers.get("Etag", "").strip('"'), size)

    def abort(self) -> None:
        """Remove the segments."""
        if self._adding.is_committing:
            self._adding.remove_own()
        delete_many(self._adding.caller, self._segments, self._names[::-1])
