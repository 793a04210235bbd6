"""Images that are overwritten in place while they are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imgstore import errors
from imgstore.data.reader import ImageReader
from imgstore.drivers.filesystem import FilesystemStore
from imgstore.location import Location

SIZE = 300_000
NEW = b"b" * SIZE


@pytest.fixture(params=[0, 30], ids=["direct", "with a time limit"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FilesystemStore]:
    root = tmp_path / "images"
    with FilesystemStore("file", datadir=root, fsync=False, timeout=request.param) as store:
        store.add("image", b"a" * SIZE)
        yield store


@pytest.fixture
def image(store: FilesystemStore, tmp_path: Path) -> Path:
    return tmp_path / "images" / "image"


def overwrite(path: Path) -> None:
    """Write all of it anew, once the clock of the file system has gone on."""
    before = path.stat().st_mtime_ns
    while path.stat().st_mtime_ns == before:
        with open(path, "rb+") as file:
            file.write(NEW)


def through_a_link(path: Path) -> None:
    os.link(path, path.parent.parent / "link")
    overwrite(path.parent.parent / "link")
    os.unlink(path.parent.parent / "link")


def in_disguise(path: Path) -> None:
    before = path.stat()
    overwrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def send(reader: ImageReader, count: int) -> None:
    with open(os.devnull, "wb") as sink:
        fd = reader.fileno()
        while sent := os.sendfile(sink.fileno(), fd, None, count):
            count -= sent


def by_sendfile(reader: ImageReader) -> None:
    send(reader, SIZE - 1000)
    reader.read()


def by_sendfile_to_the_end(reader: ImageReader) -> None:
    send(reader, SIZE)
    reader.read(1)


@pytest.mark.parametrize("change", [overwrite, through_a_link])
@pytest.mark.parametrize(
    "read", [list, ImageReader.read, by_sendfile, by_sendfile_to_the_end], ids=lambda f: f.__name__
)
def test_a_mixture_is_an_error(
    store: FilesystemStore,
    image: Path,
    change: Callable[[Path], None],
    read: Callable[[ImageReader], object],
) -> None:
    """Whichever way the bytes go, the last of them are not delivered as if nothing had been."""
    with store.get(f"file://{image}") as reader:
        reader.read(10)
        change(image)
        with pytest.raises(errors.IntegrityError):
            read(reader)
        with pytest.raises(errors.IntegrityError):
            reader.read()


def test_a_mixture_in_a_range(store: FilesystemStore, image: Path) -> None:
    """A range that ends before the image does is looked at as well."""
    with store.get(f"file://{image}", offset=5, length=SIZE - 10) as reader:
        reader.read(10)
        overwrite(image)
        with pytest.raises(errors.IntegrityError):
            reader.read()


@pytest.mark.parametrize("algorithms", [(), ("sha256",)])
def test_a_mixture_is_not_stored(
    store: FilesystemStore, image: Path, tmp_path: Path, algorithms: tuple[str, ...]
) -> None:
    """A reader that becomes the source of an add is looked at before the image is published."""
    with FilesystemStore("other", datadir=tmp_path / "other", fsync=False) as other:
        with store.get(f"file://{image}") as reader:
            reader.read(10)
            overwrite(image)
            with pytest.raises(errors.IntegrityError):
                other.add("copy", reader, algorithms=algorithms)
        assert list((tmp_path / "other").iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        os.unlink,
        lambda path: path.rename(path.with_name("renamed")),
        lambda path: path.chmod(0o600),
        lambda path: path.chmod(path.stat().st_mode),
        lambda path: os.chown(path, os.getuid(), os.getgid()),
        lambda path: os.link(path, path.parent / "link"),
        lambda path: os.replace(_other(path), path),
    ],
    ids=[
        "removed",
        "renamed",
        "permissions",
        "same permissions",
        "same owner",
        "linked",
        "replaced",
    ],
)
def test_what_leaves_the_content_alone(
    store: FilesystemStore, image: Path, change: Callable[[Path], object]
) -> None:
    """An open image is read to its end whatever becomes of its names, owner and permissions."""
    with store.get(f"file://{image}") as reader:
        reader.read(10)
        _after_a_tick(image)
        change(image)
        assert reader.read() == b"a" * (SIZE - 10)


def test_a_change_of_status_is_the_same_version(store: FilesystemStore, image: Path) -> None:
    """A read that goes on after a failure finds its version under a new owner."""

    def open_version(version: str | None) -> str | None:
        opened = store._get(Location("file", str(image)), 0, None, if_version=version, context=None)
        opened.close()
        return opened.version

    version = open_version(None)
    _after_a_tick(image)
    os.chown(image, os.getuid(), os.getgid())
    assert open_version(version) == version
    overwrite(image)
    with pytest.raises(errors.IntegrityError):
        open_version(version)


def test_a_modification_time_that_is_set_back_hides_a_write(
    store: FilesystemStore, image: Path
) -> None:
    """As documented: a status cannot tell it from a new owner."""
    with store.get(f"file://{image}") as reader:
        reader.read(10)
        in_disguise(image)
        assert reader.read().endswith(b"b")
        assert not reader.read()


def _after_a_tick(path: Path) -> None:
    """Wait until a change would get another time than the last one did."""
    clock = path.with_name("clock")
    while not clock.exists() or clock.stat().st_mtime_ns <= path.stat().st_ctime_ns:
        clock.write_bytes(b"")
    clock.unlink()


def _other(path: Path) -> Path:
    other = path.with_name("other")
    other.write_bytes(NEW)
    return other
