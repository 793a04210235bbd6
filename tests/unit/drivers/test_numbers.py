"""Numbers that servers write, and what is none."""

from __future__ import annotations

from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse

from imgstore import errors
from imgstore.drivers._numbers import whole_number
from imgstore.drivers.cinder.volumes import SIZE, Volume
from imgstore.drivers.s3 import S3Store
from imgstore.drivers.s3.adding import part_of
from imgstore.drivers.s3.client import told
from imgstore.drivers.swift import adding as swift
from imgstore.drivers.swift.deleting import delete_many
from imgstore.drivers.swift.leftovers import _Group
from imgstore.drivers.swift.manifests import most_segments
from imgstore.drivers.swift.reading import stat_of
from imgstore.drivers.swift.settings import TOKEN
from imgstore.drivers.vmware.adding import Adding as VmwareAdding
from imgstore.drivers.vmware.files import Stamp

NONE = ["", "-1", "+1", "1.0", " 1", "1_0", "\u0661", "1e3", "9" * 19, "9" * 5000, None, True]


MOST = 10**18 - 1


@pytest.mark.parametrize(
    ("said", "number"), [("0", 0), ("007", 7), (12, 12), ("9" * 18, 10**18 - 1)]
)
def test_numbers(said: object, number: int) -> None:
    assert whole_number(said) == number


@pytest.mark.parametrize("said", [*NONE, 1.0, -1, MOST + 1, b"1", []])
def test_what_is_no_number(said: object) -> None:
    """Whatever int() would make of it."""
    assert whole_number(said) is None


@pytest.mark.parametrize("said", NONE)
def test_a_volume_that_does_not_tell_the_images_size(said: Any) -> None:
    """The image is all that the volume holds."""
    now = datetime.now(timezone.utc)
    about = {SIZE: said}
    volume = Volume("id", 2, "available", None, about, (), False, now, now)
    assert volume.image_size == 2 << 30


@pytest.mark.parametrize("said", NONE)
def test_a_listing_that_does_not_tell_sizes(said: Any) -> None:
    """What is left is found all the same."""
    group = _Group("images", "image", "token", "images_segments")
    group.take({"name": "image/1", "bytes": said, "last_modified": "2026-11-30T00:00:00.000000"})
    assert (group.size, group.names) == (0, ["image/1"])


@pytest.mark.parametrize("said", NONE)
def test_a_manifest_whose_size_is_not_told(said: Any) -> None:
    """It is not taken for one that the cluster did not understand."""
    adding = swift.Adding.__new__(swift.Adding)
    found = {TOKEN: "token", **({} if said is None else {"Content-Length": said})}
    adding.caller = SimpleNamespace(head=lambda *_: found)  # type: ignore[assignment]
    adding.containers = SimpleNamespace(images="images")  # type: ignore[assignment]
    adding.settings = SimpleNamespace(static=True)  # type: ignore[assignment]
    adding.token, adding._name = "token", "image"
    adding.check_manifest(5)


@pytest.mark.parametrize("said", NONE)
def test_an_image_of_swift_whose_size_is_not_told(said: Any) -> None:
    caller: Any = SimpleNamespace(head=lambda *_: {"Content-Length": said})
    with pytest.raises(errors.Unsupported, match="does not tell"):
        stat_of(caller, "images", "image")


@pytest.mark.parametrize("said", NONE)
def test_a_cluster_that_does_not_tell_its_limits(said: Any) -> None:
    """The defaults hold."""
    about = {
        "slo": {"max_manifest_segments": said},
        "bulk_delete": {"max_deletes_per_request": said},
    }
    asked = list[tuple[Any, ...]]()

    def ask(*args: Any, **_: Any) -> Any:
        asked.append(args)
        return SimpleNamespace(
            whole=lambda: b'{"Number Deleted": 5, "Response Status": "200 OK"}', close=lambda: None
        )

    caller: Any = SimpleNamespace(about=lambda: about, ask=ask)
    assert most_segments(caller) == 1000
    delete_many(caller, "images", [f"{number}" for number in range(5)])
    assert len(asked) == 1


@pytest.mark.parametrize("said", NONE)
def test_a_file_of_vmware_whose_size_is_not_told(said: Any) -> None:
    """The server is asked again, by other means."""
    files = SimpleNamespace(stamp=lambda _: Stamp(said), size=lambda _: 5)
    adding = VmwareAdding(SimpleNamespace(files=files), "image", "draft")  # type: ignore[arg-type]
    adding.size = 5
    adding._check(None)  # type: ignore[arg-type]
    adding.size = 6
    with pytest.raises(errors.IntegrityError, match="5 of the 6"):
        adding._check(None)  # type: ignore[arg-type]


def test_an_answer_of_s3_that_lacks_something() -> None:
    """The error names the server's fault."""
    for ask in (lambda: part_of(1, {}), lambda: told({"ETag": "1"}, "ETag2")):
        with pytest.raises(errors.StoreError, match="answer has no ETag"):
            ask()


def test_a_part_of_s3_without_an_etag() -> None:
    """As some gateways answer: nothing is left of the upload."""
    store = S3Store(
        "s3",
        host="http://127.0.0.1:1",
        bucket="images",
        access_key="access-key-of-tests",
        secret_key="secret-key-of-tests",
        large_object_size=0,
        large_object_chunk_size=5,
        conditional_writes=False,
    )
    aborted = list[str]()

    def answer(model: Any, **_: Any) -> Any:
        if model.name == "AbortMultipartUpload":
            aborted.append(model.name)
        is_found = model.name in {"CreateMultipartUpload", "UploadPart"}
        status = 200 if is_found else 404
        parsed: dict[str, Any] = {"ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}}}
        parsed |= {"UploadId": "1"} if is_found else {"Error": {"Code": "404"}}
        return AWSResponse("http://127.0.0.1", status, {}, None), parsed

    with store:
        store._client.get().s3.meta.events.register("before-call.s3", answer)
        with pytest.raises(errors.Unsupported, match="answer has no ETag"):
            store.add("image", bytes(6 << 20))
    assert aborted
