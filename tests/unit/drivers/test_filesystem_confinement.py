"""The filesystem store touches regular files in its directories and nothing else."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imgstore import Location, StoreManager, errors
from imgstore.drivers.filesystem import FilesystemStore
from imgstore.model import Ownership

VERBS: dict[str, Callable[[FilesystemStore, str], object]] = {
    "get": lambda store, url: store.get(url).read(),
    "empty range": lambda store, url: store.get(url, length=0),
    "size": lambda store, url: store.size(url),
    "delete": lambda store, url: store.delete(url),
}
each_verb = pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
Verb = Callable[[FilesystemStore, str], object]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    return root


@pytest.fixture
def store(root: Path) -> Iterator[FilesystemStore]:
    with FilesystemStore("file", datadir=str(root), fsync=False) as store:
        yield store


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that lies beside the store."""
    path = tmp_path / "secret"
    path.write_bytes(b"secret")
    return path


@each_verb
def test_paths_outside(store: FilesystemStore, root: Path, secret: Path, verb: Verb) -> None:
    """No path outside is touched, however it is written."""
    sibling = root.parent / "images-old"
    sibling.mkdir()
    (sibling / "image").write_bytes(b"sibling")
    for path in (
        secret,
        f"{root}/../secret",
        f"{root}/./../secret",
        f"{root}/x/../../secret",
        f"//{secret}",
        sibling / "image",
        f"{root}-old/image",
        "/etc/passwd",
        "/proc/self/environ",
        "/",
        root,
        root.parent,
    ):
        with pytest.raises(errors.InvalidLocation):
            verb(store, f"file://{path}")
    assert secret.read_bytes() == b"secret"
    assert (sibling / "image").exists()


@each_verb
def test_links_that_lead_outside(
    store: FilesystemStore, root: Path, secret: Path, verb: Verb
) -> None:
    """A link out of the directory is refused, the last part of a path or one before."""
    (root / "absolute").symlink_to(secret)
    (root / "relative").symlink_to("../secret")
    (root / "again").symlink_to("absolute")
    (root / "directory").symlink_to(root.parent)
    (root / "proc").symlink_to(f"/proc/{os.getpid()}/environ")
    for name in ("absolute", "relative", "again", "directory", "directory/secret", "proc"):
        with pytest.raises(errors.InvalidLocation):
            verb(store, f"file://{root}/{name}")
        assert os.path.lexists(root / name)
    assert secret.read_bytes() == b"secret"


def test_links_that_stay_inside(store: FilesystemStore, root: Path, tmp_path: Path) -> None:
    """A link inside leads to its image; deleting through it removes both."""
    image = store.add("image", b"data")
    (root / "link").symlink_to("image")
    (tmp_path / "door").symlink_to(root)
    for path in (root / "link", tmp_path / "door" / "image", tmp_path / "door" / "link"):
        assert store.get(f"file://{path}").read() == b"data"
        assert store.size(f"file://{path}") == 4
    store.delete(f"file://{root}/link")
    assert list(root.iterdir()) == []
    with pytest.raises(errors.NotFound):
        store.get(image.location)


@each_verb
def test_links_to_nowhere(store: FilesystemStore, root: Path, verb: Verb) -> None:
    """A link to nothing is an image that is not there; a circle is refused; both end at once."""
    (root / "nowhere").symlink_to("missing")
    (root / "circle").symlink_to("circle")
    with pytest.raises(errors.NotFound):
        verb(store, f"file://{root}/nowhere")
    with pytest.raises(errors.InvalidLocation):
        verb(store, f"file://{root}/circle")


def test_a_link_is_not_overwritten(store: FilesystemStore, root: Path, secret: Path) -> None:
    """An id that is the name of a link is taken, whatever the link leads to."""
    (root / "out").symlink_to(secret)
    (root / "nowhere").symlink_to("missing")
    for name in ("out", "nowhere"):
        with pytest.raises(errors.AlreadyExists):
            store.add(name, b"data")
    assert secret.read_bytes() == b"secret"
    assert not (root / "missing").exists()


@each_verb
@pytest.mark.parametrize("kind", ["fifo", "directory", "socket", "device"])
def test_what_is_no_regular_file(store: FilesystemStore, root: Path, verb: Verb, kind: str) -> None:
    """Pipes, directories, sockets and devices are refused at once, directly and through links."""
    path = root / "thing"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(root)  # a socket's path is short
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind("thing")
        finally:
            os.chdir(here)
    elif os.geteuid() == 0:
        os.mknod(path, 0o20666, os.makedev(1, 5))  # /dev/zero
    else:
        path = Path("/dev/zero")
    (root / "link").symlink_to(path)
    for name in (path, root / "link"):
        with pytest.raises(errors.InvalidLocation):
            verb(store, f"file://{name}")
        assert os.path.lexists(name)
    if path.parent == root:
        with pytest.raises(errors.AlreadyExists):
            store.add("thing", b"data")


@each_verb
def test_drafts_are_no_images(store: FilesystemStore, root: Path, verb: Verb) -> None:
    """An unfinished image is not there for any verb, not even by way of a link."""
    (root / ".imgstore-0123").write_bytes(b"draft")
    (root / "link").symlink_to(".imgstore-0123")
    for name in (".imgstore-0123", "link", ".imgstore-lock"):
        with pytest.raises(errors.NotFound):
            verb(store, f"file://{root}/{name}")
    assert (root / ".imgstore-0123").exists()
    with pytest.raises(errors.InvalidArgument):
        store.add(".imgstore-0123", b"data")


def test_images_below_subdirectories(store: FilesystemStore, root: Path) -> None:
    """Rows of old may name a file further down; it is the store's too."""
    (root / "sub" / "dir").mkdir(parents=True)
    (root / "sub" / "dir" / "image").write_bytes(b"data")
    url = f"file://{root}/sub/dir/image"
    assert store.get(url).read() == b"data"
    assert store.size(url) == 4
    store.delete(url)
    with pytest.raises(errors.NotFound):
        store.size(url)
    with pytest.raises(errors.NotFound):
        store.get(f"file://{root}/sub/dir/image/below")


def test_former_places(root: Path, tmp_path: Path, secret: Path) -> None:
    """``also_owns`` opens former directories for reading and deleting, and nothing beside them."""
    old = tmp_path / "old"
    old.mkdir()
    (old / "image").write_bytes(b"data")
    (old / "link").symlink_to(secret)
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "image").write_bytes(b"data")
    with FilesystemStore("file", datadir=str(root), also_owns=[f"file://{old}"]) as store:
        url = f"file://{old}/image"
        assert store.ownership(Location.parse(url)) is Ownership.YES
        assert store.get(url).read() == b"data"
        for path in (old / "link", tmp_path / "older" / "image", old / ".." / "secret"):
            with pytest.raises(errors.InvalidLocation):
                store.get(f"file://{path}")
        store.delete(url)
        assert not (old / "image").exists()
        store.add("image", b"new")
        assert list(old.iterdir()) == [old / "link"]


def test_stores_inside_each_other(root: Path) -> None:
    """Where one store's directory lies in another's, a location goes to the nearer one."""
    outer = FilesystemStore("outer", datadir=str(root), fsync=False)
    inner = FilesystemStore("inner", datadir=str(root / "inner"), fsync=False)
    with StoreManager([outer, inner], default="outer") as stores:
        for name in ("outer", "inner"):
            image = stores.add("image", name.encode(), store=name)
            assert stores.get(image.location).read() == name.encode()
            assert stores.size(image.location) == 5
            assert stores.add(name + "-2", b"data", store=name).store == name
        stores.delete(f"file://{root}/inner/image")
        assert (root / "image").read_bytes() == b"outer"
        assert not (root / "inner" / "image").exists()


@contextmanager
def racing(turn: Callable[[], None]) -> Iterator[None]:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            turn()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("swapped", ["name", "directory"])
@pytest.mark.parametrize("verb", ["get", "size", "delete"])
def test_links_swapped_in_meanwhile(
    store: FilesystemStore, root: Path, tmp_path: Path, swapped: str, verb: str
) -> None:
    """Whoever swaps files, directories and links all the time never gets at what is outside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "image").write_bytes(b"the secret outside")
    spare = root / "spare"

    def swap_name() -> None:
        os.symlink(outside / "image", spare)
        os.replace(spare, root / "image")
        spare.write_bytes(b"inside")
        os.replace(spare, root / "image")

    def swap_directory() -> None:
        (root / "sub").mkdir(exist_ok=True)
        (root / "sub" / "image").write_bytes(b"inside")
        os.rename(root / "sub", spare)
        os.symlink(outside, root / "sub")
        os.unlink(root / "sub")
        os.rename(spare, root / "sub")

    url = f"file://{root}/image" if swapped == "name" else f"file://{root}/sub/image"
    seen: set[object] = set()
    with racing(swap_name if swapped == "name" else swap_directory):
        end = time.monotonic() + 0.7
        while time.monotonic() < end:
            try:
                if verb == "get":
                    seen.add(store.get(url).read())
                elif verb == "size":
                    seen.add(store.size(url))
                else:
                    store.delete(url)
            except (errors.NotFound, errors.InvalidLocation, errors.IntegrityError):
                continue
    assert (outside / "image").read_bytes() == b"the secret outside"
    assert seen <= {b"inside", b"", len(b"inside"), 0}
