"""How an image becomes an object: in one request or in segments, and never over another one."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from imgstore.boundary.arguments import OWN
from imgstore.data.parts import Part, PartedUpload, read_part
from imgstore.data.segments import Segment, upload_in_segments
from imgstore.data.streams import Body
from imgstore.drivers._numbers import whole_number
from imgstore.drivers.swift.bulk import delete_many
from imgstore.drivers.swift.claims import Claim
from imgstore.drivers.swift.client import Caller
from imgstore.drivers.swift.containers import Containers
from imgstore.drivers.swift.deleting import delete_seen
from imgstore.drivers.swift.errors import classify, may_be_done, status_of
from imgstore.drivers.swift.manifests import MANIFEST, SIZE, Sent, most_segments, written
from imgstore.drivers.swift.sending import HEAD, EndedError, Sending
from imgstore.drivers.swift.settings import TOKEN, Settings
from imgstore.errors import (
    AlreadyExists,
    ConfigError,
    IntegrityError,
    NotFound,
    Unavailable,
)

_FEW: Final = 4  # segments
_CHANCES: Final = 3  # of a segment that arrives damaged
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
        self.is_static = settings.static
        self._settings = settings
        self._name = name
        self._claim = Claim(caller, settings, containers, name, self.token)
        self._is_cancelled = False
        self._is_committing = False
        self._is_refused = False
        self._may_be_stored = False

    def add(self, body: Body) -> None:
        """Store ``body``."""
        settings, size, head = self._settings, body.size, None
        if size is None:
            first = min(HEAD, settings.segment)
            head = read_part(body, first)
            size = len(head) if len(head) < first else None
        is_whole = size is not None and size < settings.large
        try:
            if size is None or size > HEAD or not is_whole:
                self.containers.make_ready(with_segments=not is_whole)
                self._refuse_existing()
            if is_whole:
                self._upload(body, head, lambda: _Whole(self), max(1, size or 0), 1)
            else:
                limit = most_segments(self.caller) if self.is_static else 0
                self._upload(
                    body, head, lambda: _Large(self, limit), settings.segment, settings.workers
                )
        except BaseException as exc:
            # Where the server may be at it still, the claim keeps others away until it expires.
            # What was refused is refused again if it comes late.
            is_interrupted = self._is_committing and not isinstance(exc, Exception)
            is_in_doubt = getattr(exc, "indeterminate", False) and not self._is_refused
            if not (is_interrupted or is_in_doubt):
                self._claim.give_up()
            raise
        self._claim.give_up()

    def _upload(
        self,
        body: Body,
        head: Part | None,
        start: Callable[[], PartedUpload[Segment, Any, Any]],
        segment_size: int,
        workers: int,
    ) -> None:
        upload_in_segments(
            body,
            start=start,
            segment_size=segment_size,
            workers=workers,
            head=head,
            budget=self._settings.memory,
        )

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

    @property
    def patience(self) -> float:
        """Return for how many seconds other adds of this id are waited for."""
        return self._settings.read_timeout

    def metadata(self, total: int | None) -> dict[str, str]:
        """Return what the image's own object is marked with."""
        return {TOKEN: self.token, **({} if total is None else {SIZE: str(total)})}

    def cancel(self) -> None:
        """Send nothing again that fails from now on."""
        self._is_cancelled = True

    def claim(self, *, patience: float) -> None:
        """Have the right to commit; raises AlreadyExists, Unavailable."""
        self._claim.take(self._refuse_existing, within=patience)

    def put_data(
        self,
        container: str,
        name: str,
        sending: Sending,
        headers: Mapping[str, str],
        on_failure: Callable[[Exception], object] = lambda _: None,
    ) -> Sent:
        """Send a segment, again if need be, and see that it arrived as it was sent."""
        # The server refuses what does not fit, so that nobody ever sees it. It cannot be told
        # beforehand of what is sent while it is read.
        tag = {"Etag": sending.whole_md5()} if sending.is_small else {}
        put = functools.partial(
            self.caller.put,
            container,
            name,
            headers={**_DATA, **headers, **tag},
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

    def sending(
        self,
        data: Segment,
        before_last: Callable[[float], None] | None = None,
        *,
        is_full: bool = False,
    ) -> Sending:
        """Return what sends a segment; ``is_full`` says that it is most probably full."""
        return Sending(data, self._settings, before_last, is_full=is_full)

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

        self._is_committing = True
        try:
            self.containers.inside(lambda: put(note))
        except Exception as exc:
            self._is_refused = status_of(exc) in _TAKEN
            if not self._is_refused and not self._may_be_stored:
                raise
            if not self._is_own(exc):
                raise

    def _is_own(self, exc: Exception) -> bool:
        try:
            found = self.caller.head(*self.place)
        except Exception:
            self._is_refused = False
            raise _in_doubt() from exc
        if found is not None and found.get(TOKEN) == self.token:
            return True
        if found is not None:
            raise AlreadyExists(
                "there is an image of this id", indeterminate=self._may_be_stored
            ) from exc
        if status_of(exc) == HTTPStatus.PRECONDITION_FAILED:
            raise Unavailable(
                "another request removed an image of this id at that moment",
                remedy="add the image again",
                indeterminate=self._may_be_stored,
            ) from exc
        if self._may_be_stored:
            # A server that did not answer may have the request still.
            self._is_refused = False
            raise _in_doubt() from exc
        return False

    def check_manifest(self, total: int) -> None:
        """Raise ConfigError unless the manifest was taken for one."""
        try:
            found = self.caller.head(*self.place)
        except Exception as exc:
            raise _in_doubt() from exc
        if found is None:
            raise _in_doubt()
        if found.get(TOKEN) != self.token:
            # A reader may have had this one before.
            raise AlreadyExists("another add of this id won", indeterminate=True)
        size = whole_number(found.get("Content-Length"))
        if size not in {None, total} and self.is_static:
            raise ConfigError(
                f"the cluster made {size} bytes of segments with {total} bytes: it has no static "
                "large objects",
                remedy="set swift_store_large_object_type to dlo",
            )

    def remove_own(self) -> None:
        """Remove the image's own object, if it is this add's."""
        delete_seen(self.caller, *self.place, lambda found: found.get(TOKEN) == self.token)


def _in_doubt() -> Unavailable:
    return Unavailable(
        "it cannot be told whether the image was stored",
        remedy="look for the image later",
        indeterminate=True,
    )


class _Whole:
    """An image that is one object, as an upload of one segment."""

    def __init__(self, adding: Adding) -> None:
        self._adding = adding

    def put(self, number: int, data: Segment) -> None:
        """Send the image."""
        adding = self._adding
        sending = adding.sending(data, lambda patience: adding.claim(patience=patience))
        headers = {**_EXCLUSIVE, **adding.metadata(None)}
        adding.commit(
            lambda note: adding.put_data(*adding.place, sending, headers, note),
            was_complete=lambda: sending.was_complete,
        )

    def finish(self, parts: list[None]) -> None:
        """Do nothing: the image is stored."""

    def cancel(self) -> None:
        """Send nothing again."""
        self._adding.cancel()

    def abort(self) -> None:
        """Remove an image that arrived damaged."""
        self._adding.remove_own()


class _Large:
    """An image in segments; static, in manifests of at most ``limit`` entries."""

    def __init__(self, adding: Adding, limit: int) -> None:
        self._adding = adding
        self._segments = adding.containers.segments
        self._limit = limit
        self._names: list[str] = []
        self._is_committing = False

    def put(self, number: int, data: Segment) -> Sent:
        """Send a segment."""
        adding = self._adding
        name = f"{adding.prefix}{number:08d}"
        self._names.append(name)
        # Of few segments one that is sent twice would be much.
        sending = adding.sending(data, is_full=number > _FEW)
        for chance in range(_CHANCES):
            try:
                return adding.put_data(self._segments, name, sending, {})
            except Exception as exc:
                if status_of(exc) == HTTPStatus.NOT_FOUND:
                    raise NotFound(
                        "the container for segments was deleted while they were sent",
                        remedy="find out who deletes containers, and add the image again",
                    ) from exc
                is_damaged = isinstance(classify(exc) or exc, IntegrityError) and data.may_restart
                if not is_damaged or chance == _CHANCES - 1:
                    raise
        raise AssertionError("unreachable")

    def finish(self, parts: list[Sent]) -> None:
        """Make the segments an image."""
        adding = self._adding
        total = sum(part.size for part in parts)
        if adding.is_static:
            while len(parts) > self._limit:
                parts = self._nested(parts)
            body, headers = written(self._segments, parts), {}
            query = "multipart-manifest=put"
        else:
            prefix = f"{quote(self._segments)}/{quote(adding.prefix)}"
            body, headers, query = b"", {MANIFEST: prefix}, ""
        sent = {**_EXCLUSIVE, **_DATA, **adding.metadata(total), **headers}
        try:
            adding.claim(patience=adding.patience)
        except BaseException as exc:
            if not isinstance(exc, Exception):  # nothing is committed yet, which others cannot tell
                self.abort()
            raise
        self._is_committing = True
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

    def cancel(self) -> None:
        """Send no segment again that fails from now on."""
        self._adding.cancel()

    def abort(self) -> None:
        """Remove the segments."""
        if self._is_committing:
            self._adding.remove_own()
        delete_many(self._adding.caller, self._segments, self._names[::-1])
