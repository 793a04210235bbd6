"""What holds for every test."""

from __future__ import annotations

import math
import os
from collections.abc import Generator
from typing import TypeVar

import pytest
from hypothesis import settings

HUNG = 3  # tests that hang before the servers are given up
Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

# No test asserts a time, and a loaded machine is no fault of the code.
settings.register_profile("imgstore", deadline=None)
settings.load_profile("imgstore")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a test that was skipped, or failed as expected, fails."""
    return _nothing_skipped((yield))


class Watcher:
    """Writes down each failed test at once, and ends a run whose tests all hang.

    A run that is killed prints no summary.
    """

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._limit = float(session.config.getini("timeout") or math.inf)
        self._hung = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a failure, and count the tests that took as long as one may."""
        if not report.failed:
            return
        reporter = self._session.config.pluginmanager.get_plugin("terminalreporter")
        error = getattr(getattr(report.longrepr, "reprcrash", None), "message", "")
        line, *_ = (error or str(report.longrepr)).strip().splitlines() or [""]
        reporter.write_line(f"\nFAILED {report.nodeid} - {line}")
        self._hung += report.duration >= self._limit * 0.9
        if self._hung >= HUNG:
            self._session.shouldfail = f"{HUNG} tests took as long as a test may"


def pytest_sessionstart(session: pytest.Session) -> None:
    """Watch the tests."""
    session.config.pluginmanager.register(Watcher(session))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """In CI a module that was skipped as a whole fails."""
    return _nothing_skipped((yield))


def _nothing_skipped(report: Report) -> Report:
    # A test that CI does not run proves nothing, and nobody reads the count of skipped ones.
    if report.skipped and os.environ.get("CI") == "true":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        if hasattr(report, "wasxfail"):  # pytest counts an expected failure as skipped
            reason = report.wasxfail
            del report.wasxfail
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: with CI=true nothing may be skipped\n{reason}"
    return report
