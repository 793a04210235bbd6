"""Holes, clones and copies inside the kernel, on file systems that have them."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from servers.filesystems import Filesystems
from servers.missing import tool

from imgstore import errors
from imgstore.drivers.filesystem import FilesystemStore

pytestmark = pytest.mark.servers("filesystems")

KIB = 1024
MIB = 1024 * KIB
GRAIN = 64 * KIB


def sparse(path: Path, size: int, *data: tuple[int, int]) -> bytes:
    """Make a file of ``size`` with random data at some (offset, length), and flush it."""
    content = bytearray(size)
    with path.open("wb") as file:
        for offset, length in data:
            content[offset : offset + length] = os.urandom(length)
            os.pwrite(file.fileno(), content[offset : offset + length], offset)
        file.truncate(size)
        os.fsync(file.fileno())
    return bytes(content)


def free(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.sync()
    finally:
        os.close(fd)
    found = os.statvfs(path)
    return found.f_bfree * found.f_frsize


def extents(path: Path) -> list[tuple[int, set[str]]]:
    """Return the bytes and flags of a file's extents."""
    filefrag = tool("filefrag", what="ext4", package="e2fsprogs")
    done = subprocess.run(
        [filefrag, "-s", "-b1", "-v", path], capture_output=True, text=True, check=True, timeout=60
    )
    found = re.findall(
        r"^\s*\d+:\s*\d+\.\.\s*\d+:\s*\d+\.\.\s*\d+:\s*(\d+):(?:\s*\d+:)?\s*(.*)$",
        done.stdout,
        re.MULTILINE,
    )
    return [(int(length), set(flags.split(","))) for length, flags in found]


def shared(path: Path) -> int:
    return sum(length for length, flags in extents(path) if "shared" in flags)


def stored(root: Path, image_id: str = "image") -> tuple[bytes, int]:
    path = root / image_id
    return path.read_bytes(), path.stat().st_blocks * 512


@pytest.fixture(params=["xfs", "btrfs"])
def cloning(request: pytest.FixtureRequest, filesystems: Filesystems) -> Path:
    """A file system that shares blocks between files."""
    root: Path = getattr(filesystems, request.param)(size=512 * MIB)
    return root


def test_clone(cloning: Path) -> None:
    """A file on the store's file system is cloned: same bytes, right digests, no new space."""
    data = sparse(cloning / "source", 24 * MIB, (0, 24 * MIB))
    before = free(cloning)
    seen = bytearray()
    calls: list[int] = []

    class Sink:
        def update(self, block: bytes) -> None:
            seen.extend(block)

    with FilesystemStore("file", datadir=str(cloning / "images")) as store:
        image = store.add(
            "image",
            cloning / "source",
            algorithms=("md5", "sha256"),
            sinks=[Sink()],
            progress=lambda done, total: calls.append(done),
        )
        assert image.size == len(data)
        assert image.digests["sha256"] == hashlib.sha256(data).hexdigest()
        assert image.digests["md5"] == hashlib.md5(data).hexdigest()
        assert bytes(seen) == data
        assert calls[-1] == len(data)
        assert before - free(cloning) < 4 * MIB
        assert shared(cloning / "images" / "image") == len(data)
        # Each has its own content from here on.
        with (cloning / "source").open("r+b") as file:
            file.write(b"changed")
        assert store.get(image.location).read() == data
        # An open file, and a reader of the store itself, are cloned too.
        (cloning / "second").write_bytes(data)
        with (cloning / "second").open("rb") as file:
            store.add("open", file)
            assert file.tell() == len(data)
        copy = store.copy(image.location, "copy")
        assert copy.digests["sha256"] == image.digests["sha256"]
        for name in ("open", "copy"):
            assert stored(cloning / "images", name)[0] == data
            assert shared(cloning / "images" / name) == len(data)


def test_clone_keeps_holes(cloning: Path) -> None:
    """A clone of a sparse file takes no more space than the data, and digests see the zeros."""
    data = sparse(cloning / "source", 64 * MIB, (MIB, MIB), (40 * MIB, MIB))
    with FilesystemStore("file", datadir=str(cloning / "images")) as store:
        image = store.add("image", cloning / "source")
        assert image.digests["sha256"] == hashlib.sha256(data).hexdigest()
    content, blocks = stored(cloning / "images")
    assert content == data
    assert blocks == 2 * MIB


@pytest.mark.parametrize(
    ("offset", "length"), [(MIB, None), (1, None), (64 * KIB, 5 * MIB), (12345, 3 * MIB + 1)]
)
def test_ranges_are_copied_in_the_kernel(cloning: Path, offset: int, length: int | None) -> None:
    """The rest of an open file, and a range of an image, are copied with their holes."""
    size = 48 * MIB
    data = sparse(cloning / "source", size, (0, 2 * MIB), (3 * MIB, 3 * MIB), (47 * MIB, MIB))
    with FilesystemStore("file", datadir=str(cloning / "images")) as store:
        if length is None:
            with (cloning / "source").open("rb") as file:
                file.seek(offset)
                image = store.add("image", file)
                assert file.tell() == size
        else:
            whole = store.add("whole", cloning / "source")
            with store.get(whole.location, offset=offset, length=length) as reader:
                image = store.add("image", reader)
                assert reader.read() == b""
    expected = data[offset:] if length is None else data[offset : offset + length]
    content, blocks = stored(cloning / "images")
    assert content == expected
    assert image.size == len(expected)
    assert image.digests["sha256"] == hashlib.sha256(expected).hexdigest()
    assert blocks <= 6 * MIB + 64 * KIB
    if offset % 4096 == 0:
        assert shared(cloning / "images" / "image") > 0


def test_a_clone_of_a_wrong_size(cloning: Path) -> None:
    """A declared size that is not the file's is found out, and nothing is left."""
    sparse(cloning / "source", 4 * MIB, (0, 4 * MIB))
    with FilesystemStore("file", datadir=str(cloning / "images")) as store:
        for size in (0, 4 * MIB - 1, 4 * MIB + 1):
            with pytest.raises(errors.SizeMismatch):
                store.add("image", cloning / "source", size=size)
        with pytest.raises(errors.TooLarge):
            store.add("image", cloning / "source", max_size=4 * MIB - 1)
        assert list((cloning / "images").iterdir()) == []


def test_a_clone_that_fails_leaves_nothing(cloning: Path) -> None:
    """What a sink raises while a clone is read back drops the clone."""
    sparse(cloning / "source", 4 * MIB, (0, 4 * MIB))
    before = free(cloning)

    class Refusing:
        def update(self, block: bytes) -> None:
            raise RuntimeError("refused")

    with FilesystemStore("file", datadir=str(cloning / "images")) as store:
        with pytest.raises(RuntimeError, match="refused"):
            store.add("image", cloning / "source", sinks=[Refusing()])
        assert list((cloning / "images").iterdir()) == []
        assert before - free(cloning) < MIB
        assert store.add("image", cloning / "source").size == 4 * MIB


@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "xfs", "btrfs"])
def test_sources_elsewhere_are_copied(filesystems: Filesystems, cloning: Path, kind: str) -> None:
    """A file of another file system, of the same kind or another, is read and written."""
    small = {"tmpfs": 16 * MIB, "ext4": 16 * MIB, "xfs": 300 * MIB, "btrfs": 128 * MIB}
    origin: Path = getattr(filesystems, kind)(size=small[kind])
    data = sparse(origin / "source", 64 * MIB, (0, 100), (20 * MIB, MIB), (30 * MIB + 5, 70_000))
    with FilesystemStore("file", datadir=str(cloning / "images")) as store:
        image = store.add("image", origin / "source")
        assert image.digests["sha256"] == hashlib.sha256(data).hexdigest()
    content, blocks = stored(cloning / "images")
    assert content == data
    assert blocks <= 2 * MIB


def test_thin_beats_cloning(cloning: Path) -> None:
    """With thin provisioning zeros of a source that has no holes become holes."""
    (cloning / "source").write_bytes(bytes(8 * MIB) + b"end")
    with FilesystemStore("file", datadir=str(cloning / "images"), thin_provisioning=True) as store:
        store.add("image", cloning / "source")
    content, blocks = stored(cloning / "images")
    assert content == bytes(8 * MIB) + b"end"
    assert blocks <= 4 * KIB


def run_beside(work: Callable[[threading.Event], None], call: Callable[[], None]) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,))
    thread.start()
    try:
        call()
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("kind", ["tmpfs", "xfs", "btrfs"])
@pytest.mark.parametrize("thin", [False, True])
def test_a_source_that_shrinks_meanwhile(
    filesystems: Filesystems, kind: str, *, thin: bool
) -> None:
    """Data that was cut off never becomes zeros: whole, or SizeMismatch with nothing left."""
    root = filesystems.tmpfs(size=64 * MIB) if kind == "tmpfs" else getattr(filesystems, kind)()
    path, size = root / "source", 8 * MIB
    # Data, hole, data: the end of a shorter file looks like a hole that reaches to the end.
    parts = [(number * MIB, 256 * KIB) for number in range(8)]
    outcomes = set()
    with FilesystemStore(
        "file", datadir=str(root / "images"), thin_provisioning=thin, fsync=False
    ) as store:
        for turn in range(60):
            data = sparse(path, size, *parts)
            cut = 2 * MIB + turn * 64 * KIB

            def shrink(stop: threading.Event, turn: int = turn, cut: int = cut) -> None:
                stop.wait(turn * 0.0002)
                os.truncate(path, cut)

            def add(data: bytes = data, cut: int = cut) -> None:
                try:
                    image = store.add("image", path)
                except errors.SizeMismatch:
                    outcomes.add("mismatch")
                    assert not (root / "images" / "image").exists()
                else:
                    content = store.get(image.location).read()
                    assert image.digests["sha256"] == hashlib.sha256(content).hexdigest()
                    # Whole before the cut, or found shorter when it was opened.
                    assert content in {data, data[:cut]}
                    outcomes.add("whole")
                    store.delete(image.location)

            run_beside(shrink, add)
    assert outcomes


def test_a_source_that_shrinks_at_a_known_moment(tmp_path: Path) -> None:
    """The same where the cut comes between two blocks, before a hole."""
    path = tmp_path / "source"
    sparse(path, 8 * MIB, (0, 2 * MIB), (6 * MIB, 2 * MIB))

    class Cut:
        done = 0

        def update(self, block: bytes) -> None:
            if not self.done:
                os.truncate(path, 2 * MIB)
            self.done += len(block)

    with FilesystemStore("file", datadir=str(tmp_path / "images")) as store:
        with pytest.raises(errors.SizeMismatch):
            store.add("image", path, sinks=[Cut()])
        assert list((tmp_path / "images").iterdir()) == []


def test_a_source_that_grows(tmp_path: Path) -> None:
    """Bytes that are appended during the add make it a SizeMismatch with nothing left."""
    path = tmp_path / "source"
    path.write_bytes(os.urandom(4 * MIB))

    class Grow:
        def update(self, block: bytes) -> None:
            with path.open("ab") as file:
                file.write(b"more")

    with FilesystemStore("file", datadir=str(tmp_path / "images")) as store:
        with pytest.raises(errors.SizeMismatch):
            store.add("image", path, sinks=[Grow()])
        assert list((tmp_path / "images").iterdir()) == []


@pytest.mark.parametrize("thin", [False, True])
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_holes_of_a_source(filesystems: Filesystems, kind: str, *, thin: bool) -> None:
    """A hole of a source of at least 64 KiB stays one, wherever its data begins and ends."""
    root = filesystems.tmpfs(size=64 * MIB) if kind == "tmpfs" else filesystems.ext4(size=64 * MIB)
    pieces = [(0, 4 * KIB), (512 * KIB, 100), (MIB - 7, 14), (5 * MIB + 1, 200 * KIB)]
    data = sparse(root / "source", 32 * MIB + 3, *pieces)
    with FilesystemStore("file", datadir=str(root / "images"), thin_provisioning=thin) as store:
        image = store.add("image", root / "source")
        assert image.digests["sha256"] == hashlib.sha256(data).hexdigest()
    content, blocks = stored(root / "images")
    assert content == data
    source = os.stat(root / "source").st_blocks * 512
    # Unaligned ends, and thin's steps of 64 KiB, cost at most a grain for each piece.
    assert blocks <= source + (len(pieces) * GRAIN if thin else 64 * KIB)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs"])
def test_thin_holes_are_exact(filesystems: Filesystems, kind: str) -> None:
    """Every aligned 64 KiB of zeros is a hole and nothing else, on every file system."""
    root = filesystems.tmpfs(size=64 * MIB) if kind == "tmpfs" else getattr(filesystems, kind)()
    noise = os.urandom(GRAIN)
    grains = [noise, bytes(GRAIN), noise, bytes(GRAIN), bytes(GRAIN), noise] * 8
    data = b"".join(grains) + bytes(3 * MIB)
    with FilesystemStore("file", datadir=str(root / "images"), thin_provisioning=True) as store:
        for source in (data, iter([data[:77], data[77:]])):
            image = store.add("image", source)
            with (root / "images" / "image").open("rb") as file:
                os.fsync(file.fileno())
            content, blocks = stored(root / "images")
            assert content == data
            # An ext4 file of so many extents has a block of them.
            assert 0 <= blocks - 24 * GRAIN <= (4 * KIB if kind == "ext4" else 0)
            assert _holes(root / "images" / "image", len(data)) == [
                number * GRAIN for number, grain in enumerate(grains) if not any(grain)
            ] + list(range(48 * GRAIN, len(data), GRAIN))
            store.delete(image.location)


def _holes(path: Path, size: int) -> list[int]:
    """Return the offsets of all grains that are holes."""
    found = []
    with path.open("rb") as file:
        for offset in range(0, size, GRAIN):
            try:
                data = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError as exc:
                if exc.errno != errno.ENXIO:
                    raise
                data = size
            if data >= offset + GRAIN:
                found.append(offset)
    return found


def test_a_kernel_that_copies_nothing(
    filesystems: Filesystems, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy_file_range(2) that says 0 before the end, as of some kernels, is done without."""
    source, calls = tmp_path / "source", []
    source.write_bytes(os.urandom(3 * MIB + 5))
    monkeypatch.setattr(os, "copy_file_range", lambda *given: calls.append(given) or 0)
    with FilesystemStore("file", datadir=str(filesystems.xfs())) as store:
        image = store.add("image", source)
        assert store.get(image.location).read() == source.read_bytes()
    assert calls
