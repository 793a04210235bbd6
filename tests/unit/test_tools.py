"""What runs the tests: order, families, and what a failed run says last."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.tree

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tools():
    """Give a function that imports a module of the checkout's tools, and not its imgstore."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(REPOSITORY)])
        yield lambda name: importlib.import_module(f"tools.{name}")


@pytest.fixture
def step(tools):
    return tools("steps").Step


@pytest.fixture
def run(tools):
    """Give a function that runs steps and returns labels as they began, and the results."""

    def run(steps, cores=1, fails=(), seconds=None):
        begun, lock = [], threading.Lock()

        def execute(step):
            with lock:
                begun.append(step.label)
            return tools("steps").Result(step, passed=step.label not in fails, seconds=1.0)

        results = tools("schedule").Schedule(steps, cores, seconds or {}).run(execute)
        return begun, {result.step.label: result for result in results}

    return run


def test_the_longest_chain_begins(step, run):
    """A short step that a long one needs comes before one of middle length."""
    steps = [
        step("middle", budget=50),
        step("long", budget=90, needs=("short",)),
        step("short", budget=1),
    ]
    begun, _ = run(steps)
    assert begun == ["short", "long", "middle"]


def test_what_the_last_run_took_counts(step, run):
    """Seconds of a run before go before the guess."""
    steps = [step("one", budget=10), step("two", budget=20)]
    assert run(steps)[0] == ["two", "one"]
    assert run(steps, seconds={"one": 30.0})[0] == ["one", "two"]


def test_a_step_that_waits_has_room_beside_the_others(tools, step):
    """With one core a step that works and one that waits run at once, and no third."""
    both, third = threading.Barrier(2), []

    def execute(step):
        if step.label == "third":
            third.append(both.n_waiting)
        else:
            both.wait(30)
        return tools("steps").Result(step, passed=True)

    steps = [step("waits", waits=True), step("works"), step("third", budget=1)]
    results = tools("schedule").Schedule(steps, 1).run(execute)
    assert len(results) == 3
    assert third == [0]


def test_what_needs_a_failed_step_is_not_run(step, run):
    """Neither is what needs such a step in turn; the others are."""
    steps = [
        step("broken"),
        step("next", needs=("broken",)),
        step("last", needs=("next",)),
        step("other"),
    ]
    begun, results = run(steps, fails=("broken",))
    assert sorted(begun) == ["broken", "other"]
    assert results["next"].missing == "not run: it needs 'broken', which failed"
    assert results["last"].missing == "not run: it needs 'next', which failed"
    assert results["other"].passed


def test_an_interrupted_run_ends_what_runs(tools, step):
    """Whoever interrupts the run does not wait for the steps."""
    ended = threading.Event()

    def execute(step):
        if step.label == "broken":
            raise KeyboardInterrupt
        assert ended.wait(60)
        return tools("steps").Result(step, passed=False)

    schedule = tools("schedule").Schedule([step("long"), step("broken")], 2, {}, ended.set)
    with pytest.raises(KeyboardInterrupt):
        schedule.run(execute)
    assert ended.is_set()


def test_a_step_that_cannot_be_carried_out_has_failed(tools, step, tmp_path, monkeypatch):
    """Whatever it raises stands in its log; the others go on."""
    monkeypatch.setattr(tools("steps"), "LOGS", tmp_path)  # where a run keeps its logs
    result = tools("steps").run(step("odd", prepare=lambda: 1 // 0), time.monotonic() + 60)
    assert not result.passed
    assert result.failures()[-1] == "odd: ZeroDivisionError: integer division or modulo by zero"


def test_a_need_that_nobody_fulfils_is_an_error(tools, step):
    """A label that is misspelt is told at once."""
    with pytest.raises(ValueError, match="steps need what nobody does: nothing"):
        tools("schedule").Schedule([step("one", needs=("nothing",))], 1)


def test_every_file_of_functional_tests_joins_a_family(tools):
    """Each file names servers that some family has together."""
    files = sorted((REPOSITORY / "tests" / "functional").glob("test_*.py"))
    groups = tools("families").grouped(files)
    assert sorted(path for paths in groups.values() for path in paths) == files


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import pytest\n", "joins no family of tests: write pytestmark"),
        ("pytestmark = pytest.mark.heavy\n", "joins no family of tests: write pytestmark"),
        ('pytestmark = pytest.mark.servers("tape")\n', "no family has tape together"),
    ],
)
def test_a_file_without_a_family_is_an_error(tools, tmp_path, text, said):
    """A new file must name its servers, and a family must have them."""
    path = tmp_path / "test_new.py"
    path.write_text(text)
    with pytest.raises(tools("families").NoFamily, match=said):
        tools("families").grouped([path])


def test_a_failed_run_names_the_failed_tests_last(tools, tmp_path, capsys, monkeypatch):
    """The last lines name each failed test with its error's first line."""
    monkeypatch.setattr(tools("steps"), "LOGS", tmp_path)  # where a run keeps its logs
    step, result = tools("steps").Step, tools("steps").Result
    tests, lint = step("swift", tests=True, command=("pytest",)), step("lint", command=("make",))
    tests.log.write_text(
        "FAILED tests/functional/test_swift.py::test_it[one] - errors.Unavailable: swift: add\n"
        "ERROR tests/functional/test_swift.py::test_that - servers.missing.Missing\n"
        "ERROR    some.logger:client.py:1 a line of a log\n"
        "FAILED ../../../tests/functional/test_swift.py::test_it[one] - errors.Una…\n"
        "===== 1 failed, 41 passed, 1 error in 3.21s =====\n"
    )
    lint.log.write_text("E501 Line too long\nFound 1 error.\n")
    results = [result(tests, passed=False, seconds=3.2), result(lint, passed=False, seconds=1.0)]
    tools("report").show(results, 4.2, ["3.13"])
    printed = capsys.readouterr().out
    assert "absent              Python 3.13" in printed
    assert "tests: 41 passed, 2 failed" in printed
    assert printed.splitlines()[-4:] == [
        "FAILED tests/functional/test_swift.py::test_it[one] - errors.Unavailable: swift: add",
        "ERROR tests/functional/test_swift.py::test_that - servers.missing.Missing",
        "lint: E501 Line too long",
        "lint: Found 1 error.",
    ]


def test_a_step_that_hung_says_where(tools, tmp_path, monkeypatch):
    """A killed run prints no summary: what failed before, and the last stack's innermost frames."""
    monkeypatch.setattr(tools("steps"), "LOGS", tmp_path)
    tests = tools("steps").Step("cinder", tests=True, command=("pytest",))
    frames = "".join(f'  File "f{number}.py", line 1 in f\n' for number in range(40))
    tests.log.write_text(
        "\nFAILED tests/functional/test_cinder.py::test_it - errors.TimedOut: cinder: add\n"
        f"Timeout (0:04:00)!\nThread 0x1 (most recent call first):\n{frames}\n"
        "stopped: no test has ended for 420 s\n"
    )
    named, why, head, *quoted = tools("steps").Result(tests, passed=False).failures()
    assert named.startswith("FAILED tests/functional/test_cinder.py::test_it")
    assert why == "cinder: stopped: no test has ended for 420 s"
    assert head == "cinder: Thread 0x1 (most recent call first):"
    assert quoted[0] == 'cinder:   File "f0.py", line 1 in f'
    assert len(quoted) < 20


def test_tests_that_fall_silent_are_ended(tools, tmp_path, monkeypatch):
    """A test in a call that no signal ends does not take the whole run's time."""
    steps = tools("steps")
    monkeypatch.setattr(steps, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(steps, "ENVIRONMENTS", tmp_path)
    monkeypatch.setattr(steps, "REPORT", 0.05)
    monkeypatch.setattr(steps, "SILENCE", 0.2)
    monkeypatch.setattr(steps, "GRACE", 0.1)
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"
    step = steps.Step("deaf", (sys.executable, "-c", deaf), tests=True)
    result = steps.run(step, time.monotonic() + 500)
    assert not result.passed
    assert result.failures() == ["deaf: stopped: no test has ended for 0.2 s"]


@pytest.fixture
def suite(tools, tmp_path):
    """Give a suite of Glance's tests, of which four have ended."""
    made = tools("glance_suites").Suite("unit", tmp_path)
    for name, status in [("a", "success"), ("b", "fail"), ("c", "skip"), ("d", "xfail")]:
        made._note(name, {"test_status": status, "file_bytes": b"x\n  store.NotFound: no\n"})
    return made


def test_outcomes_of_glances_tests(suite):
    """Each test has one; what a test says before its end is none."""
    suite._note("e", {"test_status": "inprogress"})
    assert suite.outcomes == {"a": "passed", "b": "failed", "c": "skipped", "d": "passed"}
    assert suite.failed() == ["b"]


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        ({"a": "passed", "b": "failed", "c": "skipped", "d": "passed"}, []),
        ({"b": "passed"}, ["glance::b - failed, on glance_store passed. store.NotFound: no"]),
        ({"c": "passed"}, ["glance::c - skipped, on glance_store passed. "]),
        ({"a": "skipped"}, ["glance::a - passed, on glance_store skipped. "]),
        ({"e": "passed"}, ["glance::e - not run, on glance_store passed. "]),
    ],
)
def test_a_test_of_glance_that_ends_otherwise_is_a_failure(tools, suite, expected, said):
    """One that fails, is skipped or vanishes, and one that was not skipped before."""
    usual = {"a": "passed", "b": "failed", "c": "skipped", "d": "passed"}
    found = tools("glance_suites").differences(suite, usual | expected)
    assert found == [f"FAILED {line}" for line in said]


def test_a_test_of_glance_that_nobody_knows_is_a_failure(tools, suite):
    """So a module that cannot be imported is one, too."""
    found = tools("glance_suites").differences(suite, {"b": "failed", "c": "skipped"})
    assert [line.split(" - ")[1] for line in found] == ["passed, on glance_store unknown. "] * 2


def test_the_outcomes_on_glance_store_are_of_both_suites(tools):
    """The recorded file names each test once, with what became of it."""
    outcomes = tools("glance").OUTCOMES
    found = {name: tools("glance_suites").read(outcomes, name) for name in ("unit", "functional")}
    assert sum(map(len, found.values())) == len(outcomes.read_text().splitlines())
    assert {outcome for each in found.values() for outcome in each.values()} <= {
        "passed",
        "skipped",
    }


def test_only_tests_that_wait_for_fixed_times_are_run_once_more(tools, suite):
    """A unit test of Glance that fails once has failed, and so has a module without tests."""
    assert suite.once_more() == []
    suite.name = "functional"
    suite._note("unittest.loader._FailedTest.e", {"test_status": "fail"})
    assert suite.failed() == ["b", "unittest.loader._FailedTest.e"]
    assert suite.once_more() == ["b"]


@pytest.mark.parametrize(
    ("package", "library", "expected"),
    [
        ("/env/site-packages/imgstore_glance/path/glance_store/__init__.py", "facade", True),
        ("/other/glance_store/__init__.py", "/other", True),
        ("/env/site-packages/glance_store/__init__.py", "facade", False),
        ("/env/site-packages/glance_store/__init__.py", "", True),
        ("/env/site-packages/imgstore_glance/path/glance_store/__init__.py", "", False),
    ],
)
def test_the_library_that_is_meant_is_tested(tools, package, library, expected):
    """One by its directory, without asking what it says of itself; or the one that is installed."""
    library = library.replace("facade", "/env/site-packages/imgstore_glance/path")
    assert tools("glance_suites").is_of(package, library) is expected


@pytest.mark.parametrize(
    ("asked", "status"), [("", 0), ("nginx", 0), ("xfs, glance", 1), ("all", 1)]
)
def test_glances_tests_where_there_are_no_namespaces(tmp_path, asked, status):
    """They are left out, which is a failure where they are required."""
    refusing = tmp_path / "unshare"
    refusing.write_text("#!/bin/sh\nexit 1\n")
    refusing.chmod(0o755)
    environ = {key: value for key, value in os.environ.items() if key != "CI"}
    environ |= {"PATH": f"{tmp_path}:{environ['PATH']}", "IMGSTORE_REQUIRE": asked}
    done = subprocess.run(
        [sys.executable, "-m", "tools.glance"],
        cwd=REPOSITORY,
        env=environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (status, "")
    assert "left out: they need namespaces" in done.stdout


@pytest.mark.parametrize(
    ("kind", "goes_on"), [("moto", True), ("openstack", True), ("glance", False)]
)
def test_an_environment_that_cannot_be_made(tools, monkeypatch, kind, goes_on):
    """Tests that need its servers say so, unless their own pytest is what is missing."""
    monkeypatch.setattr(tools("run_tests"), "IN_CI", False)

    def refusing(kind):
        raise subprocess.CalledProcessError(1, ["pip", "install", kind])

    assert tools("run_tests").provide(kind, refusing) is goes_on


@pytest.mark.parametrize("parts", [{}, {"quick": True}, {"everything": True}, {"lab_only": True}])
def test_each_run_has_the_steps_that_its_steps_need(tools, parts):
    """Each kind of run can be scheduled; imgstore-glance is tested on two interpreters."""
    pythons = dict.fromkeys(("3.10", "3.11", "3.12"), sys.executable)
    made = tools("run_tests").Run(pythons, **parts).steps()
    tools("schedule").Schedule(made, 1)
    labels = [step.label for step in made]
    assert len(set(labels)) == len(labels)
    of_facade = [label for label in labels if label.startswith("imgstore-glance")]
    versions = [] if parts.keys() & {"quick", "lab_only"} else ["3.10", "3.11"]
    assert of_facade == [f"imgstore-glance tests {version}" for version in versions]
