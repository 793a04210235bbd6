"""Images that are saved to files of file systems that are full, fail, or are others."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.filesystems import Filesystems
from servers.fuse import FaultyFilesystem

from imgstore import Store
from imgstore.drivers.memory import MemoryStore
from imgstore.testing.harness import pattern

pytestmark = pytest.mark.servers("filesystems")

MIB = 1024 * 1024
DATA = pattern(3 * MIB + 5)
FORMER = b"former"
URL = "memory://memory/image"


@pytest.fixture
def store() -> Iterator[Store]:
    with MemoryStore("memory") as made:
        made.add("image", DATA)
        yield made


def file_in(directory: Path) -> Path:
    """Make a directory of its own, and a file in it."""
    path = directory / "files" / "file"
    path.parent.mkdir()
    path.write_bytes(FORMER)
    return path


@pytest.mark.parametrize("size", [MIB, 2 * MIB])
def test_a_full_disk_leaves_the_former_file(
    store: Store, filesystems: Filesystems, size: int
) -> None:
    """The error is that of the file, and no draft takes the room that there is."""
    root = filesystems.tmpfs(size=size)
    path = file_in(root)
    free = os.statvfs(root).f_bfree
    for _ in range(2):
        with pytest.raises(OSError, match="No space left") as caught:
            store.save(URL, path)
        assert type(caught.value) is OSError
        assert path.read_bytes() == FORMER
        assert os.listdir(path.parent) == ["file"]
        assert os.statvfs(root).f_bfree == free


def test_a_link_to_another_file_system(
    store: Store, filesystems: Filesystems, tmp_path: Path
) -> None:
    """The draft lies beside the file that is meant, whatever leads to it."""
    path = file_in(filesystems.tmpfs(size=16 * MIB))
    link, directory = tmp_path / "link", tmp_path / "directory"
    link.symlink_to(path)
    directory.symlink_to(path.parent)
    for name in (link, directory / "file", directory / "new"):
        store.save(URL, name)
        assert name.read_bytes() == DATA
    assert link.is_symlink()
    assert sorted(os.listdir(path.parent)) == ["file", "new"]
    assert sorted(os.listdir(tmp_path)) == ["directory", "link"]


@pytest.mark.parametrize(
    ("operation", "nth"),
    [
        ("opendir", 1),
        ("readdir", 1),
        ("create", 1),
        ("flock", 1),
        ("write", 1),
        ("write", 2),
        ("setattr", 1),
        ("setattr", 2),
        ("fsync", 1),
        ("rename", 1),
        ("fsyncdir", 1),
    ],
)
def test_a_file_is_the_former_or_the_new_one(
    store: Store, faulty_filesystem: FaultyFilesystem, operation: str, nth: int
) -> None:
    """Whatever fails, the error comes through, and nothing is left beside the file."""
    path = file_in(faulty_filesystem.path)
    faulty_filesystem.fail(operation, errno.EIO, nth=nth)
    with pytest.raises(OSError, match="Input/output error"):
        store.save(URL, path)
    faulty_filesystem.release()
    assert path.read_bytes() == (DATA if operation == "fsyncdir" else FORMER)
    assert os.listdir(path.parent) == ["file"]
