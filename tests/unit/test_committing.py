"""What is asked after, what is undone, and what is left alone."""

from __future__ import annotations

import pytest

from imgstore.errors import AlreadyExists, Unavailable
from imgstore.process.committing import attempted, is_in_doubt, mark_in_doubt, settled, undone


def failing(exc):
    def call(*_):
        raise exc

    return call


class TestSettled:
    def test_an_answer(self):
        """Where there is one, nobody asks."""
        assert settled(lambda: 1, failing(AssertionError()), is_refused=bool) == 1

    def test_a_refusal(self):
        """It is raised, and nobody asks."""
        refusal = AlreadyExists("there is one")
        with pytest.raises(AlreadyExists) as caught:
            settled(failing(refusal), failing(AssertionError()), is_refused=lambda exc: True)
        assert caught.value is refusal

    @pytest.mark.parametrize("found", [2, 0, ""])
    def test_a_lost_answer(self, found):
        """What is found committed is the result."""
        lost = ConnectionResetError()
        asked = []
        result = settled(
            failing(lost), lambda exc: asked.append(exc) or found, is_refused=lambda exc: False
        )
        assert (result, asked) == (found, [lost])

    def test_a_commit_that_was_lost(self):
        """What is not there was not committed, for certain."""
        with pytest.raises(ConnectionResetError) as caught:
            settled(failing(ConnectionResetError()), lambda exc: None, is_refused=lambda exc: False)
        assert not is_in_doubt(caught.value)

    @pytest.mark.parametrize("is_known", [True, False])
    def test_another_outcome(self, is_known):
        """What is there may be another's: the error says so, and what is known of one's own."""
        lost = ConnectionResetError()
        error = AlreadyExists("another's", indeterminate=not is_known)
        with pytest.raises(AlreadyExists) as caught:
            settled(failing(lost), lambda exc: error, is_refused=lambda exc: False)
        assert caught.value is error
        assert caught.value.__cause__ is lost

    def test_the_failure_itself(self):
        """It may say all that is known, and is no cause of its own."""
        lost = Unavailable("lost", indeterminate=True)
        with pytest.raises(Unavailable) as caught:
            settled(failing(lost), lambda exc: exc, is_refused=lambda exc: False)
        assert caught.value is lost
        assert caught.value.__cause__ is None

    def test_nobody_can_tell(self):
        """The outcome is in doubt, because of the first failure."""
        lost = ConnectionResetError()
        with pytest.raises(Unavailable) as caught:
            settled(failing(lost), failing(TimeoutError()), is_refused=lambda exc: False)
        assert is_in_doubt(caught.value)
        assert caught.value.__cause__ is lost


class TestUndone:
    @pytest.mark.parametrize("exc", [ValueError(), KeyboardInterrupt(), GeneratorExit()])
    def test_a_failure(self, exc):
        """It is undone, and raised as it was."""
        calls = []
        with pytest.raises(type(exc)), undone(lambda: calls.append(1), "undoing"):
            raise exc
        assert calls == [1]

    def test_success(self):
        """There is nothing to undo."""
        with undone(failing(AssertionError()), "undoing"):
            pass

    def test_doubt(self):
        """What may be committed stays."""
        exc = KeyboardInterrupt()
        mark_in_doubt(exc)
        with pytest.raises(KeyboardInterrupt), undone(failing(AssertionError()), "undoing"):
            raise exc

    def test_a_failure_to_undo(self, caplog):
        """The first failure is raised, and the log tells of the second one."""
        with pytest.raises(ValueError, match="first"), undone(failing(OSError("no")), "undoing"):
            raise ValueError("first")
        assert caplog.messages == ["undoing failed: OSError: no"]

    def test_attempted(self, caplog):
        """It tells whether a call succeeded."""
        assert attempted(lambda: 0, "this")
        assert not attempted(failing(OSError("no")), "this")
        assert caplog.messages == ["this failed: OSError: no"]
