"""What holds for every test."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TypeVar

import pytest
from hypothesis import settings

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

# No test asserts a time, and a loaded machine is no fault of the code.
settings.register_profile("imgstore", deadline=None)
settings.load_profile("imgstore")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a test that was skipped, or failed as expected, fails."""
    return _nothing_skipped((yield))


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
