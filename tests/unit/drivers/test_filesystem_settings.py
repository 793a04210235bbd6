"""What the filesystem store's options mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from imgstore import errors
from imgstore.drivers.filesystem import FilesystemStore, settings
from imgstore.drivers.filesystem.filling import grain_of
from imgstore.drivers.filesystem.settings import DataDir

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["/a"], [DataDir("/a", 0)]),
        (["/a:", "/b:0"], [DataDir("/a", 0), DataDir("/b", 0)]),
        (["/a:10", "/b:200", "/c"], [DataDir("/b", 200), DataDir("/a", 10), DataDir("/c", 0)]),
        (["/a/:5", "//b//c/", "/d/../e"], [DataDir("/a", 5), DataDir("/b/c", 0), DataDir("/e", 0)]),
        ([" /a : 7 ", "/back\\slash:8"], [DataDir("/back\\slash", 8), DataDir("/a", 7)]),
        (["/a:-1"], [DataDir("/a", -1)]),
        (["/a:b:3"], [DataDir("/a:b", 3)]),
    ],
)
def test_datadirs(texts: list[str], expected: list[DataDir]) -> None:
    """Each entry is path[:priority]; slashes at the end do not matter. The highest is first."""
    assert settings.data_dirs(settings.DEFAULT_DATADIR, texts) == expected


@pytest.mark.parametrize(
    "texts", [["/a:x"], ["/a:1", "/a:2"], ["/a:1", "/a/:2"], [":5"], [""], ["/a\0b"], ["/a:1.5"]]
)
def test_bad_datadirs(texts: list[str]) -> None:
    """What is no path, no whole number, or the same directory with two priorities is refused."""
    with pytest.raises(errors.ConfigError):
        settings.data_dirs(settings.DEFAULT_DATADIR, texts)


MEANT = [
    ({"datadirs": ["/x:1,/y:2"]}, "filesystem_store_datadirs.*repeat the line"),
    ({"datadirs": ["/x,/y"]}, "filesystem_store_datadirs.*repeat the line"),
    ({"datadir": "/x, /y"}, "filesystem_store_datadir:.*repeat the line"),
    ({"datadir": "/x ; comment"}, "filesystem_store_datadir:.*comment"),
    ({"datadir": "/x # comment"}, "filesystem_store_datadir:.*comment"),
    ({"datadirs": ["/x:1 ; comment"]}, "filesystem_store_datadirs.*nothing else in the line"),
    ({"datadirs": ["/x:/y"]}, "filesystem_store_datadirs.*priority"),
    ({"datadir": "/x;"}, "filesystem_store_datadir:.*separator"),
    ({"datadir": "/x:5"}, "filesystem_store_datadir:.*priority"),
    ({"datadir": "images"}, "filesystem_store_datadir:.*not absolute"),
    ({"datadir": ""}, "filesystem_store_datadir:.*not absolute"),
    ({"datadir": "file:///x"}, "filesystem_store_datadir:.*not absolute"),
    ({"datadirs": ["/x", "images:7"]}, "filesystem_store_datadirs.*not absolute"),
    ({"datadirs": ["/x", "/x/"]}, "filesystem_store_datadirs.*more than once"),
]


@pytest.mark.parametrize(("given", "said"), MEANT)
def test_paths_that_were_meant_otherwise(given: dict[str, Any], said: str) -> None:
    """Several paths in one, comments, relative paths and repetitions are told, with a remedy."""
    with pytest.raises(errors.ConfigError, match=said) as caught:
        FilesystemStore("file", **given)
    assert "; " in str(caught.value)


def test_odd_paths_that_may_be_meant() -> None:
    """Spaces, commas and semicolons inside of a name are part of it."""
    for path in ("/a b/c", "/a,b", "/a;b/c,d"):
        (entry,) = FilesystemStore("file", datadir=path).datadirs
        assert entry.path == path


def test_datadir_and_datadirs() -> None:
    """Either may be set, both may not; with neither the default holds."""
    with pytest.raises(errors.ConfigError, match="both"):
        FilesystemStore("file", datadir="/a", datadirs=["/b"])
    for path in ("/a\0b", "/a?b", "/a#b"):
        with pytest.raises(errors.ConfigError, match=r"cannot stand in a file|control character"):
            FilesystemStore("file", datadir=path)
    assert FilesystemStore("file", datadirs="/a").url_prefix == "file:///a"
    assert FilesystemStore("file", datadir=Path("/a")).url_prefix == "file:///a"
    assert FilesystemStore("file").url_prefix == "file:///var/lib/glance/images"
    assert FilesystemStore("file", datadir="/a/").url_prefix == "file:///a"
    assert FilesystemStore("file", datadirs=["/a", "/b:7"]).url_prefix == "file:///b"


@pytest.mark.parametrize(
    ("decimal", "mode", "bits"),
    [
        (0, 0, 0),
        (-1, 0, 0),
        (600, 0o600, 0),
        (640, 0o640, 0o010),
        (644, 0o644, 0o011),
        (604, 0o604, 0o001),
        (400, 0o400, 0),
        (777, 0o777, 0o011),
    ],
)
def test_file_perm(decimal: int, mode: int, bits: int) -> None:
    """The digits are octal; directories get the search bits that those files need."""
    assert settings.file_mode(decimal) == mode
    assert settings.directory_bits(mode) == bits


@pytest.mark.parametrize("decimal", [688, 9, 40, 240, 1777, 4755, 7])
def test_bad_file_perm(decimal: int) -> None:
    """Digits that are not octal, and files that their owner cannot read, are refused."""
    with pytest.raises(errors.ConfigError, match="filesystem_store_file_perm"):
        FilesystemStore("file", datadir="/a", file_perm=decimal)


@pytest.mark.parametrize(
    ("chunk_size", "block"),
    [
        (1, MIB),
        (65536, MIB),
        (MIB + 1, MIB),
        (3 * MIB + 70_000, 3 * MIB + 65536),
        (1 << 40, 64 * MIB),
    ],
)
def test_blocks(chunk_size: int, block: int) -> None:
    """Blocks to write are whole steps of 64 KiB between 1 and 64 MiB."""
    assert grain_of(chunk_size) == block


def metadata(tmp_path: Path, content: object) -> settings.MetadataFile:
    path = tmp_path / "metadata.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return settings.MetadataFile(str(path))


SHARES = [
    {"id": "one", "mountpoint": "/srv/images"},
    {"id": "two", "mountpoint": "/srv/images/fast/", "share": {"hosts": ["a", "b"]}},
    {"id": "three", "mountpoint": "/srv"},
]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/srv/images/x", "one"),
        ("/srv/images/fast/x", "two"),
        ("/srv/images/faster/x", "one"),
        ("/srv/images-old/x", "three"),
        ("/srvx/image", None),
        ("/image", None),
    ],
)
def test_metadata_of_the_longest_mountpoint(tmp_path: Path, path: str, found: str | None) -> None:
    """An entry applies by whole path segments, the longest wins."""
    assert metadata(tmp_path, SHARES)(path).get("id") == found


def test_metadata_is_a_copy(tmp_path: Path) -> None:
    """What one caller does to its metadata, the next does not see."""
    file = metadata(tmp_path, SHARES)
    file("/srv/images/fast/x")["share"]["hosts"].append("c")
    assert file("/srv/images/fast/x") == SHARES[1]
    assert metadata(tmp_path, {"id": "root", "mountpoint": "/"})("/x") == {
        "id": "root",
        "mountpoint": "/",
    }


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "7",
        '"text"',
        [[]],
        {"id": "one"},
        {"mountpoint": "/a"},
        {"id": 1, "mountpoint": "/a"},
        {"id": "one", "mountpoint": None},
        {"id": "one", "mountpoint": "/a", "more": 1},
        {"id": "one", "mountpoint": "/a", "more": {"deep": [None]}},
        [{"id": "one", "mountpoint": "/a"}, None],
    ],
)
def test_bad_metadata(tmp_path: Path, content: Any) -> None:
    """A file that is no JSON, or not of the right shape, is refused by its name."""
    with pytest.raises(errors.ConfigError, match=r"metadata\.json"):
        metadata(tmp_path, content)


def test_missing_metadata(tmp_path: Path) -> None:
    """A file that is not there is refused; no file means no metadata."""
    with pytest.raises(errors.ConfigError, match="No such file"):
        settings.MetadataFile(str(tmp_path / "missing"))
    (tmp_path / "latin").write_bytes(b'{"id": "\xe9"}')
    with pytest.raises(errors.ConfigError):
        settings.MetadataFile(str(tmp_path / "latin"))
    assert settings.MetadataFile(None)("/a/b") == {}


def test_metadata_of_an_image(tmp_path: Path) -> None:
    """An add returns the entry's metadata beside the store's name, each time its own."""
    path = tmp_path / "metadata.json"
    path.write_text(json.dumps({"id": "one", "mountpoint": str(tmp_path), "list": ["a"]}))
    with FilesystemStore(
        "file", datadir=str(tmp_path / "images"), metadata_file=str(path)
    ) as store:
        for number in range(2):
            found = store.add(f"image-{number}", b"data").metadata
            assert found == {
                "id": "one",
                "mountpoint": str(tmp_path),
                "list": ["a"],
                "store": "file",
            }
            found["list"].append("b")


@pytest.mark.parametrize("depth", [50, 100_000])
def test_metadata_that_is_nested_too_deeply(tmp_path: Path, depth: int) -> None:
    """However deeply a metadata file is nested, it is a fault of the configuration."""
    path = tmp_path / "metadata.json"
    nested = "[" * depth + "]" * depth
    path.write_text(f'{{"id": "a", "mountpoint": "/", "x": {nested}}}', encoding="utf-8")
    with pytest.raises(errors.ConfigError):
        FilesystemStore("file", datadir=tmp_path, metadata_file=path)
