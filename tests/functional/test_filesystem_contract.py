"""The contract on real file systems, for each way in which an image can be published there."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from servers.everything import Again, Slow
from servers.filesystems import Filesystems
from servers.fuse import FaultyFilesystem, faulty
from servers.scratch import Scratch

from imgstore import Store
from imgstore.drivers.filesystem import FilesystemStore
from imgstore.testing import StoreContract
from imgstore.testing.adding import Adding
from imgstore.testing.concurrency import Concurrency
from imgstore.testing.failures import Failures
from imgstore.testing.sources import Sources

pytestmark = pytest.mark.servers("filesystems")

MIB = 1024 * 1024


@pytest.fixture(scope="class")
def mounted(scratch: Scratch) -> Iterator[FaultyFilesystem]:
    """A FUSE file system for all tests of a class: mounting one takes longer than a test."""
    with faulty(scratch) as made:
        yield made


class Directories(Again, Slow):
    """A store in ``roots``; all that needs no server is tested in process."""

    foreign_locations = ("file:///etc/passwd", "file://host/image", "filesystem:///")
    sizes = (0, 1, 64 * 1024 + 1, MIB, 5 * MIB + 3)

    @pytest.fixture
    def roots(self, tmp_path: Path) -> Sequence[Path]:
        return [tmp_path / "images"]

    @pytest.fixture
    def store(self, roots: Sequence[Path]) -> Iterator[Store]:
        with FilesystemStore("file", datadirs=[str(root) for root in roots]) as store:
            yield store

    @pytest.fixture
    def leaves(self, roots: Sequence[Path]) -> Callable[[], list[str]]:
        def names() -> list[str]:
            return [str(path) for root in roots for path in root.rglob("*") if path.is_file()]

        return names


class Writing(Adding, Sources, Failures, Concurrency):
    """What depends on how a file is written and published; reading is the same everywhere."""

    __test__ = False


class TestXfs(Directories, StoreContract):
    """A file system that clones, and flushes to a disk."""

    @pytest.fixture
    def roots(self, filesystems: Filesystems) -> Sequence[Path]:
        return [filesystems.xfs()]


class TestBtrfs(Directories, Writing):
    """Another file system that clones."""

    __test__ = True

    @pytest.fixture
    def roots(self, filesystems: Filesystems) -> Sequence[Path]:
        return [filesystems.btrfs()]


class TestTimeLimit(Directories, StoreContract):
    """Every call is made by a pool of threads; idle ones end within two seconds."""

    @pytest.fixture
    def store(self, roots: Sequence[Path]) -> Iterator[Store]:
        with FilesystemStore("file", datadir=str(roots[0]), fsync=False, timeout=5) as store:
            yield store


class TestThin(Directories, StoreContract):
    """Zeros become holes."""

    @pytest.fixture
    def store(self, roots: Sequence[Path]) -> Iterator[Store]:
        with FilesystemStore(
            "file", datadir=str(roots[0]), fsync=False, thin_provisioning=True
        ) as store:
            yield store


class TestThreeDirectories(Directories, StoreContract):
    """Images in the preferred one of three directories; an id is once in all."""

    @pytest.fixture
    def roots(self, tmp_path: Path) -> Sequence[Path]:
        return [tmp_path / name for name in ("one", "two", "three")]

    @pytest.fixture
    def store(self, roots: Sequence[Path]) -> Iterator[Store]:
        dirs = [f"{root}:{weight}" for root, weight in zip(roots, (2, 1, 1), strict=True)]
        with FilesystemStore("file", datadirs=dirs, fsync=False) as store:
            yield store


class Refusing(Directories):
    """A FUSE file system that refuses what ``refused`` says."""

    refused: ClassVar[Sequence[tuple[str, int]]] = ()
    sizes = (0, 1, 5 * MIB + 3)
    good_ids = ("8c9f7d2e-0b1a-4c3d-9e8f-7a6b5c4d3e2f", "x" * 255)
    threads = 4

    @pytest.fixture
    def leaves(self, roots: Sequence[Path]) -> Callable[[], list[str]]:
        # The file that stands for a lock on the directory stays.
        lock = ".imgstore-lock"
        return lambda: [str(path) for path in roots[0].glob("*") if path.name != lock]

    @pytest.fixture
    def roots(self, mounted: FaultyFilesystem, tmp_path: Path) -> Sequence[Path]:
        for operation, error in self.refused:
            mounted.fail(operation, error)
        return [mounted.path / tmp_path.name]


class TestLockedNames(Refusing, StoreContract):
    """No O_TMPFILE, as on NFS: drafts have temporary names and locks."""

    refused = (("tmpfile", errno.EOPNOTSUPP),)


class TestRename(Refusing, Writing):
    """Neither O_TMPFILE nor hard links, as on many network file systems: renameat2."""

    __test__ = True
    refused = (("tmpfile", errno.EOPNOTSUPP), ("link", errno.EPERM))


class TestPlainRename(Refusing, Writing):
    """Neither O_TMPFILE nor hard links nor rename flags: a lock on the directory."""

    __test__ = True
    refused = (
        ("tmpfile", errno.EOPNOTSUPP),
        ("link", errno.EPERM),
        ("rename2", errno.EINVAL),
    )
