"""Images that are judged when they are read, and what is told of them."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from imgstore import Capability, Location, Store, errors
from imgstore.drivers.memory import MemoryStore
from imgstore.testing.expecting import BAD_DIGESTS, WRONG, digests_of
from imgstore.testing.harness import (
    MIB,
    Harness,
    Place,
    Rot,
    difference,
    library_half,
    needs,
    pattern,
    refusal,
)


class Verifying(Harness, is_part=True):
    """Whole images that are compared with what they should be, described, and saved to files."""

    @pytest.fixture
    def saved(self, tmp_path: Path) -> Path:
        """Give a directory for files that images are saved to."""
        directory = tmp_path / "saved"
        directory.mkdir()
        return directory

    def test_digests_of_an_image_are_told(
        self, store: Store, place: Place, judged_size: int
    ) -> None:
        """They are those that were asked for and those that were expected, else SHA-256."""
        data = pattern(judged_size)
        location = place(data)
        assert store.verify(location) == digests_of(data, "sha256")
        told = store.verify(location.url, digests_of(data, "sha1"), algorithms=("md5",))
        assert told == digests_of(data, "sha1", "md5")

    def test_a_difference_is_found(self, store: Store, place: Place, judged_size: int) -> None:
        """Another digest than the expected one is a mismatch that names both."""
        data = pattern(judged_size)
        location = place(data)
        with pytest.raises(errors.DigestMismatch) as caught:
            store.verify(location, WRONG)
        assert WRONG["sha256"] in str(caught.value)
        assert hashlib.sha256(data).hexdigest() in str(caught.value)
        assert (caught.value.store, caught.value.operation) == (store.name, "verify")
        assert caught.value.location == location

    def test_progress_is_told_and_may_end_it(self, store: Store, place: Place) -> None:
        """Progress is called to the end, and what it raises ends the reading."""
        data = pattern(self.large)
        location, told = place(data), []
        store.verify(location, progress=lambda done, total: told.append(done))
        assert told[-1] == len(data)
        error = RuntimeError("the caller's")

        def stop(done: int, total: int | None) -> None:
            raise error

        with pytest.raises(RuntimeError) as caught:
            store.verify(location, progress=stop)
        assert caught.value is error

    @needs(Capability.DELETE)
    def test_a_missing_image_is_missing_to_all(
        self, store: Store, missing: Location, saved: Path
    ) -> None:
        """Each of these verbs says NotFound, and no file is made."""
        verbs: dict[str, Callable[[Location], object]] = {
            "verify": store.verify,
            "stat": store.stat,
            "save": partial(store.save, path=saved / "file"),
        }
        for name, verb in verbs.items():
            with pytest.raises(errors.NotFound) as caught:
                verb(missing)
            assert caught.value.operation == name
        assert os.listdir(saved) == []

    @library_half
    def test_expected_digests_are_digests_to_readers(
        self, store: Store, place: Place, saved: Path
    ) -> None:
        """What cannot be a digest is refused, and so is a range of what has one."""
        location = place(b"data")
        for case, expected in BAD_DIGESTS.items():
            refusal(errors.InvalidArgument, case, partial(store.verify, location, expected))
            refusal(errors.InvalidArgument, case, partial(store.get, location, expected=expected))
            save = partial(store.save, location, saved / "file", expected=expected)
            refusal(errors.InvalidArgument, case, save)

    @library_half
    def test_a_range_has_no_expected_digest(self, store: Store, place: Place) -> None:
        """Expected digests are those of whole images."""
        location = place(b"data")
        expected = digests_of(b"data", "sha256")
        for offset, length in ((1, None), (0, 4), (0, 0)):
            with pytest.raises(errors.InvalidArgument):
                store.get(location, offset=offset, length=length, expected=expected)

    def test_an_expected_image_is_read(self, store: Store, place: Place, judged_size: int) -> None:
        """Digests that fit change nothing, however the image is read."""
        data = pattern(judged_size)
        location, expected = place(data), digests_of(data, "sha256", "md5")
        with store.get(location, expected=expected) as reader:
            assert reader.size == len(data)
            assert not difference(b"".join(reader), data)
            assert next(reader, None) is None
        with store.get(location, expected=expected) as reader:
            assert not difference(b"".join(iter(partial(reader.read, 70_000), b"")), data)
        with store.get(location, expected=expected) as reader, MemoryStore("other") as other:
            copy = other.add("copy", reader)
            assert copy.digests == digests_of(data, "sha256")

    def test_the_end_of_another_image_is_held_back(
        self, store: Store, place: Place, judged_size: int
    ) -> None:
        """Before the last bytes a mismatch is raised, and again whenever more is asked for."""
        data = pattern(judged_size)
        got: list[bytes] = []
        with pytest.raises(errors.DigestMismatch) as caught:  # noqa: PT012  # where is open
            reader = store.get(place(data), expected=WRONG)
            got += reader
        assert caught.value.operation == "get"
        read = b"".join(got)
        assert len(read) < max(1, len(data))
        assert not difference(read, data[: len(read)])
        if read:
            with pytest.raises(errors.DigestMismatch):
                reader.read(1)
            reader.close()

    def test_an_expected_image_is_no_file(self, store: Store, place: Place) -> None:
        """Bytes that go past the comparison would not be compared."""
        data = pattern(self.large)
        with (
            store.get(place(data), expected=digests_of(data, "md5")) as reader,
            pytest.raises(io.UnsupportedOperation),
        ):
            reader.fileno()

    def test_an_image_is_described(self, store: Store, place: Place, judged_size: int) -> None:
        """Its size is that of ``size``, its version that of a reader; a time has a zone."""
        data = pattern(judged_size)
        location = place(data)
        told = store.stat(location)
        assert told == store.stat(location.url)
        assert told.size == store.size(location) == len(data)
        for length in (None, 0) if Capability.RANGES in self.capabilities else (None,):
            with store.get(location, length=length) as reader:
                assert told.version == reader.version
        assert told.modified is None or told.modified.utcoffset() is not None

    def test_an_image_is_saved(
        self, store: Store, place: Place, judged_size: int, saved: Path
    ) -> None:
        """The file is there as a whole, with the mode of the one that it replaces."""
        data = pattern(judged_size)
        location, path = place(data), saved / "file"
        store.save(location, path)
        assert not difference(path.read_bytes(), data)
        path.write_bytes(b"former")
        path.chmod(0o640)
        store.save(location.url, str(path), expected=digests_of(data, "sha256"))
        assert not difference(path.read_bytes(), data)
        assert path.stat().st_mode & 0o777 == 0o640
        assert os.listdir(saved) == ["file"]

    def test_another_image_is_not_saved(self, store: Store, place: Place, saved: Path) -> None:
        """Where a digest differs, or progress ends it, the former file stays as it was."""
        location, path = place(pattern(self.large)), saved / "file"
        path.write_bytes(b"former")
        with pytest.raises(errors.DigestMismatch) as caught:
            store.save(location, path, expected=WRONG)
        assert caught.value.operation == "save"
        error = KeyboardInterrupt()

        def stop(done: int, total: int | None) -> None:
            raise error

        with pytest.raises(KeyboardInterrupt):
            store.save(location, path, progress=stop)
        assert path.read_bytes() == b"former"
        assert os.listdir(saved) == ["file"]

    def test_zeros_are_saved_as_holes(self, store: Store, place: Place, saved: Path) -> None:
        """Zeros take no room in the file."""
        data = bytes(2 * MIB) + b"data" + bytes(2 * MIB)
        store.save(place(data), saved / "file")
        assert not difference((saved / "file").read_bytes(), data)
        assert (saved / "file").stat().st_blocks * 512 < MIB


def flip(path: Path, at: int = 0) -> None:
    """Change one bit of a file, as a disk may: its times stay."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


class Rotting(Harness, is_part=True):
    """Images whose bytes change where they lie; a backend may notice, and set them aside."""

    def test_rot_is_found(self, store: Store, place: Place, rot: Rot | None) -> None:
        """The first ``verify`` finds it, and no later one passes."""
        data = pattern(self.large)
        location, expected = place(data), digests_of(data, "sha256")
        assert store.verify(location, expected) == expected
        if rot is None:
            return
        rot(location)
        with pytest.raises(errors.IntegrityError) as caught:
            store.verify(location, expected)
        assert (caught.value.store, caught.value.operation) == (store.name, "verify")
        assert caught.value.location == location
        with pytest.raises((errors.IntegrityError, errors.NotFound)):
            store.verify(location, expected)

    def test_the_end_of_a_rotten_image_is_held_back(
        self, store: Store, place: Place, rot: Rot | None
    ) -> None:
        """Before its last bytes a reader that compares them raises."""
        data = pattern(self.large)
        location, expected = place(data), digests_of(data, "sha256")
        got: list[int] = []

        def read() -> None:
            with store.get(location, expected=expected) as reader:
                got.extend(map(len, reader))

        if rot is None:
            read()
            assert sum(got) == len(data)
            return
        rot(location)
        with pytest.raises(errors.IntegrityError) as caught:
            read()
        assert (caught.value.store, caught.value.operation) == (store.name, "get")
        assert caught.value.location == location
        assert sum(got) < len(data)
