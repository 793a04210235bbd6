"""EIO and ESTALE at every operation, from a FUSE file system."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers.fuse import FaultyFilesystem
from servers.process import until

from imgstore import errors
from imgstore.drivers.filesystem import FilesystemStore
from imgstore.drivers.memory import MemoryStore

pytestmark = pytest.mark.servers("filesystems")

MIB = 1024 * 1024
DATA = os.urandom(3 * MIB + 5)
ERRORS = [errno.EIO, errno.ESTALE]

# Ways to publish an image, each with what the file system refuses.
LINK = {}
NAMED = {"tmpfile": errno.EOPNOTSUPP}
RENAME = {**NAMED, "link": errno.EPERM}
PLAIN_RENAME = {**RENAME, "rename2": errno.EINVAL}

# Operation, its call that fails, and how images are published there. With fsync unless named here.
ADDING = [
    *[("getattr", nth, refused) for nth in range(1, 6) for refused in (LINK, NAMED)],
    *[("lookup", nth, refused) for nth in range(1, 4) for refused in (LINK, NAMED)],
    *[("write", nth, refused) for nth in (1, 2, 4) for refused in (LINK, NAMED)],
    ("opendir", 1, LINK),
    ("opendir", 2, LINK),
    ("readdir", 1, LINK),
    ("tmpfile", 1, LINK),
    ("create", 1, NAMED),
    ("flock", 1, NAMED),
    ("flock", 1, PLAIN_RENAME),
    ("flock", 2, PLAIN_RENAME),
    ("create", 2, PLAIN_RENAME),
    ("fsync", 1, LINK),
    ("fsync", 1, NAMED),
    ("link", 1, LINK),
    ("link", 1, NAMED),
    ("rename2", 1, RENAME),
    ("rename", 1, PLAIN_RENAME),
    ("fsyncdir", 1, LINK),
    ("fsyncdir", 1, NAMED),
    ("fsyncdir", 1, PLAIN_RENAME),
]


def ident(value: object) -> str | None:
    names = {id(LINK): "link", id(NAMED): "named", id(RENAME): "rename2"}
    if isinstance(value, dict):
        return names.get(id(value), "rename")
    return errno.errorcode.get(value) if isinstance(value, int) and value > 4 else None


def refuse(mounted: FaultyFilesystem, refused: dict[str, int]) -> None:
    for operation, error in refused.items():
        mounted.fail(operation, error)


def names(mounted: FaultyFilesystem) -> list[str]:
    # The file that stands for a lock on the directory stays.
    return sorted({path.name for path in mounted.source.iterdir()} - {".imgstore-lock"})


def nothing_left(
    mounted: FaultyFilesystem, store: FilesystemStore, refused: dict[str, int]
) -> None:
    """Assert that no image is visible, that what is left is listed, and that the id is free."""
    mounted.release()
    refuse(mounted, refused)
    left = names(mounted)
    assert all(name.startswith(".imgstore-") for name in left)
    listed = [os.path.basename(leftover.name) for leftover in store.leftovers(older_than=0)]
    assert sorted(listed) == left
    store.remove_leftovers(older_than=0)
    assert names(mounted) == []
    image = store.add("image", DATA)
    assert store.get(image.location).read() == DATA
    store.delete(image.location)


@pytest.mark.parametrize("error", ERRORS, ids=ident)
@pytest.mark.parametrize(("operation", "nth", "refused"), ADDING, ids=ident)
def test_adding(
    faulty_filesystem: FaultyFilesystem,
    operation: str,
    nth: int,
    refused: dict[str, int],
    error: int,
) -> None:
    """A call that fails for good makes the add Unavailable, and nothing is left behind."""
    mounted = faulty_filesystem
    refuse(mounted, refused)
    with FilesystemStore("file", datadir=str(mounted.path)) as store:
        mounted.fail(operation, error, nth=nth)
        failure = None
        try:
            store.add("image", iter([DATA]))
        except errors.Unavailable as exc:
            failure = exc
        if failure is not None:
            assert failure.retryable
            if failure.indeterminate:
                # It could not be looked after, so it may be there.
                assert operation in {"getattr", "lookup"}
                mounted.release()
                with contextlib.suppress(errors.NotFound):
                    store.delete(f"file://{mounted.path}/image")
            nothing_left(mounted, store, refused)
        else:
            # So many calls of this kind are not made, or the last had no influence.
            assert operation in {"getattr", "lookup"}
            mounted.release()
            assert store.get(f"file://{mounted.path}/image").read() == DATA


@pytest.mark.parametrize("error", ERRORS, ids=ident)
@pytest.mark.parametrize("refused", [LINK, NAMED], ids=ident)
def test_errors_of_delayed_writes(
    faulty_filesystem: FaultyFilesystem, refused: dict[str, int], error: int
) -> None:
    """Without fsync, what a server reports when a file is closed makes the add fail."""
    refuse(faulty_filesystem, refused)
    with FilesystemStore("file", datadir=str(faulty_filesystem.path), fsync=False) as store:
        for number in (error, errno.ENOSPC, errno.EDQUOT):
            faulty_filesystem.fail("flush", number)
            expected = errors.Unavailable if number == error else errors.StorageFull
            with pytest.raises(expected) as caught:
                store.add("image", DATA)
            assert not caught.value.indeterminate
            nothing_left(faulty_filesystem, store, refused)


@pytest.mark.parametrize("refused", [LINK, NAMED], ids=ident)
@pytest.mark.parametrize("timeout", [0, 10])
def test_closing_cannot_fail(
    faulty_filesystem: FaultyFilesystem, refused: dict[str, int], timeout: int
) -> None:
    """After an fsync that worked, an error of the last close spoils neither add nor read."""
    refuse(faulty_filesystem, refused)
    root = str(faulty_filesystem.path)
    with FilesystemStore("file", datadir=root, timeout=timeout) as store:
        faulty_filesystem.fail("flush", errno.EIO)
        image = store.add("image", DATA)
        with store.get(image.location) as reader:
            assert reader.read() == DATA
        assert names(faulty_filesystem) == ["image"]


def test_an_image_with_two_names(faulty_filesystem: FaultyFilesystem) -> None:
    """Where a linked draft keeps its old name too, the image is stored and the name a leftover."""
    faulty_filesystem.fail("tmpfile", errno.EOPNOTSUPP)
    with FilesystemStore("file", datadir=str(faulty_filesystem.path)) as store:
        faulty_filesystem.fail("unlink", errno.EIO)
        image = store.add("image", DATA)
        assert len(names(faulty_filesystem)) == 2
        faulty_filesystem.release()
        assert len(store.remove_leftovers(older_than=0)) == 1
        assert names(faulty_filesystem) == ["image"]
        assert store.get(image.location).read() == DATA


@pytest.mark.parametrize("refused", [LINK, NAMED, RENAME], ids=ident)
def test_what_cannot_be_undone_is_indeterminate(
    faulty_filesystem: FaultyFilesystem, refused: dict[str, int]
) -> None:
    """An image that is published, not flushed and not removable: the error says that it may be."""
    refuse(faulty_filesystem, refused)
    with FilesystemStore("file", datadir=str(faulty_filesystem.path)) as store:
        store.add("first", b"")  # what the first add does is not at issue
        faulty_filesystem.fail("fsyncdir", errno.EIO)
        faulty_filesystem.fail("unlink", errno.EIO)
        with pytest.raises(errors.Unavailable) as caught:
            store.add("image", DATA)
        assert caught.value.indeterminate
        assert caught.value.operation == "add"
        assert "image" in names(faulty_filesystem)


@pytest.mark.parametrize("refused", [LINK, NAMED], ids=ident)
def test_what_was_never_published_is_not_indeterminate(
    faulty_filesystem: FaultyFilesystem, refused: dict[str, int]
) -> None:
    """A share that goes away before an image gets its name: there is none, asked or not."""
    refuse(faulty_filesystem, refused)

    def source() -> Iterator[bytes]:
        yield DATA
        for operation in ("getattr", "lookup"):
            faulty_filesystem.fail(operation, errno.ESTALE)

    with FilesystemStore("file", datadir=str(faulty_filesystem.path)) as store:
        store.add("first", b"")
        with pytest.raises(errors.Unavailable) as caught:
            store.add("image", source())
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.errno == errno.ESTALE
        assert not caught.value.indeterminate
        assert "image" not in names(faulty_filesystem)


@pytest.mark.parametrize(
    ("refused", "operation"),
    [(LINK, "link"), (NAMED, "link"), (RENAME, "rename2")],
    ids=ident,
)
@pytest.mark.parametrize("mine", [True, False])
def test_answers_that_get_lost(
    faulty_filesystem: FaultyFilesystem, refused: dict[str, int], operation: str, *, mine: bool
) -> None:
    """If the name turns out to be taken by one's own file the add succeeded, else it did not."""
    refuse(faulty_filesystem, refused)
    if operation == "link" and not refused:
        # A file without a name cannot be linked by this test; here another's image is the case.
        mine = False
    results: list[object] = []

    def add() -> None:
        try:
            results.append(store.add("image", DATA))
        except errors.StoreError as exc:
            results.append(exc)

    source = faulty_filesystem.source
    with FilesystemStore("file", datadir=str(faulty_filesystem.path)) as store:
        faulty_filesystem.hang(operation, times=1)
        thread = threading.Thread(target=add)
        thread.start()
        until(lambda: faulty_filesystem.hanging() == 1, seconds=10, what="it is published")
        # The server does it, or somebody else does; then the client asks again.
        if mine:
            (draft,) = source.iterdir()
            os.link(draft, source / "image")
            if operation == "rename2":
                draft.unlink()
        else:
            (source / "image").write_bytes(b"another's")
        faulty_filesystem.release()
        refuse(faulty_filesystem, refused)
        thread.join(30)
        (result,) = results
        assert names(faulty_filesystem) == ["image"]
        if mine:
            assert not isinstance(result, Exception)
            assert (source / "image").read_bytes() == DATA
        else:
            assert isinstance(result, errors.AlreadyExists)
            assert (source / "image").read_bytes() == b"another's"


@pytest.mark.parametrize("thin", [False, True])
def test_holes_that_cannot_be_made(faulty_filesystem: FaultyFilesystem, *, thin: bool) -> None:
    """A failing truncation, at the end of an image that ends in a hole, leaves nothing."""
    path = faulty_filesystem.source.parent / "sparse"
    with path.open("wb") as file:
        file.write(b"data")
        file.truncate(4 * MIB)
    root = str(faulty_filesystem.path)
    with FilesystemStore("file", datadir=root, thin_provisioning=thin) as store:
        faulty_filesystem.fail("setattr", errno.EIO)
        with pytest.raises(errors.Unavailable):
            store.add("image", path)
        nothing_left(faulty_filesystem, store, {})


@pytest.mark.parametrize("refused", [LINK, NAMED], ids=ident)
def test_permissions_that_cannot_be_set(
    faulty_filesystem: FaultyFilesystem, refused: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    """A file system that refuses fchmod gets the image, and the log one warning."""
    refuse(faulty_filesystem, refused)
    with FilesystemStore("fast", datadir=str(faulty_filesystem.path), file_perm=600) as store:
        faulty_filesystem.fail("setattr", errno.EPERM)
        image = store.add("image", DATA)
        assert store.get(image.location).read() == DATA
    (record,) = (record for record in caplog.records if record.levelname == "WARNING")
    assert record.getMessage() == "store fast may not set permissions of image image"


@pytest.mark.parametrize("error", ERRORS, ids=ident)
@pytest.mark.parametrize("operation", ["lookup", "open", "getattr", "read"])
@pytest.mark.parametrize("timeout", [0, 10])
def test_getting(
    faulty_filesystem: FaultyFilesystem, operation: str, error: int, timeout: int
) -> None:
    """A call that fails for good makes a read Unavailable, never absent, short or empty."""
    root = str(faulty_filesystem.path)
    with FilesystemStore("file", datadir=root, timeout=timeout) as store:
        image = store.add("image", DATA)
        faulty_filesystem.fail(operation, error)
        with pytest.raises(errors.Unavailable) as caught, store.get(image.location) as reader:
            reader.read()
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.errno == error
        if operation in {"lookup", "getattr"}:
            with pytest.raises(errors.Unavailable):
                store.size(image.location)
        faulty_filesystem.release()
        assert store.size(image.location) == len(DATA)
        assert store.get(image.location).read() == DATA


@pytest.mark.parametrize("error", ERRORS, ids=ident)
@pytest.mark.parametrize("nth", [1, 2, 17, 48])
@pytest.mark.parametrize(("offset", "length"), [(0, None), (12345, 2 * MIB)])
def test_reads_go_on_after_a_failure(
    faulty_filesystem: FaultyFilesystem, error: int, nth: int, offset: int, length: int | None
) -> None:
    """A read that fails once is resumed where it stopped and delivers the right bytes."""
    with FilesystemStore("file", datadir=str(faulty_filesystem.path)) as store:
        image = store.add("image", DATA)
        descriptors = len(os.listdir("/proc/self/fd"))
        faulty_filesystem.fail("read", error, nth=nth, times=1)
        with store.get(image.location, offset=offset, length=length) as reader:
            expected = DATA[offset:] if length is None else DATA[offset : offset + length]
            assert b"".join(reader) == expected
        assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_changed_image_is_not_resumed(faulty_filesystem: FaultyFilesystem) -> None:
    """If the file was replaced meanwhile, the reader says so instead of mixing two images."""
    with FilesystemStore("file", datadir=str(faulty_filesystem.path)) as store:
        image = store.add("image", DATA)
        with store.get(image.location) as reader:
            reader.read(MIB)
            (faulty_filesystem.source / "new").write_bytes(DATA[::-1])
            (faulty_filesystem.source / "new").rename(faulty_filesystem.source / "image")
            faulty_filesystem.fail("read", errno.ESTALE, times=1)
            with pytest.raises(errors.IntegrityError):
                reader.read()


def test_a_truncated_image_is_never_short(tmp_path: Path) -> None:
    """A file that shrinks while it is read gives an error, not fewer bytes or zeros."""
    with FilesystemStore("file", datadir=str(tmp_path)) as store:
        image = store.add("image", DATA)
        with store.get(image.location) as reader:
            reader.read(MIB)
            os.truncate(tmp_path / "image", MIB + 77)
            with pytest.raises(errors.IntegrityError):
                reader.read()


@pytest.mark.parametrize("error", ERRORS, ids=ident)
@pytest.mark.parametrize("operation", ["lookup", "unlink"])
def test_deleting(faulty_filesystem: FaultyFilesystem, operation: str, error: int) -> None:
    """A delete that fails is Unavailable; the image stays as it is."""
    with FilesystemStore("file", datadir=str(faulty_filesystem.path)) as store:
        image = store.add("image", DATA)
        faulty_filesystem.fail(operation, error)
        with pytest.raises(errors.Unavailable):
            store.delete(image.location)
        faulty_filesystem.release()
        assert store.get(image.location).read() == DATA
        store.delete(image.location)


@pytest.mark.parametrize("fsync", [True, False])
@pytest.mark.parametrize("refused", [LINK, NAMED, RENAME, PLAIN_RENAME], ids=ident)
def test_flushing(
    faulty_filesystem: FaultyFilesystem, refused: dict[str, int], *, fsync: bool
) -> None:
    """Each add flushes its file before it has a name, then the directory; without fsync neither."""
    mounted = faulty_filesystem
    refuse(mounted, refused)
    with FilesystemStore("file", datadir=str(mounted.path), fsync=fsync) as store:
        for number in range(1, 4):
            store.add(f"image-{number}", DATA)
            assert mounted.calls("fsync") == (number if fsync else 0)
            assert mounted.calls("fsyncdir") == (number if fsync else 0)
        if fsync:
            mounted.fail("fsync", errno.EIO)
            calls = {name: mounted.calls(name) for name in ("link", "rename2", "rename")}
            with pytest.raises(errors.Unavailable):
                store.add("image", DATA)
            assert {name: mounted.calls(name) for name in calls} == calls


LISTING: dict[str, Callable[[FilesystemStore], object]] = {
    "leftovers": lambda store: store.leftovers(older_than=0),
    "remove_leftovers": lambda store: store.remove_leftovers(older_than=0),
}


@pytest.mark.parametrize("call", LISTING.values(), ids=LISTING)
@pytest.mark.parametrize("operation", ["opendir", "readdir", "open", "flock"])
def test_leftovers(
    faulty_filesystem: FaultyFilesystem,
    call: Callable[[FilesystemStore], object],
    operation: str,
) -> None:
    """Leftovers that cannot be looked at are an error, not an empty list, and are not removed."""
    (faulty_filesystem.source / ".imgstore-dead").write_bytes(b"data")
    with FilesystemStore("file", datadir=str(faulty_filesystem.path)) as store:
        faulty_filesystem.fail(operation, errno.EIO)
        with pytest.raises(errors.Unavailable):
            call(store)
        faulty_filesystem.release()
        assert len(store.leftovers(older_than=0)) == 1


def test_check_names_the_fault(faulty_filesystem: FaultyFilesystem) -> None:
    """check() tells of a directory where nothing can be stored, and of none otherwise."""
    with FilesystemStore("file", datadir=str(faulty_filesystem.path)) as store:
        assert store.check() == []
        for operation in ("tmpfile", "write"):
            faulty_filesystem.fail(operation, errno.EIO)
            (problem,) = store.check()
            assert str(faulty_filesystem.path) in problem
            assert "EIO" in problem
            faulty_filesystem.release()
        faulty_filesystem.fail("tmpfile", errno.EOPNOTSUPP)
        assert store.check() == []
        faulty_filesystem.fail("flock", errno.ENOLCK)
        (problem,) = store.check()
        assert "ENOLCK" in problem
        with pytest.raises(errors.Unavailable, match="ENOLCK"):
            store.add("image", b"data")
        assert names(faulty_filesystem) == []


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EOPNOTSUPP], ids=ident)
def test_directories_that_cannot_be_flushed(
    faulty_filesystem: FaultyFilesystem, error: int
) -> None:
    """Where fsync of a directory is not possible, as on some shares, images are added without."""
    faulty_filesystem.fail("fsyncdir", error)
    with FilesystemStore("file", datadir=str(faulty_filesystem.path)) as store:
        image = store.add("image", DATA)
        assert store.get(image.location).read() == DATA
        assert store.check() == []
    assert faulty_filesystem.calls("fsyncdir") > 0


@pytest.mark.parametrize("error", ERRORS, ids=ident)
@pytest.mark.parametrize("verb", ["verify", "save", "copy"])
def test_reading_the_file_itself(
    faulty_filesystem: FaultyFilesystem, tmp_path: Path, verb: str, error: int
) -> None:
    """An image that cannot be read is named, where no reader's chunks are asked for either."""
    root = faulty_filesystem.path
    with FilesystemStore("file", datadir=str(root)) as store, MemoryStore("other") as other:
        image = store.add("image", DATA)
        verbs: dict[str, Callable[[], object]] = {
            "verify": lambda: store.verify(image),
            "save": lambda: store.save(image, tmp_path / "saved"),
            "copy": lambda: store.copy(image, "copy", to=other),
        }
        faulty_filesystem.fail("read", error)
        with pytest.raises(errors.Unavailable) as caught:
            verbs[verb]()
        assert (caught.value.store, caught.value.location) == ("file", image.location)
        assert caught.value.operation == (verb if verb != "copy" else "get")
        assert os.listdir(tmp_path) == []
