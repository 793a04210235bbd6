"""The S3 store when the source of a copy changes, and when answers to copies are lost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from servers.buckets import Bucket

from imgstore import errors
from imgstore.drivers.s3 import S3Store

pytestmark = pytest.mark.servers("radosgw", "ceph")


@pytest.fixture
def store(bucket: Bucket) -> Iterator[S3Store]:
    """A store that has asked the server what it asks first."""
    with S3Store("s3", **bucket.options()) as made:
        assert made._client.get().is_conditional(lambda: True)
        yield made


def events(store: S3Store) -> Any:
    return store._client.get().s3.meta.events


def is_there(bucket: Bucket) -> bool:
    return "copy" in set(bucket.keys())


def stored(bucket: Bucket) -> bytes:
    return bucket.raw.get_object(Bucket=bucket.name, Key="copy")["Body"].read()


def ignore_conditions(params: dict[str, Any], **_: Any) -> None:
    """Let a server not see under which conditions it is to copy."""
    for name in [name for name in params["headers"] if name.endswith("if-match")]:
        del params["headers"][name]


class TestSources:
    def test_one_that_changes_is_not_copied(self, store: S3Store, bucket: Bucket) -> None:
        """The server compares, so that nobody ever sees a copy of the other image."""
        bucket.put("image", b"data")

        def replace(**_: Any) -> None:
            bucket.put("image", b"atad")

        answers = list[tuple[int, bool]]()
        events(store).register("before-send.s3.CopyObject", replace)
        events(store).register(
            "before-parse.s3.CopyObject",
            lambda response_dict, **_: answers.append(
                (response_dict["status_code"], is_there(bucket))
            ),
        )
        with pytest.raises(errors.IntegrityError, match="changed") as caught:
            store.copy(f"{store.url_prefix}/image", "copy")
        assert answers == [(412, False)]
        assert not caught.value.indeterminate
        assert bucket.keys() == ["image"]

    def test_a_server_that_does_not_compare(self, store: S3Store, bucket: Bucket) -> None:
        """What it copied all the same is taken back; a reader may have had it."""
        bucket.put("image", b"data")

        def replace(**_: Any) -> None:
            bucket.put("image", b"atad")

        events(store).register_last("before-call.s3.CopyObject", ignore_conditions)
        events(store).register("before-send.s3.CopyObject", replace)
        with pytest.raises(errors.IntegrityError, match="changed") as caught:
            store.copy(f"{store.url_prefix}/image", "copy")
        assert caught.value.indeterminate
        assert bucket.keys() == ["image"]

    def test_one_that_goes_once_it_is_copied(self, store: S3Store, bucket: Bucket) -> None:
        """The copy is good, and it stays."""
        bucket.put("image", b"data")

        def remove(**_: Any) -> None:
            bucket.raw.delete_object(Bucket=bucket.name, Key="image")

        events(store).register("before-parse.s3.CopyObject", remove)
        store.copy(f"{store.url_prefix}/image", "copy")
        assert stored(bucket) == b"data"

    def test_one_that_cannot_be_looked_at(self, store: S3Store, bucket: Bucket) -> None:
        """Of a copy with another ETag nobody knows whether it is good: it is taken back."""
        bucket.put("image", b"data")

        def disguise(response_dict: dict[str, Any], **_: Any) -> None:
            if copied == [1]:
                response_dict["headers"]["ETag"] = '"another"'
            if copied == [1, 2]:
                response_dict.update(status_code=403, body=b"")
            if copied:
                copied.append(len(copied) + 1)

        copied = list[int]()
        events(store).register("before-parse.s3.CopyObject", lambda **_: copied.append(1))
        events(store).register("before-parse.s3.HeadObject", disguise)
        with pytest.raises(errors.PermissionDenied) as caught:
            store.copy(f"{store.url_prefix}/image", "copy")
        assert caught.value.indeterminate
        assert bucket.keys() == ["image"]


class TestLostAnswers:
    @pytest.mark.parametrize("then", ["stays", "changes", "goes"])
    def test_a_copy_that_was_made_is_a_success(
        self, store: S3Store, bucket: Bucket, proxies: Any, then: str
    ) -> None:
        """Also where the request, sent again, is refused because of its source."""
        link = proxies(("127.0.0.1", bucket.gateway.ports["http"]))
        bucket.put("image", b"data")

        def sending(**_: Any) -> None:
            sent.append(1)
            if len(sent) == 1:
                link.cut(60, direction="down")
                return
            assert stored(bucket) == b"data"
            if then == "changes":
                bucket.put("image", b"atad")
            if then == "goes":
                bucket.raw.delete_object(Bucket=bucket.name, Key="image")

        sent = list[int]()
        with contextlib.ExitStack() as stack:
            options = bucket.options() | {"host": f"http://127.0.0.1:{link.port}"}
            shaky = stack.enter_context(S3Store("s3", **options))
            shaky._client.get().is_conditional(lambda: True)
            events(shaky).register_first("before-send.s3.CopyObject", sending)
            shaky.copy(f"{shaky.url_prefix}/image", "copy")
        assert len(sent) == 2
        assert stored(bucket) == b"data"

    def test_a_copy_that_cannot_be_looked_at_is_in_doubt(
        self, store: S3Store, bucket: Bucket
    ) -> None:
        """The server says that it is made: nothing is deleted."""
        bucket.put("image", b"data")

        def fail(response_dict: dict[str, Any], **_: Any) -> None:
            if copied and copied.pop():
                response_dict.update(status_code=403, body=b"")

        copied = list[int]()
        events(store).register("before-parse.s3.CopyObject", lambda **_: copied.append(1))
        events(store).register("before-parse.s3.HeadObject", fail)
        with pytest.raises(errors.PermissionDenied) as caught:
            store.copy(f"{store.url_prefix}/image", "copy")
        assert caught.value.indeterminate
        assert stored(bucket) == b"data"
