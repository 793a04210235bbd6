"""The Glance that tests run: it comes back, changes its library, and has a second process."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.glance import PYTHON, Glance, facade, file_store
from servers.glance import glance as run_glance
from servers.glance_client import Images, unsent
from servers.process import until
from servers.scratch import Scratch

pytestmark = [pytest.mark.servers("glance"), pytest.mark.lab]

DATA = b"the bytes of a disk" * 10_000


@pytest.fixture(scope="module")
def _glance(scratch: Scratch) -> Iterator[Glance]:
    with run_glance(scratch, {"files": file_store(scratch.directory("images"))}) as server:
        yield server


@pytest.fixture
def images(_glance: Glance) -> Iterator[Images]:
    _glance.process.revive()
    made = Images(_glance)
    yield made
    made.delete(*made.ids())


def library_of(server: Glance) -> str:
    """Return the path of modules that a service was started with, if it asks for one."""
    told = Path(f"/proc/{server.process.pid}/environ").read_text().split("\0")
    return dict(line.split("=", 1) for line in told if line).get("PYTHONPATH", "")


def test_it_comes_back_where_it_was(images: Images) -> None:
    """Killed and started again it has its port and its images."""
    image, url = images.add(DATA), images.url
    images.server.kill()
    images.server.process.start()
    assert images.server.url == url
    assert images.read(image) == DATA


def test_it_changes_its_library(images: Images) -> None:
    """Each library is really the one that it is started with, at the same address."""
    image, url = images.add(DATA), images.url
    assert library_of(images.server) == facade()
    assert "glance_store is imgstore" in images.server.process.log_text(limit=1 << 20)
    images.server.switch("glance_store")
    try:
        assert library_of(images.server) == ""
        assert "glance_store is imgstore" not in images.server.process.log_text(limit=1 << 20)
        assert (images.server.url, images.read(image)) == (url, DATA)
    finally:
        images.server.switch("imgstore")
    assert library_of(images.server) == facade()


def test_a_second_process(images: Images) -> None:
    """It has the same images, and ends before the first one does."""
    with images.server.another("glance_store") as (url, process):
        other = Images(images.server, url=url)
        image = other.add(DATA)
        assert images.read(image) == other.read(image) == DATA
        assert process.alive
    assert not process.alive
    assert images.read(image) == DATA


def test_what_it_tells(images: Images) -> None:
    """Requests that it answered, and what is staged or in its cache."""
    image = images.stage(DATA)
    assert images.server.staged == [image]
    images.bring(image, ["files"])
    assert images.server.staged == []
    images.read(image)
    until(lambda: images.server.cached == [image], seconds=30, what="the image is in the cache")
    asked = [(each.path, each.status) for each in images.server.requests.read("GET")]
    assert (f"/v2/images/{image}/file", 200) in asked


def test_an_upload_that_is_begun(images: Images) -> None:
    """It is taken as far as it was sent, and given up where its client goes."""
    image = images.create()
    with images.begun(image, len(DATA), store="files") as connection:
        connection.send(DATA[:-1])
        until(lambda: images.is_saving(image), seconds=30, what="the upload has begun")
        until(lambda: unsent(connection) == 0, seconds=30, what="Glance has taken all")
    until(lambda: not images.is_saving(image), seconds=30, what="Glance gave the upload up")


@pytest.mark.parametrize("given", ["", "/other"])
def test_another_library(given: str) -> None:
    """IMGSTORE_GLANCE names a directory; empty it asks for glance_store itself."""
    program = "from servers.glance import facade; print(facade())"
    done = subprocess.run(
        [os.fspath(PYTHON), "-c", program],
        env=os.environ | {"IMGSTORE_GLANCE": given, "PYTHONPATH": os.fspath(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{given}\n"
