"""The documentation: its examples run, and what it points to exists."""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
import wsgiref.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from wsgiref.validate import validator

import pytest

from imgstore import StoreManager, errors
from imgstore.config.loading import installed_drivers
from imgstore.drivers.filesystem import FilesystemStore

pytestmark = pytest.mark.tree

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", *sorted(DOCS.rglob("*.md"))]
LIMIT = 120  # seconds for one page
# The examples' directory; each test has one of its own in its place.
EXAMPLES = "/srv/images"

FENCE = re.compile(
    r"^```(\{code-block\} )?(?P<language>\w+)\n"
    r"(?:(?::caption:|#) (?P<caption>Output|\S+\.\w+)\n)?"
    r"(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@dataclass(frozen=True)
class Block:
    """A block of code in a page.

    One with a caption, or whose first line is a comment with nothing but a name, is that file.
    """

    language: str
    caption: str | None
    text: str
    line: int


def blocks(page: Path, directory: Path) -> list[Block]:
    """Return the blocks of a page, with the examples' files below ``directory``."""
    text = page.read_text("utf-8")
    found = []
    for match in FENCE.finditer(text):
        code = match["code"].replace(EXAMPLES, str(directory / "images"))
        line = text.count("\n", 0, match.start("code"))
        found.append(Block(match["language"], match["caption"], code, line))
    return found


def write_files(page: Path, directory: Path) -> None:
    for block in blocks(page, directory):
        if block.caption not in {None, "Output"}:
            (directory / block.caption).write_text(block.text, "utf-8")


def run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(directory)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path) -> None:
    """A page's examples, one after another, are a program that prints what the page says."""
    write_files(page, tmp_path)
    script, expected = "", ""
    for block in blocks(page, tmp_path):
        if block.caption == "Output":
            expected += block.text
        elif block.language == "python" and block.caption is None:
            script += "\n" * (block.line - script.count("\n")) + block.text
    (tmp_path / f"{page.name}.py").write_text(script, "utf-8")
    done = run(tmp_path, "-W", "error", f"{page.name}.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected


def test_the_driver_of_the_page_keeps_the_contract(tmp_path: Path) -> None:
    """The driver of the page is installed, found by its entry point, and passes every test."""
    write_files(DOCS / "writing-a-driver.md", tmp_path)
    site = tmp_path / "site"
    options = ("--quiet", "--no-build-isolation", "--no-deps", "--no-index", "--target", str(site))
    installed = run(tmp_path, "-m", "pip", "install", *options, ".")
    assert installed.returncode == 0, installed.stderr
    (tmp_path / "sqlite_store.py").unlink()
    write = (
        "import sys; sys.path.insert(0, 'site'); import pytest; sys.exit(pytest.main(['-q', '.']))"
    )
    tested = run(tmp_path, "-c", write)
    assert tested.returncode == 0, tested.stdout
    configured = run(tmp_path, "-c", "import sys; sys.path.insert(0, 'site'); import use_it")
    assert configured.returncode == 0, configured.stderr


CONTENT = b"0123456789"
ANSWERS = [
    ("", "200 OK", None, CONTENT),
    ("bytes=0-", "206 Partial Content", "bytes 0-9/10", CONTENT),
    ("bytes=2-4", "206 Partial Content", "bytes 2-4/10", b"234"),
    ("bytes=8-99", "206 Partial Content", "bytes 8-9/10", b"89"),
    ("bytes=-3", "206 Partial Content", "bytes 7-9/10", b"789"),
    ("bytes=-99", "206 Partial Content", "bytes 0-9/10", CONTENT),
    ("bytes=10-", "416 Range Not Satisfiable", "bytes */10", b"416 Range Not Satisfiable"),
    ("bytes=-0", "416 Range Not Satisfiable", "bytes */10", b"416 Range Not Satisfiable"),
    ("bytes=4-2", "200 OK", None, CONTENT),
    ("bytes=-", "200 OK", None, CONTENT),
    ("bytes=0-1,3-4", "200 OK", None, CONTENT),
    ("lines=1-2", "200 OK", None, CONTENT),
    (f"bytes=0-{'9' * 5000}", "200 OK", None, CONTENT),
    (f"bytes=0-{'9' * 19}", "206 Partial Content", "bytes 0-9/10", CONTENT),
    ("bytes=\N{ARABIC-INDIC DIGIT ONE}-", "200 OK", None, CONTENT),
]


@pytest.fixture(params=[None, wsgiref.util.FileWrapper], ids=["iterated", "wrapped"])
def ask(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Answer]]:
    """Give a function that asks the image server of the page, which follows the rules of WSGI."""
    write_files(DOCS / "web-service.md", tmp_path)
    make_application = runpy.run_path(str(tmp_path / "image_server.py"))["make_application"]
    with FilesystemStore("fast", datadir=str(tmp_path / "images")) as store:
        images = {name: store.add(name, data) for name, data in [("a", CONTENT), ("empty", b"")]}
        locations = {name: image.location.url for name, image in images.items()}
        locations["lost"] = f"{store.url_prefix}/lost"
        application = validator(make_application(StoreManager([store]), locations))

        def send(name: str, **headers: str) -> Answer:
            environ = {"PATH_INFO": f"/{name}", "SCRIPT_NAME": "", "QUERY_STRING": "", **headers}
            wsgiref.util.setup_testing_defaults(environ)
            if request.param is not None:
                environ["wsgi.file_wrapper"] = request.param
            answer = Answer()
            chunks = application(environ, answer.start)
            answer.body = b"".join(chunks)
            chunks.close()
            return answer

        yield send


@dataclass
class Answer:
    status: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: object = None) -> None:
        self.status, self.headers = status, dict(headers)


@pytest.mark.parametrize(("wanted", "status", "content_range", "body"), ANSWERS)
def test_the_image_server_serves_ranges(ask, wanted, status, content_range, body) -> None:
    """One range of bytes is served as RFC 9110 says; what it lets a server ignore is ignored."""
    answer = ask("a", HTTP_RANGE=wanted)
    assert (answer.status, answer.body) == (status, body)
    assert answer.headers.get("Content-Range") == content_range
    assert answer.headers["Content-Length"] == str(len(body))


def test_the_image_server_tells_what_is_missing(ask) -> None:
    """A missing image is 404 before the body begins, and an empty one has no range."""
    assert [ask(name).status[:3] for name in ("lost", "unknown", "empty")] == ["404", "404", "200"]
    assert ask("empty", HTTP_RANGE="bytes=0-").status.startswith("416")
    assert ask("a", REQUEST_METHOD="PUT", CONTENT_LENGTH="0").status.startswith("405")


def test_the_image_server_answers_head(ask) -> None:
    """HEAD has the headers of the whole image, whatever range it asks for, and no body."""
    answer = ask("a", REQUEST_METHOD="HEAD", HTTP_RANGE="bytes=2-4")
    assert (answer.status, answer.headers["Content-Length"]) == ("200 OK", str(len(CONTENT)))
    assert answer.body == b""
    missing = ask("lost", REQUEST_METHOD="HEAD")
    assert (missing.status[:3], missing.body) == ("404", b"")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    """Whatever file a page links to exists."""
    missing = [
        target
        for target in LINK.findall(FENCE.sub("", page.read_text("utf-8")))
        if not (page.parent / target).exists()
    ]
    assert missing == []


def test_the_readme_is_short() -> None:
    """The README has at most 120 lines."""
    assert len((REPOSITORY / "README.md").read_text("utf-8").splitlines()) <= 120


@pytest.mark.parametrize("name", sorted(errors.__all__))
def test_every_error_is_explained(name: str) -> None:
    """The page for embedders says of every error what a service does about it."""
    assert f"`{name}`" in (DOCS / "embedding.md").read_text("utf-8")


def test_every_page_is_python_of_this_version() -> None:
    """Examples that only stand in files parse as Python too."""
    for page in PAGES:
        for block in blocks(page, DOCS):
            if block.language == "python":
                ast.parse(block.text, filename=f"{page}:{block.line}")


def test_every_option_is_documented_by_its_driver() -> None:
    """Each driver's page names all of its options."""
    for driver in installed_drivers():
        page = DOCS / "drivers" / f"{driver.__module__.split('.')[2]}.md"
        missing = [
            opt.name for opt in driver.OPTIONS.values() if opt.name not in page.read_text("utf-8")
        ]
        assert missing == [], page
