"""Medians, tables, and the section of each backend in the results file."""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from model import MIB, Bench, Case, Figures

HEADING = """\
# Benchmark results

Made by `make bench`. Contenders take turns (A B C A B C …) in one go, every run is a fresh process,
and figures are medians. CPU is user and system time of that process; "RSS peak" is its largest
resident set during the operation, "RSS growth" how far that is above what it had before. A
command's is no less than that of the interpreter that starts it, because the kernel counts that
too. "imgstore ×" is how many times as fast the first row of the case is. Sources are objects with
`read(n)` over a file on tmpfs, the same for both sides, unless a row says that imgstore was given
the path. glance_store computes md5 beside the one hash that it is asked for, sha512 as Glance does
unless a row says sha256, and it never flushes: "then fsync" adds the flush of the file and its
directory that a careful caller would do. On tmpfs a flush costs nothing.
Loopback connections are read by another process on the same machine: one that copies what arrives
takes memory bandwidth that a remote reader would not, one that discards it does not.
In the rows of s3, rbd, swift, cinder and vmware every process has added and deleted one byte
before, so that its SDK is loaded. What is known about rows that miss their targets stands below the
tables of a backend; `make bench` keeps it.
"""


@dataclass(frozen=True)
class Result:
    """A case and the figures of every run of every contender."""

    case: Case
    figures: Mapping[str, Sequence[Figures]]

    def medians(self) -> dict[str, Figures]:
        return {
            label: Figures(
                seconds=median(each.seconds for each in runs),
                cpu=median(each.cpu for each in runs),
                rss_growth=int(median(each.rss_growth for each in runs)),
                rss_peak=int(median(each.rss_peak for each in runs)),
            )
            for label, runs in self.figures.items()
        }

    def target_rows(self) -> list[str]:
        """One table row for each target: work, target, measured, met."""
        medians = self.medians()
        rows = []
        for target in self.case.targets:
            value = target.measure(medians)
            met = "yes" if target.met(value) else "**no**"
            measured = f"{value:.2f} {target.unit}"
            rows.append(f"| {self.case.title} | {target.text} | {measured} | {met} |")
        return rows

    def rows(self) -> list[str]:
        """One table row for each contender."""
        medians = self.medians()
        first = next(iter(medians.values()))
        rows = []
        for label, each in medians.items():
            seconds = [run.seconds for run in self.figures[label]]
            ends = f"{duration(min(seconds))} – {duration(max(seconds))}"
            rate = f"{self.case.amount / each.seconds:,.0f} {self.case.unit}/s"
            cells = (
                label,
                duration(each.seconds),
                ends if len(seconds) > 1 else "one run",
                rate if self.case.amount else "",
                f"{each.cpu:.2f}",
                "" if self.case.runs[label].of_children else f"{each.rss_growth / MIB:.1f}",
                f"{each.rss_peak / MIB:.1f}",
                f"{each.seconds / first.seconds:.2f}",
            )
            rows.append(f"| {' | '.join(cells)} |")
        return rows

    def table(self) -> str:
        return "\n".join(
            (
                f"### {self.case.title} (`{self.case.name}`)",
                "",
                "| | median | spread | rate | CPU s | RSS growth MiB | RSS peak MiB | imgstore × |",
                "|---|--:|--:|--:|--:|--:|--:|--:|",
                *self.rows(),
            )
        )


def duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def targets(results: Sequence[Result]) -> str:
    """The table of targets of many cases."""
    rows = [row for result in results for row in result.target_rows()]
    return "\n".join(("| Work | Target | Measured | Met |", "|---|---|--:|---|", *rows))


def file_system(path: Path) -> str:
    """Return the type of the file system that holds `path`, from the longest mount point."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    holding = [each for each in mounts if path.resolve().is_relative_to(each[1])]
    return max(holding, key=lambda each: len(each[1]))[2]


def machine(bench: Bench, *, runs: int, versions: Sequence[str]) -> str:
    """Name what the figures depend on."""
    model = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    # Of the release only the number: the rest is what the machine's owner named the build.
    linux = re.match(r"[\d.]+", platform.release())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MIB
    processor = model.group(1) if model else platform.machine()
    return "\n".join(
        (
            f"- {datetime.date.today()}, at least {runs} runs, or one where a row says so",
            f"- {processor}, {len(os.sched_getaffinity(0))} cores, {memory:,} MiB of RAM",
            f"- Linux {linux[0] if linux else '?'}, Python {platform.python_version()}",
            f"- tmpfs: {file_system(bench.tmpfs)}, disk: {file_system(bench.disk)}",
            f"- {', '.join(versions)}",
        )
    )


def section(about: str, results: Sequence[Result]) -> str:
    return "\n\n".join((about, targets(results), *(result.table() for result in results)))


def write(path: Path, backend: str, text: str) -> None:
    """Replace the backend's section of the results file, or append it; the rest is kept."""
    content = path.read_text() if path.exists() else HEADING
    begin, end = f"<!-- {backend}: begin -->", f"<!-- {backend}: end -->"
    block = f"{begin}\n## {backend}\n\n{text}\n{end}\n"
    before, found, rest = content.partition(begin)
    after = rest.partition(f"{end}\n")[2] if found else ""
    path.write_text(before + ("" if found else "\n") + block + after)
