"""Whether a history is one that the contract of stores allows.

An id is absent or has one image. An add that succeeds makes the one of the other, a deletion that
succeeds makes the other of the one, each at some moment between its beginning and its end; a read
tells how it was at such a moment. A history is good if there are such moments for all of it
(linearisability). An operation of which nobody knows what came of it may have had its effect, at
any time since it began, or none. Where a request is repeated after its answer was lost, an add may
have its effect again while it lasts: its image was deleted in between.

What is said here to be wrong is wrong; what is not found may be.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from storm.history import NEVER, Operation, by_id

_ADDS: Final = frozenset({"add", "copy"})
_RULES: Final = {
    ("add", "AlreadyExists"): "AlreadyExists, and nobody had the id",
    ("add", ""): "two adds of one id succeeded without a deletion between them",
    ("delete", "NotFound"): "an image that was there is NotFound for a deletion",
    ("delete", ""): "a deletion succeeded, and there was no image",
    ("read", "NotFound"): "an image that was added, and that nobody has deleted, is gone",
}


@dataclass(frozen=True)
class Violation:
    """What cannot be, and the operations that say so."""

    rule: str
    image_id: str
    operation: Operation | None
    history: tuple[Operation, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.image_id}: {self.rule}"]
        if self.operation is not None:
            lines.append(f"  in {self.operation}")
        return "\n".join([*lines, *(f"    {each}" for each in self.history)])


def check(operations: Iterable[Operation], *, repeats: bool = False) -> list[Violation]:
    """Return what is wrong with a history; of each id at most the first thing of a kind.

    `repeats` is for stores that put an image again if they do not know whether they did.
    """
    whole = list(_resolved(list(operations)))
    added = frozenset(each.digest for each in whole if each.kind == "add")
    return [
        violation
        for image_id, history in sorted(by_id(whole).items())
        if image_id
        for violation in _check_id(image_id, history, added, repeats=repeats)
    ]


def final(image_id: str, at: float, digest: str | None, url: str = "") -> Operation:
    """Return an operation that says what was there in the end; None: nothing."""
    if digest is None:
        return Operation("read", image_id, at, at, "failed", "NotFound", text="in the end")
    return Operation("read", image_id, at, at, "ok", digest=digest, url=url, text="in the end")


def _resolved(operations: list[Operation]) -> Iterator[Operation]:
    """Yield the operations; copies with what they copied, beside a read of their source.

    No two sources of a storm have one size, so the size of a copy that succeeded tells its bytes.
    """
    digests: dict[int, str] = {}
    for each in operations:
        if each.kind == "add":
            digests[each.size] = each.digest if each.size not in digests else ""
    for each in operations:
        if each.kind != "copy":
            yield each
            continue
        digest = each.digest or digests.get(each.size, "")
        yield dataclasses.replace(each, digest=digest)
        if each.outcome == "ok" and digest:
            yield dataclasses.replace(
                each, kind="read", image_id=each.source, digest=digest, url="", text="of a copy"
            )


def _check_id(
    image_id: str, history: Sequence[Operation], added: frozenset[str], *, repeats: bool
) -> Iterator[Violation]:
    for each in history:
        if each.error.startswith("outside"):
            yield Violation("an error that is none of the library's", image_id, each)
            break
    for each in history:
        if (
            each.kind == "read"
            and each.outcome == "ok"
            and (rule := _misread(each, history, added))
        ):
            yield Violation(rule, image_id, each, _around(history, each))
            return  # no state of affairs explains it
    yield from _Judge(image_id, history, repeats=repeats).verdict()


def _misread(read: Operation, history: Sequence[Operation], added: frozenset[str]) -> str:
    """Say what is wrong with bytes that were read, if that is wrong of them at any time."""
    if read.digest not in added:
        return "what was read was never added: a part of an image, or a mixture"
    of_id = [each for each in history if each.kind in _ADDS and each.begun <= read.ended]
    same = [each for each in of_id if each.digest in ("", read.digest)]
    if not same:
        return "what was read was never added under this id"
    if all(each.outcome == "failed" for each in same):
        return "what was read is of an add that failed"
    return ""


def _around(
    history: Sequence[Operation], culprit: Operation, *, most: int = 24
) -> tuple[Operation, ...]:
    """Return the operations that have to do with one of them."""
    end = culprit.ended if culprit.ended != NEVER else culprit.begun
    near = [
        each
        for each in sorted(history, key=lambda each: each.begun)
        if each.begun <= end
        and (each.kind != "read" or each.ended >= culprit.begun - 0.5)
        and not (each.outcome == "failed" and each.ended < culprit.begun - 0.5)
    ]
    return tuple(near[-most:])


# What an id may be: absent, or the image of the add of that number with these bytes.
State = tuple[int, str] | None
# A state of affairs: a state, and which operations that have not ended made their mark on it.
Affairs = tuple[State, frozenset[int]]


class _Judge:
    """Looks for moments at which the operations of one id may have happened.

    All states of affairs that are possible are carried along from one end of an operation to the
    next one (G. Lowe, "Testing for linearizability"; A. Horn and D. Kroening, "Faster
    linearizability checking via P-compositionality").
    """

    def __init__(self, image_id: str, history: Sequence[Operation], *, repeats: bool) -> None:
        self._image_id = image_id
        self._repeats = repeats
        self._repeating: set[int] = set()  # adds that last
        self._history = [each for each in history if _counts(each, history)]
        self._whole = history
        self._read = {each.digest for each in self._history if each.kind == "read"} | {""}
        self._copied = self._bytes_of_copies()
        self._shared = self._shared_deletions()

    def verdict(self) -> Iterator[Violation]:
        events = sorted(
            (time, order, number)
            for number, each in enumerate(self._history)
            for order, time in enumerate((each.begun, each.ended))
            if time != NEVER
        )
        possible: list[Affairs] = [(None, frozenset())]
        pending: set[int] = set()
        for _, order, number in events:
            operation = self._history[number]
            if order == 0:
                pending.add(number)
                if self._repeats and operation.kind in _ADDS:
                    self._repeating.add(number)
                continue
            if operation.outcome == "unknown":  # it may have its effect later
                if number in self._repeating:
                    possible = self._advance(possible, pending, None)
                    self._repeating.discard(number)
                continue
            before = possible
            possible = self._advance(possible, pending, number)
            pending.discard(number)
            self._repeating.discard(number)
            if not possible:
                rule = _rule(operation, [state for state, _ in before])
                around = _around(self._whole, operation)
                yield Violation(rule, self._image_id, operation, around)
                return

    def _advance(
        self, possible: Iterable[Affairs], pending: set[int], number: int | None
    ) -> list[Affairs]:
        """Return how things may be once an operation has ended; None: at this time."""
        looked, found = _Best(self._history), _Best(self._history)
        ahead = [self._with_observers(affairs, pending) for affairs in possible]
        while ahead:
            behind, ahead = ahead, []
            for state, done in filter(looked.take, behind):
                if number is None or number in done:
                    found.take((state, done - {number}))
                    if number is not None and number not in self._repeating:
                        continue
                others = [*sorted(done & self._repeating), *sorted(pending - done)]
                ahead += [
                    self._with_observers((after, done | {other}), pending)
                    for other in self._different(others)
                    for after in self._effects(other, state)
                ]
        return list(found)

    def _different(self, numbers: Iterable[int]) -> Iterable[int]:
        """Leave out operations in doubt of which one before can do the same."""
        found: dict[object, int] = {}
        for number in numbers:
            each = self._history[number]
            same: object = number
            if each.outcome == "unknown" and each.kind == "delete":
                same = each.url
            elif each.outcome == "unknown" and each.digest not in self._read:
                same = "an add of what nobody read"
            found.setdefault(same, number)
        return found.values()

    def _with_observers(self, affairs: Affairs, pending: set[int]) -> Affairs:
        """Let all that only look, and find what they saw, be done with it: that hinders nobody."""
        state, done = affairs
        seen = [
            each
            for each in pending - done
            if not _changes(self._history[each]) and self._effects(each, state)
        ]
        return state, done.union(seen)

    def _effects(self, number: int, state: State) -> Sequence[State]:
        """Return what a state may become by an operation; nothing where it cannot be."""
        each = self._history[number]
        url = self._history[state[0]].url if state is not None else ""
        is_there = state is not None and (not url or not each.url or url == each.url)
        is_missing = state is None or each.url not in ("", url)
        if each.kind in _ADDS:
            if each.error == "AlreadyExists" and each.outcome == "failed":
                return (state,) if state is not None else ()
            digests = self._copied.get(number, (each.digest,))
            return () if state is not None else [(number, digest) for digest in digests]
        if each.error == "NotFound":
            return (state,) if is_missing else ()
        if each.kind == "delete":
            return (None,) if is_there or (state is None and number in self._shared) else ()
        assert each.kind == "read"
        return (state,) if is_there and state is not None and state[1] == each.digest else ()

    def _shared_deletions(self) -> frozenset[int]:
        """Return deletions during which another one may have deleted the same image.

        Both may have seen it, and object stores tell nobody who was the first.
        """
        deletions = [(n, each) for n, each in enumerate(self._history) if each.kind == "delete"]
        return frozenset(
            number
            for number, each in deletions
            if any(
                number != other and each.begun <= last.ended and last.begun <= each.ended
                for other, last in deletions
                if last.outcome != "failed"
            )
        )

    def _bytes_of_copies(self) -> Mapping[int, Sequence[str]]:
        """Return, for each copy whose bytes are not known, all that were ever read of the id."""
        return {
            number: sorted(self._read)
            for number, each in enumerate(self._history)
            if each.kind == "copy" and not each.digest
        }


class _Best:
    """States of affairs, without those that allow for nothing that another one does not.

    Such are those in which more was used up of what need not have happened, or less was seen.
    """

    def __init__(self, history: Sequence[Operation]) -> None:
        self._history = history
        self._kept: dict[object, list[tuple[frozenset[int], frozenset[int], Affairs]]] = {}

    def __iter__(self) -> Iterator[Affairs]:
        return (affairs for kept in self._kept.values() for _, _, affairs in kept)

    def take(self, affairs: Affairs) -> bool:
        """Keep one; return whether it allows for anything."""
        state, done = affairs
        seen = frozenset(n for n in done if not _changes(self._history[n]))
        spent = frozenset(n for n in done - seen if self._history[n].outcome == "unknown")
        kept = self._kept.setdefault((state, done - seen - spent), [])
        if any(other <= spent and more >= seen for other, more, _ in kept):
            return False
        kept[:] = [each for each in kept if not (spent <= each[0] and seen >= each[1])]
        kept.append((spent, seen, affairs))
        return True


def _changes(operation: Operation) -> bool:
    return operation.kind in {"add", "copy", "delete"} and operation.outcome != "failed"


def _counts(operation: Operation, history: Sequence[Operation]) -> bool:
    """Tell whether an operation says something for certain, or may have had an effect."""
    if operation.kind in _ADDS:
        if operation.error == "AlreadyExists" and operation.outcome == "failed":
            return not any(_may_explain(operation, other) for other in history)
        # A copy is NotFound for its source, of which another id's history tells.
        return operation.outcome != "failed"
    if operation.error == "NotFound":
        return not any(_may_hide(operation, other) for other in history)
    if operation.kind == "read":
        return operation.outcome == "ok"
    return operation.kind == "delete" and operation.outcome != "failed"


def _may_explain(refused: Operation, other: Operation) -> bool:
    """Tell whether an add may have been refused for what another one has under way.

    What a dead or failed one may have left unfinished is in the way for some time only, and says
    so by `retryable`.
    """
    if other is refused or other.kind not in _ADDS or other.begun > refused.ended:
        return False
    if other.ended >= refused.begun:
        return True
    return refused.retryable and other.outcome != "ok"


def _may_hide(looked: Operation, other: Operation) -> bool:
    """Tell whether an image may not have been seen for a deletion that was undone."""
    is_undone = other.kind == "delete" and other.outcome == "failed" and other.error != "NotFound"
    return is_undone and other.begun <= looked.ended and other.ended >= looked.begun


def _rule(operation: Operation, before: Sequence[State]) -> str:
    """Say what an operation contradicts that cannot have happened."""
    kind = "add" if operation.kind in _ADDS else operation.kind
    rule = _RULES.get((kind, operation.error))
    if rule is not None:
        return rule
    if any(state is not None and state[1] != operation.digest for state in before):
        return "another image is there than the one that was added"
    return "an image is there that was deleted, or could not be added"
