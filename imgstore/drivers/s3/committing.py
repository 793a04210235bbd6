"""How an object comes to be: by one request, asked after, and never over another object."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from imgstore.drivers.s3.claims import Claim
from imgstore.drivers.s3.client import Client, head, told
from imgstore.drivers.s3.deleting import delete
from imgstore.drivers.s3.errors import doubtful, doubting, is_conflict, status_of
from imgstore.drivers.s3.places import TOKEN
from imgstore.errors import AlreadyExists, ImgStoreError, IntegrityError, Unavailable
from imgstore.process.committing import attempted, settled, undone
from imgstore.process.patience import Patience

# For an object to show up that may be on its way.
_PATIENCE: Final = Patience(0.25, 0.25, seconds=5.0)
_REMOVAL: Final = "the removal of an object that was added"


class Outcome(enum.Enum):
    """What became of the request that makes the object of an add."""

    NONE = enum.auto()  # it was not sent, or not carried out
    REFUSED = enum.auto()  # some object was there, which was not looked at yet
    OURS = enum.auto()
    ANOTHER = enum.auto()  # the object is that of another add
    UNKNOWN = enum.auto()  # the server may still be at it


class Commit:
    """The object of one add, which replaces none.

    Its metadata holds a token: it tells a success whose answer was lost from an object that
    somebody else put there. ``is_conditional`` says that the server honours If-None-Match when an
    object is put.
    """

    def __init__(self, client: Client, key: str, *, is_conditional: bool) -> None:
        """Prepare to make the object ``key``; nothing is sent yet."""
        self._client = client
        self._token = uuid.uuid4().hex
        self.at = {"Bucket": client.settings.bucket, "Key": key}
        self.condition = {"IfNoneMatch": "*"} if is_conditional else {}
        self.is_amazon = client.settings.endpoint.is_amazon
        self.outcome = Outcome.NONE
        self._is_exclusive = False

    @property
    def new(self) -> dict[str, Any]:
        """Return the parameters of a request that makes the object, or begins to."""
        return {**self.at, **self._client.settings.object_options, "Metadata": {TOKEN: self._token}}

    @property
    def needs_claim(self) -> bool:
        """Return whether the server heeds the condition of a put only; AWS heeds all."""
        return bool(self.condition) and not self.is_amazon

    def refuse_existing(self) -> None:
        """Raise AlreadyExists if there is an object."""
        if self._find() is not None:
            raise AlreadyExists("an image of this id exists")

    @contextmanager
    def alone(self, *, is_exclusive: bool) -> Iterator[None]:
        """Let no other add of the id commit meanwhile, as far as the server can.

        ``is_exclusive`` says that the request sent inside replaces nothing. Otherwise the object is
        looked for first. What fails inside, or is interrupted, leaves no object unless its outcome
        is in doubt.
        """
        self._is_exclusive = is_exclusive
        with undone(self._remove, _REMOVAL), self._claimed() as check:
            if not is_exclusive:
                self.refuse_existing()
            check()
            yield

    @contextmanager
    def _claimed(self) -> Iterator[Callable[[], object]]:
        """Hold the claim, if there has to be one; yield a check that time is left to commit.

        A request that replaces nothing needs the claim, too: another add that has looked before
        would replace its object.
        """
        if not self.needs_claim:
            yield lambda: None
            return
        claim = Claim(self._client, self.at["Key"], lease=self._client.settings.lease)
        self._client.inside(lambda: claim.take(self.refuse_existing))
        try:
            yield claim.check
            self._confirm(claim)
        finally:
            # What is in doubt stays guarded: the claim expires.
            if self.outcome is not Outcome.UNKNOWN:
                claim.give_up()

    def _confirm(self, claim: Claim) -> None:
        """Raise if another add may have committed meanwhile: ours may have replaced its image."""
        with doubting():
            is_held = claim.is_held()
        if not is_held:
            self.take_back()
            raise Unavailable(
                "this add lost its claim while it committed, and was undone",
                remedy="add the image again",
                indeterminate=True,  # a reader may have had it
            )

    def send(
        self, request: Callable[[], Any], *, refused: Callable[[], object] = lambda: None
    ) -> Mapping[str, Any]:
        """Send the request that makes the object, and find out what became of it.

        Returns when the object is there and ours: the answer, or nothing if that was lost.
        ``refused`` is called first where it was refused because of its conditions, and not carried
        out before.
        """
        sent = partial(self._sent, request, refused)
        return settled(sent, self._settle, is_refused=self._is_refused)

    def _is_refused(self, exc: Exception) -> bool:
        """Return whether nothing is to be looked at: ``refused`` may have said more."""
        is_conflict_alone = self.outcome is Outcome.REFUSED and is_conflict(exc)
        return self.outcome is not Outcome.UNKNOWN and not is_conflict_alone

    def _sent(self, request: Callable[[], Any], refused: Callable[[], object]) -> Mapping[str, Any]:
        self.outcome = Outcome.UNKNOWN
        with self._client.watched() as attempts:
            try:
                answer: Mapping[str, Any] = request()
            except Exception as exc:
                if not attempts.unknown:
                    self.outcome = Outcome.REFUSED if is_conflict(exc) else Outcome.NONE
                    if is_conflict(exc):
                        refused()
                raise
        self.outcome = Outcome.OURS
        return answer

    def _settle(self, failure: Exception) -> Mapping[str, Any] | ImgStoreError:
        """Return an empty answer if the object is there and ours, the error to raise otherwise."""
        is_unknown = self.outcome is Outcome.UNKNOWN
        self.outcome = self._look(failure, any_object=self._is_exclusive or not is_unknown)
        match self.outcome:
            case Outcome.OURS:
                return {}
            case Outcome.ANOTHER:
                # Where it was unknown, ours may have been there before it, and been deleted.
                return AlreadyExists("an image of this id exists", indeterminate=is_unknown)
            case Outcome.NONE | Outcome.REFUSED:
                return Unavailable("other requests for this object are in the way")
            case Outcome.UNKNOWN:
                return doubtful(failure)

    def _look(self, failure: Exception, *, any_object: bool) -> Outcome:
        """Return what became of a request that failed.

        With ``any_object`` the object of another add shows that ours was refused.
        """
        unseen = self.outcome
        try:
            found = self._await(any_object=any_object)
        except Exception:  # the first failure says more
            is_taken = status_of(failure) == HTTPStatus.PRECONDITION_FAILED
            return Outcome.ANOTHER if unseen is Outcome.REFUSED and is_taken else unseen
        if self._is_ours(found):
            return Outcome.OURS
        return Outcome.ANOTHER if any_object and found is not None else unseen

    def check_stored(self, size: int) -> Mapping[str, Any]:
        """See the object with our own eyes, and return it: whose it is, and how large."""
        with doubting():
            found = self._find()
            stored = 0 if found is None else told(found, "ContentLength")
        # A reader may have had ours meanwhile, so nobody can say that nothing was stored.
        if found is None:
            raise Unavailable(
                "another request removed the object right after it was put",
                remedy="add the image again",
                indeterminate=True,
            )
        if not self._is_ours(found):  # as where a server takes no notice of If-None-Match
            raise AlreadyExists(
                "another add of this id replaced the image at that moment", indeterminate=True
            )
        if stored != size:
            self.take_back()
            raise IntegrityError(f"the server stored {stored} of {size} bytes", indeterminate=True)
        return found

    def take_back(self) -> None:
        """Remove the object if it is ours; best effort, for an add that fails anyway."""
        attempted(self._remove, _REMOVAL)

    def _remove(self) -> None:
        if self.outcome in {Outcome.NONE, Outcome.ANOTHER}:
            return
        found = self._await() if self.outcome is Outcome.UNKNOWN else self._find()
        if found is not None and self._is_ours(found):
            delete(self._client, self.at, found.get("ETag", ""), self._is_ours)

    def _await(self, *, any_object: bool = False) -> dict[str, Any] | None:
        """Wait for our object, or for any, to show up, as long as that usually takes."""
        found = None
        for _ in _PATIENCE.attempts():
            found = self._find()
            if self._is_ours(found) or (any_object and found is not None):
                break
        return found

    def _find(self) -> dict[str, Any] | None:
        return head(self._client.s3, self.at)

    def _is_ours(self, found: Mapping[str, Any] | None) -> bool:
        return found is not None and found["Metadata"].get(TOKEN) == self._token
