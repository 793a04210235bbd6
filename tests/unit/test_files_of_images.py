"""Images that are files, which fail or change while a verb reads the file itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imgstore import Store, StoredImage, errors
from imgstore.data.opened import Opened
from imgstore.drivers.filesystem import FilesystemStore
from imgstore.drivers.memory import MemoryStore
from imgstore.testing.harness import pattern

MIB = 1024 * 1024
DATA = pattern(3 * MIB + 5)


class Unreadable(FilesystemStore):
    """A store whose files open, and then cannot be read."""

    def _get(self, *args: Any, **kwargs: Any) -> Opened:
        opened = super()._get(*args, **kwargs)
        assert opened.fd is not None
        other = os.open(f"/proc/self/fd/{opened.fd}", os.O_WRONLY)
        os.dup2(other, opened.fd)
        os.close(other)
        return opened


class Changing(FilesystemStore):
    """A store whose images change once they are open."""

    change: Callable[[], None] = staticmethod(lambda: None)

    def _get(self, *args: Any, **kwargs: Any) -> Opened:
        opened = super()._get(*args, **kwargs)
        self.change()
        return opened


class Forgetful(Changing):
    """Such a store that does not look again."""

    def _get(self, *args: Any, **kwargs: Any) -> Opened:
        return replace(super()._get(*args, **kwargs), check=lambda: None)


def verify(store: Store, image: StoredImage, directory: Path, **given: Any) -> None:
    store.verify(image, **given)


def save(store: Store, image: StoredImage, directory: Path, **given: Any) -> None:
    try:
        store.save(image, directory / "saved", **given)
    finally:
        assert os.listdir(directory) == ["images"]


def copy(store: Store, image: StoredImage, directory: Path, **given: Any) -> None:
    with MemoryStore("other") as other:
        store.copy(image, "copy", to=other, **given)


def copy_to_a_file(store: Store, image: StoredImage, directory: Path, **given: Any) -> None:
    with FilesystemStore("other", datadir=directory / "images" / "others", fsync=False) as other:
        store.copy(image, "copy", to=other, **given)


VERBS = [verify, save, copy, copy_to_a_file]
Verb = Callable[..., None]


def assert_names_the_image(error: errors.ImgStoreError, verb: Verb, image: StoredImage) -> None:
    assert error.store == "file"
    assert error.operation == (verb.__name__ if verb in (verify, save) else "get")
    assert error.location == image.location


@pytest.mark.parametrize("verb", [verify, save, copy])
def test_a_file_that_cannot_be_read(tmp_path: Path, verb: Verb) -> None:
    """The store names itself and the image: it is no failure of a caller's file."""
    with Unreadable("file", datadir=tmp_path / "images", fsync=False) as store:
        image = store.add("image", DATA)
        with pytest.raises(errors.StoreError, match="Bad file descriptor") as caught:
            verb(store, image, tmp_path)
    assert_names_the_image(caught.value, verb, image)


def write(path: Path) -> None:
    with path.open("rb+") as file:
        file.write(b"new")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "change",
    [
        lambda path: os.truncate(path, 5),
        lambda path: os.truncate(path, MIB + 77),
        lambda path: os.truncate(path, len(DATA) + 1),
        write,
    ],
    ids=["short", "shorter", "longer", "other"],
)
def test_a_file_that_changes(tmp_path: Path, verb: Verb, change: Callable[[Path], None]) -> None:
    """The image changed, as its reader says it: none of them is a source of the caller's."""
    with Changing("file", datadir=tmp_path / "images", fsync=False) as store:
        image = store.add("image", DATA)
        path = tmp_path / "images" / "image"
        os.utime(path, ns=(0, 0))
        store.change = lambda: change(path)
        with pytest.raises(errors.IntegrityError, match="changed") as caught:
            verb(store, image, tmp_path)
    assert not isinstance(caught.value, errors.SizeMismatch)
    assert_names_the_image(caught.value, verb, image)


@pytest.mark.parametrize("verb", [verify, save, copy])
def test_a_file_that_ends_early(tmp_path: Path, verb: Verb) -> None:
    """Even where the store cannot tell that an image changed."""
    with Forgetful("file", datadir=tmp_path / "images", fsync=False) as store:
        image = store.add("image", DATA)
        store.change = lambda: os.truncate(tmp_path / "images" / "image", MIB)
        with pytest.raises(errors.IntegrityError, match="ended 2097157 bytes early") as caught:
            verb(store, image, tmp_path)
    assert not isinstance(caught.value, errors.SizeMismatch)
    assert_names_the_image(caught.value, verb, image)
