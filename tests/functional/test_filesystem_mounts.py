"""Shares that are not mounted, and the choice among several directories."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from servers.filesystems import Filesystems

from imgstore import Store, errors
from imgstore.drivers.filesystem import FilesystemStore

pytestmark = pytest.mark.servers("filesystems")

KIB = 1024
MIB = 1024 * KIB


@pytest.fixture(params=["bind", "tmpfs"])
def share(request: pytest.FixtureRequest, filesystems: Filesystems, tmp_path: Path) -> Path:
    """A mount point with something mounted on it: another file system, or part of the same."""
    local = tmp_path / "images"
    local.mkdir()
    if request.param == "bind":
        (tmp_path / "remote").mkdir()
        return filesystems.bind(tmp_path / "remote", at=local)
    mounted = filesystems.tmpfs(size=8 * MIB)
    return filesystems.bind(mounted, at=local)


@pytest.mark.parametrize("timeout", [0, 10])
def test_an_unmounted_share(filesystems: Filesystems, share: Path, timeout: int) -> None:
    """Without its mount a share takes no image, lacks none, and its mount point stays empty."""
    with FilesystemStore("file", datadir=str(share), require_mount=True, timeout=timeout) as store:
        image = store.add("image", b"data")
        assert store.check() == []
        filesystems.unmount(share)
        for verb in (
            lambda: store.add("new", b"data"),
            lambda: store.get(image.location),
            lambda: store.size(image.location),
            lambda: store.delete(image.location),
        ):
            with pytest.raises(errors.Unavailable) as caught:
                verb()
            assert "is not a mount point" in str(caught.value)
            assert caught.value.retryable
        assert list(share.iterdir()) == []
        for write in (True, False):
            (problem,) = store.check(write=write)
            assert "is not a mount point" in problem


def test_a_share_that_comes_back(filesystems: Filesystems, tmp_path: Path) -> None:
    """Once mounted again, everything works without a restart, and absent is NotFound."""
    (tmp_path / "remote").mkdir()
    (tmp_path / "images").mkdir()
    with FilesystemStore("file", datadir=str(tmp_path / "images"), require_mount=True) as store:
        with pytest.raises(errors.Unavailable):
            store.add("image", b"data")
        share = filesystems.bind(tmp_path / "remote", at=tmp_path / "images")
        image = store.add("image", b"data")
        assert (tmp_path / "remote" / "image").read_bytes() == b"data"
        with pytest.raises(errors.NotFound):
            store.get(f"file://{share}/other")
        filesystems.unmount(share)
        with pytest.raises(errors.Unavailable):
            store.get(image.location)
        filesystems.bind(tmp_path / "remote", at=tmp_path / "images")
        assert store.get(image.location).read() == b"data"


def unmounted(filesystems: Filesystems, directory: Path) -> None:
    filesystems.unmount(directory)


def mounted_over(filesystems: Filesystems, directory: Path) -> None:
    (directory.parent / "above").mkdir()
    filesystems.bind(directory.parent / "above", at=directory)


def replaced(filesystems: Filesystems, directory: Path) -> None:
    filesystems.unmount(directory)
    directory.rename(directory.parent / "former")
    directory.mkdir()


def removed(filesystems: Filesystems, directory: Path) -> None:
    filesystems.unmount(directory)
    directory.rmdir()


@pytest.mark.parametrize("change", [unmounted, mounted_over, replaced, removed])
@pytest.mark.parametrize("count", [1, 2], ids=["one directory", "two directories"])
def test_changed_in_the_middle(
    filesystems: Filesystems,
    tmp_path: Path,
    change: Callable[[Filesystems, Path], None],
    count: int,
) -> None:
    """An add whose directory is not there any more fails, and no image is anywhere."""
    for name in ("remote", "images", "second"):
        (tmp_path / name).mkdir()
    share = filesystems.bind(tmp_path / "remote", at=tmp_path / "images")

    def source():
        yield os.urandom(2 * MIB)
        change(filesystems, share)
        yield b"end"

    dirs = [f"{share}:1", tmp_path / "second"][:count]
    with FilesystemStore("file", datadirs=dirs) as store:
        with pytest.raises(errors.Unavailable) as caught:
            store.add("image", source())
        assert (caught.value.retryable, caught.value.indeterminate) == (True, False)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_mount_point_that_is_missing(tmp_path: Path) -> None:
    """With require_mount no directory is made where a share should be."""
    with FilesystemStore("file", datadir=str(tmp_path / "images"), require_mount=True) as store:
        with pytest.raises(errors.Unavailable):
            store.add("image", b"data")
        with pytest.raises(errors.Unavailable):
            store.get(f"file://{tmp_path}/images/image")
        assert not (tmp_path / "images").exists()


def test_one_of_several_shares_is_not_mounted(filesystems: Filesystems, tmp_path: Path) -> None:
    """An id may be taken on the share that is away, so nothing is added meanwhile."""
    dirs = []
    for name in ("one", "two"):
        (tmp_path / f"remote-{name}").mkdir()
        (tmp_path / name).mkdir()
        filesystems.bind(tmp_path / f"remote-{name}", at=tmp_path / name)
        dirs.append(tmp_path / name)
    with FilesystemStore(
        "file", datadirs=[f"{dirs[0]}:1", str(dirs[1])], require_mount=True
    ) as store:
        store.add("first", b"data")
        (tmp_path / "remote-two" / "taken").write_bytes(b"data")
        with pytest.raises(errors.AlreadyExists):
            store.add("taken", b"data")
        filesystems.unmount(dirs[1])
        with pytest.raises(errors.Unavailable):
            store.add("taken", b"data")
        assert store.get(f"file://{dirs[0]}/first").read() == b"data"
        assert list(dirs[1].iterdir()) == []


def test_without_the_option_nothing_is_refused(tmp_path: Path) -> None:
    """By default a directory need not be a mount point."""
    with FilesystemStore("file", datadir=str(tmp_path)) as store:
        assert store.add("image", b"data").size == 4


def chosen(store: Store, image_id: str, source: object, **options: int) -> str:
    location = store.add(image_id, source, **options).location
    return Path(location.url.removeprefix("file://")).parent.name


@pytest.fixture
def sized(filesystems: Filesystems, tmp_path: Path) -> Callable[[str, int], Path]:
    """Make a directory with so much space."""

    def make(name: str, size: int) -> Path:
        (tmp_path / name).mkdir()
        return filesystems.bind(filesystems.tmpfs(size=size), at=tmp_path / name)

    return make


def test_ties_go_to_the_most_free_space(sized: Callable[[str, int], Path]) -> None:
    """Among equal priorities the emptiest directory is taken, asked anew for each image."""
    dirs = [sized("small", 2 * MIB), sized("large", 6 * MIB), sized("middle", 4 * MIB)]
    with FilesystemStore("file", datadirs=[str(path) for path in dirs]) as store:
        assert chosen(store, "1", os.urandom(3 * MIB)) == "large"
        assert chosen(store, "2", os.urandom(MIB)) == "middle"
        assert chosen(store, "3", os.urandom(512 * KIB), size=512 * KIB) == "large"
        assert chosen(store, "4", iter([os.urandom(MIB)])) == "middle"
        (dirs[0] / "1").touch()
        with pytest.raises(errors.AlreadyExists):
            store.add("1", b"data")


def test_priority_comes_first(sized: Callable[[str, int], Path]) -> None:
    """The highest priority is filled first, whatever the space elsewhere, then the next."""
    dirs = [
        f"{sized('last', 8 * MIB)}",
        f"{sized('first', 2 * MIB)}:200",
        f"{sized('second', 3 * MIB)}:100",
    ]
    with FilesystemStore("file", datadirs=dirs) as store:
        assert store.url_prefix == f"file://{dirs[1].rpartition(':')[0]}"
        assert chosen(store, "1", os.urandom(MIB)) == "first"
        assert chosen(store, "2", os.urandom(2 * MIB)) == "second"
        assert chosen(store, "3", os.urandom(MIB)) == "first"
        assert chosen(store, "4", os.urandom(MIB)) == "second"
        assert chosen(store, "5", os.urandom(MIB)) == "last"


def test_all_are_too_small(sized: Callable[[str, int], Path]) -> None:
    """Where no directory has room the add is StorageFull before a byte is written."""
    dirs = [sized("one", MIB), sized("two", 2 * MIB)]

    class Untouched:
        def read(self, n: int) -> bytes:
            raise AssertionError("read")

    with FilesystemStore("file", datadirs=[str(path) for path in dirs]) as store:
        with pytest.raises(errors.StorageFull):
            store.add("image", Untouched(), size=3 * MIB)
        for path in dirs:
            (path / "fill").write_bytes(bytes(os.statvfs(path).f_bavail * 4096))
        with pytest.raises(errors.StorageFull):
            store.add("image", Untouched())
        assert [len(list(path.iterdir())) for path in dirs] == [1, 1]


def test_a_sparse_file_needs_what_its_data_needs(
    sized: Callable[[str, int], Path], tmp_path: Path
) -> None:
    """The data of a source with holes decides where it fits, not its size."""
    path = tmp_path / "source"
    with path.open("wb") as file:
        file.write(os.urandom(MIB))
        file.truncate(64 * MIB)
    dirs = [sized("one", MIB // 2), sized("two", 2 * MIB)]
    with FilesystemStore("file", datadirs=[f"{dirs[0]}:1", str(dirs[1])]) as store:
        assert chosen(store, "image", path) == "two"
        assert (dirs[1] / "image").stat().st_size == 64 * MIB
