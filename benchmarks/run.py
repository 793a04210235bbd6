"""Runs the benchmarks of the chosen backends and writes the results file.

A backend is a module `cases_<name>.py` with `cases(bench)`, a context manager that yields its
cases, and `INCUMBENT`, the requirements of the environment that the incumbent gets.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import report
from model import MIB, Bench, Case, Figures, Task

# Last, so that imgstore is the installed one wherever it is imported.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from tools import bindings

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = HERE.parent / ".venv"
RUN_LIMIT = 1800  # seconds; a run that takes longer hangs


def incumbent_python(requirements: Sequence[str]) -> Path:
    """Return the incumbent's interpreter; make its environment when the requirements changed."""
    home = ENVIRONMENTS / "bench-incumbent"
    stamp, wanted = home / "requirements.txt", "\n".join(sorted(requirements)) + "\n"
    python = home / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *requirements], check=True)
        stamp.write_text(wanted)
    # Every time: an environment may be older than the distribution's modules. Who needs them says
    # so where they are missing.
    bindings.link(python)
    return python


def version(python: Path, distribution: str) -> str:
    code = f"from importlib.metadata import version; print(version({distribution!r}))"
    argv = [str(python), "-c", code]
    done = subprocess.run(argv, cwd="/", check=False, capture_output=True, text=True)
    return f"{distribution} {done.stdout.strip() or '(not installed)'}"


def measure(task: Task, python: Path) -> Figures:
    """Carry out the task in a fresh process, with its bytecode kept outside the tree."""
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(ENVIRONMENTS / "bench-bytecode")}
    # requests lets bundles of the environment replace those that its caller names.
    bundles = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONSAFEPATH", *bundles):
        environment.pop(name, None)
    done = subprocess.run(
        [str(python), str(HERE / "worker.py"), json.dumps(dataclasses.asdict(task))],
        check=False,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        timeout=RUN_LIMIT,
    )
    if done.returncode:
        raise SystemExit(f"{task.side}: {task.operation} failed with status {done.returncode}")
    return Figures(**json.loads(done.stdout))


def agree(case: Case, figures: Mapping[str, Sequence[Figures]]) -> None:
    """Stop when two contenders read the same source and computed different digests."""
    seen: dict[tuple[str, str], str] = {}
    for label, runs in figures.items():
        source = case.runs[label].source
        for name, digest in ((k, v) for run in runs for k, v in run.digests.items()):
            if seen.setdefault((source, name), digest) != digest:
                raise SystemExit(f"{case.name}: {label} computed another {name}")


def settle(directory: Path, size: int) -> None:
    """Write out what the run before left unwritten, and have `size` bytes of memory at hand.

    A hypervisor takes free memory back and gives it again page by page, at up to 2 s for each GiB:
    without this, the contender that happens to get such pages pays for them.
    """
    os.sync()
    block = bytes(MIB)
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(size // MIB):
            file.write(block)


def run_case(case: Case, pythons: Mapping[str, Path], *, runs: int, tmpfs: Path) -> report.Result:
    for source in case.sources:
        source.make()
    largest = max((source.data for source in case.sources), default=0)
    figures: dict[str, list[Figures]] = {label: [] for label in case.runs}
    with case.around():
        for number in range(runs):
            for label, task in case.runs.items():
                if number and label in case.once:
                    continue
                side = "incumbent" if task.side == "incumbent" else "imgstore"
                settle(tmpfs, largest)
                figures[label].append(measure(task, pythons[side]))
                seconds = figures[label][-1].seconds
                print(f"{case.name} {number + 1}/{runs}: {label}: {seconds:.4f} s", file=sys.stderr)
    agree(case, figures)
    return report.Result(case, figures)


@contextmanager
def directories(options: argparse.Namespace) -> Iterator[Bench]:
    """Make a directory on tmpfs and one on disk, and remove them with all that is in them."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-data-", dir=options.tmpfs) as tmpfs,
        tempfile.TemporaryDirectory(prefix="bench-data-", dir=options.disk) as disk,
    ):
        yield Bench(tmpfs=Path(tmpfs), disk=Path(disk), quick=options.quick)


def run_backend(backend: str, options: argparse.Namespace) -> bool:
    """Run the backend's cases, print them, write its section; return whether a case was found."""
    module = importlib.import_module(f"cases_{backend}")
    pythons = {"imgstore": Path(sys.executable), "incumbent": incumbent_python(module.INCUMBENT)}
    runs = options.runs
    with directories(options) as bench, module.cases(bench) as cases:
        chosen = [case for case in cases if not options.case or case.name in options.case]
        results = []
        for case in chosen:
            least = 1 if options.quick else case.least_runs
            results.append(run_case(case, pythons, runs=max(runs, least), tmpfs=bench.tmpfs))
            print(f"\n{results[-1].table()}\n\n{report.targets(results[-1:])}\n", flush=True)
        versions = (
            version(pythons["imgstore"], "imgstore"),
            version(pythons["incumbent"], "glance_store"),
        )
        if options.output and chosen:
            about = report.machine(bench, runs=runs, versions=versions)
            report.write(options.output, backend, report.section(about, results))
    return bool(chosen)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    known = sorted(path.stem.removeprefix("cases_") for path in HERE.glob("cases_*.py"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", default=",".join(known), help=f"of {', '.join(known)}")
    parser.add_argument("--runs", type=int, help="of every contender; 5, or 1 with --quick")
    parser.add_argument("--case", action="append", help="only this case; may be repeated")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the machinery")
    parser.add_argument("--tmpfs", type=Path, default=Path("/dev/shm"), help="8 GiB are needed")
    parser.add_argument("--disk", type=Path, default=ENVIRONMENTS, help="6 GiB are needed")
    parser.add_argument(
        "--output",
        type=Path,
        help="results file; RESULTS.md, or none where --case or --quick make it incomplete",
    )
    options = parser.parse_args(arguments)
    options.backends = options.backends.split(",")
    if unknown := set(options.backends) - set(known):
        parser.error(f"unknown backends: {', '.join(sorted(unknown))}")
    options.runs = options.runs or (1 if options.quick else 5)
    if not (options.output or options.case or options.quick):
        options.output = HERE / "RESULTS.md"
    return options


def main() -> None:
    options = parse()
    # Gigabytes of memory would stay taken: let the directories be removed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    ENVIRONMENTS.mkdir(exist_ok=True)
    found = [run_backend(backend, options) for backend in options.backends]
    if not any(found):
        raise SystemExit(f"no case named {', '.join(options.case)}")


if __name__ == "__main__":
    main()
