"""What a run of tests prints at its end."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tools.steps import Result


def show(results: Sequence[Result], seconds: float, absent: Sequence[str]) -> None:
    """Print a table of the steps, the sums, and each failed test with its error's first line."""
    print("\n---- summary")
    for version in absent:
        print(f"  absent              Python {version}")
    print("            seconds  budget   cases")
    for result in results:
        print(_row(result))
    print(f"  in all  {seconds:9.0f}")
    tested = [result for result in results if result.step.tests]
    print(*(result.closing for result in tested), sep="\n")
    print(_sums(tested))
    if failures := [line for result in results for line in result.failures()]:
        print("\n---- failed", *failures, sep="\n")


def _row(result: Result) -> str:
    verdict = "passed" if result.passed else "NOT RUN" if result.missing else "FAILED"
    step = result.step
    budget = str(step.budget) if step.command else ""
    over = "  over its budget" if step.command and result.seconds > step.budget else ""
    cases = "" if result.cases is None else str(result.cases)
    return f"  {verdict:8}{result.seconds:9.1f}{budget:>8}{cases:>8}  {step.label}{over}"


def _sums(tested: Sequence[Result]) -> str:
    counts = [
        sum(_count(result, word) for result in tested) for word in ("passed", "failed", "error")
    ]
    return f"tests: {counts[0]} passed, {counts[1] + counts[2]} failed"


def _count(result: Result, word: str) -> int:
    found = re.search(rf"\b(\d+) {word}", result.closing)
    return int(found[1]) if found else 0
