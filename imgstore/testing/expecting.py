"""Images that are judged before they are committed."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar

import pytest

from imgstore import Capability, Store, errors
from imgstore.testing.doubles import Collected, Untouched, raising
from imgstore.testing.failures import FAILURES
from imgstore.testing.harness import (
    MIB,
    WAIT,
    Harness,
    Place,
    Undone,
    content,
    difference,
    library_half,
    needs,
    new_id,
    pattern,
    refusal,
)

WRONG = {"sha256": hashlib.sha256(b"another image").hexdigest()}
BAD_DIGESTS: dict[str, Any] = {
    "no digests": {},
    "no mapping": "ab12",
    "an unknown algorithm": {"sha257": "00"},
    "an algorithm in upper case": {"SHA256": "0" * 64},
    "no length of its own": {"shake_128": "00"},
    "too short": {"sha256": "ab12"},
    "too long": {"sha256": "0" * 65},
    "no hexadecimal digits": {"sha256": "x" * 64},
    "other digits": {"sha256": "\N{FULLWIDTH DIGIT ONE}" * 64},
    "bytes": {"sha256": b"0" * 64},
    "nothing": {"sha256": None},
}


class Judging(Collected):
    """A sink that says what ``verdict`` says, when it has seen all of the image."""

    def __init__(self, verdict: Callable[[bytes], object]) -> None:
        super().__init__()
        self._verdict = verdict
        self.threads: list[int] = []

    def finish(self) -> Any:
        """Judge."""
        self.threads.append(threading.get_ident())
        return self._verdict(self.data)


def digests_of(data: bytes, *names: str) -> dict[str, str]:
    """Return digests by their algorithms."""
    return {name: hashlib.new(name, data, usedforsecurity=False).hexdigest() for name in names}


def die(add: Callable[[], object]) -> None:
    """Call ``add``, which kills its process, in a child of this one; wait until it is dead."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: forking with threads
        child = os.fork()
    if child == 0:
        try:
            add()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    deadline = time.monotonic() + WAIT
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGABRT)
        time.sleep(0.01)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


@needs(Capability.WRITE)
class Expecting(Harness, is_part=True):
    """What an image is to be is found out before anybody can see it."""

    failures: ClassVar[tuple[str, ...]] = tuple(FAILURES)

    def test_an_expected_image_is_stored(self, store: Store, judged_size: int) -> None:
        """Digits may be of either case; their digests join those that were asked for.

        A sink is asked once, on the thread of the add, when it has seen all of the image.
        """
        data, seen = pattern(judged_size), list[bytes]()
        sink = Judging(seen.append)
        expected = {name: text.upper() for name, text in digests_of(data, "md5", "sha512").items()}
        image = store.add(
            new_id(), data, algorithms=("sha256", "md5"), expected=expected, sinks=[sink]
        )
        assert image.digests == digests_of(data, "sha256", "md5", "sha512")
        assert sink.threads == [threading.get_ident()]
        assert [difference(whole, data) for whole in seen] == [""]
        assert not difference(content(store, image.location), data)

    def test_another_image_than_expected_is_not_stored(
        self, store: Store, undone: Undone, judged_size: int
    ) -> None:
        """A difference names both digests, and one of several is enough; the id is free."""
        data = pattern(judged_size)
        cases = ((data, WRONG), (iter([data]), digests_of(data, "md5") | WRONG))
        with undone() as image_id:
            for source, expected in cases:
                with pytest.raises(errors.DigestMismatch) as caught:
                    store.add(image_id, source, algorithms=(), expected=expected)
                assert WRONG["sha256"] in str(caught.value)
                assert hashlib.sha256(data).hexdigest() in str(caught.value)
                assert (caught.value.store, caught.value.operation) == (store.name, "add")
                assert not caught.value.retryable

    @library_half
    def test_expected_digests_are_digests(self, store: Store, undone: Undone) -> None:
        """What cannot be a digest is refused before a byte is read."""
        with undone() as image_id:
            for case, expected in BAD_DIGESTS.items():
                add = partial(store.add, image_id, Untouched(), expected=expected)
                refusal(errors.InvalidArgument, case, add)

    @pytest.mark.parametrize("size", [0, 3 * MIB])
    def test_a_sink_that_refuses_keeps_an_image_out(
        self, store: Store, undone: Undone, size: int
    ) -> None:
        """What ``finish`` raises comes through as it is, and nothing is stored."""
        with undone() as image_id:
            for failure in self.failures:
                error, text = FAILURES[failure](), str(FAILURES[failure]())
                sink = Judging(raising(error))
                with pytest.raises(type(error)) as caught:
                    store.add(image_id, bytes(size), sinks=[sink])
                assert caught.value is error
                assert str(error) == text

    def test_an_answer_of_a_sink_is_no_consent(self, store: Store, undone: Undone) -> None:
        """A sink that returns something was not written for this, and nothing is stored."""
        with undone() as image_id:
            for verdict in (lambda _: False, len):
                with pytest.raises(errors.InvalidArgument, match="finish"):
                    store.add(image_id, b"data", sinks=[Judging(verdict)])

    def test_a_process_that_dies_while_it_judges_stores_nothing(
        self, store: Store, leaves: Callable[[], Iterable[str]]
    ) -> None:
        """No image is seen, and all that is left is a leftover; then the id is free."""
        former = new_id()
        url = store.add(former, b"where such an image would be", algorithms=()).location.url
        before, names = sorted(leaves()), [new_id(), new_id()]
        killing = Judging(lambda _: os.kill(os.getpid(), signal.SIGKILL))
        for name, size in zip(names, (0, self.large), strict=True):
            die(partial(store.add, name, pattern(size), algorithms=(), sinks=[killing]))
            if former in url:
                with pytest.raises(errors.NotFound):
                    store.size(url.replace(former, name))
        deadline = time.monotonic() + WAIT
        # A backend may need time to see that a process is dead, and still do what that asked for.
        while store.remove_leftovers(older_than=0) or sorted(leaves()) != before:
            assert time.monotonic() < deadline, "what a dead process left is no leftover"
            time.sleep(0.1)
        image = store.add(names[-1], b"the id is free", algorithms=())
        assert content(store, image.location) == b"the id is free"

    @library_half
    def test_what_finishes_can_be_called(self, store: Store, undone: Undone) -> None:
        """A ``finish`` that cannot be called is refused before a byte is read."""
        sink: Any = Collected()
        sink.finish = True
        with undone() as image_id, pytest.raises(errors.InvalidArgument, match="callable"):
            store.add(image_id, Untouched(), sinks=[sink])

    def test_a_copy_is_compared(self, store: Store, place: Place, undone: Undone) -> None:
        """With expected digests a copy is streamed, and compared like an add."""
        data = pattern(self.large)
        location = place(data)
        expected = digests_of(data, "sha256")
        copy = store.copy(location, new_id(), algorithms=(), expected=expected)
        assert copy.digests == expected
        assert not difference(content(store, copy.location), data)
        with undone() as image_id, pytest.raises(errors.DigestMismatch):
            store.copy(location, image_id, expected=WRONG)
