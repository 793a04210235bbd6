"""Tasks of the server: begun by a call, and watched until they are over."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from imgstore.drivers._told import not_told, told
from imgstore.drivers.vmware.client import Api
from imgstore.drivers.vmware.errors import SERVICE, DoubtfulError, is_answer
from imgstore.drivers.vmware.sessions import Session
from imgstore.drivers.vmware.settings import Settings
from imgstore.errors import TimedOut
from imgstore.process.patience import Patience

_TIMEOUTS: Final = 10  # of reading, until a task that makes no progress is given up
_PAUSE: Final = 0.2  # seconds between looks where the server cannot be left waiting
_CANCELLING: Final = Patience(_PAUSE, _PAUSE, seconds=10.0)


class Tasks:
    """Runs tasks by the calls of an API."""

    def __init__(self, settings: Settings, api: Api) -> None:
        self._settings = settings
        self._api = api
        self._vim = api.vim

    def run(self, start: Callable[[Session], Any], *, again: bool = True) -> Any:
        """Start a task, wait for its end, and return its result; raises what it failed with.

        ``again`` is as for ``Api.call``; without it a task of which no end is seen is cancelled,
        as any is that is interrupted.
        """
        try:
            return self._run(start, again=again, cancels=not again)
        except DoubtfulError as exc:
            raise exc.failure from exc.failure.__cause__

    def commit(self, start: Callable[[Session], Any]) -> None:
        """Run a task whose outcome counts; raises DoubtfulError where it cannot be told.

        Any other failure says that the task is not done, nor will be.
        """
        self._run(start, again=False, cancels=False)

    def _run(self, start: Callable[[Session], Any], *, again: bool, cancels: bool) -> Any:
        task, may_be_begun = None, False

        def begin(session: Session) -> Any:
            nonlocal may_be_begun
            may_be_begun = True
            try:
                return start(session)
            except Exception as exc:
                may_be_begun = not is_answer(exc)
                raise

        try:
            task = self._api.call(begin, again=again)._GetMoId()
            found = self._end_of(task)
        except BaseException as exc:
            if task and (cancels or not isinstance(exc, Exception)):
                self._cancel(task)
            if may_be_begun and isinstance(exc, Exception):
                raise DoubtfulError(exc) from None
            raise
        if found["info.state"] == self._vim.TaskInfo.State.success:
            return found.get("info.result")
        failure = found.get("info.error") or not_told("info.error", service=SERVICE)
        raise failure if is_answer(failure) else DoubtfulError(failure)

    def _cancel(self, task: str) -> None:
        """Cancel a task, and wait a little until it is over."""
        with contextlib.suppress(Exception):
            self._api.call(lambda session: self._task(session, task).CancelTask(), again=False)
            for _ in _CANCELLING.attempts():
                if self._is_over(self._api.call(lambda session: self._about(session, task))):
                    return

    def _is_over(self, found: dict[str, Any]) -> bool:
        state = self._vim.TaskInfo.State
        return told(found, "info.state", service=SERVICE) in {state.success, state.error}

    def _task(self, session: Session, task: str) -> Any:
        return self._vim.Task(task, session.stub)

    def _end_of(self, task: str) -> dict[str, Any]:
        """Wait until a task is over; return what is to be known of it."""
        settings = self._settings
        seconds = _TIMEOUTS * settings.read_timeout
        patience = Patience(_PAUSE, _PAUSE, seconds)
        longest = int(min(settings.poll_interval, settings.read_timeout / 2))
        if longest:  # the server lets those wait who look

            def watch(seconds: float) -> None:
                self._api.call(lambda session: self._watch(session, task, int(seconds) or 1))

            patience = Patience(longest, longest, seconds, sleep=watch)
        progress, pauses = None, patience.pauses()
        while True:
            found = self._api.call(lambda session: self._about(session, task))
            if self._is_over(found):
                return found
            if found.get("info.progress") != progress:
                progress, pauses = found.get("info.progress"), patience.pauses()
            if (pause := next(pauses, None)) is None:
                raise TimedOut(f"a task of the server makes no progress for {seconds:g} s")
            patience.sleep(pause)

    def _about(self, session: Session, task: str) -> dict[str, Any]:
        """Return the properties of a task that count; whom it is for does not."""
        spec = self._api.vmodl.query.PropertyCollector
        names = [f"info.{name}" for name in ("state", "error", "result", "progress")]
        wanted = spec.PropertySpec(type=self._vim.Task, pathSet=names)
        of_task = spec.ObjectSpec(obj=self._task(session, task))
        asked = spec.FilterSpec(objectSet=[of_task], propSet=[wanted])
        for _, found in self._api.retrieve(session, asked):
            return found
        raise not_told("task", service=SERVICE)

    def _watch(self, session: Session, task: str, seconds: int) -> None:
        """Wait until a task is over, or until it is time for another look."""
        spec = self._api.vmodl.query.PropertyCollector
        of_task = spec.ObjectSpec(obj=self._task(session, task))
        state = spec.PropertySpec(type=self._vim.Task, pathSet=["info.state"])
        over = {self._vim.TaskInfo.State.success, self._vim.TaskInfo.State.error}
        # Of its own: those who wait for different tasks do not get each other's updates.
        collector = session.content.propertyCollector.CreatePropertyCollector()
        try:
            collector.CreateFilter(
                spec.FilterSpec(objectSet=[of_task], propSet=[state]), partialUpdates=False
            )
            version, options = "", spec.WaitOptions(maxWaitSeconds=seconds)
            # The first update is how things are; None is that nothing changed.
            while update := collector.WaitForUpdatesEx(version, options):
                version = update.version
                if over & {change.val for change in _changes(update)}:
                    return
        finally:
            with contextlib.suppress(Exception):
                collector.DestroyPropertyCollector()


def _changes(update: Any) -> Iterator[Any]:
    for each in update.filterSet:
        for changed in each.objectSet:
            yield from changed.changeSet
