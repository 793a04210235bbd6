"""Full, limited, read-only and forbidden directories, on real file systems."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from servers.filesystems import Filesystems, run_as

from imgstore import errors
from imgstore.drivers.filesystem import FilesystemStore

pytestmark = pytest.mark.servers("filesystems")

KIB = 1024
MIB = 1024 * KIB

# Run as another user or under a limit: prints the error's class, errno and flags.
ATTEMPT = """
import json, os, resource, sys
from imgstore import errors
from imgstore.drivers.filesystem import FilesystemStore
verb, root, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
store = FilesystemStore("file", datadir=root, thin_provisioning=verb == "thin")
location = f"file://{root}/image"
try:
    if verb in ("add", "thin"):
        store.add("new", bytes(1) * 2_000_000 if verb == "thin" else os.urandom(2_000_000))
    elif verb == "get":
        store.get(location).read()
    else:
        getattr(store, verb)(location)
    print(json.dumps(None))
except errors.StoreError as exc:
    cause = exc.__cause__
    print(json.dumps([type(exc).__name__, getattr(cause, "errno", None), exc.indeterminate,
                      str(exc)]))
"""


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()} - {"lost+found"}


def used(root: Path) -> int:
    found = os.statvfs(root)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def ext4(filesystems: Filesystems) -> Path:
    return filesystems.ext4(size=8 * MIB)


def tmpfs(filesystems: Filesystems) -> Path:
    return filesystems.tmpfs(size=4 * MIB)


@pytest.mark.parametrize("make", [ext4, tmpfs])
@pytest.mark.parametrize("fsync", [True, False])
@pytest.mark.parametrize("kind", ["bytes", "pieces", "file"])
def test_full_disk(
    filesystems: Filesystems,
    tmp_path: Path,
    make: Callable[[Filesystems], Path],
    kind: str,
    *,
    fsync: bool,
) -> None:
    """ENOSPC in the middle of an add is StorageFull; nothing is left, and what fits is stored."""
    root = make(filesystems)
    data = os.urandom(12 * MIB)
    path = tmp_path / "source"
    path.write_bytes(data)
    source = {"bytes": data, "pieces": iter([data[:MIB], data[MIB:]]), "file": path}[kind]
    with FilesystemStore("file", datadir=str(root), fsync=fsync) as store:
        store.add("small", data[: 2 * MIB])
        before = used(root)
        with pytest.raises(errors.StorageFull) as caught:
            store.add("image", source)
        if kind == "pieces":  # the size is not known before
            cause = caught.value.__cause__
            assert isinstance(cause, OSError)
            assert cause.errno == errno.ENOSPC
        assert not caught.value.indeterminate
        assert names(root) == {"small"}
        assert store.leftovers(older_than=0) == []
        assert used(root) <= before + 64 * KIB
        assert store.add("image", data[:MIB]).size == MIB
        assert store.get(f"file://{root}/small").read() == data[: 2 * MIB]


def test_full_disk_takes_deletes(filesystems: Filesystems) -> None:
    """On a full disk images can be read and deleted, which makes room."""
    root = filesystems.tmpfs(size=2 * MIB)
    with FilesystemStore("file", datadir=str(root)) as store:
        image = store.add("image", os.urandom(2 * MIB))
        with pytest.raises(errors.StorageFull):
            store.add("other", b"x" * KIB)
        assert len(store.get(image.location).read()) == 2 * MIB
        store.delete(image.location)
        store.add("other", b"x" * KIB)


def test_no_inodes_left(filesystems: Filesystems) -> None:
    """A disk without inodes is as full as one without blocks."""
    root = filesystems.tmpfs(size=2 * MIB, inodes=3)
    with FilesystemStore("file", datadir=str(root)) as store:
        store.add("one", b"data")
        store.add("two", b"data")
        with pytest.raises(errors.StorageFull):
            store.add("three", b"data")
        assert names(root) == {"one", "two"}


def test_full_disk_with_holes(filesystems: Filesystems) -> None:
    """A thin image larger than the disk is stored; its data decides."""
    root = filesystems.tmpfs(size=2 * MIB)
    with FilesystemStore("file", datadir=str(root), thin_provisioning=True) as store:
        image = store.add("image", iter([bytes(64 * MIB), b"end"]), size=64 * MIB + 3)
        assert store.size(image.location) == 64 * MIB + 3
        with pytest.raises(errors.StorageFull):
            store.add("other", iter([bytes(64 * MIB), os.urandom(3 * MIB)]))
        assert names(root) == {"image"}


def test_quota(filesystems: Filesystems) -> None:
    """EDQUOT is StorageFull, with nothing left."""
    root = filesystems.quota(limit=2 * MIB)
    data = os.urandom(6 * MIB)
    with FilesystemStore("file", datadir=str(root)) as store:
        store.add("small", data[: 256 * KIB])
        with pytest.raises(errors.StorageFull) as caught:
            store.add("image", data)
        cause = caught.value.__cause__
        assert isinstance(cause, OSError)
        assert cause.errno == errno.EDQUOT
        assert names(root) == {"small"}
        assert store.leftovers(older_than=0) == []
        assert store.get(f"file://{root}/small").read() == data[: 256 * KIB]


def test_what_is_reserved_for_root(filesystems: Filesystems) -> None:
    """Root may fill what a file system reserves; others are refused before they write."""
    root = filesystems.ext4(size=8 * MIB, reserved=50)
    root.chmod(0o777)
    with FilesystemStore("file", datadir=str(root)) as store:
        while (found := os.statvfs(root)).f_bavail * found.f_frsize >= 2_000_000:
            store.add(f"small-{found.f_bavail}", os.urandom(512 * KIB))
        assert found.f_bfree * found.f_frsize > 2_500_000
        done = run_as(ATTEMPT, "add", str(root), "0")
        name, number, indeterminate, message = json.loads(done.stdout)
        assert (name, number, indeterminate) == ("StorageFull", None, False), done
        assert "bytes free" in message
        image = store.add("image", os.urandom(2_000_000))
        assert store.size(image.location) == 2_000_000
        with pytest.raises(errors.StorageFull, match="bytes free"):
            store.add("large", bytes(8 * MIB))


@pytest.mark.parametrize("verb", ["add", "thin"])
def test_limit_of_a_files_size(tmp_path: Path, verb: str) -> None:
    """EFBIG (RLIMIT_FSIZE; Python ignores SIGXFSZ) is StorageFull with nothing left."""
    preamble = f"import sys; sys.path[:] = {sys.path!r}\n"
    command = [sys.executable, "-c", preamble + ATTEMPT, verb, str(tmp_path), str(MIB)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[:3] == ["StorageFull", errno.EFBIG, False]
    assert names(tmp_path) == set()


def test_read_only_mount(filesystems: Filesystems, tmp_path: Path) -> None:
    """EROFS is PermissionDenied for adds and deletes; reading works."""
    (tmp_path / "images").mkdir()
    with FilesystemStore("writer", datadir=str(tmp_path / "images")) as writer:
        writer.add("image", b"data")
    root = filesystems.readonly(tmp_path / "images")
    location = f"file://{root}/image"
    with FilesystemStore("file", datadir=str(root)) as store:
        for verb in (lambda: store.add("new", b"data"), lambda: store.delete(location)):
            with pytest.raises(errors.PermissionDenied) as caught:
                verb()
            assert isinstance(caught.value.__cause__, OSError)
            assert caught.value.__cause__.errno == errno.EROFS
            assert not caught.value.retryable
        assert store.get(location).read() == b"data"
        assert store.size(location) == 4
        assert names(root) == {"image"}
        assert len(store.check()) == 1
        (problem,) = store.check(write=False)
        assert "EROFS" in problem
        assert store.leftovers(older_than=0) == []


def test_read_only_directory_among_others(filesystems: Filesystems, tmp_path: Path) -> None:
    """A read-only directory is never chosen, even for an empty image, but its ids are taken."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    (tmp_path / "old" / "taken").write_bytes(b"data")
    readonly = filesystems.readonly(tmp_path / "old")
    dirs = [f"{readonly}:100", str(tmp_path / "new")]
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(MIB)
    with FilesystemStore("file", datadirs=dirs) as store:
        for number, source in enumerate([b"", b"data", iter([b"data"]), sparse]):
            added = store.add(f"image-{number}", source)
            assert added.location.url == f"file://{tmp_path}/new/image-{number}"
        with pytest.raises(errors.AlreadyExists):
            store.add("taken", b"data")
        assert store.get(f"file://{readonly}/taken").read() == b"data"


def test_no_permission(filesystems: Filesystems) -> None:
    """EACCES is PermissionDenied for every verb that meets it; nothing is left or deleted."""
    root = filesystems.tmpfs(size=4 * MIB)
    (root / "image").write_bytes(b"data")
    for verb in ("add", "thin", "delete"):
        done = run_as(ATTEMPT, verb, str(root), "0")
        assert json.loads(done.stdout)[:3] == ["PermissionDenied", errno.EACCES, False], done
    (root / "image").chmod(0o600)
    assert json.loads(run_as(ATTEMPT, "get", str(root), "0").stdout) is None  # may read all
    assert names(root) == {"image"}
    root.chmod(0o777)
    assert json.loads(run_as(ATTEMPT, "add", str(root), "0").stdout) is None
    assert (root / "new").stat().st_uid == 65534


def test_no_permission_to_read(filesystems: Filesystems) -> None:
    """EACCES when reading is PermissionDenied, not NotFound."""
    root = filesystems.tmpfs(size=4 * MIB)
    (root / "image").write_bytes(b"data")
    (root / "image").chmod(0o600)
    snippet = (
        "import ctypes, json, os, resource, struct, sys\n"
        "from imgstore.drivers.filesystem import FilesystemStore\n"
        # The interpreter had to read everything; from here on this user is like any other.
        "header = struct.pack('II', 0x20080522, 0)\n"
        "assert ctypes.CDLL(None).capset(header, bytes(24)) == 0\n"
    )
    done = run_as(snippet + ATTEMPT, "get", str(root), "0")
    assert json.loads(done.stdout)[:3] == ["PermissionDenied", errno.EACCES, False], done
    root.chmod(0o700)
    for verb in ("get", "size", "delete"):
        done = run_as(snippet + ATTEMPT, verb, str(root), "0")
        assert json.loads(done.stdout)[:3] == ["PermissionDenied", errno.EACCES, False], done
    assert (root / "image").read_bytes() == b"data"


def test_directory_cannot_be_made(filesystems: Filesystems) -> None:
    """Where the first add may not make the directory, the error says so."""
    root = filesystems.tmpfs()
    done = run_as(ATTEMPT, "add", str(root / "images"), "0")
    assert json.loads(done.stdout)[:3] == ["PermissionDenied", errno.EACCES, False], done


def test_permissions_of_other_peoples_files(filesystems: Filesystems) -> None:
    """A directory whose bits this user may not change is used as it is, with a warning."""
    root = filesystems.tmpfs(size=4 * MIB)
    images = root / "images"
    images.mkdir()
    images.chmod(0o722)
    snippet = """
import logging, os, sys
logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stdout)
from imgstore.drivers.filesystem import FilesystemStore
store = FilesystemStore("file", datadir=sys.argv[1], file_perm=644)
store.add("image", b"data")
"""
    images.chmod(0o777 & ~0o010)
    done = run_as(snippet, str(images))
    assert done.stdout.startswith(f"WARNING store file may not set permissions of {images}"), done
    assert (images / "image").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("verb", ["add", "check"])
def test_a_file_in_the_way(tmp_path: Path, verb: str) -> None:
    """A data directory that is a file, or a link to nowhere, is no image that exists."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("nowhere")
    for root in (tmp_path / "file", tmp_path / "link", tmp_path / "file" / "below"):
        with FilesystemStore("file", datadir=str(root)) as store:
            if verb == "check":
                (problem,) = store.check()
                assert "directory" in problem
                continue
            with pytest.raises(errors.StoreError) as caught:
                store.add("image", b"data")
            assert not isinstance(caught.value, errors.AlreadyExists | errors.NotFound)
            assert "irectory" in str(caught.value)


@pytest.mark.parametrize("option", ["datadir", "datadirs"])
def test_what_cannot_fit_is_not_begun(filesystems: Filesystems, option: str) -> None:
    """A declared size beyond the free space is StorageFull before a byte is read."""
    root = filesystems.tmpfs(size=4 * MIB)

    def source():
        pytest.fail("the source is read")
        yield b""

    given = {option: str(root) if option == "datadir" else [str(root)]}
    with FilesystemStore("file", **given) as store:
        with pytest.raises(errors.StorageFull):
            store.add("image", source(), size=8 * MIB)
        assert names(root) == set()
        assert store.add("image", bytes(3 * MIB), size=3 * MIB).size == 3 * MIB
