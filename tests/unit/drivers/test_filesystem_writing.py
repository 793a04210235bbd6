"""Adding to the filesystem store: names, permissions, holes."""

from __future__ import annotations

import errno
import io
import logging
import os
import random
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from imgstore import errors
from imgstore.drivers import _linux
from imgstore.drivers._linux import is_mount_point
from imgstore.drivers.filesystem import FilesystemStore
from imgstore.drivers.filesystem.calls import Calls
from imgstore.drivers.filesystem.drafts import Draft
from imgstore.process.interrupts import Descriptors
from imgstore.testing.doubles import Untouched

KIB = 1024
MIB = 1024 * KIB
GRAIN = 64 * KIB


@pytest.fixture
def umask() -> Iterator[None]:
    """Put the umask back."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def nameless(tmp_path: Path) -> Path:
    """Return a directory whose file system knows files without a name."""
    try:
        os.close(os.open(tmp_path, os.O_RDWR | os.O_TMPFILE))
    except OSError:
        pytest.skip("no O_TMPFILE")
    return tmp_path / "images"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o027, 0o077])
@pytest.mark.usefixtures("umask")
def test_the_umask_decides(tmp_path: Path, mask: int) -> None:
    """Images and the directory made for them get what the umask leaves."""
    os.umask(mask)
    for number, timeout in enumerate((0, 5)):
        with FilesystemStore(
            "file", datadir=str(tmp_path / "a" / "b"), fsync=False, timeout=timeout
        ) as store:
            store.add(f"image-{number}", b"data")
        assert mode(tmp_path / "a" / "b" / f"image-{number}") == 0o666 & ~mask
    assert mode(tmp_path / "a" / "b") == 0o777 & ~mask


@pytest.mark.parametrize(
    ("perm", "file", "directory"),
    [(600, 0o600, 0o700), (640, 0o640, 0o710), (644, 0o644, 0o711), (604, 0o604, 0o701)],
)
@pytest.mark.usefixtures("umask")
def test_permissions_that_were_asked_for(
    tmp_path: Path, perm: int, file: int, directory: int
) -> None:
    """file_perm holds whatever the umask; directories can be searched by those who may read."""
    os.umask(0o077)
    root = tmp_path / "images"
    with FilesystemStore("file", datadir=str(root), file_perm=perm, fsync=False) as store:
        store.add("image", b"data")
    assert mode(root / "image") == file
    assert mode(root) == directory


def test_a_directory_keeps_its_other_bits(tmp_path: Path) -> None:
    """An existing directory only gains what is missing: setgid and the like stay."""
    root = tmp_path / "images"
    root.mkdir()
    root.chmod(0o2750)
    with FilesystemStore("file", datadir=str(root), file_perm=644, fsync=False) as store:
        store.add("image", b"data")
    assert mode(root) == 0o2751


def test_slashes_do_not_add_up(tmp_path: Path) -> None:
    """However a directory is written, a location has one slash between its parts."""
    for text in (f"{tmp_path}/images/", f"{tmp_path}//images//", f"{tmp_path}/x/../images"):
        with FilesystemStore("file", datadir=text, fsync=False) as store:
            image = store.add("image", b"data")
            assert image.location.url == f"file://{tmp_path}/images/image"
            assert store.url_prefix == f"file://{tmp_path}/images"
            store.delete(image.location)


def test_the_other_scheme_is_read(tmp_path: Path) -> None:
    """``filesystem`` locations are read like ``file`` ones; written are only the latter."""
    with FilesystemStore("file", datadir=str(tmp_path), fsync=False) as store:
        store.add("image", b"data")
        assert store.get(f"filesystem://{tmp_path}/image").read() == b"data"
        # As the incumbent did, what follows is dropped and nothing is unquoted.
        assert store.size(f"file://{tmp_path}/image?a=b#c") == 4
        with pytest.raises(errors.NotFound):
            store.size(f"file://{tmp_path}/im%61ge")


def test_the_same_directory_twice(tmp_path: Path) -> None:
    """check() tells a directory that is listed twice, by way of a link; adds work."""
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    with FilesystemStore("file", datadirs=[str(real), str(link)], fsync=False) as store:
        store.add("image", b"data")
        for write in (True, False):
            (problem,) = store.check(write=write)
            assert f"{link}: it is the same directory as {real}" in problem


def test_taken_in_any_directory(tmp_path: Path) -> None:
    """An id that exists in one directory is taken in all, before a byte is read."""
    dirs = [tmp_path / name for name in ("a", "b", "c")]
    with FilesystemStore("file", datadirs=[str(path) for path in dirs], fsync=False) as store:
        store.add("first", b"")
        for path in dirs:
            (path / f"image-{path.name}").write_bytes(b"data")
            with pytest.raises(errors.AlreadyExists):
                store.add(f"image-{path.name}", io.BytesIO(b"other"))
            assert (path / f"image-{path.name}").read_bytes() == b"data"


def test_taken_meanwhile_in_another_directory(tmp_path: Path) -> None:
    """An id that is taken in another directory during an add is AlreadyExists at its end."""
    dirs = [tmp_path / "a", tmp_path / "b"]

    def source() -> Iterator[bytes]:
        yield b"data"
        (tmp_path / "b" / "image").write_bytes(b"another's")

    with FilesystemStore("file", datadirs=[f"{dirs[0]}:1", str(dirs[1])], fsync=False) as store:
        with pytest.raises(errors.AlreadyExists):
            store.add("image", source())
        assert list(dirs[0].iterdir()) == []
        assert (dirs[1] / "image").read_bytes() == b"another's"


SEEN_BY: dict[str, Callable[[FilesystemStore, str], object]] = {
    "add": lambda store, url: store.delete(store.add("added", b"data")),
    "check": lambda store, url: store.check(),
    "look": lambda store, url: store.check(write=False),
    "leftovers": lambda store, url: list(store.leftovers(older_than=0)),
    "get": lambda store, url: store.get(url).close(),
    "size": lambda store, url: store.size(url),
    "delete": lambda store, url: store.delete(url),
    "a miss": lambda store, url: store.holds(f"{url}-missing"),
}


@pytest.mark.parametrize("see", SEEN_BY.values(), ids=SEEN_BY)
def test_a_directory_that_went_away(
    tmp_path: Path, see: Callable[[FilesystemStore, str], object]
) -> None:
    """A directory that was there is not made again by an add: its share may not be mounted."""
    root = tmp_path / "images"
    root.mkdir()
    (root / "image").touch()
    with FilesystemStore("file", datadir=str(root), fsync=False) as store:
        see(store, f"file://{root}/image")
        (root / "image").unlink(missing_ok=True)
        root.rmdir()
        with pytest.raises(errors.NotFound):
            store.get(f"file://{root}/image")
        assert store.leftovers(older_than=0) == []
        with pytest.raises(errors.Unavailable, match="vanished"):
            store.add("image", b"data")
        assert not root.exists()
        assert store.check() == []
        store.add("image", b"data")
        assert (root / "image").read_bytes() == b"data"


@pytest.mark.parametrize("fsync", [True, False])
def test_a_directory_that_was_replaced_meanwhile(nameless: Path, *, fsync: bool) -> None:
    """A file without a name gets its own in the directory that its path leads to at the end."""
    former = nameless.with_name("former")

    def source() -> Iterator[bytes]:
        yield b"da"
        nameless.rename(former)
        nameless.mkdir()
        yield b"ta"

    with FilesystemStore("file", datadir=nameless, fsync=fsync) as store:
        image = store.add("image", source())
        assert store.get(image.location).read() == b"data"
    assert list(former.iterdir()) == []


def test_a_directory_that_was_moved_away_with_the_image(nameless: Path) -> None:
    """An add that fails then and cannot find its image any more is in doubt."""
    nameless.mkdir()
    draft = Draft(Calls(timeout=0, size=1, threshold=100))

    def add() -> None:
        with draft, draft:
            draft.make(str(nameless), None)
            draft.publish("image", sync=False, alone=lambda name: nullcontext())
            nameless.rename(nameless.with_name("former"))
            raise InterruptedError

    with pytest.raises(InterruptedError):
        add()
    assert draft.may_be_published


def test_system_calls_of_a_small_image(nameless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them may hand the interpreter's lock to another thread."""
    calls: list[str] = []

    def counted(name: str) -> Callable[..., object]:
        call = getattr(os, name)
        return lambda *args, **named: (calls.append(name), call(*args, **named))[1]

    with FilesystemStore("file", datadir=nameless, fsync=False) as store:
        store.add("first", b"data")
        for name in ("open", "pwrite", "dup", "lseek", "stat", "fstat", "link", "close"):
            monkeypatch.setattr(os, name, counted(name))
        store.add("image", bytes(GRAIN), size=GRAIN)
    needed = ["open", "pwrite", "link", "close"]
    # Another host's file system may report at closing, and lose an answer.
    assert calls in (needed, ["open", "pwrite", "dup", "close", "stat", "link", "close"])


def test_a_directory_that_was_seen_is_opened_to_readers(tmp_path: Path) -> None:
    """Who may read images may enter their directory, also if a read came before the first add."""
    root = tmp_path / "images"
    root.mkdir(mode=0o700)
    (root / "image").touch()
    with FilesystemStore("file", datadir=str(root), file_perm=644, fsync=False) as store:
        store.size(f"file://{root}/image")
        store.add("another", b"data")
        assert root.stat().st_mode & 0o777 == 0o711


def test_another_directory_takes_the_place_of_one_that_went_away(tmp_path: Path) -> None:
    """Of several directories, those that are there take images."""
    first, second = tmp_path / "first", tmp_path / "second"
    dirs = [f"{first}:2", str(second)]
    with FilesystemStore("file", datadirs=dirs, fsync=False) as store:
        assert store.check() == []
        first.rmdir()
        for name in ("a", "b"):
            store.add(name, b"data")
        assert sorted(path.name for path in second.iterdir()) == ["a", "b"]
        assert not first.exists()


@pytest.mark.parametrize("size", [4, None])
def test_all_directories_went_away(tmp_path: Path, size: int | None) -> None:
    """Shares that are not mounted are not taken for full disks."""
    dirs = [tmp_path / "a", tmp_path / "b"]
    with FilesystemStore("file", datadirs=list(map(str, dirs)), fsync=False) as store:
        assert store.check() == []
        for path in dirs:
            path.rmdir()
        with pytest.raises(errors.Unavailable, match="vanished"):
            store.add("image", iter([b"data"]), size=size)
        assert not any(path.exists() for path in dirs)


def test_one_directory_went_away_and_the_other_is_full(tmp_path: Path) -> None:
    """The one that is missing might have room."""
    dirs = [tmp_path / "a", tmp_path / "b"]
    with FilesystemStore("file", datadirs=list(map(str, dirs)), fsync=False) as store:
        assert store.check() == []
        with pytest.raises(errors.StorageFull):
            store.add("image", Untouched(), size=1 << 60)
        dirs[0].rmdir()
        with pytest.raises(errors.Unavailable, match=f"{dirs[0]} was there"):
            store.add("image", Untouched(), size=1 << 60)


@pytest.mark.parametrize(
    ("codes", "kind"),
    [
        ((errno.ESTALE, errno.ESTALE), errors.Unavailable),
        ((errno.EIO, 0), errors.Unavailable),
        ((errno.EROFS, errno.EROFS), errors.PermissionDenied),
        ((errno.EROFS, errno.EIO), errors.Unavailable),
        ((errno.EROFS, 0), errors.StorageFull),
    ],
    ids=lambda each: "-".join(map(str, each)) if isinstance(each, tuple) else each.__name__,
)
def test_directories_that_do_not_tell_their_space(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    codes: tuple[int, int],
    kind: type[errors.StoreError],
) -> None:
    """Disks that fail or are read-only are not taken for full ones; 0 is one that is full."""
    dirs = [tmp_path / "a", tmp_path / "b"]
    told = os.statvfs(tmp_path)

    def statvfs(path: str) -> object:
        code = dict(zip(map(str, dirs), codes, strict=True))[path]
        if code not in {0, errno.EROFS}:
            raise OSError(code, os.strerror(code), path)
        flags = told.f_flag | (os.ST_RDONLY if code else 0)
        return SimpleNamespace(f_flag=flags, f_bavail=0, f_frsize=told.f_frsize)

    with FilesystemStore("file", datadirs=list(map(str, dirs)), fsync=False) as store:
        assert store.check() == []
        monkeypatch.setattr(os, "statvfs", statvfs)
        with pytest.raises(kind) as caught:
            store.add("image", Untouched())
        assert type(caught.value) is kind


def test_all_directories_went_away_meanwhile(tmp_path: Path) -> None:
    """An add that cannot make sure that its id is free any more did not miss an image."""
    dirs = [tmp_path / "a", tmp_path / "b"]

    def source() -> Iterator[bytes]:
        yield b"data"
        for path in dirs:
            path.rename(path.with_name(f"former-{path.name}"))

    with (
        FilesystemStore("file", datadirs=list(map(str, dirs)), fsync=False) as store,
        pytest.raises(errors.Unavailable),
    ):
        store.add("image", source())


def test_nothing_is_visible_before_the_end(tmp_path: Path) -> None:
    """An image has no name until all of it is there."""
    root = tmp_path / "images"

    def source() -> Iterator[bytes]:
        for _ in range(5):
            assert list(root.iterdir()) == []
            yield bytes(MIB)

    with FilesystemStore("file", datadir=str(root), fsync=False) as store:
        store.add("image", source())
        assert [path.name for path in root.iterdir()] == ["image"]


def test_images_cannot_take_the_names_of_drafts(tmp_path: Path) -> None:
    """An id that looks like an unfinished image is refused before a byte is read."""
    with FilesystemStore("file", datadir=str(tmp_path), fsync=False) as store:
        for image_id in (".imgstore-", ".imgstore-lock", ".imgstore-0123"):
            with pytest.raises(errors.InvalidArgument, match="begin with"):
                store.add(image_id, b"data")
        store.add(".imgstore", b"data")


def blocks(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.mark.parametrize("size", [None, 0])
@pytest.mark.parametrize("total", [GRAIN, 3 * MIB, 8 * MIB + 5, GRAIN + 1])
def test_nothing_but_zeros(tmp_path: Path, size: int | None, total: int) -> None:
    """A thin image of zeros takes no block, of a declared or an unknown size."""
    with FilesystemStore(
        "file", datadir=str(tmp_path), thin_provisioning=True, fsync=False
    ) as store:
        image = store.add("image", iter([bytes(total)]), size=None if size is None else total)
        assert store.size(image.location) == total
        assert store.get(image.location).read() == bytes(total)
    assert blocks(tmp_path / "image") == 0


def test_without_thin_zeros_are_written(tmp_path: Path) -> None:
    """By default what is not a hole in the source takes its space."""
    with FilesystemStore("file", datadir=str(tmp_path), fsync=True) as store:
        store.add("image", bytes(2 * MIB))
    assert blocks(tmp_path / "image") >= 2 * MIB


@pytest.mark.parametrize("piece", [1000, GRAIN, GRAIN + 1, 3 * MIB])
def test_pieces_of_any_size_give_the_same_holes(tmp_path: Path, piece: int) -> None:
    """Holes depend on what an image holds, not on how it arrives."""
    noise = os.urandom(GRAIN)
    data = noise + bytes(GRAIN) + noise[:100] + bytes(GRAIN) + noise[:100] + bytes(5 * GRAIN)
    expected = 0
    for offset in range(0, len(data), GRAIN):
        expected += GRAIN if any(data[offset : offset + GRAIN]) else 0
    with FilesystemStore(
        "file", datadir=str(tmp_path), thin_provisioning=True, fsync=True
    ) as store:
        pieces = (data[at : at + piece] for at in range(0, len(data), piece))
        image = store.add("image", pieces)
        assert store.get(image.location).read() == data
    assert blocks(tmp_path / "image") == expected


@pytest.mark.parametrize("thin", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_any_pattern_of_holes(tmp_path: Path, seed: int, *, thin: bool) -> None:
    """Random data and holes of a source, at any offset and from any start, come back right."""
    rng = random.Random(seed)
    path = tmp_path / "source"
    size = rng.randrange(1, 12 * MIB)
    with path.open("wb") as file:
        file.truncate(size)
        for _ in range(rng.randrange(20)):
            length = rng.choice([1, 100, 4096, GRAIN, GRAIN + 1, 700_000])
            at = rng.randrange(size)
            os.pwrite(file.fileno(), rng.randbytes(min(length, size - at)), at)
    data = path.read_bytes()
    with FilesystemStore(
        "file", datadir=str(tmp_path / "images"), thin_provisioning=thin, fsync=False
    ) as store:
        image = store.add("image", path)
        assert store.get(image.location).read() == data
        start = rng.randrange(size)
        with path.open("rb") as file:
            file.seek(start)
            image = store.add("rest", file)
            assert store.get(image.location).read() == data[start:]
        length = rng.randrange(size - start) + 1
        with store.get(f"file://{tmp_path}/images/image", offset=start, length=length) as reader:
            image = store.add("range", reader)
        assert store.get(image.location).read() == data[start : start + length]
        assert not blocks(tmp_path / "images" / "image") > blocks(path) + 40 * GRAIN


def test_nothing_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An add that goes well logs nothing from INFO upwards."""
    caplog.set_level(logging.INFO)
    with FilesystemStore("file", datadir=str(tmp_path), file_perm=640, timeout=5) as store:
        store.delete(store.add("image", b"data").location)
        assert store.check() == []
    assert caplog.records == []


def test_first_adds_at_once(tmp_path: Path) -> None:
    """Threads whose adds are all the first ones make the directories together."""
    for turn in range(10):
        root = tmp_path / str(turn) / "deep" / "images"
        with FilesystemStore("file", datadir=str(root), file_perm=644, fsync=False) as store:
            threads = [
                threading.Thread(target=store.add, args=(f"image-{n}", b"data")) for n in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(list(root.iterdir())) == 8


def test_mount_points(tmp_path: Path) -> None:
    """The root and /proc are mount points, an ordinary directory is none."""
    for path, expected in (("/", True), ("/proc", True), (tmp_path, False)):
        fd = os.open(path, os.O_RDONLY)
        try:
            assert is_mount_point(fd) is expected
        finally:
            os.close(fd)


def test_exclusive_rename(tmp_path: Path) -> None:
    """A rename over an existing name is FileExistsError and changes nothing."""
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(FileExistsError):
            _linux.rename_exclusively(fd, "a", "b")
        assert (tmp_path / "b").read_bytes() == b"b"
        _linux.rename_exclusively(fd, "a", "c")
        assert (tmp_path / "c").read_bytes() == b"a"
        with pytest.raises(FileNotFoundError):
            _linux.rename_exclusively(fd, "a", "d")
    finally:
        os.close(fd)


@pytest.mark.parametrize("timeout", [0, 60])
def test_a_directory_that_is_removed_while_it_is_opened(tmp_path: Path, timeout: int) -> None:
    """The second attempt holds nothing of the first: what is closed last is the draft's own."""
    root = tmp_path / "images"
    root.mkdir()

    def opened(held: Descriptors, path: str) -> int:
        return held.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def opened_and_removed(held: Descriptors, path: str) -> int:
        opened(held, path)
        root.rmdir()
        return os.open(path, os.O_RDONLY)

    draft = Draft(Calls(timeout=timeout, size=1, threshold=100))
    with draft, draft:
        with pytest.raises(FileNotFoundError):
            draft.make(str(root), opened_and_removed)
        root.mkdir()
        draft.make(str(root), opened)
        held = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in draft.held._fds]
        assert str(root) in held
        assert f"{root} (deleted)" not in held
